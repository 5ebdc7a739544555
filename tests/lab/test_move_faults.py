"""A container moves, and somebody dies on the way: at each named point of the move, each of those who take part.

Whatever happens, one copy of it runs, the counter is whole, the operation ends (when the victim is back, where it takes that one), and nothing
is left behind. ``ops/test faults`` runs the whole table and prints it; without it a few rows of it are tested.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from _pytest.mark.structures import ParameterSet

from tests.lab.conftest import FAULTS, Fault
from tests.lab.installation import Platform, entered, told
from tests.lab.leftovers import settled
from tests.lab.test_faults import ended
from tests.lab.travel import Traveller, Witness, deafen, go_on, heal, kill_criu, stopped_at

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]

#: Points of the server that a container leaves (out) and of the one that it comes to (in), in the order in which they are passed.
BEFORE = (
    "out.start", "in.volume", "out.ready", "out.frozen", "in.frozen", "out.dumped", "out.sent", "in.whole", "in.restored", "in.held", "out.restored",
)  # fmt: skip
AFTER = ("out.handed-over", "out.killed", "in.go", "in.running", "out.gone", "in.settle", "out.clean")
VICTIMS = ("source", "target", "control", "redis", "wire to the source", "wire to the target")
#: While the container is restored there, or held.
RESTORING = ("in.restored", "in.held", "out.restored", "out.handed-over", "out.killed", "in.go")
#: The first file that CRIU writes at some stages of a dump: it has begun, it looks at the processes, their memory is read, it is done.
DUMPING = ("dump.log", "inventory.img", "pstree.img", "files.img", "core-1.img", "mm-1.img", "pages-1.img", "stats-dump")
#: The tenant waits a second at most for a fault before the hand-over; a machine that tests share may be slower.
AT_MOST = 3.0
#: How often the whole table is run; 0: only what is always tested.
_ROUNDS = int(os.environ.get("HOSTLER_FAULT_ROUNDS", "0"))
#: Where memory follows after the freeze (post-copy): what else there is to go wrong.
FOLLOWING = ("out.frozen", "out.dumped", "out.sent", "in.restored", "in.held", "out.restored", "out.handed-over", "out.killed", "in.go", "in.settle")
FOLLOWING_VICTIMS = ("source", "target", "wire to the source", "wire to the target")
STOP, POST = "stop_copy", "post_copy"
#: Those that are always tested.
CHOSEN = {
    (STOP, "out.frozen", "source"), (STOP, "out.sent", "target"), (STOP, "out.handed-over", "source"), (STOP, "in.held", "wire to the source"),
    (STOP, "out.dumped", "wire to the target"), (STOP, "in.held", "restoring CRIU"), (STOP, "out.handed-over", "target"),
    (STOP, "out.handed-over", "control"), (STOP, "out.sent", "redis"), (POST, "out.restored", "source"),
}  # fmt: skip


def _table() -> list[ParameterSet]:
    rows = [(STOP, point, victim) for point in (*BEFORE, *AFTER) for victim in VICTIMS]
    rows += [(STOP, point, "restoring CRIU") for point in RESTORING]
    rows += [(POST, point, victim) for point in FOLLOWING for victim in FOLLOWING_VICTIMS]
    if not _ROUNDS:
        rows = [row for row in rows if row in CHOSEN]
    return [
        pytest.param(method, point, victim, id=f"{method}-{point}-{victim}-{number}".replace(" ", "_"))
        for number in range(_ROUNDS or 1)
        for method, point, victim in rows
    ]


@pytest.fixture(scope="module")
def there(installation: Platform) -> Iterator[list[Traveller]]:
    """The traveller, made when first needed and whenever it did not survive; deleted in the end."""
    found: list[Traveller] = []
    yield found
    with entered(installation.apart):
        for one in found:
            one.close()
        installation.delete_all()
        settled(installation)


@pytest.fixture
def traveller(installation: Platform, there: list[Traveller]) -> Iterator[Traveller]:
    with entered(installation.apart):
        heal(installation)
        installation.wait_online()
        if there and (there[0].listener is None or not there[0].listener.goes_on(2) or installation.client.container(there[0].name).state != "running"):
            there.pop().close()
            installation.delete_all()
        if not there:
            there.append(Traveller(installation, f"traveller-{int(time.time() * 1000) % 1_000_000}"))
        yield there[0]
        heal(installation)


@dataclass
class Move:
    """One move of the traveller to the other server."""

    traveller: Traveller
    source: str
    target: str
    struck: float = 0.0
    operation: str = ""

    @property
    def platform(self) -> Platform:
        return self.traveller.platform

    def side(self, point: str) -> str:
        """The server that passes a point."""
        return self.source if point.startswith("out") else self.target

    def strike(self, victim: str, point: str) -> Callable[[], None]:
        """Kill or cut. Gives what waits until the victim is back."""
        if victim in ("source", "target"):
            program = f"node-{self.source if victim == 'source' else self.target}"
        elif victim in ("control", "redis"):
            program = victim
        elif victim == "restoring CRIU":
            assert kill_criu(self.platform, self.target, "restore") > 0, "no CRIU restores"
            return lambda: None
        else:
            deafen(self.platform, self.source if victim == "wire to the source" else self.target)
            return lambda: heal(self.platform)
        before = self.platform.kill(program)
        return lambda: self.platform.wait_for(program, before)


def begun(traveller: Traveller) -> Move:
    """Ask for a move to where it is not."""
    platform = traveller.platform
    source = platform.client.container(traveller.name).node
    assert source is not None
    target = next(server for server in platform.servers if server != source)
    return Move(traveller, source, target)


@pytest.mark.parametrize(("method", "point", "victim"), _table())
def test_somebody_dies_at_a_point(traveller: Traveller, method: str, point: str, victim: str, request: pytest.FixtureRequest) -> None:
    move = begun(traveller)
    platform, side = traveller.platform, move.side(point)
    witness = Witness(platform, traveller.container.id)
    witness.start()
    fault = Fault(point, victim, note="memory follows" if method == POST else "")
    request.config.stash[FAULTS].append(fault)
    name = "clean" if point == "out.clean" else point
    try:
        with stopped_at(platform, side, name) as reached:
            move.operation = platform.client.migrate(traveller.name, to=move.target, methods=(method,)).id
            _until(reached, 30, lambda: f"{point} was not reached: {told(platform.client.operation(move.operation))}")
            back = move.strike(victim, point)
            move.struck = time.monotonic()
            go_on(platform, side, name)
            _judge(move, fault, witness, before=point in BEFORE, back=back)
    finally:
        witness.stop()


@pytest.mark.parametrize("stage", DUMPING * _ROUNDS or ("dump.log",))
def test_the_dumping_criu_dies(traveller: Traveller, stage: str, request: pytest.FixtureRequest) -> None:
    """When the first file of a stage is there. A dump takes some 30 ms: some are over before they are hit, and then the move is done."""
    move = begun(traveller)
    platform = traveller.platform
    witness = Witness(platform, traveller.container.id)
    witness.start()
    fault = Fault(f"dump at {stage}", "dumping CRIU")
    request.config.stash[FAULTS].append(fault)
    try:
        images = platform.state(move.source) / "revivals" / f"move-{traveller.container.id}" / "images"
        with stopped_at(platform, move.source, "out.frozen") as reached:
            move.operation = platform.client.migrate(traveller.name, to=move.target, methods=(STOP,)).id
            _until(reached, 30, lambda: told(platform.client.operation(move.operation)))
            go_on(platform, move.source, "out.frozen")
            _at_stage(images, stage)
            hit = kill_criu(platform, move.source, "dump")
            move.struck = time.monotonic()
            fault.note = "hit" if hit else "too late"
            if hit and stage != "dump.log":
                _excuse(move, fault)
            _judge(move, fault, witness, before=True, back=lambda: None)
    finally:
        witness.stop()


def _excuse(move: Move, fault: Fault) -> None:
    """A CRIU that is killed while its code is in the container's processes may take one along, or leave a connection dumb (docs/mobility.md). Nobody but root can
    do that, and no worker's end does: it is shown in the table, and is no failure of the test."""
    listener = move.traveller.listener
    assert listener is not None
    fault.gap = listener.next_after(move.struck, AT_MOST)
    last = ended(move.platform, move.operation)
    if fault.gap > AT_MOST or not listener.goes_on(3):
        fault.outcome = f"{last.state}, and the killed CRIU took a process of the container along, or its connection"
        pytest.xfail(fault.outcome)


def _at_stage(images: Path, stage: str) -> None:
    """Until a file with that beginning is there, or the dump is over."""
    stem = stage.split("-")[0] if stage.startswith(("core", "mm", "pages")) else stage
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if images.is_dir():
            names = os.listdir(images)
            if any(name.startswith(stem) for name in names):
                return
        time.sleep(0.0002)
    raise AssertionError(f"no dump came to {stage}")


def _judge(move: Move, fault: Fault, witness: Witness, *, before: bool, back: Callable[[], None]) -> None:
    platform, traveller = move.platform, move.traveller
    assert traveller.listener is not None
    gap = traveller.listener.next_after(move.struck, 30)
    last = ended(platform, move.operation)
    back()
    platform.wait_online()
    found = platform.client.container(traveller.name)
    code = last.error.code if last.error is not None else ""
    fault.outcome, fault.gap = f"{last.state}{f' ({code})' if code else ''}, on {'the target' if found.node == move.target else 'the source'}", gap
    assert last.state in ("done", "failed"), told(last)
    assert found.state == "running", f"{found.state}: {found.error}; {told(last)}"
    assert found.node == (move.target if last.state == "done" else move.source), told(last)
    assert before or last.state == "done", told(last)
    assert not (double := witness.ran_twice(move.source, move.target)), double
    assert traveller.listener.goes_on(), f"{traveller.listener.broken}; {told(last)}"
    settled(platform)
    if before and last.state == "failed":
        assert gap < AT_MOST, f"answered {gap:.2f} s after the fault"
    fault.ok = True


def _until(reached: Callable[[], bool], seconds: float, what: Callable[[], str]) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, what()
        time.sleep(0.001)
