"""Tenants do not see, reach or disturb one another; and what a tenant's root may do is little."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from hostler.client.client import Client
from hostler.core.api import ContainerOut
from hostler.core.errors import HostlerError
from tests.lab.installation import Platform
from tests.lab.machine import wait_until
from tests.lab.test_session import SERVE

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]

_ASKED: dict[str, Callable[[Client, str], Any]] = {
    "show": lambda client, name: client.container(name),
    "exec": lambda client, name: client.exec(name, {"args": ["true"]}),
    "logs": lambda client, name: client.logs(name),
    "usage": lambda client, name: client.usage(name),
    "resize": lambda client, name: client.resize(name, {"cpu": 0.1}),
    "stop": lambda client, name: client.stop(name),
    "start": lambda client, name: client.start(name),
    "restart": lambda client, name: client.restart(name),
    "delete": lambda client, name: client.delete(name),
}
#: NET_ADMIN, NET_RAW, SYS_MODULE, SYS_RAWIO, SYS_PTRACE, SYS_ADMIN, SYS_BOOT, SYS_TIME, MKNOD of linux/capability.h.
_FORBIDDEN = sum(1 << number for number in (12, 13, 16, 17, 19, 21, 22, 25, 27))
_REFUSED = (
    "mount -t tmpfs none /mnt",
    "mount -o remount,rw /proc/sys",
    "mknod /tmp/disk b 7 0",
    "echo 1 > /proc/sys/kernel/panic",
    "echo 1 > /proc/sys/vm/drop_caches",
    "unshare -r true",
    "hostname other",
    "ip addr add 198.18.0.9/15 dev eth0",
    "ip link set eth0 address 02:00:00:00:00:99",
)


def _is_hidden(ask: Callable[[], object]) -> bool:
    try:
        ask()
    except HostlerError as refused:
        return refused.http_status == 404
    return False


def test_another_tenants_container_does_not_exist(platform: Platform) -> None:
    with platform.tenant("curious") as curious:
        web = platform.create("web")
        operation = platform.client.operations(container="web")[0]
        for what, ask in _ASKED.items():
            for name in ("web", web.id):
                assert _is_hidden(partial(ask, curious, name)), (what, name)
        assert _is_hidden(partial(curious.operation, operation.id))
        assert _is_hidden(partial(curious.cancel, operation.id))
        assert list(curious.containers()) == []
        assert curious.operations() == []
        assert [event for event in curious.events() if event.container_id == web.id] == []
        own = platform.create("web", client=curious)
        assert (own.account, curious.container("web").id) != (web.account, web.id)
        platform.delete("web", client=curious)
        assert platform.init(web)


def test_tenants_do_not_reach_each_other_by_network(platform: Platform) -> None:
    """On one server and across two, by both families, while each reaches its own on both."""
    with platform.tenant("neighbour") as neighbour:
        mine = [platform.create_on(server, f"mine-{server}", *SERVE) for server in platform.servers]
        theirs = [platform.create_on(server, f"theirs-{server}", *SERVE, client=neighbour) for server in platform.servers]
        for one in (*mine, *theirs):
            wait_until(partial(platform.listens, one.address_v6 or ""), 5)
        for asker, client, own, foreign in ((mine, platform.client, mine, theirs), (theirs, neighbour, theirs, mine)):
            for here in asker:
                opened = _reached(platform, client, here, [*own, *foreign])
                assert opened == {address for one in own for address in (one.address_v4, one.address_v6)}, here.node


def _reached(platform: Platform, client: Client, here: ContainerOut, others: list[ContainerOut]) -> set[str | None]:
    """Addresses that take a connection from ``here``, all tried at once."""
    tries = [
        f"(nc -w 2 {address} 8000 </dev/null >/dev/null 2>&1 && echo {address}) &" for one in others for address in (one.address_v4, one.address_v6)
    ]
    return set(platform.shell(here.name, "\n".join([*tries, "wait"]), client=client).split())


def test_a_tenants_root_is_confined(platform: Platform) -> None:
    first, second = platform.create("first", "sleep", "1111"), platform.create_on("alpha", "second", "sleep", "2222")
    pids = [platform.init(one).pid for one in (first, second)]
    spaces = [{kind: os.readlink(f"/proc/{pid}/ns/{kind}") for kind in ("pid", "net", "ipc", "uts", "mnt", "user", "cgroup")} for pid in (*pids, os.getpid())]
    for kind in spaces[0]:
        assert len({space[kind] for space in spaces}) == 3, kind
    maps = [platform.shell(one.name, "cat /proc/self/uid_map").split() for one in (first, second)]
    assert [found[0] for found in maps] == ["0", "0"] and all(int(found[1]) >= 1_000_000 and found[2] == "65536" for found in maps)
    status = dict(re.findall(r"^(\w+):\s*(\S+)", platform.shell("first", "cat /proc/self/status"), re.MULTILINE))
    assert (status["NoNewPrivs"], status["Seccomp"], status["CapInh"], status["CapAmb"]) == ("1", "2", "0" * 16, "0" * 16)
    assert int(status["CapBnd"], 16) & int(status["CapEff"], 16) & _FORBIDDEN == 0
    processes = platform.shell("first", "ps -o args")
    assert "sleep 1111" in processes and "sleep 2222" not in processes


def test_refused_inside(platform: Platform) -> None:
    platform.create("tenant")
    for script in _REFUSED:
        result = platform.exec("tenant", "sh", "-c", script)
        assert result.exit_code != 0, script
        assert re.search("not permitted|denied|ead-only", result.stderr), (script, result)
