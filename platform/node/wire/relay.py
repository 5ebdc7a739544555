"""A local socket on one server and one on another, joined over a channel, for programs with a protocol of their own."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from dataclasses import dataclass

from hostler.core.errors import HostlerError
from hostler.node.wire import frames
from hostler.node.wire.channel import Channel
from hostler.node.wire.failures import nonsense
from hostler.node.wire.frames import CHUNK, Kind, Moved
from hostler.node.wire.pace import Pace

_PIECE = 256 << 10
#: The program behind a socket may be silent for as long as it lives; the wire's own end is noticed at once.
_FOREVER = 10 * 365 * 86400.0


@dataclass(frozen=True)
class Relayed:
    """Bytes that went from the local socket to the wire, and from the wire to it."""

    sent: int
    received: int


def relay(channel: Channel, local: socket.socket | int, rate: float | None) -> Relayed:
    """See :meth:`Channel.pump`."""
    handle = local if isinstance(local, int) else local.fileno()
    with socket.socket(fileno=os.dup(handle)) as end:
        pump = _Relay(channel, end, Pace(rate))
        return pump.run()


class _Relay:
    """The calling thread carries what comes from the local socket, a second one what goes to it."""

    def __init__(self, channel: Channel, end: socket.socket, pace: Pace) -> None:
        self._channel, self._end, self._pace = channel, end, pace
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._failure: HostlerError | None = None
        self._sent = self._received = 0

    def run(self) -> Relayed:
        inward = threading.Thread(target=self._guarded_inward, name="wire-relay", daemon=True)
        inward.start()
        try:
            with self._channel.sending:
                self._outward()
        except HostlerError as error:
            self._fail(error)
        except BaseException:
            self._channel.stop("its relay ended")
            raise
        finally:
            inward.join()
            os.close(self._wake)
            if self._failure is not None:
                with contextlib.suppress(OSError):  # it is not connected any more
                    self._end.shutdown(socket.SHUT_RDWR)
        if self._failure is not None:
            raise self._failure
        return Relayed(self._sent, self._received)

    def _fail(self, error: HostlerError) -> None:
        """The first failure counts; both directions end."""
        self._failure = self._failure or error
        os.eventfd_write(self._wake, 1)
        self._channel.stop(error.message)

    def _outward(self) -> None:
        buffer = memoryview(bytearray(min(_PIECE, self._pace.piece)))
        while self._ready(select.POLLIN):
            try:
                count = self._end.recv_into(buffer, 0, socket.MSG_DONTWAIT)
            except BlockingIOError:
                continue
            except OSError:  # it was reset: the program is gone, which is an end as well
                count = 0
            if not count:
                self._channel.put(frames.end(Moved(self._sent)))
                return
            self._channel.put(frames.header(Kind.DATA, count), buffer[:count])
            self._sent += count
            self._pace.spend(count)

    def _guarded_inward(self) -> None:
        try:
            with self._channel.receiving:
                self._inward()
        except HostlerError as error:
            self._fail(error)

    def _inward(self) -> None:
        buffer = memoryview(bytearray(min(_PIECE, CHUNK)))
        while True:
            kind, body = self._channel.next_frame(time.monotonic() + _FOREVER, "what the other program says")
            if kind is Kind.END:
                frames.check_end(body, Moved(self._received))
                with contextlib.suppress(OSError):  # the program is gone already
                    self._end.shutdown(socket.SHUT_WR)
                return
            if kind is not Kind.DATA:
                raise nonsense(f"{kind.name.lower()} within a relay")
            while self._channel.data_left:
                count = self._channel.read_data(buffer, _FOREVER)
                self._received += count
                self._deliver(buffer[:count])

    def _deliver(self, data: memoryview) -> None:
        """Write to the local socket. Once its program is gone nobody wants the rest, which is read off the wire all the same."""
        while data and self._ready(select.POLLOUT):
            try:
                data = data[self._end.send(data, socket.MSG_DONTWAIT) :]
            except BlockingIOError:
                continue
            except OSError:
                return

    def _ready(self, event: int) -> bool:
        """Wait for the local socket; false once the relay has failed."""
        poll = select.poll()
        poll.register(self._end, event)
        poll.register(self._wake, select.POLLIN)
        found = dict(poll.poll())
        return self._wake not in found
