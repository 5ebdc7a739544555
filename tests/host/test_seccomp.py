"""Profiles as programs: asked of the kernel, in a process that gives itself the filter."""

from __future__ import annotations

import copy
import json
import platform
import stat
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hostler.core.errors import HostFailure, Unsupported
from hostler.host import seccomp
from hostler_plugins.ns import bundle

pytestmark = pytest.mark.skipif(not seccomp.available(), reason="libseccomp.so.2 is not installed")

_CONFINED = """
import ctypes, json, os, sys
program = open(sys.argv[1], "rb").read()
library = ctypes.CDLL(None, use_errno=True)
class Fprog(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_char_p)]
assert library.prctl(38, 1, 0, 0, 0) == 0
assert library.prctl(22, 2, ctypes.byref(Fprog(len(program) // 8, program)), 0, 0) == 0
found = []
for number, *words in json.loads(sys.argv[2]):
    ctypes.set_errno(0)
    library.syscall(ctypes.c_long(number), *(ctypes.c_long(word) for word in words))
    found.append(ctypes.get_errno())
print(json.dumps(found))
"""

EPERM, EBADF, ENOSYS = 1, 9, 38
GETPID, IOCTL, CLONE3, KEYCTL, SOCKET, UNSHARE = 39, 16, 435, 250, 41, 272


def errors(profile: dict[str, Any], folder: Path, *calls: tuple[int, ...]) -> list[int]:
    """The errno of each x86-64 system call under a profile."""
    file = seccomp.filter_file(profile, folder / "filters")
    done = subprocess.run([sys.executable, "-c", _CONFINED, file, json.dumps(calls)], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    found: list[int] = json.loads(done.stdout)
    return found


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers are those of x86-64")
def test_the_containers_profile(tmp_path: Path) -> None:
    calls = {
        (GETPID,): 0,
        (KEYCTL, 0, 0): EPERM,
        (UNSHARE, 0x10000000): EPERM,
        (CLONE3, 0, 0): ENOSYS,
        (9999,): ENOSYS,  # newer than the profile
        (SOCKET, 38, 5, 0): EPERM,  # AF_ALG
        (SOCKET, 1, 1, 0): 0,
        (IOCTL, 999, 0x50009418): EPERM,  # BTRFS_IOC_SUBVOL_CREATE_V2
        (IOCTL, 999, 0x5401): EBADF,
    }
    assert errors(bundle.seccomp(), tmp_path, *calls) == list(calls.values())


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers are those of x86-64")
def test_conditions_on_one_argument_are_alternatives(tmp_path: Path) -> None:
    one = {"index": 0, "op": "SCMP_CMP_EQ"}
    rule = {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77, "args": [one | {"value": 1}, one | {"value": 2}]}
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}
    assert errors(profile, tmp_path, (SOCKET, 1, 1, 0), (SOCKET, 2, 1, 0), (SOCKET, 999, 1, 0))[:2] == [77, 77]
    rule["args"] = [one | {"value": 1}, one | {"index": 1, "value": 2}]
    assert errors(profile, tmp_path, (SOCKET, 1, 1, 0), (SOCKET, 1, 2, 0)) == [0, 77]


def test_a_profile_is_compiled_once(tmp_path: Path) -> None:
    first = seccomp.filter_file(bundle.seccomp(), tmp_path / "filters")
    before = first.stat()
    assert seccomp.filter_file(copy.deepcopy(bundle.seccomp()), tmp_path / "filters") == first
    assert first.stat().st_ino == before.st_ino
    assert stat.S_IMODE(first.parent.stat().st_mode) == 0o700
    other = seccomp.filter_file(bundle.seccomp() | {"defaultErrnoRet": 13}, tmp_path / "filters")
    assert other != first
    assert sorted(first.parent.iterdir()) == sorted([first, other])
    assert len(first.read_bytes()) % struct.calcsize("=HBBI") == 0


def test_names_unknown_to_the_library_are_passed_over(tmp_path: Path) -> None:
    profile = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["getpid", "no_such_call"], "action": "SCMP_ACT_ALLOW"}]}
    plain = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["getpid"], "action": "SCMP_ACT_ALLOW"}]}
    assert seccomp.compiled(profile) == seccomp.compiled(plain)


def test_what_cannot_be_compiled_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="SCMP_ACT_NOTIFY"):
        seccomp.filter_file({"defaultAction": "SCMP_ACT_NOTIFY", "syscalls": []}, tmp_path / "filters")
    with pytest.raises(HostFailure, match="architecture"):
        seccomp.filter_file(bundle.seccomp() | {"architectures": ["SCMP_ARCH_ABACUS"]}, tmp_path / "filters")
    assert not (tmp_path / "filters").exists()
    (tmp_path / "file").touch()
    with pytest.raises(HostFailure, match="keep a compiled seccomp filter"):
        seccomp.filter_file(bundle.seccomp(), tmp_path / "file" / "filters")
