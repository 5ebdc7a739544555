"""A container's output on its server: bounded files of lines, written by the watch, read by anybody.

``<folder>/<number>.log`` are segments; the oldest is removed when a new one begins. A line is
``<nanoseconds since 1970> <stream>[+] <text>``, where ``+`` marks a piece of a line that goes on in the next one. A reader
takes whole lines only, so it needs no lock. A cursor is ``<segment>:<offset>``: the place after what was read.
"""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel

from hostler.core.errors import Invalid
from hostler.core.units import KIB, MIB

SEGMENT_BYTES = 1 * MIB
SEGMENTS = 2
#: A longer line is cut into pieces of this many bytes.
LINE_BYTES = 16 * KIB
_STREAMS = {"out": b"o", "err": b"e"}
_NAMES = {"o": "out", "e": "err"}


class LogLine(BaseModel):
    """A line, or a piece of one that goes on in the next line of the same stream."""

    at: datetime
    stream: str
    text: str
    partial: bool = False


class LogPage(BaseModel):
    """Lines, and where to go on reading. ``lost``: what came after the given cursor was already thrown away."""

    lines: list[LogLine]
    cursor: str
    lost: bool = False


class LogStore:
    """The output of one container. One process appends, any number read."""

    def __init__(self, folder: Path, segment_bytes: int = SEGMENT_BYTES, segments: int = SEGMENTS) -> None:
        self.folder = folder
        self._segment_bytes = segment_bytes
        self._segments = segments
        self._pending = {"out": b"", "err": b""}
        self._pending_since: dict[str, float] = {}
        self._handle: int | None = None
        self._number = 0
        self._size = 0

    # -- writing

    def append(self, stream: str, data: bytes) -> int:
        """Take output as it was read; what is no whole line yet waits for its end, or for :meth:`flush`.

        Returns the number of lines written. OSError (a full disk) is passed on; those lines are lost then.
        """
        *whole, rest = (self._pending[stream] + data).split(b"\n")
        pieces = [(piece, piece_goes_on) for line in whole for piece, piece_goes_on in _pieces(line)]
        while len(rest) >= LINE_BYTES:
            pieces.append((rest[:LINE_BYTES], True))
            rest = rest[LINE_BYTES:]
        self._pending[stream] = rest
        if rest and (whole or stream not in self._pending_since):
            self._pending_since[stream] = time.monotonic()
        elif not rest:
            self._pending_since.pop(stream, None)
        self._write(stream, pieces)
        return len(pieces)

    def flush(self, older_than: float = 0) -> None:
        """Write what waits for the end of its line for ``older_than`` seconds or more (a prompt, the end of the container)."""
        now = time.monotonic()
        for stream, since in list(self._pending_since.items()):
            if now - since >= older_than:
                rest, self._pending[stream] = self._pending[stream], b""
                del self._pending_since[stream]
                self._write(stream, [(rest, True)])

    def close(self) -> None:
        """Flush, and let go of the file."""
        try:
            self.flush()
        finally:
            if self._handle is not None:
                os.close(self._handle)
                self._handle = None

    def _write(self, stream: str, pieces: list[tuple[bytes, bool]]) -> None:
        if not pieces:
            return
        begin = b"%d %s" % (time.time_ns(), _STREAMS[stream])
        data = b"".join(begin + (b"+ " if goes_on else b" ") + piece + b"\n" for piece, goes_on in pieces)
        if self._handle is None:
            self._open()
        if self._size and self._size + len(data) > self._segment_bytes:
            self._rotate()
        assert self._handle is not None
        written = os.write(self._handle, data)
        self._size += written
        if written < len(data):
            os.ftruncate(self._handle, self._size - written)
            self._size -= written
            raise OSError(28, "no room for a container's output", str(self.folder))

    def _open(self) -> None:
        self.folder.mkdir(exist_ok=True)  # never its parent: the container may just have been forgotten
        numbers = _numbers(self.folder)
        self._number = numbers[-1] if numbers else 1
        path = self._path(self._number)
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._handle).st_size
        tail = os.pread(self._handle, 64 * KIB, max(0, self._size - 64 * KIB))
        if tail and not tail.endswith(b"\n"):  # a crash in the middle of a line
            self._size -= len(tail) - (tail.rfind(b"\n") + 1)
            os.ftruncate(self._handle, self._size)

    def _rotate(self) -> None:
        assert self._handle is not None
        os.close(self._handle)
        self._handle = None
        self._number += 1
        self._handle = os.open(self._path(self._number), os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = 0
        for number in _numbers(self.folder)[: -self._segments]:
            self._path(number).unlink(missing_ok=True)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number}.log"

    # -- reading

    def read(self, *, tail: int | None = None, cursor: str | None = None, max_bytes: int = 256 * KIB) -> LogPage:
        """The last ``tail`` lines, or those after ``cursor``, or from the beginning; at most ``max_bytes`` of them.

        Raises :class:`Invalid` for a cursor that is none.
        """
        if cursor is not None:
            return self._after(*_parse_cursor(cursor), max_bytes=max_bytes)
        numbers = _numbers(self.folder)
        if not numbers:
            return LogPage(lines=[], cursor="0:0")
        if tail is None:
            return self._after(numbers[0], 0, max_bytes=max_bytes)
        lines: list[bytes] = []
        end = (numbers[-1], 0)
        for number in reversed(numbers):
            data = self._whole_lines(number, 0, None)
            if number == numbers[-1]:
                end = (number, len(data))
            lines = data.split(b"\n")[:-1] + lines
            if len(lines) >= tail:
                break
        return LogPage(lines=_parse(_last(lines[-tail:] if tail else [], max_bytes)), cursor=f"{end[0]}:{end[1]}")

    def _after(self, number: int, offset: int, *, max_bytes: int) -> LogPage:
        numbers = _numbers(self.folder)
        lost = False
        if numbers and number < numbers[0]:
            lost, number, offset = number > 0, numbers[0], 0
        lines: list[bytes] = []
        room = max_bytes
        for one in [one for one in numbers if one >= number]:
            data = self._whole_lines(one, offset if one == number else 0, room)
            offset = (offset if one == number else 0) + len(data)
            number = one
            lines += data.split(b"\n")[:-1]
            room -= len(data)
            if room <= 0 or (one != numbers[-1] and self._more(one, offset)):
                break
        return LogPage(lines=_parse(lines), cursor=f"{number}:{offset}", lost=lost)

    def _more(self, number: int, offset: int) -> bool:
        try:
            return self._path(number).stat().st_size > offset
        except FileNotFoundError:
            return False

    def _whole_lines(self, number: int, offset: int, room: int | None) -> bytes:
        """Whole lines of a segment, at least one if there is one, whatever ``room`` says."""
        try:
            with self._path(number).open("rb") as file:
                file.seek(offset)
                data = file.read() if room is None else file.read(max(room, 2 * LINE_BYTES))
        except FileNotFoundError:  # thrown away meanwhile
            return b""
        end = data.rfind(b"\n", 0, room) if room is not None else data.rfind(b"\n")
        if end < 0:
            end = data.find(b"\n")
        return data[: end + 1]


def _pieces(line: bytes) -> list[tuple[bytes, bool]]:
    if len(line) <= LINE_BYTES:
        return [(line, False)]
    starts = range(0, len(line), LINE_BYTES)
    return [(line[start : start + LINE_BYTES], start + LINE_BYTES < len(line)) for start in starts]


def _numbers(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    return sorted(int(path.stem) for path in folder.glob("*.log") if path.stem.isdigit())


def _parse_cursor(cursor: str) -> tuple[int, int]:
    number, _, offset = cursor.partition(":")
    if not (number.isascii() and number.isdigit() and offset.isascii() and offset.isdigit()) or len(cursor) > 40:
        raise Invalid(f"{cursor[:40]!r} is no place in a log", hint="use the cursor that came with the former lines")
    return int(number), int(offset)


def _last(lines: list[bytes], max_bytes: int) -> list[bytes]:
    total = 0
    for index in range(len(lines) - 1, -1, -1):
        total += len(lines[index]) + 1
        if total > max_bytes:
            return lines[index + 1 :] or lines[-1:]
    return lines


def _parse(lines: list[bytes]) -> list[LogLine]:
    parsed = []
    for line in lines:
        stamp, _, rest = line.decode("utf-8", "replace").partition(" ")
        stream, _, text = rest.partition(" ")
        if not stamp.isdigit() or stream[:1] not in _NAMES:
            continue  # a cursor into the middle of a line
        parsed.append(
            LogLine(
                at=datetime.fromtimestamp(int(stamp) / 1e9, UTC), stream=_NAMES[stream[:1]], text=text, partial=stream.endswith("+")
            )
        )
    return parsed
