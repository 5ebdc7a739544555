"""``ops/up`` and ``ops/down`` from end to end, beside whatever else runs on this machine: a home, an id and a network of its own."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from tests.lab.machine import PORT, Apart, wait_until
from tests.lab.machine import apart as a_machine

pytestmark = [pytest.mark.lab, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def apart() -> Iterator[Apart]:
    with a_machine("hst-up-") as made:
        yield made


def test_up_brings_everything_up_and_says_how_to_go_on(apart: Apart) -> None:
    told = apart.ops("up")
    assert {state.state for state in apart.programs().values()} <= {"RUNNING", "STARTING"}
    token = apart.lab.first_login.read_text().strip()
    assert f"login http://127.0.0.1:{PORT} --token {token}" in told
    assert apart.lab.first_login.stat().st_mode & 0o777 == 0o600
    for server in apart.lab.servers:
        assert f"server {server} is online" in told
    assert apart.lab.control.stat().st_mode & 0o777 == 0o700


def test_up_again_changes_nothing_and_is_quick(apart: Apart) -> None:
    before, began = apart.pids(), time.monotonic()
    apart.ops("up")
    assert time.monotonic() - began < 15
    assert apart.pids() == before


def test_a_program_that_dies_is_started_again(apart: Apart) -> None:
    before = apart.pids()
    os.kill(before["node-alpha"], signal.SIGKILL)
    wait_until(lambda: apart.pids()["node-alpha"] not in (0, before["node-alpha"]), 20)
    assert {name for name, pid in apart.pids().items() if pid != before[name]} == {"node-alpha"}


def test_down_works_after_the_supervisor_was_killed_and_leaves_nothing(apart: Apart) -> None:
    os.kill(int(apart.lab.supervisor_pid.read_text()), signal.SIGKILL)
    apart.ops("down")
    assert apart.left() == []
    assert (apart.lab.control / "store.sqlite3").is_file()
    apart.ops("down")


def test_what_was_there_is_there_again_and_purge_deletes_it(apart: Apart) -> None:
    token = apart.lab.first_login.read_text()
    apart.ops("up")
    assert apart.lab.first_login.read_text() == token
    apart.ops("down", "--purge")
    assert apart.left() == []
    assert not apart.lab.home.exists()
    apart.ops("down", "--purge")
