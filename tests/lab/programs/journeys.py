"""Containers with real programs in them, and moves there and back while clients talk to them."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

from hostler.core.api import ContainerOut
from tests.lab.installation import Platform
from tests.lab.machine import wait_until
from tests.lab.programs.clients import Talk, talking

PLAN = "programs"
LIMITS = {"memory": "640M", "pids": 256, "disk": "1G"}
#: Redis, on the port of all programs here.
REDIS = ("redis-server", "--port", "8000", "--protected-mode", "no", "--save", "")
#: Set by ``ops/test programs``: all programs, not only the two that stand for them, and ten moves each.
ALL = bool(os.environ.get("HOSTLER_ALL_PROGRAMS"))
#: Moves, there and back in turns.
MOVES = 10 if ALL else 5
#: How a container that runs may move without being stopped.
_LIVE = ("pre_copy", "post_copy", "stop_copy")


def launch(platform: Platform, image: str, name: str, *args: str, **more: Any) -> ContainerOut:
    """A container whose program takes connections on port 8000."""
    made = platform.create(name, *args, plan=PLAN, **{"image": image} | more)
    wait_until(partial(platform.listens, made.address_v4 or ""), 30, f"{name} does not listen: {platform.client.logs(name, tail=20).lines}")
    return made


def there_and_back(platform: Platform, name: str, *talks: Talk, times: int = MOVES) -> list[dict[str, Any]]:
    """Move a container while clients talk to it: each gets answers after every move. The moves' reports."""
    reports = []
    with talking(*talks):
        for _ in range(times):
            reports.append(move(platform, name))
            for talk in talks:
                talk.goes_on()
    return reports


def move(platform: Platform, name: str) -> dict[str, Any]:
    """Move a container to the other server, alive; the report."""
    before = platform.client.container(name)
    (other,) = (server for server in platform.servers if server != before.node)
    report: dict[str, Any] = platform.done(platform.client.migrate(name, to=other)).result or {}
    after = platform.client.container(name)
    assert (after.node, after.state, after.address_v4) == (other, "running", before.address_v4)
    assert (report["from"], report["to"]) == (before.node, other) and report["method"] in _LIVE, report
    return report
