"""Memory on its way through a whole installation on the real kernel: suspended, resumed, moved, taken back in time, cloned."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from hostler.core.api import ContainerOut
from tests.lab.installation import Platform
from tests.lab.machine import wait_until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]

#: Answers every line with how many it has read, over any connection, in one process each; and how many that is tells whether its memory is its own.
COUNTER = ("sh", "-c", "nc -ll -p 8000 -e sh -c 'n=0; while read line; do n=$((n + 1)); echo $n; done'")


@contextmanager
def counting(address: str) -> Iterator[Counting]:
    """A connection to a counter."""
    with socket.create_connection((address, 8000), timeout=20) as connection:
        yield Counting(connection)


class Counting:
    """A client that sends a line, waits for the answer, and knows what it must be."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lines = connection.makefile("rb")
        self._count = 0

    def ask(self) -> None:
        """One more; fails if anything was lost or done twice."""
        self._count += 1
        self.send()
        self.hear(self._count)

    def send(self) -> None:
        """Ask, without waiting."""
        self._connection.sendall(b"next\n")

    def hear(self, count: int) -> None:
        """The answer."""
        assert self._lines.readline() == b"%d\n" % count


def counter(platform: Platform, name: str) -> ContainerOut:
    """A container that counts and takes connections."""
    made = platform.create(name, *COUNTER)
    wait_until(lambda: platform.listens(str(made.address_v4)), 10)
    return made


def test_suspended_and_resumed_a_connection_goes_on(platform: Platform) -> None:
    web = counter(platform, "web")
    with counting(str(web.address_v4)) as client:
        client.ask()
        before = platform.init(web)
        suspended = platform.done(platform.client.suspend("web"))
        assert not before.identity.alive() and suspended.result["memory"]
        client.send()
        resumed = platform.done(platform.client.resume("web"))
        assert resumed.result["memory"] == suspended.result["memory"]
        client.hear(2)
    assert list(platform.client.checkpoints()) == []


def test_moved_there_and_back_a_connection_goes_on(platform: Platform) -> None:
    web = counter(platform, "web")
    with counting(str(web.address_v4)) as client:
        client.ask()
        for _ in range(2):
            moved = platform.done(platform.client.migrate("web"))
            assert moved.result["frozen_ms"], moved
            client.ask()
    after = platform.client.container("web")
    assert (after.node, after.state) == (web.node, "running")
    assert platform.shell("web", "hostname") == "web\n"


def test_suspended_here_and_resumed_there(platform: Platform) -> None:
    web = counter(platform, "web")
    other = next(server for server in platform.servers if server != web.node)
    with counting(str(web.address_v4)) as client:
        client.ask()
        platform.done(platform.client.suspend("web"))
        platform.done(platform.client.resume("web", on=other))
        assert platform.client.container("web").node == other
        client.ask()


def test_a_stopped_one_moves_its_files(platform: Platform) -> None:
    counter(platform, "web")
    platform.shell("web", "echo kept >/srv/file")
    platform.done(platform.client.stop("web", 0))
    platform.done(platform.client.migrate("web"))
    platform.done(platform.client.start("web"))
    assert platform.shell("web", "cat /srv/file") == "kept\n"


def test_back_in_time_and_a_warm_clone(platform: Platform) -> None:
    web = counter(platform, "web")
    platform.shell("web", "echo then >/srv/file; echo then >/dev/shm/memory")
    taken = platform.done(platform.client.checkpoint("web"))
    checkpoint = str(taken.request["checkpoint"])
    platform.shell("web", "echo now >/srv/file; echo now >/dev/shm/memory")
    platform.done(platform.client.clone("web", checkpoint, "twin"))
    twin = platform.client.container("twin")
    assert twin.address_v4 != web.address_v4
    assert platform.shell("twin", "cat /srv/file /dev/shm/memory") == "then\nthen\n"
    assert platform.shell("web", "cat /srv/file /dev/shm/memory") == "now\nnow\n"
    for address in (web.address_v4, twin.address_v4):
        with counting(str(address)) as client:
            client.ask()
    platform.done(platform.client.restore("web", checkpoint))
    assert platform.shell("web", "cat /srv/file /dev/shm/memory") == "then\nthen\n"
    platform.done(platform.client.delete_checkpoint(checkpoint))
