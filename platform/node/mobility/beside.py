"""Two things at once, while somebody waits for both."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Beside:
    """Work in a thread of its own; what it raises is raised where it is waited for."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._body, args=(work,), name="beside", daemon=True)
        self._thread.start()

    def _body(self, work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            self._failure = error

    def end(self) -> BaseException | None:
        """Wait for its end, whatever it is: something else has failed already. What it raised, if anything."""
        self._thread.join()
        return self._failure

    def join(self) -> None:
        """Wait for its end."""
        self._thread.join()
        if self._failure is not None:
            raise self._failure
