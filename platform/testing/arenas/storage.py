"""Environment of storage drivers: a pool, which they make themselves, and images."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from hostler.contracts.storage import IdmapMount, OverlayMount, Storage
from hostler.core.errors import HostlerError, NotFound
from hostler.core.units import MIB
from hostler.host import mounts
from hostler.testing import tenant
from hostler.testing.arenas.arena import Arena, Scene
from hostler.testing.content import Fill
from hostler.testing.fakes.storage import FakeStorage
from hostler.testing.zygote import Call

IMAGE, SIZE = "0123456789abcdef", 24 * MIB
_NOT_THERE = "n0where"


class StorageArena(Arena):
    """See the module."""

    @property
    def storage(self) -> Storage:
        """The driver by its contract."""
        return cast(Storage, self.driver)

    def furnish(self) -> None:
        self.storage.add_image(IMAGE, Fill())

    def scenes(self, number: int = 0) -> list[Scene]:
        volume, image = f"v0{number}", f"{number:016x}"
        make: Call = ("create", (volume, IMAGE, SIZE))
        drop: Call = ("delete", (volume,))
        scenes = [
            Scene([], ("add_image", (image, Fill(MIB))), [("remove_image", (image,))], owner=image),
            Scene([("add_image", (image, Fill()))], ("remove_image", (image,))),
            Scene([], make, [drop], owner=volume),
            Scene([make], drop),
        ]
        can = self.storage.capabilities
        if can.live_resize:
            scenes.append(Scene([make], ("resize", (volume, 2 * SIZE)), [drop], owner=volume))
        if can.snapshot:
            keep: Call = ("snapshot", (volume, "s1"))
            scenes += [
                Scene([make], keep, [drop], owner=volume),
                Scene([make, keep], ("delete_snapshot", (volume, "s1")), [drop], owner=volume),
                Scene([make, keep], ("rollback", (volume, "s1")), [drop], owner=volume),
                Scene([make, keep], ("clone", (volume, "s1", f"c0{number}", SIZE)), [("delete", (f"c0{number}",)), drop], owner=f"c0{number}"),
            ]
        return scenes

    def absent(self) -> list[tuple[Call, type[HostlerError] | None]]:
        cases: list[tuple[Call, type[HostlerError] | None]] = [
            (("delete", (_NOT_THERE,)), None),
            (("remove_image", (_NOT_THERE,)), None),
            (("usage", (_NOT_THERE,)), NotFound),
            (("create", ("v09", _NOT_THERE, SIZE)), NotFound),
        ]
        can = self.storage.capabilities
        if can.quota:
            cases.append((("resize", (_NOT_THERE, SIZE)), NotFound))
        if can.snapshot:
            cases += [(("snapshot", (_NOT_THERE, "s1")), NotFound), (("snapshots", (_NOT_THERE,)), NotFound)]
        return cases

    def refusals(self) -> dict[str, list[Call]]:
        self.storage.create("v0r", IMAGE, SIZE)
        return {
            "quota": [("resize", ("v0r", SIZE))],
            "snapshot": [
                ("snapshot", ("v0r", "s1")), ("snapshots", ("v0r",)), ("delete_snapshot", ("v0r", "s1")),
                ("rollback", ("v0r", "s1")), ("clone", ("v0r", "s1", "v0c", SIZE)),
            ],
            "send": [("send", ("v0r", "s1", io.BytesIO())), ("receive", ("v0d", "s1", io.BytesIO(b"x"), SIZE))],
        }  # fmt: skip

    def hostile(self, name: str) -> list[Call]:
        return [
            ("create", (name, IMAGE, SIZE)), ("add_image", (name, Fill())), ("create", ("v0h", name, SIZE)),
            ("usage", (name,)), ("root_plan", (name,)), ("delete", (name,)), ("remove_image", (name,)),
        ]  # fmt: skip

    # --- into a volume

    def write(self, volume: str, most: int) -> int:
        """Write, as a tenant may, until the volume is full or ``most`` bytes are in it; how many are. Raises other errors than that."""
        written, step = 0, 256 << 10
        with contextlib.ExitStack() as stack:
            root = None if isinstance(self.driver, FakeStorage) else stack.enter_context(self.root(volume))
            stack.enter_context(tenant.without_resource_override())
            try:
                while written < most:
                    self._put(root, volume, f"tmp/f{written // step}", step)
                    written += step
            except OSError as error:
                if error.errno not in (28, 122):
                    raise
        return written

    def _put(self, root: Path | None, volume: str, name: str, size: int) -> None:
        if root is None:
            assert isinstance(self.driver, FakeStorage)
            self.driver.put(volume, name, os.urandom(size))
            return
        with (root / name).open("wb", buffering=0) as file:
            file.write(os.urandom(size))
            os.fsync(file.fileno())

    @contextlib.contextmanager
    def root(self, volume: str) -> Iterator[Path]:
        """The folder that is the volume's root, as its plan says; ids are not shifted."""
        try:
            with self._mounted(volume) as folder:
                yield folder
        finally:
            self.storage.detach(volume)

    @contextlib.contextmanager
    def _mounted(self, volume: str) -> Iterator[Path]:
        plan = self.storage.root_plan(volume).mounts
        if len(plan) == 1 and isinstance(plan[0], IdmapMount):
            yield plan[0].source
            return
        scratch = Path(tempfile.mkdtemp(dir=self.folder))
        try:
            for mount in plan:
                (scratch / mount.target).mkdir(exist_ok=True)
                if isinstance(mount, IdmapMount):
                    mounts.bind(mount.source, scratch / mount.target)
                else:
                    mounts.mount("overlay", scratch / mount.target, "overlay", options=_options(scratch, mount))
            yield scratch / "root"
        finally:
            for made in mounts.mounts_below(scratch):
                mounts.unmount(made.point)


def _options(scratch: Path, mount: OverlayMount) -> str:
    lower = ":".join(str(scratch / part) for part in mount.lower)
    return f"lowerdir={lower},upperdir={scratch / mount.upper},workdir={scratch / mount.work}"
