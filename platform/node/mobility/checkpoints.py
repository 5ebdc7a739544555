"""Checkpoints of a server's containers: taken, kept as files on a shelf, brought back.

A checkpoint is a file in ``state/checkpoints`` (:mod:`hostler.mobility`) and, of the same instant, a snapshot of the volume, which its manifest
names and which stays with the volume.
"""

from __future__ import annotations

import ipaddress
import os
import platform
import shutil
import time
from datetime import UTC, datetime
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

import structlog

from hostler.contracts.checkpoint import DumpReport, Renaming
from hostler.core.errors import Conflict, HostlerError, Invalid, NotFound, Unsupported
from hostler.core.specs import ContainerSpec
from hostler.mobility import writing
from hostler.mobility.comparing import compare
from hostler.mobility.compat import HostFacts, Mismatch, compatibility
from hostler.mobility.frames import Source
from hostler.mobility.manifest import Manifest
from hostler.mobility.reading import extract, read_manifest
from hostler.mobility.shelf import Shelf
from hostler.node.mobility import hooks, revival
from hostler.node.mobility.beside import Beside
from hostler.node.mobility.standstill import go_on, halt, hold_to_limits, read_still, stay, unhurried
from hostler.node.verbs import Server

log = structlog.get_logger()

#: Level of zstd: memory compresses two- to fourfold at a gigabyte a second.
_LEVEL = -3


def shelf(server: Server) -> Shelf:
    """This server's checkpoints."""
    return Shelf(server.host.state_dir / "checkpoints")


def _draft(server: Server, checkpoint: str) -> Path:
    """Where CRIU writes before the file is made of it."""
    return server.host.state_dir / "revivals" / f"dump-{checkpoint}" / "images"


def create(server: Server, spec: ContainerSpec, operation: str, checkpoint: str, *, keep: bool) -> dict[str, Any]:
    """Take a checkpoint. With ``keep`` the container goes on afterwards, else it is left at a standstill.

    Taken already is a success, unless the container has gone on meanwhile though it should not: then it is taken anew.
    """
    path = shelf(server).path_of(checkpoint)
    if path.exists():
        if keep or _stays(server, spec, operation):
            return dict(read_manifest(path).details)
        remove(server, spec, checkpoint, checkpoint)
    check(server, spec)
    server.key()  # one that cannot be read is told while nothing stands still
    hooks.before(server, spec, "checkpoint" if keep else "suspend")
    draft = _draft(server, checkpoint)
    _end_dump(server, draft)
    _drop(draft)
    draft.mkdir(parents=True, mode=0o700)
    try:
        return _create(server, spec, operation, checkpoint, draft, keep=keep)
    except BaseException:
        cancel(server, spec, checkpoint)
        raise
    finally:
        _drop(draft)


def _create(server: Server, spec: ContainerSpec, operation: str, checkpoint: str, draft: Path, *, keep: bool) -> dict[str, Any]:
    began = time.monotonic()
    with unhurried(server, spec):
        halt(server, spec, operation, draft)
        frozen = time.monotonic()
        report, snapshot = dump_and_snapshot(server, spec, draft, checkpoint)
        if keep:
            go_on(server, spec)
    thawed = time.monotonic()
    memory = server.drivers.limits(spec.drivers.limits).usage(spec.id).memory
    details: dict[str, Any] = {
        "bytes": report.bytes, "pages": report.pages, "snapshot": snapshot, "frozen_ms": round((thawed - frozen) * 1000, 1),
        "writer": server.drivers.checkpoint().writer, "memory": memory,
    }
    manifest = _manifest(server, spec, checkpoint, snapshot, details, keep=keep)
    summary = shelf(server).write(manifest, writing.of_folder(draft), key=server.key(), level=_LEVEL)
    if not keep:
        if server.key() is None:
            draft.rename(_unpacked(server, checkpoint))
        stay(server, spec)
    return details | {"stored": summary.stored, "ms": round((time.monotonic() - began) * 1000, 1)}


def dump_and_snapshot(server: Server, spec: ContainerSpec, images: Path, snapshot: str, parent: Path | None = None) -> tuple[DumpReport, str | None]:
    """Of a container at a standstill: its memory to ``images`` and its files to a snapshot, both at once. None where the storage
    driver makes no snapshots."""
    storage = server.drivers.storage(spec.drivers.storage)
    able = storage.capabilities.snapshot
    side = Beside(lambda: storage.snapshot(spec.id, snapshot)) if able else None
    try:
        shape = server.drivers.ns(spec.drivers.ns).shape(spec.id)
        report = server.drivers.checkpoint().dump(shape, images, parent=parent)
    finally:
        if side is not None:
            side.join()
    return report, snapshot if able else None


def check(server: Server, spec: ContainerSpec) -> None:
    """Raise :class:`Conflict` with the first reason why a container cannot be checkpointed now."""
    state = server.drivers.ns(spec.drivers.ns).inspect(spec.id).state
    if state not in ("running", "frozen"):
        raise Conflict(f"container {spec.name} is {state} on this server", hint="start it first", code="wrong_state")
    if spec.links and not server.drivers.net(spec.drivers.net).capabilities.hold:
        raise Unsupported(f"net driver {spec.drivers.net} cannot hold a link", hint="hostler plugins shows which can", code="unsupported")
    for obstacle in server.drivers.checkpoint().examine(server.drivers.ns(spec.drivers.ns).shape(spec.id)):
        raise Conflict(f"container {spec.name} cannot be checkpointed: {obstacle.message}", hint=obstacle.remedy, code="cannot_checkpoint")


def cancel(server: Server, spec: ContainerSpec, checkpoint: str) -> None:
    """Take :func:`create` back: the container goes on, and there is no checkpoint."""
    _end_dump(server, _draft(server, checkpoint))
    go_on(server, spec)
    hold_to_limits(server, spec)  # where a worker died that had lifted them
    remove(server, spec, checkpoint, checkpoint)


def _end_dump(server: Server, images: Path) -> None:
    """Wait for a dump whose worker has died."""
    if server.drivers.loaded["checkpoint"]:
        server.drivers.checkpoint().end_following(images)


def remove(server: Server, spec: ContainerSpec, checkpoint: str, snapshot: str | None) -> None:
    """Remove the file and the snapshot; none is a success."""
    shelf(server).remove(checkpoint)
    _drop(_draft(server, checkpoint))
    if _unpacked(server, checkpoint).is_dir():
        shutil.rmtree(_unpacked(server, checkpoint))
    storage = server.drivers.storage(spec.drivers.storage)
    if snapshot is not None and storage.capabilities.snapshot:
        storage.delete_snapshot(spec.id, snapshot)


def restore(
    server: Server, spec: ContainerSpec, checkpoint: str, *, rollback: bool, close_connections: bool, source: str | None = None
) -> revival.Revived:
    """Bring a container back, held, from a checkpoint; with ``rollback`` its files too. The checkpoint stays.

    ``source``: it is another container's, and ``spec`` its clone: it comes back under the clone's name and addresses. Raises
    :class:`NotFound`, :class:`Invalid` for a broken file, :class:`Conflict` (``does_not_fit``, ``cannot_clone``) before anything is touched.
    """
    images = revival.images_of(server, spec.id)
    if server.drivers.checkpoint().held(images) is None:
        path = shelf(server).path_of(checkpoint)
        if not path.exists():
            raise NotFound(f"checkpoint {checkpoint} is not on this server", hint="hostler checkpoint ls shows where it is")
        key = server.key()
        manifest = read_manifest(path, key)
        _check_fits(server, spec, manifest, source)
        revival.clear(server, spec.id)
        images.parent.mkdir(parents=True, mode=0o700)
        if source is None and _unpacked(server, checkpoint).is_dir():
            return _restore_unpacked(server, spec, checkpoint, rollback=rollback, close_connections=close_connections)
        extract(path, images, key)
        if source is not None:
            server.drivers.checkpoint().rename(images, renaming(manifest.container, spec))
        if rollback and manifest.volume_snapshot is not None:
            server.drivers.storage(spec.drivers.storage).rollback(spec.id, manifest.volume_snapshot)
        hooks.expect(server, spec.id, "clone" if source is not None else "restore" if rollback else "resume")
    return revival.revive(server, spec, close_connections=close_connections)


def _restore_unpacked(server: Server, spec: ContainerSpec, checkpoint: str, *, rollback: bool, close_connections: bool) -> revival.Revived:
    """From the images that a suspend has kept as they were. They are held against the checkpoint meanwhile, and nothing runs before they
    are found to be the same; when they are not, it is unpacked after all."""
    images, path = revival.images_of(server, spec.id), shelf(server).path_of(checkpoint)
    _unpacked(server, checkpoint).rename(images)
    hooks.expect(server, spec.id, "restore" if rollback else "resume")
    if rollback and (snapshot := shelf(server).manifest(checkpoint).volume_snapshot) is not None:
        server.drivers.storage(spec.drivers.storage).rollback(spec.id, snapshot)
    same = Beside(lambda: compare(path, images))
    try:
        revived = revival.revive(server, spec, close_connections=close_connections)
        same.join()
        return revived
    except HostlerError as error:
        different = same.end()
        if different is None:
            raise
        log.warning("images that were kept are not what their checkpoint says", checkpoint=checkpoint, reason=str(different), error=error.message)
    revival.undo(server, spec)
    return restore(server, spec, checkpoint, rollback=rollback, close_connections=close_connections)


def _unpacked(server: Server, checkpoint: str) -> Path:
    """The images of a suspended container, kept beside its file so that it is back sooner; without a key only, as they are not encrypted."""
    return shelf(server).path_of(checkpoint).with_suffix(".images")


def _check_fits(server: Server, spec: ContainerSpec, manifest: Manifest, source: str | None) -> None:
    if manifest.container.id != (source or spec.id):
        raise Conflict(
            f"checkpoint {manifest.id} is of container {manifest.container.name}, not of {spec.name}", hint="hostler checkpoint ls shows whose each is", code="does_not_fit"
        )
    for mismatch in misfits(server, manifest):
        if mismatch.blocks:
            raise Conflict(mismatch.message, hint=mismatch.remedy, code="does_not_fit")


def renaming(original: ContainerSpec, clone: ContainerSpec) -> Renaming:
    """What a container is called, and its addresses, instead of the original's: link for link the first of a family for the first, and so on. Pure."""
    addresses: dict[str, str] = {}
    for index, link in enumerate(original.links):
        own = clone.links[index].addresses if index < len(clone.links) else ()
        for family in (4, 6):
            theirs, ours = ([str(at.ip) for at in map(ipaddress.ip_interface, some) if at.version == family] for some in (link.addresses, own))
            addresses |= dict(zip_longest(theirs, ours[: len(theirs)], fillvalue=""))
    return Renaming(hostname=clone.name, addresses=addresses)


def take_in(server: Server, stream: Source, limit: int) -> Manifest:
    """Put a checkpoint's file on the shelf that comes from another server; whole or not at all. Raises as :meth:`Shelf.receive`, and
    :class:`Invalid` for one that this server has no key to."""
    key = server.key()
    manifest = shelf(server).receive(stream, limit=limit, key=key)
    if manifest.sealed and key is None:
        shelf(server).remove(manifest.id)
        raise Invalid(
            f"checkpoint {manifest.id} is encrypted, and server {server.host.node} has no key", hint="give both servers the same key: HOSTLER_CHECKPOINT_KEY_FILE"
        )
    return manifest


def misfits(server: Server, manifest: Manifest) -> list[Mismatch]:
    """Why a checkpoint could not be brought back here, where its volume is: the image that this was made of is not needed any more."""
    parents = {manifest.parent} if manifest.parent is not None and shelf(server).path_of(manifest.parent).exists() else set()
    known = {"images": frozenset({manifest.container.image.digest}), "checkpoints": frozenset(parents)}
    return compatibility(manifest, host_facts(server).model_copy(update=known))


def host_facts(server: Server) -> HostFacts:
    """What this server says of itself to a checkpoint, but for its images and its other checkpoints."""
    disk = os.statvfs(server.host.state_dir)
    try:
        driver, _, version = server.drivers.checkpoint().writer.partition(" ")
        drivers = {driver: version}
    except HostlerError:
        drivers = {}
    return HostFacts(
        node=server.host.node, architecture=platform.machine(), kernel=platform.release(), cpu_features=frozenset(cpu_features()),
        drivers=drivers, storage=frozenset(server.drivers.loaded["storage"]), free=disk.f_bavail * disk.f_frsize,
    )


@cache
def cpu_features() -> tuple[str, ...]:
    """The processor's features, as ``/proc/cpuinfo`` names them: those that all processors have."""
    words = ("flags", "Features")
    lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    sets = [set(value.split()) for name, _, value in lines if name.strip() in words]
    return tuple(sorted(set.intersection(*sets))) if sets else ()


def _manifest(server: Server, spec: ContainerSpec, checkpoint: str, snapshot: str | None, details: dict[str, Any], *, keep: bool) -> Manifest:
    driver, _, version = server.drivers.checkpoint().writer.partition(" ")
    return Manifest(
        id=checkpoint, container=spec, created_at=datetime.now(UTC), node=server.host.node, kernel=platform.release(), architecture=platform.machine(),
        cpu_features=cpu_features(), driver=driver, driver_version=version, volume_snapshot=snapshot, storage=spec.drivers.storage,
        keeps_running=keep, details=details,
    )


def _stays(server: Server, spec: ContainerSpec, operation: str) -> bool:
    still = read_still(server.host, spec.id)
    return still is not None and still.on_disk and still.operation == operation and server.drivers.ns(spec.drivers.ns).inspect(spec.id).state == "frozen"


def _drop(images: Path) -> None:
    if images.parent.is_dir():
        shutil.rmtree(images.parent)
