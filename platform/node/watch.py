"""The node's watch: one process that collects all containers' output and tells what happens to them.

``python -m hostler.node.watch`` with the settings of the node worker. It reads the FIFOs of every container into bounded
logs, sees by pidfd that an init ended and by a counter that memory limits killed, and hands on events; it lets containers go on that a dead
worker had frozen. It may die and be started again at any time: writers wait at most, an exit meanwhile is told once it is back, and what was told is
remembered in the container's folder. Delivery is at least once: the receiver knows an exit by container, pid and
start time.
"""

from __future__ import annotations

import fcntl
import os
import queue
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from hostler.broker import Broker
from hostler.contracts.driver import Host
from hostler.core.errors import Conflict, HostlerError
from hostler.core.messages import ContainerEvent
from hostler.host import guest
from hostler.host.guest import nudge
from hostler.node.here import this_host
from hostler.node.kernel_log import KernelLog
from hostler.node.mobility.guard import Guard
from hostler.node.views import Views
from hostler.node.watched import Watched
from hostler.settings import NodeSettings

__all__ = ["Watch", "main", "nudge"]

log = structlog.get_logger()

Publish = Callable[[ContainerEvent], None]
#: Seconds between two looks at counters and folders.
TICK = 1.0
#: Seconds after which the beginning of a line is shown without its end.
_LINE_PATIENCE = 1.0
_RETRY = 1.0
_PER_ROUND = 64
#: Seconds after which an end that nobody acted on is told again, and the longest time between two such reminders.
REMIND, _REMIND_MOST = 10.0, 600.0


@dataclass(frozen=True)
class _News:
    event: ContainerEvent
    told: Callable[[], None]


class Teller(threading.Thread):
    """Hands events on, in order, until each is taken; so that a broker that hangs never stops the collecting."""

    def __init__(self, publish: Publish) -> None:
        super().__init__(name="teller", daemon=True)
        self._publish = publish
        self._queue: queue.SimpleQueue[_News | None] = queue.SimpleQueue()
        self._closing = threading.Event()

    def tell(self, event: ContainerEvent, told: Callable[[], None]) -> None:
        """Queue an event; ``told`` is called when it was handed on."""
        self._queue.put(_News(event, told))

    def run(self) -> None:
        while (news := self._queue.get()) is not None:
            while not self._hand_on(news) and not self._closing.wait(_RETRY):
                pass

    def _hand_on(self, news: _News) -> bool:
        try:
            self._publish(news.event)
        except (HostlerError, OSError) as error:
            log.warning("event not handed on yet", container=news.event.container, kind=news.event.kind, error=str(error))
            return False
        news.told()
        return True

    def close(self, timeout: float = 5) -> None:
        """Hand on what is queued if that works at once; what is not is told by the next watch."""
        self._closing.set()
        self._queue.put(None)
        self.join(timeout)


class Watch:
    """The watch of one node. ``publish`` raises :class:`HostlerError` when it cannot take an event now."""

    def __init__(self, host: Host, publish: Publish) -> None:
        self.host = host
        self._teller = Teller(publish)
        self._views = Views(host)
        self._guard = Guard(host)
        self._epoll = select.epoll()
        self._watched: dict[str, Watched] = {}
        self._owner: dict[int, Watched] = {}
        self._paused: dict[int, float] = {}
        self._telling: set[tuple[str, str]] = set()
        self._stopping = False
        self._wake, self._waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    # -- running

    def run(self) -> None:
        """Watch until :meth:`stop`. Raises :class:`Conflict` when another watch of this node runs."""
        folder = guest.watch_socket(self.host).parent
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / "watch.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _lock(lock)
            self._kernel = KernelLog.open()
            self._nudges = _listen(self.host)
            self._teller.start()
            self._views.start()
            self._guard.start()
            try:
                self._loop()
            finally:
                self._close()
        finally:
            for handle in (lock, self._wake, self._waker):
                os.close(handle)

    def stop(self) -> None:
        """End :meth:`run` soon; may be called from a signal's function or another thread."""
        self._stopping = True
        os.write(self._waker, b"x")

    def _loop(self) -> None:
        for handle in (self._nudges.fileno(), self._wake, self._kernel.handle):
            if handle is not None:
                self._epoll.register(handle, select.EPOLLIN)
        next_tick = 0.0
        while not self._stopping:
            moment = time.monotonic()
            if moment >= next_tick:
                self._tick()
                next_tick = moment + TICK
            self._resume(moment)
            until = min([next_tick, *self._paused.values()])
            for handle, _ in self._epoll.poll(max(0.0, until - time.monotonic()), 1024):
                if handle == self._nudges.fileno():
                    self._take_nudges()
                elif handle == self._kernel.handle:
                    # the counter moves a moment after the kernel's line
                    if self._kernel.read(f"hostler-{self.host.installation}-{self.host.node}"):
                        next_tick = min(next_tick, time.monotonic() + 0.05)
                elif handle in self._owner:
                    self._ready(handle, self._owner[handle])

    def _close(self) -> None:
        for one in list(self._watched.values()):
            self._drop(one)
        self._nudges.close()
        guest.watch_socket(self.host).unlink(missing_ok=True)
        self._kernel.close()
        self._epoll.close()
        self._views.close()
        self._guard.close()
        self._teller.close()

    # -- what there is

    def _tick(self) -> None:
        folder = self.host.state_dir / "containers"
        there = {name for name in os.listdir(folder) if not name.startswith(".")} if folder.is_dir() else set()
        for container in there | set(self._watched):
            self._look(container)
        for one in self._watched.values():
            self._check_memory(one)
            one.flush(_LINE_PATIENCE)
            self._remind(one)

    def _take_nudges(self) -> None:
        for _ in range(_PER_ROUND):
            try:
                container = self._nudges.recv(256).decode("ascii", "replace")
            except BlockingIOError:
                return
            if container in self._watched or (container.isalnum() and self.host.container_dir(container).is_dir()):
                self._look(container)

    def _look(self, container: str) -> None:
        """Bring what we hold of a container in line with its folder."""
        self._guard.look(container)
        one = self._watched.get(container)
        if one is None:
            one = self._watched[container] = Watched(self.host, container)
        if one.guest_changed():
            self._forget_streams(one)
            one.open_streams()
            for handle in one.streams:
                self._register(handle, one)
        before = one.pidfd
        if before is not None and self._owner.get(before) is one and _another_init(one):
            self._init_ended(one)
        record = one.find_init()
        if record is not None:
            self._check_memory(one)
            if one.pidfd is not None:
                self._register(one.pidfd, one)
            else:
                self._init_ended(one)
        if not one.folder.is_dir() and one.pidfd is None:
            self._drop(one)

    def _register(self, handle: int, one: Watched) -> None:
        self._epoll.register(handle, select.EPOLLIN)
        self._owner[handle] = one

    def _unregister(self, handle: int) -> None:
        if self._owner.pop(handle, None) is not None and handle not in self._paused:
            self._epoll.unregister(handle)
        self._paused.pop(handle, None)

    def _forget_streams(self, one: Watched) -> None:
        if one.streams:
            one.drain()
        for handle in one.streams:
            self._unregister(handle)
        one.close_streams()

    def _drop(self, one: Watched) -> None:
        for handle in one.streams:
            self._unregister(handle)
        if one.pidfd is not None:
            self._unregister(one.pidfd)
        one.close()
        self._watched.pop(one.container, None)

    # -- what happens

    def _ready(self, handle: int, one: Watched) -> None:
        if handle == one.pidfd:
            self._init_ended(one)
            return
        wait = one.take(handle)
        if wait:
            self._epoll.unregister(handle)
            self._paused[handle] = time.monotonic() + wait

    def _resume(self, moment: float) -> None:
        for handle, until in list(self._paused.items()):
            if until <= moment:
                del self._paused[handle]
                self._epoll.register(handle, select.EPOLLIN)

    def _init_ended(self, one: Watched) -> None:
        one.drain()
        self._check_memory(one)
        assert one.record is not None
        known = guest.read_exit(self.host, one.container, one.record.identity)
        record = known or one.exit_record()
        if known is None:
            guest.write_exit(self.host, one.container, record)
        if one.pidfd is not None:
            self._unregister(one.pidfd)
            os.close(one.pidfd)
            one.pidfd = None
        if not record.told:
            told = record.model_copy(update={"told": True})
            self._teller.tell(one.exit_event(record), lambda: guest.write_exit(self.host, one.container, told))
        one.remind_after, one.remind_at = REMIND, time.monotonic() + REMIND

    def _remind(self, one: Watched) -> None:
        """Tell an end again while its container was not taken down: news that was handed on can still be lost, with the broker
        or with a control worker that dies over it."""
        if one.remind_at is None or one.record is None or time.monotonic() < one.remind_at:
            return
        record = guest.read_exit(self.host, one.container, one.record.identity)
        still = guest.read_init(self.host, one.container)
        if record is None or still is None or still.identity != one.record.identity:
            one.remind_at = None
            return
        one.remind_after = min(one.remind_after * 2, _REMIND_MOST)
        one.remind_at = time.monotonic() + one.remind_after
        if record.told and not record.expected:
            self._teller.tell(one.exit_event(record), lambda: None)

    def _check_memory(self, one: Watched) -> None:
        kills = one.new_kills()
        if kills == 0 or (one.container, "oom") in self._telling:
            return
        if self._kernel.handle is not None:
            self._kernel.read(f"hostler-{self.host.installation}-{self.host.node}")
        event = one.kill_event(kills, self._kernel)
        total = one.told_kills() + kills
        self._telling.add((one.container, "oom"))

        def told() -> None:
            one.tell_kills(total)
            self._telling.discard((one.container, "oom"))

        self._teller.tell(event, told)


def _another_init(one: Watched) -> bool:
    record = guest.read_init(one.host, one.container)
    return record is not None and one.record is not None and record.identity != one.record.identity


def _lock(handle: int) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Conflict("another watch of this node runs already", hint="end it first", code="watch_runs") from None


def _listen(host: Host) -> socket.socket:
    path = guest.watch_socket(host)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        listener.bind(f"/proc/self/fd/{folder}/{path.name}")
        path.chmod(0o600)
    except BaseException:
        listener.close()
        raise
    finally:
        os.close(folder)
    return listener


def main() -> None:
    """Watch the node of the settings until SIGTERM or SIGINT."""
    settings = NodeSettings()
    watch = Watch(this_host(settings), Broker(settings).container_event)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: watch.stop())
    watch.run()


if __name__ == "__main__":
    main()
