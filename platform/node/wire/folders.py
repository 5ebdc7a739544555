"""The files of a folder over a channel, as in a checkpoint's images: hundreds of small ones and a few large.

Small ones are gathered, so that they cost a header each and no system call of their own on the wire.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Container, Iterator
from pathlib import Path

from hostler.core.errors import HostFailure, HostlerError, Invalid, NoRoom
from hostler.node.wire import frames
from hostler.node.wire.channel import Channel, write_all
from hostler.node.wire.failures import nonsense
from hostler.node.wire.frames import CHUNK, Kind, Moved
from hostler.node.wire.pace import Pace

#: Files up to this size are gathered, up to _GATHERED bytes.
_SMALL, _GATHERED = 64 << 10, 256 << 10
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def send_folder(channel: Channel, path: Path, *, rate: float | None, leave_out: Container[str]) -> Moved:
    """See :meth:`Channel.send_folder`."""
    pace = Pace(rate)
    with channel.sending:
        try:
            with _opened(path) as folder:
                moved = _Sender(channel, pace, folder).send(sorted(name for name in os.listdir(folder) if name not in leave_out))
        except OSError as error:
            failure = HostFailure(f"{path} cannot be sent: {error.strerror}", hint="look at the disk")
            channel.fail(failure)
            raise failure from error
        except HostlerError as error:
            channel.fail(error)
            raise
        channel.put(frames.end(moved))
    return moved


class _Sender:
    def __init__(self, channel: Channel, pace: Pace, folder: int) -> None:
        self._channel, self._pace, self._folder = channel, pace, folder
        self._gathered = bytearray()
        self._buffer = memoryview(bytearray(pace.piece))

    def send(self, names: list[str]) -> Moved:
        moved = 0
        for name in names:
            moved += self._send_file(name)
        self._flush()
        return Moved(moved, len(names))

    def _send_file(self, name: str) -> int:
        handle = _open_plain(name, self._folder)
        try:
            size = os.fstat(handle).st_size
            self._gathered += frames.file(name, size)
            if size <= _SMALL:
                self._gather(handle, name, size)
            else:
                self._flush()
                self._send_large(handle, name, size)
        finally:
            os.close(handle)
        return size

    def _gather(self, handle: int, name: str, size: int) -> None:
        if not size:
            return
        content = os.read(handle, size)
        if len(content) != size:
            raise _changed(name)
        self._gathered += frames.header(Kind.DATA, size)
        self._gathered += content
        if len(self._gathered) >= min(_GATHERED, self._pace.piece):
            self._flush()

    def _send_large(self, handle: int, name: str, size: int) -> None:
        left = size
        while left:
            count = os.readv(handle, [self._buffer[: min(left, len(self._buffer))]])
            if not count:
                raise _changed(name)
            self._channel.put(frames.header(Kind.DATA, count), self._buffer[:count])
            self._pace.spend(count)
            left -= count

    def _flush(self) -> None:
        self._channel.put(self._gathered)
        self._pace.spend(len(self._gathered))
        self._gathered = bytearray()


def _open_plain(name: str, folder: int) -> int:
    """A plain file's descriptor. Raises :class:`Invalid` for a link, a folder, a pipe."""
    wrong = Invalid(f"{name[:80]} is no plain file", hint="only plain files can be sent; name what is to be left out")
    if not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        raise wrong
    handle = os.open(name, _READ, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(handle).st_mode):  # exchanged in between
        os.close(handle)
        raise wrong
    return handle


def _changed(name: str) -> HostFailure:
    return HostFailure(f"{name} became shorter while it was sent", hint="something else writes in that folder")


def receive_folder(channel: Channel, path: Path, *, limit: int, files: int, idle: float) -> Moved:
    """See :meth:`Channel.receive_folder`."""
    made = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _opened(path) as folder, channel.receiving:
            receiver = _Receiver(channel, folder, limit, files, idle)
            try:
                return receiver.receive()
            except BaseException:
                channel.stop("what was sent could not be taken")
                receiver.undo()
                if made:
                    path.rmdir()
                raise
    except OSError as error:
        raise HostFailure(f"{path} cannot be filled: {error.strerror}", hint="look at the disk and at what is in the folder") from error


class _Receiver:
    def __init__(self, channel: Channel, folder: int, limit: int, files: int, idle: float) -> None:
        self._channel, self._folder = channel, folder
        self._limit, self._files, self._idle = limit, files, idle
        self._names: list[str] = []
        self._bytes = 0
        self._buffer = memoryview(bytearray(CHUNK))

    def receive(self) -> Moved:
        while True:
            kind, body = self._next()
            if kind is Kind.END:
                moved = Moved(self._bytes, len(self._names))
                frames.check_end(body, moved)
                return moved
            if kind is not Kind.FILE:
                raise nonsense(f"{kind.name.lower()} where a file must begin")
            self._receive_file(*frames.parse_file(body))

    def undo(self) -> None:
        """Remove all that was written."""
        for name in self._names:
            os.unlink(name, dir_fd=self._folder)

    def _next(self) -> tuple[Kind, bytes]:
        return self._channel.next_frame(time.monotonic() + self._idle, "the next file")

    def _receive_file(self, name: str, size: int) -> None:
        self._bytes += size
        if self._bytes > self._limit or len(self._names) >= self._files:
            raise NoRoom(
                f"the other server sends more than the {self._limit} bytes in {self._files} files that were agreed on",
                hint="give it more room", code="wire_too_much",
            )  # fmt: skip
        handle = os.open(name, _NEW, 0o600, dir_fd=self._folder)
        self._names.append(name)
        try:
            left = size
            while left:
                left -= self._receive_data(handle, left)
        finally:
            os.close(handle)

    def _receive_data(self, handle: int, left: int) -> int:
        kind, _ = self._next()
        length = self._channel.data_left
        if kind is not Kind.DATA or not 0 < length <= left:
            raise nonsense(f"{kind.name.lower()} of {length} bytes where {left} bytes of a file are missing")
        while self._channel.data_left:
            count = self._channel.read_data(self._buffer, self._idle)
            write_all(handle, self._buffer[:count])
        return length


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    folder = os.open(path, _FOLDER)
    try:
        yield folder
    finally:
        os.close(folder)
