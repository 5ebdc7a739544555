"""Keeps what tenants see of their limits right while lxcfs comes and goes. A thread of the node's watch."""

from __future__ import annotations

import os
import threading
import time

import structlog

from hostler.contracts.driver import Host
from hostler.core.errors import HostlerError
from hostler.host import freezer, guest, lxcfs

log = structlog.get_logger()

#: Seconds between two looks at lxcfs: the longest time that its files answer with an error after its death.
TICK = 1.0
#: Seconds between two looks at every container, for those that were made while there was no lxcfs.
ROUND = 30.0


class Views(threading.Thread):
    """Lays lxcfs's files over those of all running containers when it was started, and takes them away when it has died."""

    def __init__(self, host: Host) -> None:
        super().__init__(name="views", daemon=True)
        self._host = host
        self._point = lxcfs.mount_point(host)
        self._seen: tuple[int, int] | None = None
        self._next = 0.0
        self._closing = threading.Event()

    def run(self) -> None:
        while not self._closing.wait(TICK):
            try:
                self.look()
            except (HostlerError, OSError) as error:  # out of descriptors or memory, say: the next look may fare better
                log.warning("cannot look after lxcfs", error=str(error))

    def close(self) -> None:
        """End the thread soon."""
        self._closing.set()

    def look(self) -> None:
        """One look; all containers are gone through when lxcfs is another than before, and each half a minute."""
        device = lxcfs.answering(self._point)
        if device == self._seen and time.monotonic() < self._next:
            return
        if device != self._seen:
            log.info("lxcfs answers" if device else "lxcfs does not answer: containers see the server's figures")
        self._seen, self._next = device, time.monotonic() + ROUND
        folders = self._host.state_dir / "containers"
        for container in sorted(os.listdir(folders)) if folders.is_dir() else ():
            if container.startswith("."):
                continue  # a draft
            self._set(container, shown=device is not None)

    def _set(self, container: str, *, shown: bool) -> None:
        record = guest.read_init(self._host, container)
        if record is None or not record.identity.alive():
            return
        if shown and not freezer.frozen(record.cgroups):  # a frozen one is about to be checkpointed
            lxcfs.offer(self._host, record.identity)
        if not shown:
            lxcfs.withdraw(record.identity)
