"""Snapshots of btrfs volumes: read-only subvolumes in the quota group of their volume, and streams of them.

A stream is the kernel's own (``BTRFS_IOC_SEND``) in an envelope (:mod:`hostler_plugins.storage.frames`). It is received without
the ``btrfs`` program, command by command, beneath a draft in the volume's quota group
(:mod:`hostler_plugins.storage.sendapply`).
"""

from __future__ import annotations

import errno
import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from hostler.contracts.storage import Snapshot
from hostler.core.errors import Conflict, NotFound
from hostler.core.units import MIB, format_size
from hostler.host import btrfs, files, mounts, qgroups
from hostler.host.failures import FULL, explained
from hostler.host.qgroups import Mode
from hostler_plugins.storage.btrfs_parts import (
    FULL_HINT,
    BtrfsParts,
    Record,
    keep_record,
    no_volume,
    record_of,
)
from hostler_plugins.storage.frames import FrameReader, FrameWriter, Header, damaged
from hostler_plugins.storage.layout import check_id, draft_of
from hostler_plugins.storage.locks import locked
from hostler_plugins.storage.sendapply import Applier
from hostler_plugins.storage.sendstream import Kind, commands

_SPACE_HINT = "delete files or snapshots of the container, give it a larger size, or free space in the pool"
#: What applying a stream says when this server is at fault, not the stream.
_OURS = frozenset({errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EROFS, *FULL})
_PIPE = 1 << 16
#: What taking a snapshot of a full volume may need.
_PINCH = MIB


def _slack(size: int) -> int:
    """By how much a volume may be over its size while it is received or rolled back: another server's files take a little
    more or less room here, and a full volume must be received too."""
    return size // 16 + 16 * MIB


class BtrfsSnapshots(BtrfsParts):
    """The driver's verbs about snapshots."""

    # --- taking and listing them

    def snapshot(self, volume: str, snapshot: str) -> Snapshot:
        """As the contract says; about 2 ms. It counts with its volume."""
        folder = self._layout.snapshot(volume, snapshot)
        with self._alone("volume", volume):
            self._need_simple("snapshot")
            with self._opened(volume) as source, explained(f"take snapshot {snapshot} of volume {volume}", full=_SPACE_HINT):
                if not btrfs.is_subvolume(folder):
                    self._take(source, volume, snapshot)
                return self._told(volume, snapshot)

    def _take(self, source: int, volume: str, snapshot: str) -> None:
        try:
            self._take_within(source, volume, snapshot)
        except OSError as error:
            if error.errno != errno.EDQUOT:
                raise
            with self._over_limit(source, by=_PINCH):
                self._take_within(source, volume, snapshot)

    def _take_within(self, source: int, volume: str, snapshot: str) -> None:
        charge = self._charge(source).used
        with self._snapshots(volume) as parent, self._draft(parent, snapshot):
            btrfs.snapshot(source, parent, draft_of(snapshot), group=self._group(source)[0])
            update = {"image": self._image_of(source), "identity": uuid.uuid4().hex, "created_at": time.time(), "charge": charge}
            record = record_of(source).model_copy(update=update)
            with btrfs.opened(draft_of(snapshot), parent) as inside:
                keep_record(inside, record)
                btrfs.set_read_only(inside, True)
            os.rename(draft_of(snapshot), snapshot, src_dir_fd=parent, dst_dir_fd=parent)

    def snapshots(self, volume: str) -> list[Snapshot]:
        """As the contract says."""
        self._need_simple("snapshot")
        with self._opened(volume):
            found = []
            for name in self._layout.names(self._layout.snapshots_of(volume)):
                try:
                    found.append(self._told(volume, name))
                except FileNotFoundError:
                    continue  # deleted meanwhile
        return sorted(found, key=lambda one: (one.created_at, one.id))

    def delete_snapshot(self, volume: str, snapshot: str) -> None:
        """As the contract says. Raises :class:`Conflict` while it is being sent."""
        folder = self._layout.snapshot(volume, snapshot)
        with self._alone("volume", volume), explained(f"delete snapshot {snapshot} of volume {volume}", full=FULL_HINT):
            self._need_simple("snapshot")
            if folder.parent.is_dir():
                with btrfs.opened(folder.parent) as parent:
                    self._forget(parent, draft_of(snapshot))
                    self._forget(parent, snapshot)
                self._tidy(folder.parent)

    def _forget(self, parent: int, name: str) -> None:
        try:
            self._destroy(parent, name, keep_group=True)
        except PermissionError:
            raise Conflict(f"snapshot {name} is being sent", hint="try again when that has ended", code="busy") from None

    def _delete_snapshots(self, volume: str) -> None:
        """All of them."""
        folder = self._layout.snapshots_of(volume)
        if folder.is_dir():
            with btrfs.opened(folder) as parent:
                for name in os.listdir(folder):
                    self._forget(parent, name)
            self._tidy(folder)

    # --- going back, and making another from one

    def rollback(self, volume: str, snapshot: str) -> None:
        """As the contract says. The volume's other snapshots stay too."""
        self._layout.snapshot(volume, snapshot)
        with self._alone("volume", volume):
            self._need_simple("roll back")
            self._must_not_run(volume)
            with self._opened(volume) as now, explained(f"roll volume {volume} back", full=_SPACE_HINT):
                self._replace(now, volume, snapshot)

    def _replace(self, now: int, volume: str, snapshot: str) -> None:
        with (
            self._snapshot(volume, snapshot) as then,
            self._folder(self._layout.volumes) as parent,
            self._over_limit(now),
            self._draft(parent, volume),
        ):
            self._write_volume(then, parent, volume, self._group(now)[0], record_of(now).inherited)
            files.exchange(draft_of(volume), volume, parent)

    def _write_volume(self, then: int, parent: int, volume: str, group: int, inherited: int) -> None:
        """The draft of a volume from a snapshot."""
        btrfs.snapshot(then, parent, draft_of(volume), group=group)
        with btrfs.opened(draft_of(volume), parent) as inside:
            keep_record(inside, Record(image=record_of(then).image, inherited=inherited))

    def clone(self, volume: str, snapshot: str, new: str, size: int | None) -> None:
        """As the contract says. What the snapshot's volume was charged with counts for the clone from the start: below that
        size it is refused with :class:`Conflict`."""
        self._layout.snapshot(volume, snapshot)
        folder = self._layout.volume(new)
        with self._alone("volume", new):
            self._need_simple("clone")
            if btrfs.is_subvolume(folder):
                self._set_size(new, size)
                return
            with (
                explained(f"clone volume {volume}", full=FULL_HINT),
                self._snapshot(volume, snapshot) as then,
                self._folder(folder.parent) as parent,
            ):
                self._with_room(parent, lambda: self._clone(then, parent, new, size))

    def _clone(self, then: int, parent: int, new: str, size: int | None) -> None:
        inherited = record_of(then).charge
        if size is not None and inherited > size:
            raise Conflict(
                f"the snapshot holds {format_size(inherited)}, more than {format_size(size)}",
                hint="give the clone a larger size", code="below_use",
            )
        with self._grouped(parent, None if size is None else size - inherited) as group, self._draft(parent, new):
            self._write_volume(then, parent, new, group, inherited)
            os.rename(draft_of(new), new, src_dir_fd=parent, dst_dir_fd=parent)

    # --- streams

    def send(self, volume: str, snapshot: str, out: BinaryIO, *, since: str | None = None) -> None:
        """As the contract says. Errors of ``out`` are passed on."""
        self._need_simple("send")
        with self._snapshot(volume, snapshot) as source:
            record = record_of(source)
            header = Header(
                driver=self.name, snapshot=snapshot, identity=record.identity, created_at=record.created_at, image=record.image
            )
            if since is None:
                self._pour(source, None, FrameWriter(out, header))
                return
            with self._snapshot(volume, since) as base:
                header = header.model_copy(update={"since": record_of(base).identity})
                self._pour(source, btrfs.subvolume_id(base), FrameWriter(out, header))

    def _pour(self, source: int, parent: int | None, writer: FrameWriter) -> None:
        reading, writing = os.pipe2(os.O_CLOEXEC)
        failures: list[OSError] = []

        def work() -> None:
            try:
                btrfs.send(source, writing, parent)
            except OSError as error:
                failures.append(error)
            finally:
                os.close(writing)

        sender = threading.Thread(target=work, name="btrfs-send")
        sender.start()
        try:
            while data := os.read(reading, _PIPE):
                writer.write(data)
        finally:
            os.close(reading)  # the kernel stops writing then
            sender.join()
        with explained("send the snapshot"):
            for failure in failures:
                raise failure
        writer.close()

    def receive(self, volume: str, snapshot: str, source: BinaryIO, size: int | None) -> None:
        """As the contract says. A whole stream makes a new volume, and is refused with :class:`Conflict` when there is one that
        does not have this very snapshot. While it is received the volume may be over its size by a sixteenth."""
        self._layout.snapshot(volume, snapshot)
        self._need_simple("receive")
        reader = FrameReader(source)
        _check(reader.header, self.name, snapshot)
        with self._alone("volume", volume), explained(f"receive volume {volume}", full=_SPACE_HINT):
            if btrfs.is_subvolume(self._layout.volume(volume)):
                self._must_not_run(volume)
                with self._opened(volume) as now:
                    self._bring_forward(now, volume, snapshot, reader, size)
            elif reader.header.since is not None:
                raise no_volume(volume)
            else:
                self._receive_new(volume, snapshot, reader, size)

    def _receive_new(self, volume: str, snapshot: str, reader: FrameReader, size: int | None) -> None:
        with self._folder(self._layout.volumes) as volumes, self._snapshots(volume) as parent:
            self._with_room(parent, lambda: None)
            with self._grouped(parent, size) as group, self._draft(parent, snapshot), self._draft(volumes, volume):
                if size is not None:
                    qgroups.limit(parent, group, size + _slack(size), Mode.SIMPLE)
                btrfs.create(parent, draft_of(snapshot), group=group)
                self._fill(parent, snapshot, reader, None, Record())
                self._publish(parent, snapshot, volumes, volume, group)
                os.rename(draft_of(volume), volume, src_dir_fd=volumes, dst_dir_fd=volumes)
                qgroups.limit(parent, group, size, Mode.SIMPLE)

    def _bring_forward(self, now: int, volume: str, snapshot: str, reader: FrameReader, size: int | None) -> None:
        if self._identity(volume, snapshot) == reader.header.identity:  # received before
            while reader.some():
                pass
            reader.finish()
            self._replace(now, volume, snapshot)
            with self._opened(volume) as inside:
                self._limit(inside, size)
            return
        if self._identity(volume, snapshot) is not None or reader.header.since is None:
            raise Conflict(
                f"there is a volume {volume} already, and its snapshot {snapshot} is not this one",
                hint="delete the volume, or send the difference to a snapshot that both have", code="volume_exists",
            )
        base = self._by_identity(volume, reader.header.since)
        with (
            self._folder(self._layout.volumes) as volumes,
            self._snapshots(volume) as parent,
            btrfs.opened(base, parent) as before,
            self._over_limit(now, size),
            self._draft(parent, snapshot),
            self._draft(volumes, volume),
        ):
            group = self._group(now)[0]
            btrfs.snapshot(before, parent, draft_of(snapshot), group=group)
            self._fill(parent, snapshot, reader, before, record_of(now))
            self._publish(parent, snapshot, volumes, volume, group)
            files.exchange(draft_of(volume), volume, volumes)
        with self._opened(volume) as inside:
            self._limit(inside, size)

    def _fill(self, parent: int, snapshot: str, reader: FrameReader, base: int | None, volume: Record) -> None:
        """Apply a stream to the draft of a snapshot, and seal it."""
        header = reader.header
        with btrfs.opened(draft_of(snapshot), parent) as inside, self._image_if_here(header.image) as image:
            _apply(reader, inside, base, image)
            keep_record(inside, Record(image=header.image, inherited=volume.inherited))
            charge = self._charge(inside).used
            keep_record(inside, Record(
                image=header.image, inherited=volume.inherited, identity=header.identity, created_at=header.created_at, charge=charge
            ))
            btrfs.set_read_only(inside, True)

    def _publish(self, parent: int, snapshot: str, volumes: int, volume: str, group: int) -> None:
        """The draft of the volume, which brings all data to the disk; and the snapshot's name."""
        with btrfs.opened(draft_of(snapshot), parent) as then:
            self._write_volume(then, volumes, volume, group, record_of(then).inherited)
        os.rename(draft_of(snapshot), snapshot, src_dir_fd=parent, dst_dir_fd=parent)

    # --- parts

    def _counts_simply(self) -> bool:
        return self._mode_to_be() is Mode.SIMPLE

    def _need_simple(self, what: str) -> None:
        if not self.capabilities.snapshot:
            raise self._refuse(what)

    def _told(self, volume: str, snapshot: str) -> Snapshot:
        with btrfs.opened(self._layout.snapshot(volume, snapshot)) as inside:
            return Snapshot(id=snapshot, created_at=record_of(inside).created_at)

    def _identity(self, volume: str, snapshot: str) -> str | None:
        """None when there is no such snapshot."""
        try:
            with btrfs.opened(self._layout.snapshot(volume, snapshot)) as inside:
                return record_of(inside).identity
        except FileNotFoundError:
            return None

    def _by_identity(self, volume: str, identity: str) -> str:
        for name in self._layout.names(self._layout.snapshots_of(volume)):
            if self._identity(volume, name) == identity:
                return name
        raise damaged(f"it is the difference to a snapshot that volume {volume} does not have here")

    def _must_not_run(self, volume: str) -> None:
        """Raises :class:`Conflict` when a container has the volume mounted."""
        folder = self._layout.volume(volume)
        if not folder.is_dir():
            return
        mount = mounts.mount_holding(folder)
        root = Path(mount.root) / folder.resolve().relative_to(mount.point)
        if mounts.users_of(mount.device, str(root)):
            raise Conflict(f"volume {volume} is in use by a container", hint="stop the container first", code="in_use")

    @contextmanager
    def _snapshot(self, volume: str, snapshot: str) -> Iterator[int]:
        try:
            with btrfs.opened(self._layout.snapshot(volume, snapshot)) as inside:
                yield inside
        except FileNotFoundError:
            raise NotFound(
                f"volume {volume} has no snapshot {snapshot} on this server", hint="list the volume's snapshots", code="snapshot_not_found"
            ) from None

    @contextmanager
    def _image_if_here(self, image: str | None) -> Iterator[int | None]:
        folder = None if image is None else self._layout.image(image)
        if folder is None or not btrfs.is_subvolume(folder):
            yield None
            return
        with btrfs.opened(folder) as inside:
            yield inside

    @contextmanager
    def _snapshots(self, volume: str) -> Iterator[int]:
        """The folder of a volume's snapshots, which goes again if it is empty."""
        folder = self._layout.snapshots_of(volume)
        with self._folder(self._layout.base):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            with btrfs.opened(folder) as parent:
                yield parent
        finally:
            self._tidy(folder)

    def _tidy(self, folder: Path) -> None:
        """Remove an empty folder of snapshots. Called with the volume's lock held."""
        if folder.is_dir() and not os.listdir(folder):
            folder.rmdir()

    @contextmanager
    def _draft(self, parent: int, name: str) -> Iterator[None]:
        """A block that makes something by its draft's name; what has that name before and after is removed."""
        self._destroy(parent, draft_of(name), keep_group=True)
        try:
            yield
        finally:
            self._destroy(parent, draft_of(name), keep_group=True)

    @contextmanager
    def _grouped(self, parent: int, size: int | None) -> Iterator[int]:
        """A quota group for a new volume, which goes again when the block fails."""
        with locked(self._locks, "groups", shared=True):
            group = self._new_group(parent, size)
            try:
                yield group
            except BaseException:
                self._drop_group(parent, group)
                raise

    @contextmanager
    def _over_limit(self, inside: int, size: int | None = None, *, by: int | None = None) -> Iterator[None]:
        """Let a volume, which may be full, grow a little over its limit (or ``size``) in the block."""
        group, mode = self._group(inside)
        limit = qgroups.charge(inside, group, mode).limit
        with self._folder(self._layout.volumes) as folder:
            if limit is not None:
                most = max(limit, size or 0)
                qgroups.limit(folder, group, most + (_slack(most) if by is None else by), mode)
            try:
                yield
            finally:
                qgroups.limit(folder, group, limit, mode)


def _check(header: Header, driver: str, snapshot: str) -> None:
    if header.driver != driver:
        raise damaged(f"it was sent by driver {header.driver[:40]!r}")
    if header.snapshot != snapshot:
        raise damaged(f"it holds snapshot {header.snapshot[:40]!r}")
    if header.image is not None:
        check_id("an image", header.image)


def _apply(reader: FrameReader, root: int, base: int | None, image: int | None) -> None:
    with Applier(root, base, image) as applier:
        stream = commands(reader.read)
        applier.begin(next(stream))
        for command in stream:
            try:
                if command.kind is Kind.END:
                    applier.finish()
                else:
                    applier.apply(command)
            except OSError as error:
                if error.errno in _OURS:
                    raise
                raise damaged(f"a command {command.kind.name.lower()} cannot be done: {error.strerror}") from error
    reader.finish()
