"""A command's streams: what it is given to read, and its output, bounded: what is beyond the limit is read and thrown away, so that
the command never waits for us."""

from __future__ import annotations

import os
import select
from types import TracebackType

_CHUNK = 65_536
#: What a pipe holds at most (``/proc/sys/fs/pipe-max-size``), in chunks, with some room.
_MOST = 32


class Capture:
    """Three pipes, ``into``, ``out`` and ``err`` to be given to a program. Whoever waits for it serves them meanwhile
    (:class:`hostler.host.process.Streams`).

    Leave the block when the program has ended: what is in the pipes by then is still taken; what a
    daemon left by it writes later is not.
    """

    def __init__(self, limit: int, given: bytes = b"") -> None:
        self.limit = limit
        self.truncated = False
        self._given = memoryview(given)
        self._kept: dict[int, bytearray] = {}

    def __enter__(self) -> Capture:
        self.into, self._feed = os.pipe2(os.O_CLOEXEC)
        self._out, self.out = os.pipe2(os.O_CLOEXEC)
        self._err, self.err = os.pipe2(os.O_CLOEXEC)
        self._open = [self.into, self._feed, self._out, self.out, self._err, self.err]
        for ours in (self._feed, self._out, self._err):
            os.set_blocking(ours, False)
        for reader in (self._out, self._err):
            self._kept[reader] = bytearray()
        self._give()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in (self._out, self._err):
            for _ in range(_MOST):  # no more than a pipe holds, should a daemon go on writing
                if not self._take(handle):
                    break
        for handle in self._open:
            os.close(handle)

    @property
    def stdout(self) -> bytes:
        """What was kept of standard output."""
        return bytes(self._kept[self._out])

    @property
    def stderr(self) -> bytes:
        """What was kept of standard error."""
        return bytes(self._kept[self._err])

    def awaited(self) -> dict[int, int]:
        """File descriptors and the events of ``poll(2)`` at which they are to be served."""
        feeding = {self._feed: select.POLLOUT} if self._feed in self._open else {}
        return {self._out: select.POLLIN, self._err: select.POLLIN} | feeding

    def serve(self, handle: int) -> None:
        """Read or write what can be without waiting."""
        if handle == self._feed:
            self._give()
        else:
            self._take(handle)

    def _give(self) -> None:
        """Write what the command has room for. After the last of it the command finds the end."""
        try:
            while self._given:
                self._given = self._given[os.write(self._feed, self._given[:_CHUNK]) :]
        except BlockingIOError:
            return
        self._open.remove(self._feed)
        os.close(self._feed)

    def _take(self, handle: int) -> bool:
        try:
            data = os.read(handle, _CHUNK)
        except BlockingIOError:
            return False
        kept = self._kept[handle]
        room = self.limit - len(kept)
        kept += data[:room]
        self.truncated = self.truncated or len(data) > room
        return bool(data)
