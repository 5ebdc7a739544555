"""Pre-copy needs a kernel that tracks what was written: Debian 13's does, and its CRIU makes use of it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostler.core.units import MIB

pytestmark = pytest.mark.lab

#: Fills 48 MB, then writes to the first 2 MB of them again and again, counting aloud.
WRITER = """
import sys, time
memory = bytearray(b"x" * (48 << 20))
turn = 0
while True:
    turn += 1
    memory[0 : 2 << 20] = bytes([turn % 251]) * (2 << 20)
    with open(sys.argv[1], "w") as file:
        file.write(str(turn))
    time.sleep(0.05)
"""


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """A process in a session of its own that writes to its memory, and the file in which it counts."""
    counter = tmp_path / "turn"
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(counter)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 60
        while not counter.exists():
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)
        yield process.pid, counter
    finally:
        process.kill()
        process.wait()


def criu(*words: str | Path) -> None:
    """Run CRIU; its log tells what went wrong."""
    told = subprocess.run(["criu", *map(str, words)], capture_output=True, text=True, timeout=300)
    assert told.returncode == 0, told.stdout[-2000:] + told.stderr[-2000:]


def pages(folder: Path) -> int:
    """Bytes of memory in a dump."""
    return sum(file.stat().st_size for file in folder.glob("pages-*.img"))


@pytest.mark.parametrize("feature", ["mem_dirty_track", "uffd-noncoop", "pagemap_scan"])
def test_the_kernel_has_what_moving_needs(feature: str) -> None:
    criu("check", "--feature", feature)


def test_a_second_round_sends_only_what_was_written_since(writer: tuple[int, Path], tmp_path: Path) -> None:
    pid, counter = writer
    folders = [tmp_path / f"round{number}" for number in range(3)]
    for number, folder in enumerate(folders):
        folder.mkdir()
        since = ["--prev-images-dir", f"../round{number - 1}"] if number else []
        criu("pre-dump", "--tree", str(pid), "--images-dir", folder, "--track-mem", "-v4", "--log-file", "dump.log", *since)
        before = counter.read_text()
        deadline = time.monotonic() + 30
        while counter.read_text() in ("", before):
            assert time.monotonic() < deadline, "the process stood still after the dump"
            time.sleep(0.05)
    first, *later = (pages(folder) for folder in folders)
    assert first > 48 * MIB
    assert all(2 * MIB <= size < first / 4 for size in later), (first, later)
