"""What programs hold open comes along on real volumes, too: suspended and resumed, moved, cloned."""

from __future__ import annotations

import base64
import gzip
import subprocess
from pathlib import Path

import pytest

from tests.lab.installation import Platform
from tests.lab.machine import wait_until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]

THINGS = ("memfd", "shared", "sysv", "inotify", "ping", "netlink", "seqpacket", "unaccepted", "zombie", "ghost", "lock", "aio")
SOURCE = Path(__file__).parents[1] / "plugins/checkpoint/awkward.c"


def hand_over(platform: Platform, name: str, folder: Path) -> None:
    """Compile the program and put it into a container."""
    subprocess.run(["cc", "-Os", "-s", "-static", "-o", folder / "awkward", SOURCE, "-lrt"], check=True)
    packed = base64.b64encode(gzip.compress((folder / "awkward").read_bytes())).decode()
    put = platform.exec(name, "sh", "-c", "base64 -d | gunzip >/tmp/awkward && chmod 755 /tmp/awkward", stdin=packed)
    assert put.exit_code == 0, put


def check(platform: Platform, name: str) -> None:
    """Each still has what it had."""
    platform.shell(name, "rm -f /tmp/again-*; killall -USR1 awkward")
    wait_until(lambda: platform.shell(name, "ls /tmp/again-* 2>/dev/null | wc -l") == f"{len(THINGS)}\n", 10)
    assert platform.shell(name, "cat /tmp/again-*") == "yes" * len(THINGS)
    assert platform.shell(name, "grep -l inotify /proc/[0-9]*/fdinfo/* | wc -l") == "1\n"


def test_what_programs_hold_comes_along(platform: Platform, tmp_path: Path) -> None:
    platform.create("web")
    hand_over(platform, "web", tmp_path)
    for thing in THINGS:
        platform.shell("web", f"/tmp/awkward {thing} >/dev/null 2>&1 </dev/null &")
    wait_until(lambda: platform.shell("web", "ls /tmp/ready-* | wc -l") == f"{len(THINGS)}\n", 10)
    assert platform.client.check_suspend("web").obstacles == []
    platform.done(platform.client.suspend("web"))
    platform.done(platform.client.resume("web"))
    check(platform, "web")
    for _ in range(2):
        platform.done(platform.client.migrate("web"))
        check(platform, "web")
    checkpoint = str(platform.done(platform.client.checkpoint("web")).request["checkpoint"])
    platform.done(platform.client.clone("web", checkpoint, "twin"))
    check(platform, "twin")
    check(platform, "web")
