"""What moving needs of a kernel: Debian 13's has it, and its CRIU finds it."""

from __future__ import annotations

import subprocess

import pytest

pytestmark = pytest.mark.lab


@pytest.mark.parametrize("feature", ["mem_dirty_track", "uffd-noncoop", "pagemap_scan"])
def test_the_kernel_has_what_moving_needs(feature: str) -> None:
    told = subprocess.run(["criu", "check", "--feature", feature], capture_output=True, text=True, timeout=60)
    assert told.returncode == 0, told.stdout + told.stderr
