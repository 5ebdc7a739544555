"""Fake storage: images, volumes and snapshots as plain folders; a quota that :meth:`FakeStorage.put` enforces."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from hostler.contracts.driver import Host, Item, Probe, Settings
from hostler.contracts.storage import (
    IdmapMount,
    RootPlan,
    Snapshot,
    Storage,
    StorageCapabilities,
    VolumeUsage,
)
from hostler.core.errors import Conflict, Invalid, NoRoom, NotFound
from hostler.core.units import MIB, Size
from hostler.testing.fakes import trees
from hostler.testing.fakes.shelf import Shelf, checked, write_record
from hostler.testing.faults import Faults

_FULL = "delete something, or make the pool larger"


class FakeStorageSettings(Settings):
    """``size``: bytes of the pool."""

    size: Size = 64 * MIB


class FakeStorage(Storage):
    """Driver ``fake``."""

    name: ClassVar[str] = "fake"
    settings_model: ClassVar[type[Settings]] = FakeStorageSettings
    settings: FakeStorageSettings

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self.faults = Faults(host.state_dir)
        self._images = Shelf(self.folder / "images", "image")
        self._volumes = Shelf(self.folder / "volumes", "volume")
        self._snapshots = Shelf(self.folder / "snapshots", "snapshot")

    @property
    def capabilities(self) -> StorageCapabilities:
        return StorageCapabilities(quota=True, live_resize=True, snapshot=True, send=True, send_delta=True)

    def probe(self) -> Probe:
        return Probe(offers=["plain folders"])

    def inventory(self) -> list[Item]:
        kept = [item.model_copy(update={"owner": (item.owner or "").partition(".")[0]}) for item in self._snapshots.inventory()]
        return [*self._images.inventory(), *self._volumes.inventory(), *kept]

    def teardown(self) -> None:
        if self._volumes.names():
            raise Conflict("volumes are left", hint="delete their containers first")
        if self.folder.is_dir():
            shutil.rmtree(self.folder)

    # --- images

    def has_image(self, image: str) -> bool:
        return image in self._images

    def add_image(self, image: str, fill: Callable[[Path], None]) -> None:
        self.faults.passing("storage.add_image")
        with self._images.alone(image):
            if image in self._images:
                return
            with self._images.made(image) as folder:
                files = folder / "files"
                files.mkdir()
                try:
                    fill(files)
                except OSError as error:
                    raise _told(error) from error
                self._room(0)
                self.faults.passing("storage.add_image:done")

    def remove_image(self, image: str) -> None:
        self.faults.passing("storage.remove_image")
        with self._images.alone(image):
            self._images.drop(image)

    # --- volumes

    def create(self, volume: str, image: str, size: int | None) -> None:
        self.faults.passing("storage.create")
        with self._alone(volume):
            if volume in self._volumes:
                self._set_size(volume, size)
                return
            if image not in self._images:
                raise NotFound(f"image {image} is not here", hint="add it first", code="image_not_found")
            self._make(volume, self._images.path(image) / "files", size)
            self.faults.passing("storage.create:done")

    def _make(self, volume: str, source: Path, size: int | None) -> None:
        self._room(1)
        with self._volumes.made(volume) as folder:
            shutil.copytree(source, folder / "files", symlinks=True)
            write_record(folder, {"size": size, "base": trees.size(source)})

    def delete(self, volume: str) -> None:
        self.faults.passing("storage.delete")
        with self._alone(volume):
            for snapshot in self._kept(volume):
                self._snapshots.drop(snapshot)
            self._volumes.drop(volume)
        self.faults.passing("storage.delete:done")

    def resize(self, volume: str, size: int | None) -> None:
        self.faults.passing("storage.resize")
        with self._alone(volume):
            self._set_size(volume, size)
            self.faults.passing("storage.resize:done")

    def _set_size(self, volume: str, size: int | None) -> None:
        used = self.usage(volume).used
        if size is not None and size < used:
            raise Conflict(f"volume {volume} uses {used} bytes", hint="delete files first", code="below_use")
        self._volumes.write(volume, self._record(volume) | {"size": size})

    def usage(self, volume: str) -> VolumeUsage:
        record, files = self._record(volume), self._volumes.path(volume) / "files"
        used = max(0, trees.size(files) - record["base"])
        return VolumeUsage(used=used, limit=record["size"], inodes=sum(1 for _ in files.rglob("*")))

    def root_plan(self, volume: str) -> RootPlan:
        self._record(volume)
        return RootPlan(mounts=[IdmapMount(source=self._volumes.path(volume) / "files", target="root")])

    def free(self) -> tuple[int, int]:
        total = self.settings.size
        return max(0, total - (trees.size(self.folder) if self.folder.is_dir() else 0)), total

    def get(self, volume: str, path: str) -> bytes:
        """What a container has in a file. Raises FileNotFoundError without it."""
        return (self._volumes.path(volume) / "files" / path).read_bytes()

    def put(self, volume: str, path: str, content: bytes) -> None:
        """Write a file as a container would: an ``OSError`` of EDQUOT past the volume's size, of ENOSPC past the pool's."""
        with self._alone(volume):
            usage, target = self.usage(volume), self._volumes.path(volume) / "files" / trees.inside(path)
            more = len(content) - (target.stat().st_size if target.exists() else 0)
            if usage.limit is not None and usage.used + more > usage.limit:
                raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), path)
            if more > self.free()[0]:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)

    # --- snapshots

    def snapshot(self, volume: str, snapshot: str) -> Snapshot:
        self.faults.passing("storage.snapshot")
        with self._alone(volume):
            self._record(volume)
            return self._keep(volume, snapshot)

    def _keep(self, volume: str, snapshot: str) -> Snapshot:
        key = _key(volume, snapshot)
        if key not in self._snapshots:
            with self._snapshots.made(key) as folder:
                shutil.copytree(self._volumes.path(volume) / "files", folder / "files", symlinks=True)
                write_record(folder, {"created_at": time.time(), "base": self._record(volume)["base"]})
        return Snapshot(id=snapshot, created_at=self._snapshots.read(key)["created_at"])

    def snapshots(self, volume: str) -> list[Snapshot]:
        self._record(volume)
        found = [Snapshot(id=key.partition(".")[2], created_at=self._snapshots.read(key)["created_at"]) for key in self._kept(volume)]
        return sorted(found, key=lambda one: one.created_at)

    def delete_snapshot(self, volume: str, snapshot: str) -> None:
        with self._alone(volume):
            self._snapshots.drop(_key(volume, snapshot))

    def rollback(self, volume: str, snapshot: str) -> None:
        self.faults.passing("storage.rollback")
        with self._alone(volume):
            record = self._record(volume)
            files = self._files_of(volume, snapshot)
            with self._volumes.made(volume) as folder:
                shutil.copytree(files, folder / "files", symlinks=True)
                write_record(folder, record)

    def clone(self, volume: str, snapshot: str, new: str, size: int | None) -> None:
        self.faults.passing("storage.clone")
        with self._alone(new):
            if new not in self._volumes:
                self._make(new, self._files_of(volume, snapshot), size)

    def send(self, volume: str, snapshot: str, out: BinaryIO, *, since: str | None = None) -> None:
        tree = trees.read(self._files_of(volume, snapshot))
        former = {} if since is None else trees.read(self._files_of(volume, since))
        body = json.dumps(
            {
                "snapshot": snapshot,
                "since": since,
                "base": self._snapshots.read(_key(volume, snapshot))["base"],
                "changed": {name: entry for name, entry in tree.items() if former.get(name) != entry},
                "gone": [name for name in former if name not in tree],
            }
        ).encode()
        out.write(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)

    def receive(self, volume: str, snapshot: str, source: BinaryIO, size: int | None) -> None:
        self.faults.passing("storage.receive")
        with self._alone(volume):
            if _key(volume, snapshot) in self._snapshots:
                return
            change = _parsed(source.read())
            tree: trees.Tree = {}
            if change["since"] is not None:
                if _key(volume, change["since"]) not in self._snapshots:
                    raise Invalid("the stream is for another base", hint="send the whole snapshot", code="bad_stream")
                tree = trees.read(self._files_of(volume, change["since"]))
            tree = {name: entry for name, entry in tree.items() if name not in change["gone"]} | change["changed"]
            with self._volumes.made(volume) as folder:
                (folder / "files").mkdir()
                trees.write(folder / "files", tree)
                write_record(folder, {"size": size, "base": change["base"]})
                self.faults.passing("storage.receive:done")
            self._keep(volume, snapshot)

    # --- parts

    @contextmanager
    def _alone(self, volume: str) -> Iterator[None]:
        with self._volumes.alone(volume):
            self._snapshots.sweep(volume)
            yield

    def _kept(self, volume: str) -> list[str]:
        return [key for key in self._snapshots.names() if key.partition(".")[0] == volume]

    def _files_of(self, volume: str, snapshot: str) -> Path:
        key = _key(volume, snapshot)
        if key not in self._snapshots:
            raise NotFound(f"volume {volume} has no snapshot {snapshot}", hint="list its snapshots", code="snapshot_not_found")
        return self._snapshots.path(key) / "files"

    def _record(self, volume: str) -> dict[str, Any]:
        if volume not in self._volumes:
            raise NotFound(f"there is no volume {volume}", hint="create it first", code="volume_not_found")
        return self._volumes.read(volume)

    def _room(self, wanted: int) -> None:
        if self.free()[0] < max(wanted, 1):
            raise NoRoom("the pool is full", hint=_FULL, code="pool_full")


def _key(volume: str, snapshot: str) -> str:
    return checked(f"{_plain(volume)}.{_plain(snapshot)}")


def _plain(name: str) -> str:
    if "." in checked(name):
        raise Invalid(f"{name!r} cannot be an id", hint="ids of volumes and snapshots have no dots")
    return name


def _parsed(stream: bytes) -> dict[str, Any]:
    digest, _, body = stream.partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise Invalid("the stream was cut or changed", hint="send it again", code="bad_stream")
    change: dict[str, Any] = json.loads(body)
    change["changed"] = {name: tuple(entry) for name, entry in change["changed"].items()}
    return change


def _told(error: OSError) -> Exception:
    return NoRoom("the pool is full", hint=_FULL, code="pool_full") if error.errno in (errno.ENOSPC, errno.EDQUOT) else error
