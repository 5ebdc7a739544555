"""Device programs of cgroup version 2: run by the kernel, on nodes that the host's root opens from within the cgroup."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostler.core.names import new_id
from hostler.host import cgroups, devices

#: Joins a cgroup, then does to a node what it is told; says the number of the error.
ACT = """
import os, stat, sys
folder, node, act = sys.argv[1:]
with open(folder + "/cgroup.procs", "w") as file:
    file.write("0")
try:
    if act.startswith("mknod"):
        os.mknod(node, (stat.S_IFCHR if act == "mknod-c" else stat.S_IFBLK) | 0o600, os.makedev(1, 3))
    else:
        os.close(os.open(node, {"r": os.O_RDONLY, "w": os.O_WRONLY, "rw": os.O_RDWR}[act] | os.O_NONBLOCK))
except OSError as error:
    print(error.errno)
else:
    print(0)
"""


def test_the_program_by_value() -> None:
    made = devices.program([(1, 3), (136, None)])
    assert len(made) == 8 * (13 + 4 + 3 + 2)
    jumps = [(number, *struct.unpack_from("=BBhi", made, number * 8)) for number in range(len(made) // 8)]
    ends = len(jumps)
    assert all(number + 1 + offset < ends for number, code, _, offset, _ in jumps if code in (0x15, 0x55)), "no jump leaves it"
    assert jumps[-1][1] == 0x95 and jumps[-2][4] == 0, "what is not on the list is refused"
    assert devices.program([]) == made[: 13 * 8] + made[-16:]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A cgroup of version 2 of the test's own."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    there = cgroups.hierarchies().get(cgroups.UNIFIED)
    if there is None:
        pytest.skip("cgroup version 2 is not mounted")
    made = (there.own.parent if there.own.name == "hostler-worker" else there.own) / f"devices-{new_id(6)}"
    made.mkdir()
    try:
        yield made
    finally:
        cgroups.remove(made)


def tried(folder: Path, node: Path, act: str) -> int:
    """Number of the error, 0 for none."""
    return int(subprocess.run([sys.executable, "-c", ACT, folder, node, act], capture_output=True, text=True, check=True, timeout=60).stdout)


@pytest.fixture
def kmsg(tmp_path: Path) -> Path:
    """A node of /dev/kmsg of the test's own."""
    node = tmp_path / "kmsg"
    os.mknod(node, stat.S_IFCHR | 0o600, os.makedev(1, 11))
    return node


@pytest.mark.lab
def test_what_is_on_the_list_can_be_used_and_nothing_else(folder: Path, kmsg: Path, tmp_path: Path) -> None:
    null, zero = Path("/dev/null"), Path("/dev/zero")
    assert [tried(folder, one, "r") for one in (null, zero, kmsg)] == [0, 0, 0], "before it is held"
    devices.hold(folder, [(1, 3), (5, None)])
    assert [tried(folder, null, act) for act in ("r", "w", "rw")] == [0, 0, 0]
    assert [tried(folder, one, "r") for one in (zero, kmsg)] == [errno.EPERM] * 2
    assert [tried(folder, tmp_path / act, act) for act in ("mknod-c", "mknod-b")] == [errno.EPERM] * 2, "nodes of allowed numbers too are not made"
    assert tried(folder, Path("/dev/ptmx"), "rw") == 0, "every minor of a major"


@pytest.mark.lab
def test_it_holds_below_and_twice_is_once(folder: Path, kmsg: Path) -> None:
    devices.hold(folder, [(1, 3)])
    once = devices.programs(folder)
    devices.hold(folder, [(1, 3)])
    assert devices.programs(folder) == once and len(once) == 1
    below = folder / "below"
    below.mkdir()
    assert devices.programs(below) == []
    assert tried(below, kmsg, "r") == errno.EPERM


@pytest.mark.lab
def test_a_wider_program_beside_it_widens_nothing(folder: Path, kmsg: Path) -> None:
    devices.hold(folder, [(1, 3), (1, 11), (1, 5)])
    devices.hold(folder, [(1, 3), (1, 5)])
    assert len(devices.programs(folder)) == 2
    assert [tried(folder, one, "r") for one in (Path("/dev/zero"), kmsg)] == [0, errno.EPERM]


@pytest.mark.lab
def test_one_that_suffers_no_other_is_replaced(folder: Path, kmsg: Path) -> None:
    handle, theirs = os.open(folder, os.O_RDONLY), devices._loaded(devices.program([(1, 11)]))
    try:
        words = ctypes.create_string_buffer(struct.pack("=IIII", handle, theirs, 6, 0))
        assert ctypes.CDLL(None).syscall(devices._SYSCALL[os.uname().machine], 8, words, 16) == 0
    finally:
        os.close(handle)
        os.close(theirs)
    assert tried(folder, kmsg, "r") == 0
    devices.hold(folder, [(1, 3)])
    assert [tried(folder, one, "r") for one in (Path("/dev/null"), kmsg)] == [0, errno.EPERM]


@pytest.mark.lab
def test_without_the_cgroup(folder: Path) -> None:
    with pytest.raises(FileNotFoundError):
        devices.hold(folder / "absent", [(1, 3)])
