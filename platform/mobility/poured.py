"""What one piece of code writes, as something that another one reads: through a pipe, with a thread at its other end."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import BinaryIO


class Poured:
    """Reads what ``work`` writes, which begins at once in a thread of its own and is never more than a pipe ahead.

    What ``work`` raises is raised in place of the end, so that a stream which broke off is never taken for a whole one.
    """

    def __init__(self, work: Callable[[BinaryIO], object]) -> None:
        self._reading, writing = os.pipe2(os.O_CLOEXEC)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._body, args=(work, writing), name="poured", daemon=True)
        self._thread.start()

    def _body(self, work: Callable[[BinaryIO], object], writing: int) -> None:
        try:
            with os.fdopen(writing, "wb") as out:
                work(out)
        except BaseException as error:
            self._failure = error

    def readinto(self, buffer: memoryview, /) -> int:
        """At the end 0, or what the writer failed with."""
        count = os.readv(self._reading, [buffer])
        if count == 0:
            self._thread.join()
            if self._failure is not None:
                raise self._failure
        return count

    def close(self) -> None:
        """Before the end the writer meets a broken pipe; it is waited for."""
        if self._reading >= 0:
            os.close(self._reading)
            self._reading = -1
            self._thread.join()
