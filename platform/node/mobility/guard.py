"""Lets containers go on whose standstill nobody answers for any more. A thread of the node's watch.

The worker that froze a container may be killed before it lets it go on or hands it over; a new one takes seconds to come, and the tenant
waits. So the watch, which is another process, sees the worker end by its pidfd, and ends the standstill with the same two drivers. These it loads
when a container is about to leave (:func:`leaving`), so that the time for it is not the tenant's.
"""

from __future__ import annotations

import os
import queue
import select
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import cast
from urllib.parse import quote

import structlog

from hostler.contracts.checkpoint import Checkpoint
from hostler.contracts.driver import Driver, Host
from hostler.contracts.net import Net
from hostler.contracts.ns import Ns
from hostler.core.errors import HostlerError
from hostler.host import pidfd
from hostler.host.pidfd import Identity
from hostler.node import journal
from hostler.node.container_verbs import remembered
from hostler.node.drivers import load_one
from hostler.node.mobility import carrier, standstill
from hostler.node.mobility.standstill import Still

log = structlog.get_logger()

Load = Callable[[str, str], Driver]
#: Seconds until what could not be done is tried again.
_RETRY = 0.25


class Guard(threading.Thread):
    """The guard of one node. :meth:`look` may be called from any thread."""

    def __init__(self, host: Host) -> None:
        super().__init__(name="guard", daemon=True)
        self._host = host
        self._news: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._workers: dict[int, tuple[Identity, set[str]]] = {}
        self._due: set[str] = set()
        self._loaded: dict[tuple[str, str], Driver] = {}
        self._poll = select.poll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._closing = threading.Event()

    def look(self, container: str) -> None:
        """A standstill may have begun, or be near."""
        if standstill.still_file(self._host, container).exists() or standstill.leaving(self._host, container).exists():
            self._news.put(container)
            os.eventfd_write(self._wake, 1)

    def run(self) -> None:
        self._poll.register(self._wake, select.POLLIN)
        while not self._closing.is_set():
            for handle, _ in self._poll.poll(_RETRY * 1000 if self._due else None):
                if handle == self._wake:
                    os.eventfd_read(self._wake)
                else:
                    self._worker_ended(handle)
            while not self._news.empty():
                self._note(self._news.get())
            self._due = {container for container in self._due if not self._settle(container)}
        for handle in [*self._workers, self._wake]:
            os.close(handle)

    def close(self) -> None:
        """End the thread, and wait for that."""
        if self.is_alive():
            self._closing.set()
            os.eventfd_write(self._wake, 1)
            self.join()

    def _note(self, container: str) -> None:
        """Remember who answers for a container."""
        still = _read(self._host, container)
        if still is None or still.on_disk:
            self._expect(container)
            return
        self._answers(container, still)
        self._make_ready(still.ns, still.net, still.checkpoint)

    def _answers(self, container: str, still: Still) -> None:
        for worker, containers in self._workers.values():
            if worker == still.worker:
                containers.add(container)
                return
        handle = pidfd.open_to_the_end(still.worker)
        if handle is None:
            self._due.add(container)
            return
        self._workers[handle] = (still.worker, {container})
        self._poll.register(handle, select.POLLIN)

    def _expect(self, container: str) -> None:
        """It will soon stand still."""
        try:
            spec = remembered(self._host, container)
        except ValueError as error:
            log.error("unreadable spec", container=container, error=str(error))
            return
        if spec is not None:
            self._make_ready(spec.drivers.ns, spec.drivers.net if spec.links else "", "")

    def _make_ready(self, ns: str, net: str, checkpoint: str) -> None:
        try:
            self._load("ns", ns)
            if checkpoint:
                self._load("checkpoint", checkpoint)
            if net and not cast(Net, self._load("net", net)).capabilities.hold:  # which a driver may have to try out
                log.error("a net driver that may be needed cannot let go of links", net=net)
        except HostlerError as error:
            log.error("a driver that may be needed cannot be loaded", error=error.message)

    def _load(self, group: str, name: str) -> Driver:
        if (group, name) not in self._loaded:
            self._loaded[group, name] = load_one(self._host, group, name)
        return self._loaded[group, name]

    def _worker_ended(self, handle: int) -> None:
        self._poll.unregister(handle)
        os.close(handle)
        self._due |= self._workers.pop(handle)[1]

    def _settle(self, container: str) -> bool:
        """Whether nothing is left to do about it."""
        try:
            if settle(self._host, container, self._load):
                log.warning("the worker died over a container at a standstill: it goes on", container=container)
        except Exception as error:  # an outer edge: whatever a driver raises, the next try may fare better, and others wait too
            log.error("a container at a standstill cannot go on yet", container=container, error=str(error))
            return False
        return True


def settle(host: Host, container: str, load: Load) -> bool:
    """Let a container go on, if it stands still, the worker that answers for it is dead, and it is this server's to run; whether that was so.

    ``load`` gives a driver by group and name. Raises what the drivers raise, and :class:`sqlite3.Error` when it cannot be known whose the
    container is: then nothing is done.
    """
    with standstill.alone(host, container):
        still = _read(host, container)
        if still is None or still.on_disk or _lives(still.worker) or _handed_over(host, container) == still.operation:
            return False
        if still.checkpoint and still.images:
            carrier.break_off(Path(still.images), cast(Checkpoint, load("checkpoint", still.checkpoint)))
        net = cast(Net, load("net", still.net)) if still.net else None
        standstill.set_going(host, container, cast(Ns, load("ns", still.ns)), net)
        return True


def _read(host: Host, container: str) -> Still | None:
    try:
        return standstill.read_still(host, container)
    except ValueError as error:
        log.error("unreadable note of a standstill", container=container, error=str(error))
        return None


def _lives(worker: Identity) -> bool:
    handle = pidfd.open_to_the_end(worker)
    if handle is not None:
        os.close(handle)
    return handle is not None


def _handed_over(host: Host, container: str) -> str | None:
    """The journal's word, on a connection of our own: nobody writes now, since the worker is dead. Opened for writing, as what a killed
    writer left may have to be put in order first."""
    path = journal.journal_file(host)
    if not path.exists():
        return None
    with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True, timeout=1)) as db:
        return journal.handed_over(db, container)
