"""A container whose memory is watched, and moves of it between two servers; the control side is the test."""

from __future__ import annotations

import contextlib
import secrets
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from socket import create_connection, socket
from typing import Any

from hostler.core.limits import Limits
from hostler.core.messages import Report
from hostler.core.names import new_id
from hostler.core.specs import ContainerSpec
from hostler.core.units import MIB
from hostler.node.points import points
from hostler.operations import container_steps, mobility_steps
from hostler.operations.mobility_steps import Side
from hostler.operations.steps import Step
from tests.vm.node import Node, eventually

PAGE = 4096
PORT = 7000
SOURCE = Path(__file__).with_name("writer.c")


def compiled_into(archive: Path, folder: Path) -> Path:
    """A copy of a root file system's archive that has ``/bin/writer`` too."""
    (folder / "bin").mkdir()
    subprocess.run(["cc", "-O2", "-static", "-Wall", "-Wextra", "-Werror", "-o", folder / "bin/writer", SOURCE], check=True, timeout=120)
    made = folder / "writer.tar"
    made.write_bytes(archive.read_bytes())
    subprocess.run(["tar", "--numeric-owner", "-rf", made, "-C", folder, "./bin/writer"], check=True, timeout=60)
    return made


class Client:
    """One connection to a container's writer, from the machine beyond the switch. Its questions may come from several threads."""

    def __init__(self, spec: ContainerSpec) -> None:
        address = spec.links[0].addresses[0].split("/")[0]
        found: list[socket] = []

        def connected() -> bool:
            with contextlib.suppress(OSError):
                found.append(create_connection((address, PORT), 5))
            return bool(found)

        eventually(connected, 60)
        found[0].settimeout(120)
        self._socket = found[0]
        self._stream = self._socket.makefile("rw")
        self._lock = threading.Lock()

    def ask(self, line: str) -> str:
        """The writer's answer."""
        with self._lock:
            self._stream.write(f"{line}\n")
            self._stream.flush()
            return self._stream.readline().strip()

    def checked(self) -> tuple[int, int]:
        """That all memory is what was written to it: how many pages ever were, and how often a busy one has gone around."""
        whole, written, passes = self.ask("check").split()
        assert whole == "whole"
        return int(written), int(passes)

    def close(self) -> None:
        """End the connection."""
        self._stream.close()
        self._socket.close()


@contextlib.contextmanager
def writing(node: Node, mebibytes: int, number: int = 2) -> Iterator[tuple[ContainerSpec, Client]]:
    """A running container that holds so much memory, and a connection to it."""
    spec = node.spec("/bin/writer", str(mebibytes), str(PORT), number=number, limits=Limits(memory=(mebibytes + 64) * MIB, pids=64, disk=64 * MIB))
    node.run(spec, [*container_steps.make_volume(node.name), *container_steps.bring_up(node.name)])
    client = Client(spec)
    try:
        assert client.checked() == (mebibytes * 256, 0)
        yield spec, client
    finally:
        client.close()


@contextlib.contextmanager
def at_points(node: Node, deeds: Mapping[str, Callable[[], object]]) -> Iterator[None]:
    """While inside, the server's work stops at each of these points until the deed is done, once; all must have been reached."""
    folder, ended, failures = points(node.host), threading.Event(), list[BaseException]()
    folder.mkdir(exist_ok=True)
    for point in deeds:
        (folder / point).touch()

    def body() -> None:
        left = dict(deeds)
        while left and not ended.is_set():
            for point in [one for one in left if (folder / f"{one}.reached").exists()]:
                try:
                    left.pop(point)()
                except BaseException as error:
                    failures.append(error)
                (folder / f"{point}.reached").unlink()
            time.sleep(0.01)

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(130)
        missed = [point for point in deeds if (folder / point).exists()]
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    assert not failures and not missed, (failures, missed)


@dataclass
class Move:
    """One container's move, step by step as the control side has them made."""

    spec: ContainerSpec
    source: Node
    target: Node
    operation: str
    ticket: str

    @classmethod
    def of(cls, spec: ContainerSpec, source: Node, target: Node) -> Move:
        """A new one."""
        return cls(spec, source, target, new_id(), secrets.token_hex(32))

    def side(self, node: Node) -> Side:
        """As its row in the store would be."""
        assert node.server.wire is not None
        return Side(node.name, node.server.wire.fact.address, node.server.wire.fact.fingerprint)

    def at(self, node: Node) -> ContainerSpec:
        """The spec as it is sent to a server: each has an address of its own for the image here."""
        return self.spec.model_copy(update={"image": node.image})

    def prepare(self) -> None:
        """The target expects it."""
        self.target.run(self.at(self.target), mobility_steps.prepare(self.side(self.source), self.side(self.target), self.operation, self.ticket, None))

    def out(self, method: str) -> Report:
        """It is sent; the outcome may be a failure."""
        step = mobility_steps.move_out(self.side(self.source), self.side(self.target), self.operation, self.ticket, [method], None, "it")
        return self.source.tried(self.spec, [step])

    def arrive(self) -> None:
        """It runs there, and nothing of it is left here."""
        self.target.run(self.at(self.target), [mobility_steps.move_in(self.side(self.target), self.operation, "")])
        self.source.run(self.spec, [mobility_steps.clean(self.source.name, self.operation)])
        assert self.source.owned(self.spec) == []
        state = self.target.server.drivers.ns(self.spec.drivers.ns).inspect(self.spec.id).state
        assert state == "running"

    def call_off(self) -> None:
        """A move that failed is undone on both sides."""
        back = Step(name="back", node=self.source.name, verb="move.back", payload={"operation": self.operation})
        self.source.run(self.spec, [back])
        discard = Step(name="discard", node=self.target.name, verb="move.discard", payload={"operation": self.operation})
        self.target.run(self.at(self.target), [discard])
        assert [item for item in self.target.owned(self.spec) if not item.startswith("images")] == []

    def whole(self, method: str) -> dict[str, Any]:
        """All of it; what the source reports."""
        self.prepare()
        (outcome,) = self.out(method).outcomes
        assert outcome.error is None, outcome.error
        self.arrive()
        assert outcome.result is not None
        return outcome.result
