"""Programs killed in the middle of their work. Whatever dies: each operation that was acknowledged ends, done or undone; rows, drivers
and kernel agree afterwards; and containers that it did not concern run on as if nothing had happened."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import httpx
import pytest
import redis

from hostler.client.client import Client
from hostler.core.api import ContainerOut, OperationOut
from hostler.core.errors import HostlerError
from hostler.host.guest import InitRecord
from hostler.node.lab.leftovers import marked_processes
from tests.lab.installation import Platform, told
from tests.lab.leftovers import settled
from tests.lab.machine import wait_until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

_SEED = 20_240
#: Longest that an operation may take whose every message was lost: a lease, a tick, and the work itself.
_PATIENCE = 120.0
_COUNTING = ("sh", "-c", "n=0; while :; do n=$((n+1)); echo $n; usleep 20000; done")


@dataclass
class Bystanders:
    """Containers that are none of anybody's business, one on each server: the same processes at the end as at the beginning."""

    platform: Platform
    before: dict[str, tuple[ContainerOut, InitRecord]] = field(default_factory=dict)

    def made(self) -> Bystanders:
        for server in self.platform.servers:
            one = self.platform.create_on(server, f"bystander-{server}")
            self.before[server] = (one, self.platform.init(one))
        return self

    def check(self) -> None:
        for one, init in self.before.values():
            assert self.platform.init(one) == init
            assert self.platform.client.container(one.name).state == "running"


@pytest.fixture
def bystanders(platform: Platform) -> Iterator[Bystanders]:
    """Checked after the test, too."""
    made = Bystanders(platform).made()
    yield made
    made.check()


# --- node workers ---


class Assassin(threading.Thread):
    """Waits for a step of an operation to begin on whatever server does it, and kills that server's worker a moment later."""

    def __init__(self, platform: Platform, operation: str, position: int, delay: float) -> None:
        super().__init__(name="assassin", daemon=True)
        self._journals = {server: platform.state(server) / "journal.sqlite3" for server in platform.servers}
        self._pids = platform.apart.pids()
        self.operation, self.position, self.delay = operation, position, delay
        self.killed = ""
        self.hit: list[str] = []
        """Positions that had begun and not ended when the worker died."""

    def run(self) -> None:
        connections = {server: sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5) for server, path in self._journals.items()}
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and not self.killed:
            for server, connection in connections.items():
                if _steps(connection, self.operation, self.position):
                    time.sleep(self.delay)
                    with suppress(ProcessLookupError):  # another assassin was faster
                        os.kill(self._pids[f"node-{server}"], signal.SIGKILL)
                    self.killed = server
                    self.hit = [str(position) for position, ended in _steps(connection, self.operation) if not ended]
        for connection in connections.values():
            connection.close()


def _steps(connection: sqlite3.Connection, operation: str, position: int | None = None) -> list[tuple[int, bool]]:
    query = "SELECT position, outcome IS NOT NULL FROM steps WHERE operation = ?"
    if position is None:
        return list(connection.execute(query, (operation,)))
    return list(connection.execute(f"{query} AND position = ?", (operation, position)))


@dataclass
class Killing:
    """Rounds of operations, two at a time, each with an assassin waiting at a step of its own."""

    platform: Platform
    bystanders: Bystanders
    chance: random.Random = field(default_factory=lambda: random.Random(_SEED))
    outcomes: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    in_the_middle: int = 0

    def round(self, ask: Callable[[str], OperationOut], names: tuple[str, str], positions: tuple[int, int]) -> list[OperationOut]:
        """Ask for both, kill at each one's step, and look that both end and nothing is amiss."""
        before = self.platform.apart.pids()
        hunts = []
        for name, position in zip(names, positions, strict=True):
            operation = ask(name)
            hunts.append(Assassin(self.platform, operation.id, position, self.chance.choice((0, 0, 0.001, 0.004, 0.010))))
            hunts[-1].start()
        ended = [self._ended(hunt) for hunt in hunts]
        for server in {hunt.killed for hunt in hunts if hunt.killed}:
            self.kills += 1
            self.platform.wait_for(f"node-{server}", before[f"node-{server}"])
        for operation, hunt in zip(ended, hunts, strict=True):
            self.in_the_middle += bool(hunt.hit)
            self.outcomes[f"{operation.kind} {operation.state}"] += 1
        self.platform.wait_online()
        settled(self.platform)
        self.bystanders.check()
        return ended

    def _ended(self, hunt: Assassin) -> OperationOut:
        operation = ended(self.platform, hunt.operation)
        hunt.join(15)
        assert operation.state in ("done", "failed"), told(operation)
        return operation


def ended(platform: Platform, operation: str, patience: float = _PATIENCE) -> OperationOut:
    """The operation at its end, which must come in time."""
    found: list[OperationOut] = []

    def over() -> bool:
        with suppress(HostlerError):  # the panel itself may be what was killed
            found[:] = [platform.client.operation(operation)]
        return bool(found) and found[0].ended

    deadline = time.monotonic() + patience
    while not over():
        assert time.monotonic() < deadline, f"did not end: {told(found[0]) if found else operation}"
        time.sleep(0.05)
    return found[0]


def test_a_node_worker_killed_at_each_step_of_everything(platform: Platform, bystanders: Bystanders, record_property: Callable[[str, object], None]) -> None:
    killing = Killing(platform, bystanders)
    client = platform.client
    for first in (1, 2, 3):  # 1 image, 2 volume, 3 limits, 4 sandbox, 5 network, 6 start
        names = (f"one-{first}", f"two-{first}")
        made = killing.round(lambda name: client.create(platform.body(name)), names, (first, first + 3))
        for operation in made:
            if operation.state == "done":
                assert platform.shell(operation.target, "hostname") == f"{operation.target}\n"
            else:
                platform.create(operation.target)
    pair = ("one-1", "two-1")
    for positions in ((0, 1), (2, 3)):  # 0 stop, 1 network, 2 sandbox, 3 limits; then 0 limits, 1 sandbox, 2 network, 3 start
        killing.round(client.stop, pair, positions)
        killing.round(client.start, pair, positions)
        for name in pair:
            if client.container(name).state == "running":
                assert platform.shell(name, "hostname") == f"{name}\n"
    for number, positions in enumerate(((0, 1), (2, 0))):  # 0 volume, 1 limits, 2 network
        change = {"disk": f"{80 + number}M", "memory": f"{50 + number}M", "rate_in": f"{30 + number}M"}
        for operation in killing.round(partial(_resized, client, change), pair, positions):
            wanted = operation.state == "done"
            assert (client.container(operation.target).limits.memory == (50 + number) << 20) == wanted
    for first, positions in enumerate(((0, 1), (2, 3), (4, 5)), 1):  # 0 stop, 1 network, 2 sandbox, 3 limits, 4 volume, 5 folder
        killing.round(client.delete, (f"one-{first}", f"two-{first}"), positions)
    record_property("kills", killing.kills)
    print(f"\n{killing.kills} kills, {killing.in_the_middle} in the middle of a step: {dict(killing.outcomes)}")
    assert killing.kills >= 18
    assert killing.in_the_middle >= 8
    assert all(key.endswith(" done") for key in killing.outcomes), killing.outcomes


def _resized(client: Client, change: dict[str, str], name: str) -> OperationOut:
    return client.resize(name, change)


def test_a_command_that_was_cut_off_says_so_and_is_not_run_twice(platform: Platform, bystanders: Bystanders) -> None:
    one = platform.create_on("alpha", "one")
    operation = platform.client.exec("one", {"args": ["sh", "-c", "echo run >> /runs; sleep 3"]})
    wait_until(lambda: list(platform.pool("alpha").glob(f"*/volumes/{one.id}/runs")), 5)
    before = platform.kill("node-alpha")
    platform.wait_for("node-alpha", before)
    platform.failed(operation, "interrupted")
    assert platform.shell("one", "cat /runs") == "run\n"


# --- the control side ---


def _crowd(platform: Platform, word: str) -> list[OperationOut]:
    """Creates, stops and commands at once."""
    there = [container.name for container in platform.client.containers() if container.name.startswith("crowd-") and container.state == "running"]
    asked = [platform.client.stop(name) for name in there[:2]]
    asked += [platform.client.exec(name, {"args": ["true"]}) for name in there[2:4]]
    return asked + [platform.client.create(platform.body(f"crowd-{word}-{number}")) for number in range(3)]


def _all_end_well(platform: Platform, operations: list[OperationOut]) -> None:
    """Done; or refused for what the crowd itself has done meanwhile; or a command that was cut off."""
    for operation in operations:
        last = ended(platform, operation.id)
        code = last.error.code if last.error is not None else ""
        excused = code == "wrong_state" or (last.kind == "exec" and code == "interrupted")
        assert last.state == "done" or (last.state == "failed" and excused), told(last)


def test_the_control_worker_killed(platform: Platform, bystanders: Bystanders) -> None:
    chance = random.Random(_SEED)
    for number in range(2):
        operations = _crowd(platform, str(number))
        time.sleep(chance.uniform(0, 0.12))
        before = platform.kill("control")
        platform.wait_for("control", before)
        _all_end_well(platform, operations)
        settled(platform)


def test_the_panel_killed_right_after_a_request(platform: Platform, bystanders: Bystanders) -> None:
    """What it acknowledged is done; what it may not have acknowledged is asked for again under the same key, and made once."""
    chance = random.Random(_SEED)
    for number, delay in enumerate((0.0, chance.uniform(0.002, 0.02))):
        name, key = f"asked-{number}", str(uuid.uuid4())
        answers: list[httpx.Response] = []
        thread = threading.Thread(target=_post, args=(platform, name, key, answers))
        thread.start()
        if delay:
            time.sleep(delay)
        else:
            thread.join()
        before = _kill_panel(platform)
        thread.join()
        platform.wait_for("panel", before)
        wait_until(lambda: _answers(platform), 20, "the panel did not come back")
        _post(platform, name, key, answers)
        assert answers[-1].status_code == 202, answers[-1].text
        assert len({answer.json()["id"] for answer in answers}) == 1
        assert ended(platform, answers[-1].json()["id"]).state == "done"
        assert [one.name for one in platform.client.containers(name=name)] == [name]


def _post(platform: Platform, name: str, key: str, answers: list[httpx.Response]) -> None:
    headers = {"Authorization": f"Bearer {platform.token}", "Idempotency-Key": key}
    with suppress(httpx.TransportError):
        answers.append(httpx.post(f"{platform.apart.lab.panel_url}/v1/containers", json=platform.body(name), headers=headers, timeout=10))


def _kill_panel(platform: Platform) -> int:
    """All its processes at once, as a machine that runs out of memory may do."""
    first = platform.apart.pids()["panel"]
    with open(f"/proc/{first}/task/{first}/children") as file:
        family = [first, *map(int, file.read().split())]
    for pid in family:
        os.kill(pid, signal.SIGKILL)
    return first


def _answers(platform: Platform) -> bool:
    try:
        return platform.client.health().status == "ok"
    except HostlerError:
        return False


# --- the broker ---


def test_redis_emptied_and_killed(platform: Platform, bystanders: Bystanders) -> None:
    """Emptied at several moments of a crowd's work, which takes what is in the queues and the queues' own registers; then killed."""
    chance = random.Random(_SEED)
    operations = []
    with redis.Redis(unix_socket_path=str(platform.apart.lab.redis_socket)) as broker:
        for number in range(4):
            operations += _crowd(platform, f"emptied-{number}")
            time.sleep(chance.uniform(0, 0.08))
            broker.flushall()
    operations += _crowd(platform, "killed")
    before = platform.kill("redis")
    platform.wait_for("redis", before)
    operations += _crowd(platform, "after")
    _all_end_well(platform, operations)
    began = time.monotonic()
    platform.create("as-ever")
    assert time.monotonic() - began < 5


def test_messages_lost_in_the_queues(platform: Platform, bystanders: Bystanders) -> None:
    """Servers that hang for a moment let messages pile up, and the broker loses them all: the leases bring the work back."""
    for number in range(4):
        platform.create(f"lost-{number}")
    workers = [pid for name, pid in platform.apart.pids().items() if name.startswith("node-")]
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    try:
        operations = [platform.client.stop("lost-0"), platform.client.exec("lost-1", {"args": ["true"]}), platform.client.restart("lost-2")]
        operations += [platform.client.resize("lost-3", {"cpu": 0.2})]
        wait_until(lambda: all(platform.client.operation(one.id).state == "running" for one in operations), 10)
        with redis.Redis(unix_socket_path=str(platform.apart.lab.redis_socket)) as broker:
            broker.flushall()
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
    for operation in operations:
        assert ended(platform, operation.id).state == "done"


# --- the watch ---


def test_a_watch_killed_loses_no_line_and_no_end(platform: Platform, bystanders: Bystanders) -> None:
    """What runs on loses nothing. Of what ends while nobody watches the end is told, though no longer how: its pipe went with it."""
    platform.create_on("alpha", "counting", *_COUNTING)
    told_before = platform.create_on("alpha", "told-before", "sh", "-c", "exit 3")
    platform.event("told-before", "exited")
    meanwhile = platform.create_on("alpha", "meanwhile", "sh", "-c", "while ! [ -e /go ]; do usleep 20000; done; exit 4")
    before = platform.kill("watch-alpha")
    platform.shell("meanwhile", "touch /go")
    platform.wait_for("watch-alpha", before)
    assert platform.event("meanwhile", "exited").details["code"] in (4, None)
    wait_until(lambda: platform.client.container("meanwhile").state == "stopped", 15)
    time.sleep(0.5)
    lines = [int(line.text) for line in platform.client.logs("counting").lines]
    assert lines == list(range(1, len(lines) + 1))
    assert len(lines) > 100
    for one in (meanwhile, told_before):
        assert [(event.kind, event.container_id) for event in platform.client.events(container=one.name)].count(("exited", one.id)) == 1


def test_an_end_whose_news_is_lost_is_told_again(platform: Platform, bystanders: Bystanders) -> None:
    """The control worker is killed, and the broker emptied, while the news is under way."""
    ends = platform.create("ends", "sh", "-c", "while ! [ -e /go ]; do usleep 20000; done; exit 5")
    platform.stop_program("control")
    try:
        _touch(platform, ends, "go")
        time.sleep(1)
        with redis.Redis(unix_socket_path=str(platform.apart.lab.redis_socket)) as broker:
            broker.flushall()
    finally:
        platform.start_program("control")
    wait_until(lambda: platform.client.container("ends").state == "stopped", 30)
    assert [event.details.get("code") for event in platform.client.events(container="ends") if event.kind == "exited"] == [5]


def _touch(platform: Platform, container: ContainerOut, name: str) -> None:
    """Make a file in a container's root, from outside."""
    (volume,) = platform.pool(container.node or "").glob(f"*/volumes/{container.id}")
    (volume / name).touch()


# --- everything ---


def test_the_supervisor_killed_and_up_again(platform: Platform, bystanders: Bystanders) -> None:
    lab = platform.apart.lab
    operations = [platform.client.create(platform.body(f"during-{number}")) for number in range(3)]
    os.kill(int(lab.supervisor_pid.read_text()), signal.SIGKILL)
    platform.apart.ops("up")
    bystanders.check()
    _all_end_well(platform, operations)
    assert len(marked_processes(lab.home)) >= len(platform.apart.pids())
    for server in platform.servers:
        assert platform.shell(f"bystander-{server}", "hostname") == f"bystander-{server}\n"
    platform.done(platform.client.restart("bystander-alpha"))
    bystanders.before["alpha"] = (platform.client.container("bystander-alpha"), platform.init(platform.client.container("bystander-alpha")))
