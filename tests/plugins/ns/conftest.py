"""Fixtures of the ns and limits drivers: helpers compiled once, a root file system, a node of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostler.contracts.driver import Host
from hostler.core.names import new_id
from hostler.host import native
from hostler_plugins.ns.crun import Crun
from hostler_plugins.ns.oci import Oci
from hostler_plugins.ns.runc import Runc
from tests.plugins.ns.world import World, limits_driver

BUSYBOX = Path("/bin/busybox")


@pytest.fixture(scope="session")
def libexec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The helpers in C, compiled once."""
    folder = tmp_path_factory.mktemp("libexec")
    native.build(folder)
    return folder


@pytest.fixture(scope="session")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system: busybox, a passwd, and a symbolic link in /etc that climbs out."""
    if not BUSYBOX.exists():
        pytest.skip("busybox-static is not installed")
    root = tmp_path_factory.mktemp("rootfs")
    for folder in ("bin", "etc", "tmp", "home/ada", "proc", "sys", "dev"):
        (root / folder).mkdir(parents=True)
    shutil.copy(BUSYBOX, root / "bin/busybox")
    for applet in subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split():
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nada:x:1815:1852::/home/ada:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nengines:x:1852:\nanalysts:x:1871:ada\n")
    (root / "etc/hosts").symlink_to("../../../../../../etc/escaped-hosts")
    (root / "tmp").chmod(0o1777)
    root.chmod(0o755)
    return root


@pytest.fixture(params=[Runc, Crun], ids=["runc", "crun"])
def driver(request: pytest.FixtureRequest) -> type[Oci]:
    """Each ns driver in turn."""
    given: type[Oci] = request.param
    return given


@pytest.fixture
def world(driver: type[Oci], libexec: Path, rootfs: Path, tmp_path: Path) -> Iterator[World]:
    """A node of its own installation; everything is removed in the end."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    if not limits_driver()(Host(installation="probe", node="alpha", state_dir=tmp_path / "state", libexec=libexec)).probe().usable:
        pytest.skip("this host hands down no memory, cpu and pids controllers")
    if shutil.which(driver.program) is None:
        pytest.skip(f"{driver.program} is not installed")
    one = World(Host(installation=new_id(6), node="alpha", state_dir=tmp_path / "state", libexec=libexec), rootfs, driver)
    try:
        one.ns.setup()
        yield one
    finally:
        one.down()
