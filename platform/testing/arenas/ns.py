"""Environment of ns drivers: a root of busybox, and cgroups by whichever limits driver the host can use."""

from __future__ import annotations

import shutil
import subprocess
import time
from functools import cached_property
from pathlib import Path
from typing import cast

from hostler.contracts.limits import LimitsDriver
from hostler.contracts.ns import Ns
from hostler.contracts.storage import IdmapMount, RootPlan
from hostler.core.errors import Conflict, HostlerError, NotFound
from hostler.core.limits import Limits
from hostler.core.specs import ContainerSpec, ExecSpec, IdRange, ImageSpec, Process
from hostler.core.units import MIB
from hostler.testing.arenas.arena import Arena, Scene
from hostler.testing.subjects import driver_class
from hostler.testing.zygote import Call

_NOT_THERE = "n0where"
_BUSYBOX = Path("/bin/busybox")
_LIMITS = Limits(memory=64 * MIB, pids=64)


class NsArena(Arena):
    """See the module."""

    one_thing = False
    small_records = True
    kill_rounds = 5
    settling = 0.3

    @property
    def apart(self) -> bool:
        """Not for the fake: its processes are records, and cannot end where none can be written."""
        return super().apart and not self.fake

    @property
    def ns(self) -> Ns:
        """The driver by its contract."""
        return cast(Ns, self.driver)

    @cached_property
    def limits(self) -> LimitsDriver:
        """Makes the cgroups. Raises :class:`LookupError` when the host can use no limits driver."""
        for name in ("fake",) if self.fake else ("cgroup2", "cgroup1"):
            found = cast(LimitsDriver, driver_class(f"limits:{name}")(self.recipe.host))
            if found.probe().usable:
                return found
        raise LookupError("no limits driver can be used here")

    def furnish(self) -> None:
        self.limits.setup()
        self._root = self.folder / "root"
        for name in ("bin", "etc", "tmp", "proc", "sys", "dev"):
            (self._root / name).mkdir(parents=True)
        (self._root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
        if not self.fake:
            shutil.copy(_BUSYBOX, self._root / "bin/busybox")
            for applet in subprocess.run([_BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split():
                if applet != "busybox":
                    (self._root / "bin" / applet).symlink_to("busybox")

    def container_spec(self, number: int, *args: str) -> ContainerSpec:
        """A container's spec."""
        return ContainerSpec(
            id=f"c00{number}",
            name=f"web{number}",
            account="acc0",
            ids=IdRange(base=3_000_000 + number * 65_536),
            image=ImageSpec(digest="sha256:" + "0" * 64, driver="rootfs", size=0),
            process=Process(args=args or ("sleep", "600")),
            limits=_LIMITS,
        )

    def making(self, number: int, *args: str) -> Call:
        """The call that makes a sandbox."""
        root = self.folder / f"root{number}"
        if not root.exists():
            shutil.copytree(self._root, root, symlinks=True)
        spec = self.container_spec(number, *args)
        cgroup = self.limits.create(spec.id, spec.limits)
        return "create", (spec, RootPlan(mounts=[IdmapMount(source=root, target="root")]), cgroup)

    def scenes(self, number: int = 0) -> list[Scene]:
        make, container = self.making(number), self.container_spec(number).id
        start: Call = ("start", (container,))
        drop: Call = ("forget", (container,))
        scenes = [
            Scene([], make, [drop], owner=container),
            Scene([make], start, [drop], owner=container),
            Scene([make, start], ("delete", (container,)), [drop]),
            Scene([make, start], drop),
        ]
        if self.ns.capabilities.freeze:
            scenes += [
                Scene([make, start], ("freeze", (container,)), [drop], owner=container),
                Scene([make, start, ("freeze", (container,))], ("thaw", (container,)), [drop], owner=container),
            ]
        return scenes

    def absent(self) -> list[tuple[Call, type[HostlerError] | None]]:
        cases: list[tuple[Call, type[HostlerError] | None]] = [
            (("inspect", (_NOT_THERE,)), None),
            (("signal", (_NOT_THERE, 15)), None),
            (("wait", (_NOT_THERE, 0.01)), None),
            (("delete", (_NOT_THERE,)), None),
            (("forget", (_NOT_THERE,)), None),
            (("start", (_NOT_THERE,)), NotFound),
        ]
        can = self.ns.capabilities
        if can.exec:
            cases.append((("exec", (_NOT_THERE, ExecSpec(args=("true",)))), Conflict))
        if can.freeze:
            cases.append((("freeze", (_NOT_THERE,)), Conflict))
        return cases

    def refusals(self) -> dict[str, list[Call]]:
        return {"freeze": [("freeze", ("c00r",)), ("thaw", ("c00r",))], "exec": [("exec", ("c00r", ExecSpec(args=("true",))))]}

    def hostile(self, name: str) -> list[Call]:
        return [("start", (name,)), ("inspect", (name,)), ("signal", (name, 0)), ("delete", (name,)), ("forget", (name,))]

    def until(self, container: str, state: str, seconds: float = 5) -> None:
        """Wait for a state."""
        deadline = time.monotonic() + seconds
        while (seen := self.ns.inspect(container).state) != state:
            assert time.monotonic() < deadline, f"{container} is {seen}, not {state}"
            time.sleep(0.01)

    def clear(self) -> None:
        if self.recipe.host.state_dir.exists():
            for _, owner in self.inventory():
                if owner:
                    self.ns.forget(owner)
            for item in self.limits.inventory():
                if item.owner:
                    self.limits.remove(item.owner)
            self.ns.teardown()
            self.limits.teardown()
