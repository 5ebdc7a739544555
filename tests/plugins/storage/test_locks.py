"""Locks among threads and processes."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hostler.core.errors import Timeout
from hostler_plugins.storage.locks import if_free, locked


def test_one_thread_at_a_time_and_no_file_left(tmp_path: Path) -> None:
    inside, most = 0, 0
    guard = threading.Lock()

    def work(_: int) -> None:
        nonlocal inside, most
        for _ in range(20):
            with locked(tmp_path, "a"):
                with guard:
                    inside += 1
                    most = max(most, inside)
                time.sleep(0.0005)
                with guard:
                    inside -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert most == 1
    assert list(tmp_path.iterdir()) == []


def test_shared_holders_keep_out_a_sole_one(tmp_path: Path) -> None:
    with locked(tmp_path, "a", shared=True), locked(tmp_path, "a", shared=True):
        with pytest.raises(Timeout), locked(tmp_path, "a", patience=0.05):
            raise AssertionError("entered")
        with if_free(tmp_path, "a") as free:
            assert not free
    with if_free(tmp_path, "a") as free:
        assert free
        with pytest.raises(Timeout), locked(tmp_path, "a", shared=True, patience=0.05):
            raise AssertionError("entered")


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    program = f"""
import time
from pathlib import Path
from hostler_plugins.storage.locks import locked
with locked(Path({str(tmp_path)!r}), "a"):
    print("held", flush=True)
    time.sleep(60)
"""
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        with if_free(tmp_path, "a") as free:
            assert not free
    finally:
        child.kill()
        child.communicate(timeout=10)
    with if_free(tmp_path, "a") as free:
        assert free
