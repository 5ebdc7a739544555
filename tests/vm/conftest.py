"""Tests for the machine that ``ops/test vm`` boots: a stock kernel, cgroup version 2 alone, root with every capability.

Any ``test_*.py`` put here runs there, and there alone: elsewhere this folder is not looked at.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostler.core.specs import DriverNames
from tests.vm.node import Node, booted

collect_ignore_glob = [] if os.environ.get("HOSTLER_VM") else ["test_*.py"]

#: Folder of the compiled programs, as ``ops/install`` makes them.
_COMPILED = Path(__file__).resolve().parents[2] / ".tools/libexec"


@pytest.fixture(scope="session")
def libexec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled programs where CRIU sees them: the checkout is below /run here."""
    return shutil.copytree(_COMPILED, tmp_path_factory.mktemp("programs") / "libexec")


@pytest.fixture(scope="session")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive with busybox, as the recipe of that name makes it."""
    root = tmp_path_factory.mktemp("rootfs")
    for name in ("bin", "etc", "tmp", "proc", "sys", "dev", "root"):
        (root / name).mkdir()
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for applet in subprocess.run(["/bin/busybox", "--list"], capture_output=True, text=True, check=True).stdout.split():
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    (root / "tmp").chmod(0o1777)
    archive = tmp_path_factory.mktemp("archive") / "busybox.tar"
    subprocess.run(["tar", "--numeric-owner", "-cf", archive, "-C", root, "."], check=True)
    return archive


@pytest.fixture
def node(request: pytest.FixtureRequest, tmp_path: Path, libexec: Path, rootfs: Path) -> Iterator[Node]:
    """A server with every installed driver and a running watch. Parametrize it, indirectly, with the drivers of its containers."""
    names: DriverNames = request.param
    with booted(tmp_path, libexec, rootfs, names) as made:
        yield made
