"""What a crash leaves is found, and nothing else is touched."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostler.host import mountinfo
from hostler.host.process import run
from hostler.node.lab import leftovers
from hostler.node.lab.layout import MARK


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """One of the home's, one that does not heed SIGTERM, one of another home, one of none."""
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    plain = "import time; print(flush=True); time.sleep(60)"
    made = [
        subprocess.Popen([sys.executable, "-c", code], env={MARK: home} if home else {}, stdout=subprocess.PIPE)
        for code, home in ((plain, str(tmp_path)), (deaf, str(tmp_path)), (plain, f"{tmp_path}-other"), (plain, ""))
    ]
    try:
        for one in made:
            assert one.stdout
            one.stdout.readline()
        yield made
    finally:
        for one in made:
            one.kill()
            one.communicate()


def test_only_the_home_s_processes_are_ended(tmp_path: Path, processes: list[subprocess.Popen[bytes]]) -> None:
    ours = sorted(one.pid for one in processes[:2])
    assert leftovers.marked_processes(tmp_path) == ours
    began = time.monotonic()
    assert leftovers.end_processes(tmp_path, patience=0.5) == 2
    assert time.monotonic() - began < 5
    assert [one.wait(5) for one in processes[:2]] == [-15, -9]
    assert [one.poll() for one in processes[2:]] == [None, None]
    assert leftovers.end_processes(tmp_path) == 0


def test_the_caller_is_never_among_them(tmp_path: Path) -> None:
    code = f"from pathlib import Path; from hostler.node.lab.leftovers import marked_processes; print(marked_processes(Path({str(tmp_path)!r})))"
    told = subprocess.run([sys.executable, "-c", code], env={MARK: str(tmp_path)}, capture_output=True, text=True, check=True)
    assert told.stdout == "[]\n"


@pytest.mark.lab
def test_mounts_and_loop_devices_below_the_home_are_released(tmp_path: Path) -> None:
    home, other = tmp_path / "home", tmp_path / "other"
    for folder in (home, other):
        (folder / "pool").mkdir(parents=True)
        run(["truncate", "--size", "16M", folder / "file"])
        run(["mkfs.ext4", "-q", folder / "file"])
        run(["mount", "-o", "loop", folder / "file", folder / "pool"])
    try:
        (home / "pool/inner").mkdir()
        run(["mount", "-t", "tmpfs", "none", home / "pool/inner"])
        assert leftovers.unmount_below(home) == [home / "pool", home / "pool/inner"]
        leftovers.detach_loops(home)
        points = {mount.point for mount in mountinfo.read()}
        assert home / "pool" not in points and other / "pool" in points
        attached = run(["losetup", "--list", "--noheadings", "--output", "BACK-FILE"]).text
        assert str(home) not in attached and str(other) in attached
        assert leftovers.unmount_below(home) == []
        assert leftovers.detach_loops(home) == []
    finally:
        for folder in (home, other):
            leftovers.unmount_below(folder)
            leftovers.detach_loops(folder)
