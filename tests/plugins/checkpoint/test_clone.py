"""Clones of one checkpoint beside their original: ids, names and addresses of their own, warm memory, and none of its connections."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import httpx
import pytest

from hostler.contracts.checkpoint import Renaming
from hostler.core.errors import Conflict
from hostler.core.specs import ContainerSpec, ExecSpec, IdRange
from tests.plugins.checkpoint.conftest import Node
from tests.plugins.net.world import World as Network
from tests.plugins.net.world import link
from tests.plugins.ns.world import eventually

pytestmark = pytest.mark.lab

_T = TypeVar("_T")
#: Answers each line with how many it has had, whoever asks; one of its files belongs to a user, and one port is at the container's own address.
SERVE = "i=0; while read l; do i=$((i+1)); echo $(hostname) $i; done"
PROGRAM = (
    "touch /home/ada/file; chown ada /home/ada/file; echo warm > /dev/shm/memory; "
    f"mkdir /srv; echo own > /srv/index.html; httpd -f -p OWN:8001 -h /srv & exec nc -ll -p 8000 -e sh -c '{SERVE}'"
)


class Servers:
    """Server alpha with containers on a network, and beta from which they are asked."""

    def __init__(self, node: Node, network: Network) -> None:
        self.node = node
        self.network = network

    def spec(self, number: int, *args: str) -> ContainerSpec:
        world = self.node.world
        own = world.spec(*args)
        world.made[own.id] = own.model_copy(update={"links": (link(7, number, pool=(), reachable=()),), "ids": IdRange(base=3_000_000 + number * 65_536)})
        return world.made[own.id]

    def up(self, spec: ContainerSpec) -> None:
        world = self.node.world
        with self.network.on("alpha"):
            pid = world.create(spec)[0].pid
            assert pid is not None
            self.network.drivers["alpha"].attach(spec.id, spec.links[0], pid)
            world.ns.start(spec.id)

    def furnish(self, spec: ContainerSpec, pid: int) -> None:
        self.node.world.ns.furnish(spec.id, pid)
        self.network.drivers["alpha"].attach(spec.id, spec.links[0], pid, True)

    def clone(self, original: ContainerSpec, number: int, images: Path) -> ContainerSpec:
        """As the verbs do it."""
        world, spec = self.node.world, self.spec(number)
        subprocess.run(["cp", "-a", world.root_of(original), world.root_of(spec)], check=True)
        own = images.with_name(f"{images.name}-{spec.id}")
        shutil.copytree(images, own)
        self.node.criu.rename(own, Renaming(hostname=spec.name, addresses={ip(original): ip(spec), ip(original, 1): ip(spec, 1)}))
        with self.network.on("alpha"):
            landing = world.ns.land(spec, world.root_plan(spec), self.node.cgroup(spec))
            pid = self.node.criu.restore(landing, own, lambda init: self.furnish(spec, init), close_connections=True)
            world.ns.adopt(spec.id, pid)
            self.node.criu.release(own)
            self.network.drivers["alpha"].release(spec.id)
        return spec

    def from_beta(self, act: Callable[[], _T]) -> _T:
        with self.network.on("beta"):
            return act()

    def ask(self, spec: ContainerSpec, port: int = 8000) -> str:
        """The first answer of a container over a new connection."""

        def answer() -> str:
            with socket.create_connection((ip(spec), port), timeout=5) as connection:
                return said(connection)

        return self.from_beta(answer)


    def get(self, spec: ContainerSpec) -> str:
        """The page that a container has at its own address."""
        return self.from_beta(lambda: httpx.get(f"http://{ip(spec)}:8001/", timeout=5).text)


def ip(spec: ContainerSpec, which: int = 0) -> str:
    return spec.links[0].addresses[which].split("/")[0]


def said(connection: socket.socket) -> str:
    connection.sendall(b"?\n")
    return connection.recv(100).decode()


@pytest.fixture
def servers(nodes: tuple[Node, Node], tmp_path: Path) -> Iterator[Servers]:
    network = Network(tmp_path / "net")
    (tmp_path / "net").mkdir()
    try:
        network.add_server("alpha", 11)
        network.add_server("beta", 12)
        yield Servers(nodes[0], network)
    finally:
        with network.on("alpha"):
            for container in nodes[0].world.made:
                network.drivers["alpha"].detach(container)
        network.end()


def checkpointed(servers: Servers, spec: ContainerSpec, folder: Path) -> Path:
    world, images = servers.node.world, folder / "images"
    images.mkdir()
    world.ns.freeze(spec.id)
    servers.node.criu.dump(world.ns.shape(spec.id), images)
    world.ns.thaw(spec.id)
    return images


def listening(servers: Servers, spec: ContainerSpec, ports: int) -> bool:
    return servers.node.world.sh(spec, "cat /proc/net/tcp /proc/net/tcp6 | grep -c ' 0A '").stdout == f"{ports}\n"


def test_three_clones_answer_beside_their_original(servers: Servers, tmp_path: Path) -> None:
    world = servers.node.world
    original = servers.spec(2)
    original = world.made[original.id] = original.model_copy(update={"process": original.process.model_copy(update={"args": ("sh", "-c", PROGRAM.replace("OWN", ip(original)))})})
    servers.up(original)
    eventually(lambda: listening(servers, original, 2))
    talk = servers.from_beta(lambda: socket.create_connection((ip(original), 8000), timeout=5))
    with talk:
        assert said(talk) == f"{original.name} 1\n"
        images = checkpointed(servers, original, tmp_path)
        clones, took = [], []
        for number in (3, 4, 5):
            began = time.monotonic()
            clones.append(servers.clone(original, number, images))
            assert servers.ask(clones[-1]) == f"{clones[-1].name} 1\n"
            took.append(round((time.monotonic() - began) * 1000))
        print("ms from the verb to the first answer:", took)
        for spec in clones:
            pid = world.ns.inspect(spec.id).pid
            assert Path(f"/proc/{pid}/uid_map").read_text().split() == ["0", str(spec.ids.base), "65536"]
            assert Path(f"/proc/{pid}/gid_map").read_text().split() == ["0", str(spec.ids.base), "65536"]
            assert servers.get(spec) == "own\n", "at its own address"
            inside = world.sh(spec, "hostname; cat /etc/hostname /dev/shm/memory; stat -c %U /home/ada/file; cat /proc/net/tcp /proc/net/tcp6 | grep -c ' 01 '; ip -4 addr show eth0 | grep -c inet")
            assert inside.stdout == f"{spec.name}\n{spec.name}\nwarm\nada\n0\n1\n"
            assert world.ns.exec(spec.id, ExecSpec(args=("touch", "/tmp/new"), user="ada")).exit_code == 0
            assert [(world.root_of(spec) / name).stat().st_uid for name in ("home/ada/file", "tmp/new")] == [1815, 1815]
        assert said(talk) == f"{original.name} 2\n", "its own connections go on"
    assert len({servers.ask(spec) for spec in (original, *clones)}) == 4
    world.ns.freeze(clones[0].id)
    world.ns.thaw(clones[0].id)
    world.ns.signal(clones[0].id, 15)
    assert world.ns.wait(clones[0].id, 5).state == "exited"
    assert servers.ask(original) == f"{original.name} 1\n"


def test_an_address_without_a_counterpart_is_told_before_anything_is_restored(servers: Servers, tmp_path: Path) -> None:
    original = servers.spec(2, "sh", "-c", "exec httpd -f -p 198.18.7.2:8001")
    servers.up(original)
    eventually(lambda: listening(servers, original, 1))
    images = checkpointed(servers, original, tmp_path)
    before = {path.name: path.read_bytes() for path in images.glob("*.img")}
    with pytest.raises(Conflict, match=f"bound to its own address {ip(original)} .port 8001."):
        servers.node.criu.rename(images, Renaming(hostname="other", addresses={ip(original): ""}))
    assert {path.name: path.read_bytes() for path in images.glob("*.img")} == before
