"""What a newcomer does on the first day, through the API and the real kernel."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from hostler.core.units import MIB
from tests.lab.installation import Platform
from tests.lab.machine import wait_until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]

SERVE = ("httpd", "-f", "-p", "8000", "-h", "/var/www")
#: Takes 60M of memory for a moment: more than the plan has.
_SIXTY = ("dd", "if=/dev/zero", "of=/dev/null", "bs=60M", "count=1")
TALK = ("sh", "-c", "n=0; while :; do n=$((n+1)); echo out $n; echo err $n >&2; sleep 0.1; done")


def test_a_container_is_made_shown_and_used(platform: Platform) -> None:
    web = platform.create("web", *SERVE)
    assert (web.state, web.wanted, web.image, web.plan) == ("running", "running", "busybox", "tiny")
    assert [one.name for one in platform.client.containers()] == ["web"]
    assert platform.client.container(web.id) == platform.client.container("web")
    assert platform.shell("web", "hostname").strip() == "web"
    assert platform.exec("web", "sh", "-c", "echo told >&2; exit 7").model_dump(include={"exit_code", "stderr"}) == {"exit_code": 7, "stderr": "told\n"}
    usage = platform.client.usage("web")
    assert usage.running and usage.memory > 0 and 2 <= usage.pids < 10


def test_it_answers_on_its_own_addresses(platform: Platform) -> None:
    web = platform.create("web", *SERVE)
    assert web.address_v4 and web.address_v6
    for address in (web.address_v4, web.address_v6):
        wait_until(partial(platform.listens, address), 5)
        assert "It works" in platform.http(address)


def test_containers_on_different_servers_reach_each_other(platform: Platform) -> None:
    near, far = (platform.create_on(server, f"on-{server}", *SERVE) for server in platform.servers)
    assert {near.node, far.node} == set(platform.servers)
    for one, other in ((near, far), (far, near)):
        for address in (other.address_v4, f"[{other.address_v6}]"):
            assert "It works" in platform.shell(one.name, f"wget -q -O - http://{address}:8000/"), (one.node, address)


def test_resize_takes_hold_without_a_restart(platform: Platform) -> None:
    web = platform.create("web", *SERVE)
    init = platform.init(web)
    memory, cpu = (Path(init.cgroups[key]) for key in ("memory", "cpu"))
    assert int((memory / "memory.limit_in_bytes").read_text()) == 48 * MIB
    assert platform.exec("web", *_SIXTY).exit_code == 137
    platform.done(platform.client.resize("web", {"memory": "96M", "cpu": 0.25, "pids": 60, "rate_in": "20M", "disk": "80M"}))
    assert int((memory / "memory.limit_in_bytes").read_text()) == 96 * MIB
    assert int((cpu / "cpu.cfs_quota_us").read_text()) * 4 == int((cpu / "cpu.cfs_period_us").read_text())
    assert (Path(init.cgroups["pids"]) / "pids.max").read_text().strip() == "60"
    assert platform.exec("web", *_SIXTY).exit_code == 0
    platform.shell("web", "dd if=/dev/zero of=/big bs=1M count=72")  # more than the plan's 64M
    assert platform.init(web) == init
    limits = platform.client.container("web").limits
    assert (limits.memory, limits.cpu, limits.pids, limits.disk) == (96 * MIB, 0.25, 60, 80 * MIB)
    node = platform.client.node(web.node or "")
    assert (node.memory_promised, node.cpus_promised, node.disk_promised) == (96 * MIB, 0.25, 80 * MIB)


def test_stop_start_and_restart_keep_files_and_addresses(platform: Platform) -> None:
    web = platform.create("web", *SERVE)
    platform.shell("web", "echo kept > /root/file; hostname > /var/www/index.html")
    platform.done(platform.client.stop("web"))
    stopped = platform.client.container("web")
    assert (stopped.state, stopped.wanted) == ("stopped", "stopped")
    assert web.address_v4 and not platform.listens(web.address_v4)
    platform.done(platform.client.start("web"))
    first = platform.init(web)
    wait_until(lambda: platform.listens(web.address_v4 or ""), 5)
    platform.done(platform.client.restart("web"))
    assert platform.init(web) != first
    assert platform.shell("web", "cat /root/file") == "kept\n"
    wait_until(lambda: platform.listens(web.address_v6 or ""), 5)
    assert platform.http(web.address_v6 or "") == "web\n"
    again = platform.client.container("web")
    assert (again.state, again.address_v4, again.address_v6, again.node) == ("running", web.address_v4, web.address_v6, web.node)


def test_logs_hold_both_streams_and_go_on_by_cursor(platform: Platform) -> None:
    platform.create("talker", *TALK)
    wait_until(lambda: len(platform.client.logs("talker").lines) >= 8, 10)
    page = platform.client.logs("talker")
    seen = [(line.stream, line.text) for line in page.lines]
    for _ in range(5):
        page = platform.client.logs("talker", cursor=page.cursor)
        seen += [(line.stream, line.text) for line in page.lines]
    for stream in ("out", "err"):
        texts = [text for name, text in seen if name == stream]
        assert texts == [f"{stream} {number}" for number in range(1, len(texts) + 1)]
    followed: list[str] = []
    for some in platform.client.follow_logs("talker", tail=2):
        followed += [line.text for line in some.lines if line.stream == "out"]
        if len(followed) >= 5:
            break
    numbers = [int(text.split()[1]) for text in followed]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert len(platform.client.logs("talker", tail=3).lines) == 3


def test_a_container_that_ends_by_itself_is_stopped_and_says_how(platform: Platform) -> None:
    brief = platform.create("brief", "sh", "-c", "echo last words; sleep 1; exit 3")
    wait_until(lambda: platform.client.container("brief").state == "stopped", 15)
    (exited,) = [event for event in platform.client.events(container="brief") if event.kind == "exited"]
    assert exited.message.endswith("status 3")
    assert (exited.details["code"], exited.details["expected"], exited.container_id) == (3, False, brief.id)
    assert [line.text for line in platform.client.logs("brief").lines] == ["last words"]
    assert platform.client.container("brief").wanted == "running"
    platform.done(platform.client.start("brief"))
    wait_until(lambda: len([event for event in platform.client.events(container="brief") if event.kind == "exited"]) == 2, 15)


def test_deleted_means_gone(platform: Platform) -> None:
    platform.create("web")
    operation = platform.client.delete("web")
    again = platform.client.delete("web") if not operation.ended else operation
    assert again.id == operation.id
    platform.done(operation)
    assert list(platform.client.containers()) == []
    platform.create("web")
