"""A container gets what its plan says and no more; its neighbours and the platform do not notice who tries."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest

from hostler.core.units import MIB
from tests.lab.installation import Platform
from tests.lab.machine import wait_until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]

_HOG = "dd if=/dev/zero of=/dev/null bs=200M count=1"
_BOMB = "bomb() { while :; do (sleep 30 &) 2>/dev/null; done; }; bomb & bomb & wait"
_BUSY = ("sh", "-c", "while :; do :; done")


def test_a_memory_hog_dies_and_the_log_says_why_and_when(platform: Platform) -> None:
    fat = platform.create("fat")
    init, before = platform.init(fat), time.time()
    result = platform.exec("fat", "sh", "-c", _HOG)
    assert result.exit_code == 137, result
    kills = platform.event("fat", "oom")
    assert "memory limit of 48M killed" in kills.message and "(dd)" in kills.message
    assert kills.details["limit"] == 48 * MIB
    assert before - 1 <= kills.at.timestamp() <= time.time() + 1
    assert platform.init(fat) == init
    assert platform.client.usage("fat").oom_kills == 1
    assert [event.kind for event in platform.client.events(container="fat")].count("oom") == 1


def test_a_fork_bomb_stops_at_its_limit_and_nobody_else_notices(platform: Platform) -> None:
    bomb = platform.create_on("alpha", "bomb", "sh", "-c", _BOMB)
    platform.create_on("alpha", "neighbour")
    counter = Path(platform.init(bomb).cgroups["pids"])
    wait_until(lambda: int((counter / "pids.current").read_text()) >= 46, 10)
    for _ in range(5):
        assert int((counter / "pids.current").read_text()) <= 48
        began = time.monotonic()
        assert platform.shell("neighbour", "echo alive") == "alive\n"
        assert platform.client.health().status == "ok"
        assert time.monotonic() - began < 3
    assert platform.client.usage("bomb").pids_limit_hits > 0
    platform.done(platform.client.stop("bomb", grace=1))


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_a_busy_loop_gets_its_share(platform: Platform, share: float) -> None:
    busy = platform.create("busy", *_BUSY, limits={"cpu": share})
    counter = Path(platform.init(busy).cgroups["cpuacct"], "cpuacct.usage")
    time.sleep(0.3)
    began, used = time.monotonic(), int(counter.read_text())
    time.sleep(2)
    got = (int(counter.read_text()) - used) / 1e9 / (time.monotonic() - began)
    assert got == pytest.approx(share, rel=0.1)
    assert platform.client.usage("busy").cpu_throttled_ns > 0


def test_a_full_volume_is_its_owners_trouble_alone(platform: Platform) -> None:
    full = platform.create_on("alpha", "full")
    platform.create_on("alpha", "neighbour")
    result = platform.exec("full", "dd", "if=/dev/zero", "of=/big", "bs=1M", "count=100")
    assert result.exit_code != 0
    assert "No space left" in result.stderr or "quota exceeded" in result.stderr
    written = int(platform.shell("full", "stat -c %s /big"))
    assert 56 * MIB <= written <= 64 * MIB
    assert platform.client.usage("full").disk <= 65 * MIB
    platform.shell("neighbour", "dd if=/dev/zero of=/big bs=1M count=20 && sync /big && rm /big")
    platform.done(platform.client.restart("full"))
    platform.shell("full", "rm /big; sync /; echo room > /small; cat /small")
    assert platform.client.container("full").node == full.node


@pytest.mark.parametrize("way", ["in", "out"])
def test_the_network_rate_holds(platform: Platform, way: str) -> None:
    rate, seconds = 40_000_000, 3.0
    feed = ("nc", "-ll", "-p", "9000", "-e", "sh", "-c", "cat /dev/zero" if way == "out" else "cat > /dev/null")
    one = platform.create("one", *feed, limits={"rate_in": "40M", "rate_out": "40M"})
    assert one.address_v4
    wait_until(lambda: platform.listens(one.address_v4 or "", 9000), 5)
    with socket.create_connection((one.address_v4, 9000), timeout=5) as link:
        moved = _moved(link, way, seconds)
    assert moved * 8 / seconds == pytest.approx(rate, rel=0.15)


def _moved(link: socket.socket, way: str, seconds: float) -> int:
    """Bytes of payload that went through in so many seconds, after the first half second's burst."""
    counted, stop = [0], threading.Event()
    block = bytes(1 << 16)

    def pump() -> None:
        while not stop.is_set():
            try:
                counted[0] += len(link.recv(1 << 16)) if way == "out" else link.send(block)
            except OSError:
                return

    thread = threading.Thread(target=pump)
    thread.start()
    time.sleep(1)
    before = counted[0]
    time.sleep(seconds)
    moved = counted[0] - before
    stop.set()
    link.shutdown(socket.SHUT_RDWR)
    thread.join(10)
    return moved


def test_a_tenant_sees_its_own_limits_after_a_resize_and_after_the_death_of_lxcfs(platform: Platform) -> None:
    seen = platform.create("seen", limits={"cpu": 0.5})
    node = seen.node or ""
    init = platform.init(seen)

    def told() -> str:
        return " ".join(platform.exec("seen", "sh", "-c", "grep MemTotal /proc/meminfo; grep -c ^processor /proc/cpuinfo").stdout.split())

    assert told() == f"MemTotal: {48 * 1024} kB 1"
    platform.done(platform.client.resize("seen", {"memory": "40M"}))
    assert str(40 * 1024) in told()
    assert float(platform.shell("seen", "cut -d' ' -f1 /proc/uptime")) < 60
    before = platform.kill(f"lxcfs-{node}")
    platform.wait_for(f"lxcfs-{node}", before)
    wait_until(lambda: str(40 * 1024) in told(), 10, "lxcfs was started again, and the container does not see it")
    assert platform.init(seen) == init
