"""What runs around the emulated machine: its console, its command, its list of packages. The machine itself is ``ops/test vm``."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def module(name: str) -> ModuleType:
    """A file of ops/vm."""
    found = importlib.util.spec_from_file_location(f"ops_vm_{name}", ROOT / f"ops/vm/{name}.py")
    assert found is not None and found.loader is not None
    made = importlib.util.module_from_spec(found)
    sys.modules[found.name] = made
    found.loader.exec_module(made)
    return made


def test_the_consoles_words_are_told_apart_however_they_are_cut() -> None:
    said = b"boot\r\n\r\n@@hostler begin 6.12.1 9.50\r\n=== test session ===\r\ntests/vm/a PASSED\r\n=== 1 passed ===\r\n@@hostler end 0\r\nbye\r\n"
    for step in (1, 7, len(said)):
        console = module("console").Console()
        shown = [line for at in range(0, len(said), step) for line in console.feed(said[at : at + step])]
        assert shown == ["  vm | boot", "  vm | kernel 6.12.1, up 9.50 s", "=== test session ===", "tests/vm/a PASSED", "=== 1 passed ===", "  vm | bye"]
        assert (console.status, console.broken) == (0, "")


@pytest.mark.parametrize(
    ("said", "why"),
    [(b"[ 1.2] Kernel panic - not syncing: x\n", "Kernel panic"), (b"@@hostler broken: no files\n", "no files"), (b"@@hostler end soon\n", "end soon")],
)
def test_a_machine_that_is_broken_says_why(said: bytes, why: str) -> None:
    console = module("console").Console()
    console.feed(said)
    assert console.ended and console.status is None
    assert why in console.broken


def test_a_status_other_than_0_is_kept() -> None:
    console = module("console").Console()
    console.feed(b"@@hostler begin 6.12.1 9\ntests/vm/a @@hostler end 1\n")
    assert console.status == 1


def test_a_machine_that_does_not_end_is_ended(tmp_path: Path) -> None:
    run = module("run")
    silent = subprocess.Popen(["sleep", "60"], stdout=subprocess.PIPE)
    try:
        console = run.follow(silent, tmp_path / "log", 0.005)
        assert "did not end" in console.broken
        run.end(silent, 0)
        assert silent.returncode == -9
    finally:
        silent.kill()
        silent.wait()


def test_machines_wait_for_each_other(tmp_path: Path) -> None:
    second = "import sys; sys.path.insert(0, sys.argv[1]); import run; from pathlib import Path\nwith run.alone(Path(sys.argv[2])): print('mine', flush=True)"
    with module("run").alone(tmp_path):
        waiting = subprocess.Popen([sys.executable, "-c", second, ROOT / "ops/vm", tmp_path], stdout=subprocess.PIPE, text=True)
        assert waiting.stdout is not None
        assert waiting.stdout.readline().startswith("another machine is at work")
    assert waiting.communicate(timeout=30)[0] == "mine\n"


def test_the_root_is_not_written_to(tmp_path: Path) -> None:
    words = module("run").qemu(tmp_path, *(tmp_path / name for name in ("files", "pool", "results")))
    assert f"file={tmp_path}/root.ext4,format=raw,if=virtio,snapshot=on" in words
    assert f"file={tmp_path}/files,format=raw,if=virtio,readonly=on" in words


def test_programs_of_the_machine_can_be_run() -> None:
    assert all(os.access(ROOT / "ops/vm" / name, os.X_OK) for name in ("image", "init", "guest"))
