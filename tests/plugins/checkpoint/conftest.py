"""Fixtures of the checkpoint drivers: two nodes that share a root file system, as if it had travelled."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hostler.contracts.driver import Host
from hostler.contracts.limits import Cgroup
from hostler.core.limits import Limits
from hostler.core.names import new_id
from hostler.core.specs import ContainerSpec
from hostler.host import native
from hostler_plugins.checkpoint.criu import Criu
from hostler_plugins.ns.crun import Crun
from hostler_plugins.ns.oci import Oci
from hostler_plugins.ns.runc import Runc
from tests.plugins.ns.conftest import rootfs as rootfs
from tests.plugins.ns.world import World

CHECKOUT = Path(__file__).resolve().parents[3]


def criu_program() -> Path | None:
    """CRIU as ops/install brings it, or the distribution's."""
    own = CHECKOUT / ".tools/criu/bin/criu"
    found = shutil.which("criu")
    return own if own.exists() else Path(found) if found else None


@pytest.fixture(scope="session")
def libexec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs in C, compiled once."""
    folder = tmp_path_factory.mktemp("libexec")
    native.build(folder)
    return folder


@dataclass
class Node:
    """A server: its world and its checkpoint driver."""

    world: World
    criu: Criu

    def cgroup(self, spec: ContainerSpec) -> Cgroup:
        return self.world.limits.create(spec.id, Limits(pids=200))

    def restore(self, spec: ContainerSpec, images: Path) -> int:
        """Bring a container back, held."""
        landing = self.world.ns.land(spec, self.world.root_plan(spec), self.cgroup(spec))
        self.world.made[spec.id] = spec
        return self.criu.restore(landing, images, lambda pid: self.world.ns.furnish(spec.id, pid))

    def down(self) -> None:
        self.world.down()
        self.criu.teardown()


@pytest.fixture(params=[Runc, Crun], ids=["runc", "crun"])
def driver(request: pytest.FixtureRequest) -> type[Oci]:
    """Each ns driver in turn."""
    given: type[Oci] = request.param
    return given


@pytest.fixture
def nodes(driver: type[Oci], libexec: Path, rootfs: Path, tmp_path: Path) -> Iterator[tuple[Node, Node]]:
    """Two servers of one installation."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    program = criu_program()
    if program is None:
        pytest.skip("there is no CRIU")
    if shutil.which(driver.program) is None:
        pytest.skip(f"{driver.program} is not installed")
    installation, made = new_id(6), []
    roots = tmp_path / "shared"
    for name in ("alpha", "beta"):
        state = tmp_path / name
        (state).mkdir()
        (state / "roots").symlink_to(roots)
        host = Host(installation=installation, node=name, state_dir=state, libexec=libexec, criu=program)
        made.append(Node(World(host, rootfs, driver), Criu(host)))
    roots.mkdir()
    try:
        for node in made:
            node.world.ns.setup()
            node.criu.setup()
        yield made[0], made[1]
    finally:
        for node in made:
            node.down()
