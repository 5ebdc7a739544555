"""Runs the conformance suite as a plugin's author would: pytest in a process and a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run_suite(folder: Path, *drivers: str, env: Mapping[str, str] | None = None, words: tuple[str, ...] = ()) -> tuple[int, dict[str, set[str]], str]:
    """Exit status, the promises that each driver broke, and what was printed."""
    options = [word for driver in drivers for word in ("--driver", driver)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", "--pyargs", "hostler.testing", *options, *words],
        cwd=folder, env=os.environ | dict(env or {}), capture_output=True, text=True, timeout=170, check=False,
    )  # fmt: skip
    return done.returncode, broken(done.stdout, drivers), done.stdout + done.stderr


def broken(printed: str, drivers: tuple[str, ...]) -> dict[str, set[str]]:
    """The table's cells that say BROKEN."""
    lines = printed.splitlines()
    title = next((index for index, line in enumerate(lines) if line.startswith("promise ")), None)
    found: dict[str, set[str]] = {driver: set() for driver in drivers}
    if title is None:
        return found
    columns = {driver: lines[title].index(driver) for driver in drivers}
    for line in lines[title + 1 :]:
        for driver, column in columns.items():
            if line[column:].startswith("BROKEN"):
                found[driver].add(line.split()[0])
    return found
