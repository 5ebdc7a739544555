"""Overlays on a file system that enforces project quotas: which calls are made. The calls themselves are tested by value in
``tests/host/test_projects.py``; a kernel that has them is not needed here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostler.contracts.driver import Host
from hostler.core.errors import Conflict
from hostler.core.units import MIB
from hostler.host import projects
from hostler.host.projects import Count
from hostler_plugins.storage.overlay import Overlay
from tests.plugins.storage.content import IMAGE, fill

pytestmark = pytest.mark.lab


class Kernel:
    """Projects of folders, by inode, and counts of projects."""

    def __init__(self) -> None:
        self.projects: dict[int, int] = {}
        self.counts: dict[int, Count] = {}

    def project_of(self, folder: int) -> int:
        """Of the folder alone: it hands nothing down."""
        return self.projects.get(os.fstat(folder).st_ino, 0)

    def set_project(self, folder: int, project: int) -> None:
        """As the kernel does, the folder must be empty for all in it to be counted."""
        assert os.listdir(folder) == []
        self.projects[os.fstat(folder).st_ino] = project

    def count(self, _fd: int, project: int) -> Count:
        """None is counted at first."""
        return self.counts.get(project, Count(0, 0, None))

    def limit(self, fd: int, project: int, size: int | None) -> None:
        """Set or lift."""
        now = self.count(fd, project)
        self.counts[project] = Count(now.used, now.files, size)

    def write(self, volume: Path, used: int) -> None:
        """As if the tenant had."""
        project = self.projects[volume.stat().st_ino]
        self.counts[project] = Count(used, 3, self.counts[project].limit)

    @property
    def limits(self) -> list[int]:
        """All that are set."""
        return [count.limit for count in self.counts.values() if count.limit is not None]


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """In place of the real one."""
    made = Kernel()
    monkeypatch.setattr(projects, "enforced_on", lambda _mount: True)
    for name in ("project_of", "set_project", "count", "limit"):
        monkeypatch.setattr(projects, name, getattr(made, name))
    return made


@pytest.fixture
def overlay(kernel: Kernel, tmp_path: Path) -> Iterator[Overlay]:
    """With one image."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    driver = Overlay(Host(installation="test", node="alpha", state_dir=tmp_path / "state", libexec=tmp_path))
    driver.setup()
    driver.add_image(IMAGE, fill)
    yield driver


def test_a_volume_is_a_project_held_to_its_size(overlay: Overlay, kernel: Kernel) -> None:
    assert overlay.capabilities.quota
    assert overlay.capabilities.live_resize
    overlay.create("v1", IMAGE, 16 * MIB)
    overlay.create("v2", IMAGE, None)
    first, second = (kernel.projects[overlay._layout.volume(name).stat().st_ino] for name in ("v1", "v2"))
    assert first != second
    assert min(first, second) >= 1 << 30
    kernel.write(overlay._layout.volume("v1"), 10 * MIB)
    used = overlay.usage("v1")
    assert (used.used, used.limit, used.inodes) == (10 * MIB, 16 * MIB, 3)
    assert overlay.usage("v2").limit is None
    with pytest.raises(Conflict):
        overlay.resize("v1", 8 * MIB)
    with pytest.raises(Conflict):
        overlay.create("v1", IMAGE, 8 * MIB)
    assert overlay.usage("v1").limit == 16 * MIB
    overlay.create("v1", IMAGE, 32 * MIB)
    assert overlay.usage("v1").limit == 32 * MIB
    overlay.delete("v1")
    overlay.delete("v1")
    assert kernel.limits == []


def test_a_failed_or_killed_create_leaves_no_limit(overlay: Overlay, kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object, **__: object) -> None:
        raise OSError(5, "a write error")

    with monkeypatch.context() as broken:
        broken.setattr(os, "symlink", failing)
        with pytest.raises(Exception, match="write error"):
            overlay.create("v1", IMAGE, 16 * MIB)
    assert kernel.limits == []
    overlay.create("v1", IMAGE, 16 * MIB)
    overlay._layout.volume("v1").rename(overlay._layout.volumes / ".draft-v1")
    overlay.setup()
    assert kernel.limits == []
    assert [item.name for item in overlay.inventory()] == [f"images/{IMAGE}"]
