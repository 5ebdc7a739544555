"""After a move everything that a tenant has is as before: limits, log, exec, statistics, rates, and who is kept away; whoever restarts in between."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from hostler.client.client import Client
from hostler.core.api import ContainerOut
from hostler.core.units import MIB
from tests.lab.installation import Platform, entered
from tests.lab.machine import wait_until
from tests.lab.programs.journeys import move
from tests.lab.test_session import SERVE

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]

#: Says a number every 10 ms, and writes the last one down.
_COUNT = ("sh", "-c", "n=0; while :; do n=$((n+1)); echo $n; echo $n > /count; sleep 0.01; done")
#: Takes 200M of memory for a moment.
_HOG = ("dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1")


class Reader:
    """Somebody who follows a container's log."""

    def __init__(self, platform: Platform, name: str) -> None:
        self.texts: list[str] = []
        self._platform, self._name = platform, name
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._body, daemon=True)

    def _body(self) -> None:
        with entered(self._platform.apart), Client(self._platform.apart.lab.panel_url, self._platform.token) as client:
            for page in client.follow_logs(self._name):
                self.texts += [line.text for line in page.lines]
                if self._stop.is_set():
                    return

    @contextmanager
    def following(self) -> Iterator[None]:
        """It follows for the block, and has got something since the block's end."""
        self._thread.start()
        yield
        count = len(self.texts)
        wait_until(lambda: len(self.texts) > count, 15, f"the log stops after {self.texts[-1:]}")
        self._stop.set()
        self._thread.join(15)


def test_a_log_goes_on_line_by_line(platform: Platform) -> None:
    platform.create("talker", *_COUNT)
    reader = Reader(platform, "talker")
    page = platform.client.logs("talker")
    seen = [line.text for line in page.lines]
    with reader.following():
        for _ in range(4):
            move(platform, "talker")
            page = platform.client.logs("talker", cursor=page.cursor)
            seen += [line.text for line in page.lines]
    for texts in (seen, reader.texts, [line.text for line in platform.client.logs("talker").lines]):
        _check_whole(texts)
    assert int(platform.shell("talker", "cat /count")) >= len(seen)


def _check_whole(texts: list[str]) -> None:
    """All numbers from 1 on, each once."""
    wrong = next((place for place, text in enumerate(texts) if text != str(place + 1)), None)
    assert texts and wrong is None, f"line {wrong} of {len(texts)}: {texts[max(0, (wrong or 0) - 3) : (wrong or 0) + 5]}"


def test_limits_hold_and_are_counted(platform: Platform) -> None:
    busy = platform.create("busy", "sh", "-c", "while :; do :; done", limits={"cpu": 0.3})
    for _ in range(2):
        move(platform, "busy")
        here = platform.client.container("busy")
        cgroups = platform.init(here).cgroups
        counter = Path(cgroups["cpuacct"], "cpuacct.usage")
        began, used = time.monotonic(), int(counter.read_text())
        time.sleep(2)
        got = (int(counter.read_text()) - used) / 1e9 / (time.monotonic() - began)
        assert 0.05 < got < 0.345  # less than its cap where others keep the processors busy
        assert int(Path(cgroups["memory"], "memory.limit_in_bytes").read_text()) == 48 * MIB
        assert Path(cgroups["pids"], "pids.max").read_text().strip() == "48"
        assert platform.exec("busy", *_HOG).exit_code == 137
        usage = platform.client.usage("busy")
        assert usage.running and usage.cpu_throttled_ns > 0 and usage.oom_kills == 1 and usage.pids >= 2
        assert f"MemTotal: {48 * 1024} kB" in " ".join(platform.shell("busy", "cat /proc/meminfo").split())
        full = platform.exec("busy", "dd", "if=/dev/zero", "of=/big", "bs=1M", "count=100")
        assert full.exit_code != 0
        platform.shell("busy", "rm /big; sync /")
    assert busy.id == platform.client.container("busy").id
    kills = [event for event in platform.client.events(container="busy") if event.kind == "oom"]
    assert {event.details["limit"] for event in kills} == {48 * MIB} and len(kills) == 2
    platform.done(platform.client.resize("busy", {"memory": "96M", "disk": "128M"}))
    assert platform.exec("busy", "dd", "if=/dev/zero", "of=/dev/null", "bs=60M", "count=1").exit_code == 0


@pytest.mark.parametrize("way", ["in", "out"])
def test_the_network_rate_holds(platform: Platform, way: str) -> None:
    feed = "cat /dev/zero" if way == "out" else "cat > /dev/null"
    made = platform.create("one", "nc", "-ll", "-p", "8000", "-e", "sh", "-c", feed, limits={"rate_in": "40M", "rate_out": "40M"})
    move(platform, "one")
    wait_until(partial(platform.listens, made.address_v4 or ""), 5)
    with socket.create_connection((made.address_v4 or "", 8000), timeout=5) as link:
        _moved(link, way, 1)  # what may come at once, and what a new connection is slow in
        assert _moved(link, way, 2) * 8 / 2 == pytest.approx(40_000_000, rel=0.15)


def _moved(link: socket.socket, way: str, seconds: float) -> int:
    """Bytes that go through in so many seconds."""
    until, count, block = time.monotonic() + seconds, 0, bytes(1 << 16)
    while time.monotonic() < until:
        count += len(link.recv(1 << 16)) if way == "out" else link.send(block)
    return count


def test_tenants_stay_apart(platform: Platform) -> None:
    with platform.tenant("stranger") as neighbour:
        mine = platform.create("mine", *SERVE)
        own = platform.create("own", *SERVE)
        foreign = platform.create("theirs", *SERVE, client=neighbour)
        for _ in range(2):
            move(platform, "mine")
            for one in (mine, own, foreign):
                wait_until(partial(platform.listens, one.address_v4 or ""), 5)
                wait_until(partial(platform.listens, one.address_v6 or ""), 5)
            assert _reached(platform, platform.client, "mine", [own, foreign]) == {own.address_v4, own.address_v6}
            assert _reached(platform, neighbour, "theirs", [mine]) == set()


def _reached(platform: Platform, client: Client, name: str, others: list[ContainerOut]) -> set[str | None]:
    """Addresses that take a connection from a container, all tried at once."""
    addresses = [address for other in others for address in (other.address_v4, other.address_v6)]
    tries = [f"(nc -w 2 {address} 8000 </dev/null >/dev/null 2>&1 && echo {address}) &" for address in addresses]
    return set(platform.shell(name, "\n".join([*tries, "wait"]), client=client).split())


def test_a_worker_that_restarts_adopts_what_has_come(platform: Platform) -> None:
    platform.create("talker", *_COUNT)
    for _ in range(2):
        move(platform, "talker")
        here = platform.client.container("talker")
        init, worker = platform.init(here), f"node-{here.node}"
        killed = platform.kill(worker)
        platform.wait_for(worker, killed)
        platform.wait_online(here.node or "")
        assert platform.init(here) == init
        assert platform.shell("talker", "hostname") == "talker\n"
        wait_until(partial(_counts_on, platform, int(platform.shell("talker", "cat /count"))), 5)
    _check_whole([line.text for line in platform.client.logs("talker").lines])
    platform.done(platform.client.restart("talker"))


def _counts_on(platform: Platform, seen: int) -> bool:
    return int(platform.shell("talker", "cat /count") or seen) > seen
