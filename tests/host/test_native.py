"""The programs in C: how they are built, and what they refuse."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from hostler.core.errors import HostFailure, Unsupported
from hostler.host import native


@pytest.fixture(scope="module")
def libexec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("libexec")
    native.build(folder)
    return folder


def launch(libexec: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([libexec / "hostler-launch", *words], capture_output=True, text=True, timeout=20)


def test_build_is_idempotent_and_whole(libexec: Path) -> None:
    before = {path.name: path.stat().st_ino for path in libexec.iterdir()}
    assert sorted(before) == sorted(native.PROGRAMS)
    native.build(libexec)
    assert {path.name: path.stat().st_ino for path in libexec.iterdir()} == before
    os.utime(libexec / "hostler-init", (1, 1))
    native.build(libexec)
    assert (libexec / "hostler-init").stat().st_ino != before["hostler-init"]
    assert sorted(path.name for path in libexec.iterdir()) == sorted(before)


def test_build_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unsupported, match="no C compiler"):
        native.build(tmp_path / "x")


def test_build_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho no good >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(HostFailure, match="no good"):
        native.build(tmp_path / "x")
    assert list((tmp_path / "x").iterdir()) == []


def test_command_line(tmp_path: Path) -> None:
    from hostler.host.native.__main__ import main

    assert main([str(tmp_path)]) == 0
    assert main([]) == 2
    assert os.access(tmp_path / "hostler-init", os.X_OK)


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--",),
        ("--scratch", "/mnt"),
        ("--what", "--", "true"),
        ("--idmap", "a", "b", "--", "true"),
        ("--overlay", "a", "b", "c", "--", "true"),
    ],
)
def test_launch_refuses_wrong_options(libexec: Path, words: tuple[str, ...]) -> None:
    result = launch(libexec, *words)
    assert result.returncode == 2
    assert result.stderr.startswith("hostler-launch: ")


@pytest.mark.lab
def test_launch_mounts_are_private(libexec: Path, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume/file").write_text("mine")
    options = ["--scratch", str(tmp_path / "scratch"), "--ids", "2000000", "65536", "--idmap", str(tmp_path / "volume"), "root"]
    result = launch(libexec, *options, "--", "stat", "-c", "%u", str(tmp_path / "scratch/root/file"))
    assert (result.returncode, result.stdout, result.stderr) == (0, "2000000\n", "")
    assert list((tmp_path / "scratch").iterdir()) == []
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


@pytest.mark.lab
def test_launch_overlay_of_shifted_layers(libexec: Path, tmp_path: Path) -> None:
    for name in ("scratch", "one", "two", "data/upper", "data/work"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "one/a").write_text("one")
    (tmp_path / "two/a").write_text("two")
    (tmp_path / "two/b").write_text("two")
    options = ["--scratch", str(tmp_path / "scratch"), "--ids", "2000000", "65536"]
    for name in ("one", "two", "data"):
        options += ["--idmap", str(tmp_path / name), name]
    options += ["--overlay", "one:two", "data/upper", "data/work", "root"]
    script = f"cd {tmp_path}/scratch/root; cat a b; stat -c ' %u' a; setpriv --reuid 2000000 --clear-groups rm a"
    result = launch(libexec, *options, "--", "sh", "-c", script)
    assert (result.stdout, result.stderr) == ("onetwo 2000000\n", "")
    assert [path.name for path in (tmp_path / "data/upper").iterdir()] == ["a"]


@pytest.mark.lab
@pytest.mark.parametrize("target", ["/etc", "../x", "a/../../x"])
def test_launch_mounts_below_the_scratch_folder_only(libexec: Path, tmp_path: Path, target: str) -> None:
    options = ["--scratch", str(tmp_path), "--ids", "2000000", "65536", "--idmap", str(tmp_path), target]
    result = launch(libexec, *options, "--", "true")
    assert result.returncode == 1
    assert "outside of the scratch folder" in result.stderr


@pytest.mark.lab
def test_launch_ends_with_its_caller(libexec: Path, tmp_path: Path) -> None:
    script = f"{libexec}/hostler-launch --scratch {tmp_path} -- sleep 4711 & echo $!; wait"
    caller = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True)
    assert caller.stdout is not None
    pid = int(caller.stdout.readline())
    deadline = time.monotonic() + 5
    while "sleep" not in Path(f"/proc/{pid}/comm").read_text():
        assert time.monotonic() < deadline
    caller.kill()
    caller.wait()
    while Path(f"/proc/{pid}/stat").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
