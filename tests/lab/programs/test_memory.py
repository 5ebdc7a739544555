"""Memory that goes to disk and comes back: for a while, to another server, back in time, and twice."""

from __future__ import annotations

import json
import threading

import httpx
import pytest

from tests.lab.installation import Platform, entered
from tests.lab.programs.clients import redis_client
from tests.lab.programs.image import PYTHON
from tests.lab.programs.journeys import REDIS, launch

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "elsewhere"])
def test_a_connection_outlives_suspend_and_resume(redis: str, platform: Platform, elsewhere: bool) -> None:
    cache = launch(platform, redis, "cache", *REDIS)
    client = redis_client(cache.address_v4 or "")
    assert client.set("whole", b"x" * 20_000_000)
    connection = client.client_id()
    answers: list[object] = []

    def ask() -> None:
        with entered(platform.apart):
            answers.append(client.incr("counter"))

    for number in range(1, 3):
        suspended = platform.done(platform.client.suspend("cache"))
        assert platform.client.container("cache").state == "suspended"
        assert int(str((suspended.result or {})["memory"])) > 20_000_000
        assert not platform.listens(cache.address_v4 or "")
        waiting = threading.Thread(target=ask)
        waiting.start()
        waiting.join(0.5)
        assert answers == list(range(1, number))
        before = platform.client.container("cache").node
        on = next(server for server in platform.servers if (server != before) == elsewhere)
        platform.done(platform.client.resume("cache", on=on))
        waiting.join(20)
        assert answers == list(range(1, number + 1))
        after = platform.client.container("cache")
        assert (after.state, after.node, after.address_v4) == ("running", on, cache.address_v4)
    assert client.client_id() == connection
    assert client.get("whole") == b"x" * 20_000_000


def test_files_and_memory_of_one_instant_come_back(python: str, platform: Platform) -> None:
    web = launch(platform, python, "web", PYTHON, "/srv/threads.py")
    _count(web.address_v4 or "", 7)
    platform.shell("web", "echo then > /srv/file")
    checkpoint = str((platform.done(platform.client.checkpoint("web")).result or {})["checkpoint"])
    for number in range(2):
        _count(web.address_v4 or "", 3 + number)
        platform.shell("web", "echo now > /srv/file; echo more > /srv/more")
        assert _total(web.address_v4 or "") == 10 + number
        platform.done(platform.client.restore("web", checkpoint))
        assert platform.shell("web", "cat /srv/file; ls /srv/more 2>/dev/null || echo gone") == "then\ngone\n"
        assert _total(web.address_v4 or "") == 7
    found = platform.client.container("web")
    assert (found.id, found.address_v4, found.state) == (web.id, web.address_v4, "running")
    platform.done(platform.client.delete_checkpoint(checkpoint))


def test_a_clone_of_a_warm_server_answers_on_its_own_address(python: str, platform: Platform) -> None:
    web = launch(platform, python, "web", PYTHON, "/srv/threads.py")
    with httpx.Client(base_url=f"http://{web.address_v4}:8000", timeout=10) as kept:
        for _ in range(5):
            kept.post("/", content=b"x")
        checkpoint = str((platform.done(platform.client.checkpoint("web")).result or {})["checkpoint"])
        for name in ("second", "third"):
            platform.done(platform.client.clone("web", checkpoint, name))
            clone = platform.client.container(name)
            assert clone.state == "running" and clone.address_v4 not in (None, web.address_v4)
            assert _total(clone.address_v4 or "") == 5
            _count(clone.address_v4 or "", 2)
            assert _total(clone.address_v4 or "") == 7
            assert platform.shell(name, "hostname").strip() == name
            assert platform.client.usage(name).running
        assert kept.post("/", content=b"x").headers["X-Asked"] == "6"
    assert _total(web.address_v4 or "") == 6
    for name in ("second", "third"):
        platform.delete(name)
    platform.done(platform.client.delete_checkpoint(checkpoint))


def _count(address: str, times: int) -> None:
    for _ in range(times):
        assert httpx.post(f"http://{address}:8000/", content=b"x", timeout=10).content == b"x"


def _total(address: str) -> int:
    return int(json.loads(httpx.get(f"http://{address}:8000/", timeout=10).content)["total"])
