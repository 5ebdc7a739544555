"""A tenant's world small enough for a test: busybox in a folder, limits by cgroups, an ns driver."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hostler.contracts.driver import Host
from hostler.contracts.limits import Cgroup, LimitsDriver
from hostler.contracts.ns import Sandbox
from hostler.contracts.storage import IdmapMount, RootPlan
from hostler.core.limits import Limits
from hostler.core.names import new_id
from hostler.core.specs import ContainerSpec, ExecResult, ExecSpec, IdRange, ImageSpec, Process
from hostler.host import cgroups
from hostler_plugins.limits.cgroup1 import Cgroup1
from hostler_plugins.limits.cgroup2 import Cgroup2
from hostler_plugins.ns.oci import Oci
from hostler_plugins.ns.runc import Runc


def eventually(condition: Callable[[], bool], seconds: float = 5) -> None:
    """Wait for a condition, at most so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)


def limits_driver() -> type[Cgroup1] | type[Cgroup2]:
    """The one for the version of cgroups that has this host's memory controller."""
    return Cgroup1 if cgroups.MEMORY in cgroups.hierarchies() else Cgroup2


@dataclass
class World:
    """A node with drivers, and the containers made in the test."""

    host: Host
    rootfs: Path
    driver: type[Oci] = Runc
    ns: Oci = field(init=False)
    limits: LimitsDriver = field(init=False)
    made: dict[str, ContainerSpec] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ns = self.driver(self.host)
        self.limits = limits_driver()(self.host)

    def spec(self, *args: str, limits: Limits | None = None, **process: Any) -> ContainerSpec:
        number = len(self.made)
        spec = ContainerSpec(
            id=new_id(),
            name=f"web{number}",
            account="acc0",
            ids=IdRange(base=2_000_000 + number * 65_536),
            image=ImageSpec(digest="sha256:" + "0" * 64, driver="rootfs", size=0),
            process=Process(args=args, **process),
            limits=limits or Limits(memory=64 << 20, pids=100),
        )
        self.made[spec.id] = spec
        return spec

    def root_of(self, spec: ContainerSpec) -> Path:
        """The folder that is the container's root, as the host sees it."""
        return self.host.state_dir / "roots" / spec.id

    def root_plan(self, spec: ContainerSpec) -> RootPlan:
        """A root of the container's own: hard links to the shared files would be shared when written."""
        folder = self.root_of(spec)
        if not folder.exists():
            shutil.copytree(self.rootfs, folder, symlinks=True)
        return RootPlan(mounts=[IdmapMount(source=folder, target="root")])

    def create(self, spec: ContainerSpec) -> tuple[Sandbox, Cgroup]:
        cgroup = self.limits.create(spec.id, spec.limits)
        return self.ns.create(spec, self.root_plan(spec), cgroup), cgroup

    def folder(self, spec: ContainerSpec, controller: str) -> Path:
        """The container's cgroup with that controller, in either version."""
        parents = self.limits.create(spec.id, spec.limits).parents
        return Path(parents.get(controller) or parents[cgroups.UNIFIED])

    def up(self, *args: str, limits: Limits | None = None, **process: Any) -> ContainerSpec:
        spec = self.spec(*args, limits=limits, **process)
        self.create(spec)
        self.ns.start(spec.id)
        return spec

    def sh(self, spec: ContainerSpec, script: str, **command: Any) -> ExecResult:
        return self.ns.exec(spec.id, ExecSpec(args=("sh", "-c", script), **command))

    def down(self) -> None:
        for container in self.made:
            self.ns.forget(container)
            self.limits.remove(container)
        self.limits.teardown()
        self.ns.teardown()
