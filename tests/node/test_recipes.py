"""Recipes: what they make works, holds nothing of this machine, and a failure leaves nothing."""

from __future__ import annotations

import io
import os
import shutil
import socket
import struct
import subprocess
from pathlib import Path

import pytest

from hostler.contracts.driver import Host
from hostler.contracts.images import UnpackLimits
from hostler.core.errors import HostFailure, Invalid, Unsupported
from hostler.core.units import MIB
from hostler.node import recipes
from hostler.node.busybox import check_static, write_busybox
from hostler_plugins.images.rootfs import Rootfs


@pytest.fixture
def driver(tmp_path: Path) -> Rootfs:
    """The driver that unpacks what recipes make."""
    return Rootfs(Host(installation="test", node="n1", state_dir=tmp_path / "state", libexec=tmp_path))


def inside(root: Path, *command: str) -> str:
    return subprocess.run(["chroot", root, *command], check=True, capture_output=True, text=True, timeout=30).stdout


def test_an_unknown_recipe_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(Invalid) as caught:
        recipes.build("../etc", tmp_path)
    assert caught.value.hint == "known are: busybox, debian"
    assert os.listdir(tmp_path) == []


def test_recipes_say_what_they_are() -> None:
    for name, recipe in recipes.RECIPES.items():
        assert (recipe.name, bool(recipe.description), bool(recipe.packages)) == (name, True, True)


@pytest.mark.lab
def test_busybox_is_the_same_every_time_and_runs(tmp_path: Path, driver: Rootfs) -> None:
    lines: list[str] = []
    for name in ("one", "two", "root"):
        (tmp_path / name).mkdir()
    archives = [recipes.build("busybox", tmp_path / name, progress=lines.append) for name in ("one", "two")]
    assert archives[0].read_bytes() == archives[1].read_bytes()
    assert os.listdir(tmp_path / "one") == ["busybox.tar.zst"]
    assert "applets" in lines[0]
    assert driver.accepts(archives[0])
    root = tmp_path / "root"
    driver.unpack(archives[0], root, UnpackLimits(bytes=8 * MIB, entries=1000))
    assert inside(root, "/bin/sh", "-c", "id -un; ls -d /tmp; which httpd; cat /etc/hostname") == "root\n/tmp\n/usr/sbin/httpd\n"
    assert (root / "tmp").stat().st_mode & 0o7777 == 0o1777


def elf(kind: int) -> bytes:
    """A 64-bit little-endian ELF header with one program header of this type."""
    head = b"\x7fELF\x02\x01".ljust(32, b"\0") + struct.pack("<QQIHHH", 64, 0, 0, 64, 56, 1)
    return head.ljust(64, b"\0") + struct.pack("<I", kind).ljust(56, b"\0")


def test_a_busybox_that_needs_libraries_is_refused(tmp_path: Path) -> None:
    check_static(elf(1), Path("busybox"))
    program = tmp_path / "busybox"
    for content in (elf(3), b"#!/bin/sh"):
        program.write_bytes(content)
        with pytest.raises(Unsupported) as caught:
            write_busybox(io.BytesIO(), program, ["bin/sh"])
        assert "busybox-static" in caught.value.hint


def test_a_missing_program_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unsupported, match="mmdebstrap") as caught:
        recipes.build("debian", tmp_path)
    assert "package mmdebstrap" in caught.value.hint
    assert os.listdir(tmp_path) == []


def test_a_failing_build_shows_the_reason_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("apt-config", "apt-get", "tar"):
        found = shutil.which(name)
        assert found is not None
        (programs / name).symlink_to(found)
    failing = programs / "mmdebstrap"
    failing.write_text("#!/bin/sh\necho Get:1 http://joe:hunter2@mirror.invalid/\necho 'E: no space on mirror' >&2\nexit 25\n")
    failing.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    work = tmp_path / "work"
    work.mkdir()
    lines: list[str] = []
    with pytest.raises(HostFailure, match="status 25: .*no space on mirror") as caught:
        recipes.build("debian", work, progress=lines.append)
    assert os.listdir(work) == []
    assert "Get:1 http://mirror.invalid/" in lines
    assert "hunter2" not in caught.value.message + caught.value.hint + "".join(lines)


TARGETS = """\
http://mirror.example/debian/|bookworm|main|Debian
http://mirror.example/debian/|bookworm|contrib|Debian
http://mirror.example/debian/|bookworm-updates|main|Debian
http://mirror.example/debian/|bookworm-backports|main|Debian
http://mirror.example/security/|bookworm-security|main|$(ORIGIN)
http://other.example/docker/|bookworm|main|Docker
http://mirror.example/debian/|sid|main|Debian
http://mirror.example/debian/|bookworm|main|Debian
"""


def test_only_the_release_of_the_distribution_is_taken() -> None:
    assert recipes.release_sources(TARGETS, "bookworm", "debian") == [
        "deb http://mirror.example/debian/ bookworm main",
        "deb http://mirror.example/debian/ bookworm-updates main",
        "deb http://mirror.example/security/ bookworm-security main",
    ]
    assert recipes.release_sources("", "bookworm", "debian") == []


@pytest.mark.lab
@pytest.mark.timeout(400)
def test_debian_works_and_knows_nothing_of_this_machine(tmp_path: Path, driver: Rootfs) -> None:
    lines: list[str] = []
    work, root = tmp_path / "work", tmp_path / "root"
    work.mkdir()
    root.mkdir()
    archive = recipes.build("debian", work, netns="/proc/self/ns/net", progress=lines.append)
    assert os.listdir(work) == [archive.name]
    assert any("success" in line for line in lines)
    unpacked = driver.unpack(archive, root, UnpackLimits())
    assert unpacked.bytes < 120 * MIB
    assert os.listdir(root / "dev") == []
    assert inside(root, "sh", "-c", "busybox --list | grep -x httpd; apt-get --version | head -c 3; ip -V | head -c 2") == "httpd\naptip"
    assert inside(root, "dpkg", "--audit") == ""
    for name in ("etc/machine-id", "etc/hostname", "etc/resolv.conf"):
        assert (root / name).read_bytes() == b"", name
    assert [path.name for path in (root / "var/lib/apt/lists").iterdir() if path.is_file() and path.stat().st_size] == []
    assert "localhost" in (root / "etc/hosts").read_text()
    if len(host := socket.gethostname()) > 4:  # a shorter name would be found in any text
        assert subprocess.run(["grep", "-rIlw", host, root / "etc"], capture_output=True, text=True).stdout == ""
    assert str(tmp_path) not in "".join(path.read_text() for path in (root / "etc/apt").rglob("*.list"))
