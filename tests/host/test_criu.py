"""Which CRIU goes with which kernel, by value; the shell's rule is the same."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from hostler.host import criu

SCRIPT = Path(__file__).resolve().parents[2] / "ops/lib/criu.sh"
CASES = [
    ("4.2", "6.18.0", False), ("4.2.1", "6.16.0-1-amd64", False), ("10.0", "7.1.0", False), ("4.1.1", "6.16.0", True), ("4.1.1", "6.18.5-cloud", True), ("4.1.1", "7.0.1", True),
    ("4.1.1", "6.12.107+deb13-cloud-amd64", False), ("4.0", "6.15.9", False), ("4.1", "6.6", False), ("3.19", "6.12.0", True), ("3.17.1", "6.1.0-30-amd64", True), ("", "6.12.0", True),
]  # fmt: skip


@pytest.mark.parametrize(("version", "kernel", "old"), CASES)
def test_which_criu_is_too_old_for_which_kernel(version: str, kernel: str, old: bool) -> None:
    assert criu.too_old(version, kernel) is old
    said = subprocess.run(["bash", "-euc", f"CHECKOUT=/; . {SCRIPT}; ! new_enough '{version}' '{kernel}'"], timeout=20)
    assert (said.returncode == 0) is old


def test_the_oldest_is_named_for_a_person() -> None:
    assert [criu.oldest(kernel) for kernel in ("6.12.107+deb13", "6.16.0", "5.15")] == ["4.0", "4.2", "4.0"]
    assert [criu.numbers(text) for text in ("6.18.0-rc1", "4.2", "", "git")] == [(6, 18, 0), (4, 2), (), ()]
