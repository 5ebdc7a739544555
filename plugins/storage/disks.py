"""A disk in a file as a stream: its data in pieces, all or what is other than in an earlier one.

Each piece is a letter, where it begins and how long it is (8 bytes each, little endian): ``D`` with the data, ``Z`` for zeros,
and ``E`` at the end. Pieces are in order and never overlap.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator

from hostler.host import files
from hostler_plugins.storage.frames import FrameReader, FrameWriter, damaged

_PIECE = struct.Struct("<cQQ")
_STEP = 1 << 20
_GRAIN = 1 << 14


def send(disk: int, size: int, writer: FrameWriter, base: int | None = None) -> None:
    """Write the disk, or what changed since ``base``. Raises :class:`OSError`."""
    for start, data in _changes(disk, size, base):
        if any(data):
            writer.write(_PIECE.pack(b"D", start, len(data)))
            writer.write(data)
        elif base is not None:
            writer.write(_PIECE.pack(b"Z", start, len(data)))
    writer.write(_PIECE.pack(b"E", 0, 0))


def _changes(disk: int, size: int, base: int | None) -> Iterator[tuple[int, bytes]]:
    """Pieces of up to a step that are other than in ``base``, which is zeros when there is none."""
    for start, end in _touched(disk, size, base):
        new = os.pread(disk, end - start, start)
        old = bytes(len(new)) if base is None else os.pread(base, end - start, start).ljust(len(new), b"\0")
        if new == old:
            continue
        at = 0
        while at < len(new):
            first = at
            while at < len(new) and new[at : at + _GRAIN] != old[at : at + _GRAIN]:
                at += _GRAIN
            if at > first:
                yield start + first, new[first:at]
            else:
                at += _GRAIN


def _touched(disk: int, size: int, base: int | None) -> Iterator[tuple[int, int]]:
    """Steps in which the disk or its base has data."""
    steps = _steps(disk, size)
    if base is not None:
        steps |= _steps(base, size)
    for step in sorted(steps):
        yield step * _STEP, min((step + 1) * _STEP, size)


def _steps(disk: int, size: int) -> set[int]:
    return {step for start, end in files.extents(disk, size) for step in range(start // _STEP, (end - 1) // _STEP + 1)}


def receive(disk: int, size: int, reader: FrameReader, most: int) -> None:
    """Apply pieces to a disk of ``size`` bytes, at most ``most`` bytes of data. Raises :class:`Invalid` for what cannot be,
    :class:`OSError`: ENOSPC also for more data than may come."""
    at = written = 0
    while True:
        kind, start, length = _PIECE.unpack(reader.read(_PIECE.size))
        if kind == b"E":
            return
        if kind not in (b"D", b"Z") or not 0 < length <= _STEP or not at <= start <= size - length:
            raise damaged("a piece of the disk is out of place")
        at = start + length
        if kind == b"Z":
            _zero(disk, start, length)
            continue
        written += length
        if written > most:
            raise OSError(errno.ENOSPC, "the stream holds more than the volume may")
        _write(disk, reader.read(length), start)


def _write(disk: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(disk, view, at)
        view, at = view[done:], at + done


def _zero(disk: int, start: int, length: int) -> None:
    """A hole where the file system has holes."""
    try:
        files.punch(disk, start, length)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        _write(disk, bytes(length), start)
