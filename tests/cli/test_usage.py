"""Usage in words."""

from __future__ import annotations

from typing import Any

from hostler.cli.usage import reasons, used_in_words
from hostler.core.api import UsageOut
from hostler.core.limits import Limits
from hostler.core.units import MIB

LIMITS = Limits(cpu=0.5, memory=64 * MIB, swap=16 * MIB, pids=50, disk=100 * MIB)


def used(**values: Any) -> UsageOut:
    return UsageOut(running=True, **values)


def rows(limits: Limits, usage: UsageOut) -> dict[str, str]:
    return {title: str(text) for title, text in used_in_words(limits, usage)}


def test_what_is_used_stands_against_its_limit_with_marks_and_counts() -> None:
    usage = used(
        memory=30 * MIB, memory_peak=64 * MIB, memory_limit_hits=7, oom_kills=2, swap=MIB, swap_peak=2 * MIB, cpu_ns=3_500_000_000,
        cpu_throttled_ns=1_250_000_000, cpu_throttled_periods=40, pids=4, pids_peak=50, pids_limit_hits=1, cpu_pressure=41.7, disk=20 * MIB,
    )
    said = rows(LIMITS, usage)
    assert said["memory"] == "30M of 64M, at most 64M, limit hit 7 times"
    assert said["killed for memory"] == "2"
    assert said["swap"] == "1M of 16M, at most 2M"
    assert said["cpu"] == "3.50 s used, cap 0.5, held back 40 times for 1.25 s in all"
    assert said["pids"] == "4 of 50, at most 50, limit hit once"
    assert said["waited"] == "42% for cpu in the last 10 s"
    assert said["disk"] == "20M of 100M"


def test_without_limits() -> None:
    said = rows(Limits(), used(memory=MIB, memory_peak=2 * MIB, pids=3))
    assert (said["memory"], said["pids"]) == ("1M, no limit, at most 2M", "3, no limit")
    assert "no cap" in said["cpu"]
    assert "waited" not in said


def test_of_one_that_does_not_run_only_the_disk_is_known() -> None:
    assert used_in_words(LIMITS, UsageOut(running=False, disk=MIB)) == [("disk", "1M of 100M")]


def test_nothing_is_blamed_when_no_limit_was_in_the_way() -> None:
    assert reasons("web", LIMITS, used(memory=MIB, memory_peak=10 * MIB, cpu_ns=10, pids=4, cpu_pressure=3.0, disk=MIB)) == []


def test_each_reason_is_told_with_what_helps() -> None:
    hit = {
        "oom_kills": "2 processes were killed because more than 80M",
        "swap_limit_hits": "its swap was full 2 times",
        "cpu_throttled_periods": "held back 2 times",
        "pids_limit_hits": "2 times a new process or thread was refused, 50 being the most",
    }
    for field, words in hit.items():
        (reason,) = reasons("web", LIMITS, used(**{field: 2}))
        assert words in reason and "hostler resize web --" in reason, field
    for field, words in {"cpu_pressure": "waited for a processor", "memory_pressure": "waited for memory", "io_pressure": "waited for the disk"}.items():
        (reason,) = reasons("web", LIMITS, used(**{field: 55.4}))
        assert reason.startswith("55% of the last 10 s") and words in reason
    assert "its memory was full" in reasons("web", LIMITS, used(memory_peak=63 * MIB))[0]
    assert "disk is full" in reasons("web", LIMITS, used(disk=99 * MIB))[0]
    assert len(reasons("web", LIMITS, used(oom_kills=1, memory_limit_hits=9, memory_peak=64 * MIB))) == 1
