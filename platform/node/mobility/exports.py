"""A checkpoint as one file that needs nothing else: memory and files of one instant. And a container made of one.

A crafted file of this kind is a program that runs with CRIU's rights, which are root's: only the provider's files come here, and where there
is a key only those that it has closed.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, BinaryIO, Final

from hostler.core.errors import Conflict, Invalid, NoRoom, NotFound, Unsupported
from hostler.core.messages import Batch
from hostler.core.specs import ContainerSpec
from hostler.core.units import format_size
from hostler.mobility.manifest import Manifest, PartKind
from hostler.mobility.poured import Poured
from hostler.mobility.reading import extract, inspect, read_manifest, verify
from hostler.mobility.walk import Walk
from hostler.mobility.writing import PartReader, PartSource, write_to
from hostler.node import transfers
from hostler.node.container_verbs import remember, remembered
from hostler.node.image_verbs import image_ensure
from hostler.node.mobility import checkpoints, hooks, revival, target
from hostler.node.mobility.stopwatch import Stopwatch
from hostler.node.verbs import Nothing, Server

#: The part that is the volume's send stream, the last of the file.
VOLUME: Final = "volume"
_LEVEL: Final = 1
_PIECE: Final = 1 << 20


def export(server: Server, spec: ContainerSpec, checkpoint: str, url: str, limit: int) -> dict[str, Any]:
    """Write a checkpoint with its files to the panel; no copy of it is made here. It is encrypted where this server has a key.

    Raises :class:`NotFound`, :class:`Invalid` for a broken file, another key or more than ``limit`` bytes, :class:`Unsupported` for one without files.
    """
    path = checkpoints.shelf(server).path_of(checkpoint)
    if not path.exists():
        raise NotFound(f"checkpoint {checkpoint} is not on this server", hint="hostler checkpoint ls shows where it is")
    key, storage = server.key(), server.drivers.storage(spec.drivers.storage)
    _check_key(server, read_manifest(path), key is not None)
    manifest = read_manifest(path, key)
    snapshot = manifest.volume_snapshot
    if snapshot is None or not storage.capabilities.send:
        raise Unsupported(
            f"the files of checkpoint {checkpoint} cannot be sent: storage driver {storage.name} does not do that here",
            hint="hostler plugins shows which can send", code="cannot_send",
        )
    with path.open("rb", buffering=0) as file:
        walk = Walk(file, key)
        memory = [_passed_on(walk, index) for index, info in enumerate(walk.manifest.parts) if info.kind is not PartKind.CONTAINER]

        def volume() -> PartReader:
            walk.finish()
            return Poured(lambda out: storage.send(spec.id, snapshot, out))

        def write(out: BinaryIO) -> None:
            write_to(out, manifest, [*memory, PartSource(VOLUME, PartKind.VOLUME, volume)], key=key, level=_LEVEL)

        digest, size = transfers.hand_in(url, write, limit)
    return {"digest": digest, "size": size, "encrypted": key is not None}


def _passed_on(walk: Walk, index: int) -> PartSource:
    info = walk.manifest.parts[index]
    return PartSource(info.name, info.kind, lambda: walk.open(index), info.size)


def _check_key(server: Server, manifest: Manifest, has_key: bool) -> None:
    if manifest.filters.encryption is not None and not has_key:
        raise Invalid(
            f"checkpoint {manifest.id} is encrypted, and server {server.host.node} has no key", hint="give it the key that wrote it: HOSTLER_CHECKPOINT_KEY_FILE"
        )


def bring_in(server: Server, batch: Batch, spec: ContainerSpec, url: str, size: int, digest: str) -> dict[str, Any]:
    """Make a container of an exported checkpoint, held. All of the file is read and held against this server before anything is made.

    Raises :class:`Invalid` for a damaged file, another key, or none where there must be one, :class:`Conflict` (``does_not_fit``, ``cannot_clone``), :class:`NoRoom`.
    """
    images, watch = revival.images_of(server, spec.id), Stopwatch()
    if server.drivers.checkpoint().held(images) is None:
        with server.archives.workspace() as folder:
            file = folder / "checkpoint"
            with watch.phase("fetch"):
                transfers.fetch(url, size, digest, file)
            with watch.phase("verify"):
                manifest = _checked(server, spec, file)
            target.clean(server, spec)  # whatever an earlier try has left
            spec = spec.model_copy(update={"process": manifest.container.process})
            remember(server, spec)
            with watch.phase("image"):
                image_ensure(server, batch, Nothing())
            with watch.phase("files"):
                _bring_files(server, spec, file, manifest)
            with watch.phase("unpack"):
                images.parent.mkdir(parents=True, mode=0o700)
                extract(file, images, server.key(), leave_out=(PartKind.VOLUME,))
        server.drivers.checkpoint().rename(images, checkpoints.renaming(manifest.container, spec))
        hooks.expect(server, spec.id, "clone")
    spec = remembered(server.host, spec.id) or spec
    revived = revival.revive(server, spec, close_connections=True)
    told = {"pid": revived.pid, "started_at": revived.started_at, "ms": revived.milliseconds, "phases": watch.phases | revived.phases}
    return told | {"process": spec.process.model_dump(mode="json")}


def _checked(server: Server, spec: ContainerSpec, file: Path) -> Manifest:
    """The full manifest of a file that is whole, fits this server and this container, and has room here."""
    key = server.key()
    _check_key(server, read_manifest(file), key is not None)
    manifest = read_manifest(file, key)
    if key is not None and not manifest.sealed:
        raise Invalid(
            f"the checkpoint is not encrypted, and server {server.host.node} imports only what its key has closed", code="not_encrypted",
            hint="export it from a server with that key, or import it on a server without one: --on NAME",
        )
    for mismatch in checkpoints.misfits(server, manifest):
        if mismatch.blocks:
            raise Conflict(mismatch.message, hint=mismatch.remedy, code="does_not_fit")
    volume_of(manifest)
    if manifest.container.image.digest != spec.image.digest or manifest.storage != spec.drivers.storage:
        raise Invalid("the checkpoint's parts are of another container than its manifest", hint="export it again from the server that made it")
    verify(file, key)
    wanted = sum(part.size for part in inspect(file).parts if part.kind is PartKind.VOLUME)
    free, _ = server.drivers.storage(spec.drivers.storage).free()
    if wanted > free:
        raise NoRoom(
            f"the files of the checkpoint take {format_size(wanted)}; the volumes of server {server.host.node} have {format_size(free)} left",
            hint="free disk there, or take another server: --on NAME", code="no_room",
        )
    return manifest


def volume_of(manifest: Manifest) -> int:
    """The number of the part that is the volume. Raises :class:`Invalid` for a file that has none."""
    found = [index for index, part in enumerate(manifest.parts) if part.kind is PartKind.VOLUME]
    if len(found) != 1 or manifest.volume_snapshot is None:
        raise Invalid(
            f"checkpoint {manifest.id} has no files of its container in it", hint="take a file that `hostler checkpoint export` wrote", code="no_files"
        )
    return found[0]


def _bring_files(server: Server, spec: ContainerSpec, file: Path, manifest: Manifest) -> None:
    """The container's volume; the snapshot that it came as is not kept."""
    storage, snapshot = server.drivers.storage(spec.drivers.storage), manifest.volume_snapshot
    if snapshot is None:
        raise AssertionError("a manifest that was checked has a snapshot")
    with file.open("rb", buffering=0) as source, io.BufferedReader(Walk(source, server.key()).open(volume_of(manifest)), _PIECE) as stream:
        storage.receive(spec.id, snapshot, stream, spec.limits.disk)
    storage.delete_snapshot(spec.id, snapshot)
