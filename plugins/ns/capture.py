"""A command's streams: what it is given to read, and its output, bounded: what is beyond the limit is read and thrown away, so that
the command never waits for us."""

from __future__ import annotations

import os
import select
import threading
from types import TracebackType

_CHUNK = 65_536


class Capture:
    """Three pipes, ``into``, ``out`` and ``err`` to be given to a program, fed and drained by a thread of their own.

    Leave the block when the program has ended: what is in the pipes by then is still taken; what a
    daemon left by it writes later is not.
    """

    def __init__(self, limit: int, given: bytes = b"") -> None:
        self.limit = limit
        self._given = memoryview(given)
        self.truncated = False
        self._kept: dict[int, bytearray] = {}

    def __enter__(self) -> Capture:
        self._out, self.out = os.pipe2(os.O_CLOEXEC)
        self._err, self.err = os.pipe2(os.O_CLOEXEC)
        self.into, self._feed = os.pipe2(os.O_CLOEXEC)
        self._wake, self._stop = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._feed, False)
        for reader in (self._out, self._err):
            os.set_blocking(reader, False)
            self._kept[reader] = bytearray()
        self._thread = threading.Thread(target=self._drain, name="capture", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._stop)
        self._thread.join()
        for handle in (self._out, self.out, self._err, self.err, self.into, self._wake):
            os.close(handle)

    @property
    def stdout(self) -> bytes:
        """What was kept of standard output."""
        return bytes(self._kept[self._out])

    @property
    def stderr(self) -> bytes:
        """What was kept of standard error."""
        return bytes(self._kept[self._err])

    def _drain(self) -> None:
        poll = select.poll()
        for handle in (self._out, self._err, self._wake):
            poll.register(handle, select.POLLIN)
        feeding = self._give()
        if feeding:
            poll.register(self._feed, select.POLLOUT)
        while True:
            ready = [handle for handle, _ in poll.poll()]
            stopping = self._wake in ready
            if feeding and self._feed in ready:
                poll.unregister(self._feed)
                feeding = self._give()
                if feeding:
                    poll.register(self._feed, select.POLLOUT)
            for handle in (self._out, self._err):
                # at the end no more than a pipe holds, should a daemon go on writing
                for _ in range(32 if stopping else 1):
                    if not self._take(handle):
                        break
            if stopping:
                if feeding:
                    os.close(self._feed)
                return

    def _give(self) -> bool:
        """Write what the command has room for; whether there is more. After the last of it the command finds the end."""
        try:
            while self._given:
                self._given = self._given[os.write(self._feed, self._given[:_CHUNK]) :]
        except BlockingIOError:
            return True
        os.close(self._feed)
        return False

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
