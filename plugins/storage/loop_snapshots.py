"""Snapshots of the loop driver: copies of a disk, taken while it is held still; and streams of them.

A stream is the disk's data in pieces (:mod:`hostler_plugins.storage.disks`) in an envelope
(:mod:`hostler_plugins.storage.frames`). The kernel mounts what was received, so it is first checked by e2fsck, which mends nothing but what
a crash leaves.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from hostler.contracts.storage import Snapshot
from hostler.core.errors import Conflict, HostFailure, NoRoom, NotFound
from hostler.core.units import MIB, format_size
from hostler.host import btrfs, ext4, files
from hostler.host.failures import explained
from hostler_plugins.storage import disks
from hostler_plugins.storage.frames import FrameReader, FrameWriter, Header, damaged
from hostler_plugins.storage.layout import check_id
from hostler_plugins.storage.loop_parts import (
    FULL_HINT,
    LoopParts,
    Record,
    copy_disk,
    is_attached,
    no_volume,
    read_record,
    settled,
    write_record,
)

#: By how much a received file system may be larger than one made here: images' file systems differ a little.
_SLACK = 64 * MIB
#: Most that an empty ext4 takes for itself, of what a stream may claim.
_OWN = 256 * MIB


class LoopSnapshots(LoopParts):
    """The driver's verbs about snapshots."""

    def snapshot(self, volume: str, snapshot: str) -> Snapshot:
        """As the contract says. Writers wait while the disk is copied: no time to speak of where blocks are shared, as long as
        copying its data takes elsewhere."""
        folder = self._layout.snapshot(volume, snapshot)
        with self._alone("volume", volume), explained(f"take snapshot {snapshot} of volume {volume}", full=FULL_HINT):
            source = self._must_exist(volume)
            if not folder.is_dir():
                self._need_room()
                self._take(source, volume, folder)
            return _told(folder)

    def _take(self, source: Path, volume: str, folder: Path) -> None:
        record = read_record(source)
        charge = max(0, self._used(source)[0] - record.base)
        self._need_share(volume, record, charge)
        with self._draft(folder) as draft:
            with self._held_still(source):
                copy_disk(source / "disk", draft / "disk")
            update = {"identity": uuid.uuid4().hex, "created_at": time.time(), "charge": charge}
            write_record(draft, record.model_copy(update=update))
            settled(draft, lambda: draft.rename(folder))

    def _need_share(self, volume: str, record: Record, charge: int) -> None:
        if record.size is None:
            return
        held = sum(read_record(self._layout.snapshot(volume, name)).charge for name in self._names(volume))
        most = int(record.size * self.settings.snapshot_share)
        if held + charge > most:
            raise NoRoom(
                f"snapshots of volume {volume} would hold {format_size(held + charge)}, more than {format_size(most)}",
                hint="delete older snapshots, or give the volume a larger size", code="snapshots_full",
            )

    @contextmanager
    def _held_still(self, folder: Path) -> Iterator[None]:
        if not is_attached(folder):
            yield
            return
        with btrfs.opened(folder / "mount") as inside:
            btrfs.sync(inside)
            with ext4.frozen(inside):
                yield

    def snapshots(self, volume: str) -> list[Snapshot]:
        """As the contract says."""
        self._must_exist(volume)
        found = []
        for name in self._names(volume):
            try:
                found.append(_told(self._layout.snapshot(volume, name)))
            except FileNotFoundError:
                continue  # deleted meanwhile
        return sorted(found, key=lambda one: (one.created_at, one.id))

    def delete_snapshot(self, volume: str, snapshot: str) -> None:
        """As the contract says."""
        folder = self._layout.snapshot(volume, snapshot)
        with self._alone("volume", volume), explained(f"delete snapshot {snapshot} of volume {volume}"):
            self._retire(folder)
            self._tidy(folder.parent)

    def _delete_snapshots(self, volume: str) -> None:
        folder = self._layout.snapshots_of(volume)
        if folder.is_dir():
            for name in os.listdir(folder):
                self._discard(folder / name)
            self._tidy(folder)

    def _tidy(self, folder: Path) -> None:
        """Remove an empty folder of snapshots. Called with the volume's lock held."""
        if folder.is_dir() and not os.listdir(folder):
            folder.rmdir()

    # --- going back, and making another from one

    def rollback(self, volume: str, snapshot: str) -> None:
        """As the contract says. The volume keeps its size."""
        self._layout.snapshot(volume, snapshot)
        with self._alone("volume", volume), explained(f"roll volume {volume} back", full=FULL_HINT):
            folder = self._must_exist(volume)
            then = self._snapshot(volume, snapshot)
            self._must_not_run(volume, "rolled back")
            self._replace(folder, then, read_record(folder).size)

    def _replace(self, folder: Path, then: Path, size: int | None) -> None:
        """Exchange the disk of a volume that does not run for a copy of the snapshot's."""
        with self._draft(folder) as draft:
            self._make_volume(draft, then, size)
            self._release(folder)
            settled(draft, lambda: _exchange(draft, folder))

    def _make_volume(self, draft: Path, then: Path, size: int | None) -> None:
        record = read_record(then)
        copy_disk(then / "disk", draft / "disk")
        write_record(draft, Record(image=record.image, base=record.base, own=record.own, taken=record.taken, size=size))
        self._fit(draft)

    def clone(self, volume: str, snapshot: str, new: str, size: int | None) -> None:
        """As the contract says. What the snapshot holds counts for the clone: below that it is refused with
        :class:`Conflict`."""
        self._layout.snapshot(volume, snapshot)
        folder = self._layout.volume(new)
        with self._alone("volume", new), explained(f"clone volume {volume}", full=FULL_HINT):
            if folder.is_dir():
                self._resize(new, size)
                return
            then = self._snapshot(volume, snapshot)
            self._need_room()
            charge = read_record(then).charge
            if size is not None and charge > size:
                raise Conflict(
                    f"the snapshot holds {format_size(charge)}, more than {format_size(size)}",
                    hint="give the clone a larger size", code="below_use",
                )
            with self._draft(folder) as draft:
                self._make_volume(draft, then, size)
                settled(draft, lambda: draft.rename(folder))

    # --- streams

    def send(self, volume: str, snapshot: str, out: BinaryIO, *, since: str | None = None) -> None:
        """As the contract says. A difference is found by reading both disks. Errors of ``out`` are passed on."""
        then = self._snapshot(volume, snapshot)
        before = None if since is None else self._snapshot(volume, since)
        record = read_record(then)
        with open(then / "disk", "rb", buffering=0) as disk:
            size = os.fstat(disk.fileno()).st_size
            header = Header(
                driver=self.name, snapshot=snapshot, identity=record.identity, created_at=record.created_at, image=record.image,
                since=None if before is None else read_record(before).identity, size=size, own=record.own,
            )
            writer = FrameWriter(out, header)
            if before is None:
                disks.send(disk.fileno(), size, writer)
            else:
                with open(before / "disk", "rb", buffering=0) as base:
                    disks.send(disk.fileno(), size, writer, base.fileno())
        writer.close()

    def receive(self, volume: str, snapshot: str, source: BinaryIO, size: int | None) -> None:
        """As the contract says. A whole stream makes a new volume, and is refused with :class:`Conflict` when there is one that
        does not have this very snapshot."""
        self._layout.snapshot(volume, snapshot)
        reader = FrameReader(source)
        self._check_header(reader.header, snapshot)
        with self._alone("volume", volume), explained(f"receive volume {volume}", full=FULL_HINT):
            folder = self._layout.volume(volume)
            if folder.is_dir():
                self._must_not_run(volume, "received")
                self._bring_forward(folder, volume, snapshot, reader, size)
            elif reader.header.since is not None:
                raise no_volume(volume)
            else:
                self._need_room()
                self._receive(folder, volume, snapshot, reader, size, None)

    def _check_header(self, header: Header, snapshot: str) -> None:
        if header.driver != self.name:
            raise damaged(f"it was sent by driver {header.driver[:40]!r}")
        if header.snapshot != snapshot:
            raise damaged(f"it holds snapshot {header.snapshot[:40]!r}")
        if header.image is not None:
            check_id("an image", header.image)
        if header.size % ext4.BLOCK or header.size < ext4.BLOCK:
            raise damaged("its disk has no sensible size")

    def _bring_forward(self, folder: Path, volume: str, snapshot: str, reader: FrameReader, size: int | None) -> None:
        identity = self._identity(volume, snapshot)
        if identity == reader.header.identity:  # received before
            while reader.some():
                pass
            reader.finish()
            self._replace(folder, self._layout.snapshot(volume, snapshot), size)
            return
        if identity is not None or reader.header.since is None:
            raise Conflict(
                f"there is a volume {volume} already, and its snapshot {snapshot} is not this one",
                hint="delete the volume, or send the difference to a snapshot that both have", code="volume_exists",
            )
        for name in self._names(volume):
            if self._identity(volume, name) == reader.header.since:
                self._need_room()
                self._receive(folder, volume, snapshot, reader, size, self._layout.snapshot(volume, name))
                return
        raise damaged(f"it is the difference to a snapshot that volume {volume} does not have here")

    def _receive(
        self, folder: Path, volume: str, snapshot: str, reader: FrameReader, size: int | None, base: Path | None
    ) -> None:
        then = self._layout.snapshot(volume, snapshot)
        record = self._record_for(reader.header, base)
        self._must_fit(reader.header, record, size)
        try:
            with self._draft(then) as draft, self._draft(folder) as new:
                _fill(draft / "disk", reader, base)
                copy_disk(draft / "disk", new / "disk")
                problems = ext4.check(new / "disk")
                if problems:
                    raise damaged(problems[0])
                if ext4.size_of(new / "disk").total > reader.header.size:
                    raise damaged("its file system is larger than its disk")
                write_record(new, Record(image=record.image, base=record.base, own=record.own, size=size))
                self._try_mount(new)
                update = {"charge": max(0, self._used(new)[0] - record.base), "taken": read_record(new).taken}
                write_record(draft, record.model_copy(update=update))
                self._fit_received(new)
                settled(draft, lambda: draft.rename(then))
                settled(new, lambda: _exchange(new, folder) if base is not None else new.rename(folder))
        finally:
            self._tidy(then.parent)

    def _try_mount(self, new: Path) -> None:
        """See that the kernel takes a received file system, and what it takes for itself."""
        try:
            self._attach(new)
        except HostFailure as error:
            raise damaged(error.message) from error
        try:
            self._see_taken(new)
        finally:
            self._release(new)

    def _fit_received(self, new: Path) -> None:
        """Grow the disk to its size; one that is a little larger stays so."""
        now = ext4.size_of(new / "disk")
        if self._total(read_record(new), now.group_own) > now.total:
            self._fit(new, clean=True)
        else:
            os.truncate(new / "disk", now.total)

    def _record_for(self, header: Header, base: Path | None) -> Record:
        """What is kept of a received snapshot. Files of an image count for nothing where that image is here."""
        known = read_record(base) if base is not None else self._image_record(header.image)
        own = known.own or min(header.own, _OWN)
        return Record(
            image=header.image, base=known.base, own=own, identity=header.identity, created_at=header.created_at
        )

    def _image_record(self, image: str | None) -> Record:
        folder = None if image is None else self._layout.image(image)
        return read_record(folder) if folder is not None and folder.is_dir() else Record()

    def _must_fit(self, header: Header, record: Record, size: int | None) -> None:
        most = self._total(record.model_copy(update={"size": size}), ext4.GROUP // 16)
        if header.size > most + most // 16 + _SLACK:
            raise NoRoom(
                f"the volume's file system has {format_size(header.size)}, too much for a size of {format_size(size or self.settings.unlimited)}",
                hint="add the volume's image to this server first, or give the volume a larger size", code="too_large",
            )

    # --- parts

    def _names(self, volume: str) -> list[str]:
        return self._layout.names(self._layout.snapshots_of(volume))

    def _snapshot(self, volume: str, snapshot: str) -> Path:
        folder = self._layout.snapshot(volume, snapshot)
        if not folder.is_dir():
            raise NotFound(
                f"volume {volume} has no snapshot {snapshot} on this server", hint="list the volume's snapshots", code="snapshot_not_found"
            )
        return folder

    def _identity(self, volume: str, snapshot: str) -> str | None:
        """None when there is no such snapshot."""
        folder = self._layout.snapshot(volume, snapshot)
        return read_record(folder).identity if folder.is_dir() else None


def _told(folder: Path) -> Snapshot:
    return Snapshot(id=folder.name, created_at=read_record(folder).created_at)


def _exchange(draft: Path, folder: Path) -> None:
    with btrfs.opened(folder.parent) as parent:
        files.exchange(draft.name, folder.name, parent)


def _fill(disk: Path, reader: FrameReader, base: Path | None) -> None:
    """Make the disk that a stream holds."""
    if base is not None:
        copy_disk(base / "disk", disk)
    size = reader.header.size
    handle = os.open(disk, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(handle, size)
        disks.receive(handle, size, reader, size)
        reader.finish()
    finally:
        os.close(handle)
