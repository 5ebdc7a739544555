"""TLS over a non-blocking socket: time limits on every call, reading and writing at once from two threads, ended from a third.

OpenSSL's object is not made for two threads, and Python's socket hands it 16 KiB at a time, a system call each. So it works on
memory here, behind a lock, and the socket is read and written in large pieces outside of it.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterable
from typing import cast

from hostler.node.wire.failures import cut, late, stranger
from hostler.node.wire.identity import fingerprint

#: Bytes moved between OpenSSL and the socket at a time.
_PIECE = 128 << 10
#: A peer whose kernel has not answered for so long is gone, in seconds.
SILENCE = 5.0
#: A peer whose kernel answers and whose program takes nothing for so long is stuck, in seconds.
STALL = 60.0
#: Seconds between two looks at a connection that is waited for.
_LOOK = 1.0
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 2), (socket.TCP_KEEPINTVL, 1), (socket.TCP_KEEPCNT, 3))
_TCP_INFO = struct.Struct("=8B13I")  # struct tcp_info of linux/tcp.h, up to tcpi_last_ack_recv
_TRIES = 2

Buffer = bytes | bytearray | memoryview


def tune(connection: socket.socket) -> None:
    """Small messages go at once, and a peer that is gone is noticed within :data:`SILENCE` while nothing is sent.

    While something is sent, :func:`_lost` tells. TCP_USER_TIMEOUT would not do: it also ends connections whose peer is alive
    and merely takes nothing for a while, such as one that waits for its disk (tcp(7) counts a closed window as unanswered).
    """
    connection.setblocking(False)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        connection.setsockopt(socket.IPPROTO_TCP, option, value)


def _lost(connection: socket.socket, silence: float) -> bool:
    """Whether what was sent, or the question for a closed window, was repeated and stayed unanswered for ``silence`` seconds.

    The kernel repeats after 0.2 s, 0.4 s more, 0.8 s more … (its shortest retransmission time-out, doubled). The time of the last
    acknowledgement alone would not do: one that is cut off in one direction still hears the other side, who acknowledges old things with all it says.
    """
    fields = _TCP_INFO.unpack(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size))
    retransmits, probes, timeout_us, last_ack_ms = fields[2], fields[3], fields[8], fields[-1]
    repeated_for_us = timeout_us * (1 - 0.5**retransmits)
    if retransmits >= _TRIES and repeated_for_us >= silence * 1e6:
        return True
    return bool(max(retransmits, probes) >= _TRIES and last_ack_ms > silence * 1000)


class Secured:
    """One TLS connection. ``read``, ``write`` and ``close`` may be called from different threads at once."""

    def __init__(self, connection: socket.socket, context: ssl.SSLContext, *, server: bool) -> None:
        tune(connection)
        self._socket = connection
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server)
        self._guard = threading.Lock()
        self._reading, self._writing = threading.RLock(), threading.RLock()
        self._buffer = memoryview(bytearray(_PIECE))
        self._readable, self._writable = select.poll(), select.poll()
        self._readable.register(connection, select.POLLIN)
        self._writable.register(connection, select.POLLOUT | select.POLLRDHUP)
        self.silence = SILENCE
        """Seconds for which the other side's kernel may leave unanswered what was sent."""
        self._looked = time.monotonic()
        self._ended = ""
        self._closed = False

    def handshake(self, deadline: float) -> str:
        """Agree with the other side until ``deadline`` (monotonic seconds). Its certificate's fingerprint.

        Raises :class:`Denied` for a side that does not speak TLS 1.3 or shows no certificate, :class:`Timeout`, :class:`Unavailable`.
        """
        while True:
            try:
                with self._guard:
                    self._tls.do_handshake()
                self._drain(deadline)
                break
            except ssl.SSLWantReadError:
                self._drain(deadline)
                self._take(deadline, "the TLS handshake")
            except ssl.SSLError as error:
                self._say_why()
                raise stranger(f"the TLS handshake with the other server failed: {error.reason or error}") from error
        certificate = self._tls.getpeercert(binary_form=True)
        if not certificate:
            raise stranger("the other server showed no certificate")
        return fingerprint(certificate)

    def _say_why(self) -> None:
        """TLS's own word on what was wrong; whether it arrives does not matter any more."""
        with contextlib.suppress(OSError):
            self._socket.send(self._outgoing.read())

    def read(self, view: memoryview, deadline: float, what: str = "an answer") -> int:
        """Read up to ``len(view)`` bytes, at least one; 0 when the other side has ended in order.

        Raises :class:`Timeout` when nothing came until ``deadline``, and :class:`Unavailable` for a cut wire.
        """
        with self._reading:
            while True:
                self._check()
                try:
                    with self._guard:
                        return cast("int", self._tls.read(len(view), view))  # with a buffer it gives the number of bytes
                except ssl.SSLWantReadError:
                    self._take(deadline, what)
                except ssl.SSLZeroReturnError:
                    return 0
                except ssl.SSLError as error:
                    raise self._broken(f"TLS: {error.reason or error}") from error

    def write(self, pieces: Iterable[Buffer], deadline: float | None = None) -> None:
        """Write all of ``pieces``, in order and with nothing in between. Raises :class:`Unavailable` for a cut wire.

        Past ``deadline``, or when the other side takes nothing for :data:`STALL`, the wire counts as cut: what was written is in pieces.
        """
        with self._writing:
            for piece in pieces:
                view, at = memoryview(piece), 0
                while at < len(view):
                    self._check()
                    try:
                        with self._guard:
                            at += self._tls.write(view[at:])
                    except ssl.SSLError as error:
                        raise self._broken(f"TLS: {error.reason or error}") from error
                    if self._outgoing.pending >= _PIECE:
                        self._drain(deadline)
            self._drain(deadline)

    def _drain(self, deadline: float | None) -> None:
        with self._guard:
            rest = memoryview(self._outgoing.read())
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except BlockingIOError:
                stalled = time.monotonic() + STALL
                if not self._wait(self._writable, stalled if deadline is None else min(deadline, stalled)):
                    raise self._broken("the other server takes nothing any more") from None
            except OSError as error:
                raise self._broken(error.strerror or str(error)) from error

    def _take(self, deadline: float, what: str) -> None:
        """Hand OpenSSL what has arrived, waiting for it."""
        began = time.monotonic()
        if not self._wait(self._readable, deadline):
            raise late(what, max(0.0, round(deadline - began, 3)))
        try:
            count = self._socket.recv_into(self._buffer)
        except BlockingIOError:
            return
        except OSError as error:
            raise self._broken(error.strerror or str(error)) from error
        if count == 0:
            raise self._broken("the other server hung up")
        with self._guard:
            self._incoming.write(self._buffer[:count])

    def _wait(self, poll: select.poll, deadline: float) -> bool:
        """Whether the socket is ready before ``deadline``. Looks now and then whether the other side is still there."""
        while True:
            self._check()
            left = deadline - time.monotonic()
            look = min(_LOOK, self.silence / 4)
            ready = poll.poll(1000 * min(look, max(0.0, left)))
            self._look(look)  # also while the other side is heard: it may be deaf
            if ready:
                self._check()
                if ready[0][1] == select.POLLRDHUP:  # nobody ends one direction alone here: it takes nothing more
                    raise self._broken("the other server hung up")
                return True
            if left <= 0:
                return False

    def _look(self, interval: float) -> None:
        """Whether the other side's kernel is still there, if that was not asked for so many seconds. Raises :class:`Unavailable` when it is not."""
        moment = time.monotonic()
        if moment - self._looked < interval:
            return
        self._looked = moment
        if _lost(self._socket, self.silence):
            # closing then resets the connection: where the line is cut in one direction, the other side hears that
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            raise self._broken(f"the other server was not heard for {self.silence:g} s")

    def _check(self) -> None:
        if self._ended:
            raise cut(self._ended)

    def _broken(self, why: str) -> Exception:
        """The error for a wire that is no more, from now on for everybody."""
        self._ended = self._ended or why
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        return cut(self._ended)

    def stop(self, why: str) -> None:
        """End it at once, from any thread: who reads or writes gets :class:`Unavailable` with ``why``. The descriptor stays until ``close``."""
        self._broken(why)

    def close(self) -> None:
        """Say goodbye if nobody is writing and it can be said without waiting, and give the descriptor back. Again is a success."""
        if not self._ended and self._writing.acquire(blocking=False):
            try:
                self._goodbye()
            finally:
                self._writing.release()
        self._broken("it was closed here")
        with self._reading, self._writing:
            if not self._closed:
                self._closed = True
                self._socket.close()

    def _goodbye(self) -> None:
        """TLS's end mark (RFC 8446, 6.1), by which the other side tells an end from a cut."""
        with contextlib.suppress(ssl.SSLError, OSError):
            with self._guard:
                with contextlib.suppress(ssl.SSLWantReadError):
                    self._tls.unwrap()
                rest = self._outgoing.read()
            self._socket.send(rest)
