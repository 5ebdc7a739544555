"""One connection between two servers' workers: control messages and bulk data, both ways at once.

One thread at a time sends and one receives; a second waits for its turn. A stream or folder is sent whole before the next message:
what must be said meanwhile takes a stream of its own, which the same ticket opens.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import socket
import threading
import time
from collections.abc import Container
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from pydantic import BaseModel

from hostler.core.errors import HostFailure, HostlerError, NoRoom, Unavailable
from hostler.node.wire import frames
from hostler.node.wire.failures import cut, late, nonsense
from hostler.node.wire.frames import CHUNK, HEADER, Kind, Message, Moved
from hostler.node.wire.pace import Pace
from hostler.node.wire.secured import STALL, Buffer, Secured

if TYPE_CHECKING:
    from hostler.node.wire.relay import Relayed


class Channel:
    """Made by :func:`hostler.node.wire.client.connect`, and by the listener for whoever serves a ticket."""

    def __init__(self, secured: Secured, *, operation: str, stream: str, peer: str) -> None:
        self._secured = secured
        self.operation = operation
        self.stream = stream
        self.peer = peer
        """Fingerprint of the other side's certificate."""
        self._sending, self._receiving = threading.RLock(), threading.RLock()
        self._part = bytearray()
        self._left = 0

    # --- control messages ---

    def send(self, kind: str, body: BaseModel | None = None, /, **fields: Any) -> None:
        """Send a message: ``body``'s fields and ``fields``, at most 1 MiB as JSON.

        Raises :class:`Invalid` for what is no JSON or too large, :class:`Unavailable` (``wire_cut``).
        """
        data = frames.message(kind, body, fields)
        with self._sending:
            self._secured.write([data])

    def receive(self, timeout: float, *kinds: str) -> Message:
        """The next message, which must be one of ``kinds`` where these are given.

        Raises :class:`Timeout` after ``timeout`` seconds (a message that came in part is not lost: receive again),
        :class:`Unavailable` (``wire_cut``), ``wire_protocol`` for anything else, and what the other side gave to :meth:`fail`.
        """
        with self._receiving:
            kind, body = self.next_frame(time.monotonic() + timeout, " or ".join(kinds) or "a message")
            if kind is not Kind.MESSAGE:
                raise self._confused(f"{kind.name.lower()} instead of a message")
        message = frames.parse_message(body)
        if kinds and message.kind not in kinds:
            raise nonsense(f"{message.kind[:80]} instead of {' or '.join(kinds)}")
        return message

    def fail(self, error: BaseException) -> None:
        """Tell the other side why nothing more comes; its ``receive`` raises the error. A wire that is gone is left so."""
        with self._sending, contextlib.suppress(Unavailable):
            self._secured.write([frames.failed(error)])

    # --- bulk ---

    def send_stream(self, source: BinaryIO | int, *, rate: float | None = None, patience: float = STALL) -> int:
        """Send all that ``source`` (a file, or a descriptor, which stays open) gives up to its end; the number of bytes.

        ``rate`` bounds the bytes a second. ``patience``: seconds that a descriptor may give nothing. When the source
        fails, the other side is told. Raises :class:`HostFailure`, :class:`Timeout`, :class:`Unavailable` (``wire_cut``).
        """
        pace, sent = Pace(rate), 0
        buffer = memoryview(bytearray(pace.piece))
        with self._sending:
            try:
                while count := _read(source, buffer, patience):
                    self.put(frames.header(Kind.DATA, count), buffer[:count])
                    sent += count
                    pace.spend(count)
            except HostlerError as error:
                self.fail(error)
                raise
            self.put(frames.end(Moved(sent)))
        return sent

    def receive_stream(self, *, limit: int | None = None, idle: float = STALL) -> StreamReader:
        """What the other side's :meth:`send_stream` sends. Read it to its end before anything else is received.

        ``limit``: bytes at most (:class:`NoRoom` beyond). ``idle``: seconds in which something must come.
        """
        return StreamReader(self, limit, idle)

    def send_folder(self, path: Path, *, rate: float | None = None, leave_out: Container[str] = ()) -> Moved:
        """Send the plain files in ``path``, but those called as in ``leave_out``.

        Raises :class:`Invalid` for a folder with anything else in it, :class:`HostFailure`, :class:`Unavailable` (``wire_cut``).
        """
        from hostler.node.wire.folders import send_folder

        return send_folder(self, path, rate=rate, leave_out=leave_out)

    def receive_folder(self, path: Path, *, limit: int, files: int = 65536, idle: float = STALL) -> Moved:
        """Write the files of the other side's :meth:`send_folder` into ``path``, made if missing; mode 0600, none replaced.

        At most ``limit`` bytes in ``files`` files (:class:`NoRoom` beyond). On any error what was written is removed again.
        """
        from hostler.node.wire.folders import receive_folder

        return receive_folder(self, path, limit=limit, files=files, idle=idle)

    def pump(self, local: socket.socket | int, *, rate: float | None = None) -> Relayed:
        """Relay between ``local``, a connected stream socket, and this channel until both directions have ended; ``local`` stays open.

        For programs with a protocol of their own, such as CRIU's page server. The end of one direction is passed on, and the
        other goes on. Raises :class:`Unavailable` (``wire_cut``) when the wire breaks; ``local`` then sees its end.
        """
        from hostler.node.wire.relay import relay

        return relay(self, local, rate)

    # --- its end ---

    def notice_within(self, seconds: float) -> None:
        """From now on the wire counts as cut when the other side's kernel leaves what was sent unanswered for so long, 0.6 s at least.

        For the time in which a tenant waits. Where nothing is sent, nothing is missed: then it is the usual 5 s, or ``receive``'s own.
        """
        self._secured.silence = seconds

    def stop(self, why: str) -> None:
        """End it now, from any thread: whoever waits in it gets :class:`Unavailable` with ``why``."""
        self._secured.stop(why)

    def close(self) -> None:
        """End it and give its descriptor back. Again is a success."""
        self._secured.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # --- frames, for what moves bulk data ---

    @property
    def sending(self) -> threading.RLock:
        """Held by whoever sends something of several frames."""
        return self._sending

    @property
    def receiving(self) -> threading.RLock:
        """Held by whoever receives something of several frames."""
        return self._receiving

    def put(self, *pieces: Buffer) -> None:
        """Write frames that were made elsewhere."""
        self._secured.write(pieces)

    def next_frame(self, deadline: float, what: str, limit: int = CHUNK) -> tuple[Kind, bytes]:
        """The next frame. Of a data frame the body is left to :meth:`read_data`. Raises what :meth:`fail` sent."""
        if self._left:
            raise self._confused("a stream that was not read to its end here")
        self._fill(HEADER.size, deadline, what)
        try:
            kind, length = frames.parse_header(bytes(self._part[: HEADER.size]), limit)
        except HostlerError:
            self._secured.stop("the other server spoke another language")
            raise
        if kind is Kind.DATA:
            self._part.clear()
            self._left = length
            return kind, b""
        self._fill(HEADER.size + length, deadline, what)
        body = bytes(self._part[HEADER.size :])
        self._part.clear()
        if kind is Kind.FAILED:
            raise frames.parse_failed(body)
        return kind, body

    @property
    def data_left(self) -> int:
        """Bytes of the current data frame that were not read yet."""
        return self._left

    def read_data(self, view: memoryview, idle: float) -> int:
        """Fill ``view`` from the current data frame, as far as that goes; something must come every ``idle`` seconds."""
        wanted, at = min(len(view), self._left), 0
        while at < wanted:
            got = self._secured.read(view[at:wanted], time.monotonic() + idle, "the next piece of data")
            if not got:
                raise cut("the other server ended the connection")
            at += got
            self._left -= got
        return at

    def _fill(self, wanted: int, deadline: float, what: str) -> None:
        """Have ``wanted`` bytes of a frame; those that came before a time-out are kept."""
        while len(self._part) < wanted:
            scratch = memoryview(bytearray(min(wanted - len(self._part), 64 << 10)))
            got = self._secured.read(scratch, deadline, what)
            if not got:
                raise cut("the other server ended the connection")
            self._part += scratch[:got]

    def _confused(self, what: str) -> HostFailure:
        """After this nobody knows where the next frame begins."""
        self._secured.stop("the two servers lost track of each other")
        return nonsense(what)


class StreamReader(io.RawIOBase):
    """A stream as it comes in: a readable raw file whose end is only seen when all of it came."""

    def __init__(self, channel: Channel, limit: int | None, idle: float) -> None:
        super().__init__()
        self._channel, self._limit, self._idle = channel, limit, idle
        self.received = 0
        self._done = False

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Fill ``buffer`` as far as one frame goes; 0 at the end. Raises :class:`Unavailable` when the wire is cut before it."""
        view = memoryview(buffer).cast("B")
        with self._channel.receiving:
            while not self._done and not self._channel.data_left:
                self._next()
            if self._done or not view:
                return 0
            count = self._channel.read_data(view, self._idle)
        self.received += count
        return count

    def _next(self) -> None:
        kind, body = self._channel.next_frame(time.monotonic() + self._idle, "the next piece of data")
        if kind is Kind.END:
            frames.check_end(body, Moved(self.received))
            self._done = True
        elif kind is not Kind.DATA:
            self._channel.stop("the other server spoke another language")
            raise nonsense(f"{kind.name.lower()} within a stream")
        elif self._limit is not None and self.received + self._channel.data_left > self._limit:
            self._channel.stop("more was sent than is allowed")
            raise NoRoom(f"the other server sends more than the {self._limit} bytes that were agreed on", hint="give it more room", code="wire_too_much")

    def copy_to(self, target: int) -> int:
        """Write all of it to a descriptor; the number of bytes. Raises :class:`HostFailure` when it cannot be written.

        It waits as long as ``target`` does: where that is a program, whoever runs it ends it in time.
        """
        buffer = memoryview(bytearray(CHUNK))
        while count := self.readinto(buffer):
            try:
                write_all(target, buffer[:count])
            except HostFailure:
                self._channel.stop("what was sent could not be written")
                raise
        return self.received


def write_all(target: int, data: memoryview) -> None:
    """Write all of ``data``. Raises :class:`HostFailure`."""
    try:
        while data:
            data = data[os.write(target, data) :]
    except OSError as error:
        raise HostFailure(f"what the other server sent cannot be written: {error.strerror}", hint="look at the disk and at the program that takes it") from error


def _read(source: BinaryIO | int, buffer: memoryview, patience: float) -> int:
    """Fill ``buffer`` from a file or descriptor as far as one read goes; 0 at its end. Raises :class:`HostFailure`, :class:`Timeout`."""
    try:
        if isinstance(source, int):
            poll = select.poll()
            poll.register(source, select.POLLIN)
            if not poll.poll(patience * 1000):
                raise late("reading what is to be sent", patience)
            return os.readv(source, [buffer])
        data = source.read(len(buffer))
    except OSError as error:
        raise HostFailure(f"what is to be sent cannot be read: {error.strerror}", hint="look at the disk and at the program that gives it") from error
    buffer[: len(data)] = data
    return len(data)
