"""The line between two servers is cut, in either direction: both sides notice in seconds, and a short break breaks nothing."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

import pytest

from hostler.core.errors import HostlerError, Timeout, Unavailable
from hostler.core.names import new_id
from hostler.host import lab, netns
from hostler.node.wire.channel import Channel
from hostler.node.wire.frames import CHUNK
from hostler.node.wire.secured import SILENCE
from hostler.node.wire.wire import Wire
from tests.node.wire.conftest import PATIENCE, aside
from tests.node.wire.lines import cut, deaf, heal

pytestmark = pytest.mark.lab

#: What noticing may take beyond the silence that is allowed: the next look, a busy machine.
_GRACE = 4.0


@dataclass
class Line:
    """Two servers and a channel between them, alpha's end ``near``."""

    alpha: Path
    beta: Path
    wires: tuple[Wire, Wire]
    near: Channel
    far: Channel

    def ends(self, direction: str) -> tuple[Path, ...]:
        """Who gets nothing any more."""
        return {"to alpha": (self.alpha,), "to beta": (self.beta,), "both": (self.alpha, self.beta)}[direction]


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    installation = "t" + new_id(6)
    wires: list[Wire] = []
    over = threading.Event()
    try:
        servers = []
        for number, name in enumerate(("alpha", "beta"), 11):
            where = lab.add_server(installation, name, f"198.18.0.{number}/15")
            servers.append(where)
            with netns.entered(where):
                wires.append(Wire(tmp_path / name, name, f"198.18.0.{number}:8653"))
        accepted: Queue[Channel] = Queue()

        def serve(channel: Channel) -> None:
            accepted.put(channel)
            over.wait(120)

        ticket = wires[1].expect("op", wires[0].identity.fingerprint, serve)
        with netns.entered(servers[0]):
            near = wires[0].connect(wires[1].fact, ticket)
        with near:
            yield Line(servers[0], servers[1], (wires[0], wires[1]), near, accepted.get(timeout=PATIENCE))
    finally:
        over.set()
        for wire in wires:
            wire.close()
        lab.remove_all(installation)


def noticed(channel: Channel, work: Callable[[], object]) -> float:
    """Seconds until ``work`` finds the wire cut; the channel is closed then, as everybody does."""
    began = time.monotonic()
    with pytest.raises(Unavailable) as failure:
        work()
    assert failure.value.stable_code == "wire_cut"
    channel.close()
    return time.monotonic() - began


@pytest.mark.parametrize("direction", ["to alpha", "to beta", "both"])
def test_who_waits_for_an_answer_notices(line: Line, direction: str) -> None:
    line.near.send("restore")
    assert line.far.receive(5).kind == "restore"
    taken: list[float] = []
    with deaf(*line.ends(direction)):
        line.near.send("more")  # on its way while the line is cut
        with aside(lambda: taken.append(noticed(line.far, lambda: _receive_all(line.far)))) as failures:
            taken.append(noticed(line.near, lambda: line.near.receive(30)))
        assert not failures
    assert max(taken) < SILENCE + _GRACE, taken


def _receive_all(channel: Channel) -> None:
    while True:
        channel.receive(30)


@pytest.mark.parametrize("direction", ["to alpha", "to beta", "both"])
def test_a_sender_and_a_receiver_of_bulk_data_notice(line: Line, direction: str) -> None:
    flowing = threading.Event()
    taken: list[float] = []

    def receive() -> None:
        with line.far:
            reader = line.far.receive_stream()
            assert reader.read(CHUNK)
            flowing.set()
            while reader.read(CHUNK):
                pass

    with aside(receive) as failures:
        with aside(lambda: taken.append(noticed(line.near, lambda: line.near.send_stream(_Endless(), rate=64 << 20)))) as others:
            assert flowing.wait(PATIENCE)
            with deaf(*line.ends(direction)):
                began = time.monotonic()
                while not (failures and taken) and time.monotonic() < began + 60:
                    time.sleep(0.05)
                assert time.monotonic() - began < SILENCE + _GRACE, (failures, taken)
        assert not others
    assert isinstance(failures[0], Unavailable)


class _Endless(io.BytesIO):
    def read(self, size: int | None = -1, /) -> bytes:
        return bytes(size or 0)


def test_while_a_tenant_waits_it_is_noticed_sooner(line: Line) -> None:
    line.near.notice_within(0.7)
    with deaf(line.beta):
        line.near.send("dumped")
        assert noticed(line.near, lambda: line.near.receive(30)) < 2.5


def test_a_short_break_breaks_nothing(line: Line) -> None:
    content = bytes(8 * CHUNK)
    with aside(lambda: line.near.send_stream(io.BytesIO(content), rate=4 * CHUNK)) as failures:
        reader = line.far.receive_stream()
        assert reader.read(CHUNK)
        cut(line.alpha)
        time.sleep(2)
        heal(line.alpha)
        rest = reader.read()
        assert rest is not None
    assert not failures
    assert reader.received == len(content)


def test_a_server_that_does_not_answer_at_all(line: Line) -> None:
    alpha, beta = line.wires
    ticket = beta.expect("next", alpha.identity.fingerprint, lambda channel: None)
    with deaf(line.beta), netns.entered(line.alpha):
        began = time.monotonic()
        with pytest.raises(Timeout):
            alpha.connect(beta.fact, ticket, timeout=1)
        assert time.monotonic() - began < 3


def test_a_server_that_is_gone_without_a_word(line: Line) -> None:
    """Half-open: this side's end is there, and the other side knows nothing of it any more."""
    with deaf(line.alpha):
        line.far.stop("gone")
        with pytest.raises(HostlerError):
            line.far.receive(1)
        assert noticed(line.near, lambda: line.near.receive(30)) < SILENCE + _GRACE
