"""Units, names, limits and lifecycle by value."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hostler.core.errors import Conflict, ErrorReport, Invalid, NoRoom
from hostler.core.lifecycle import State, check_allowed
from hostler.core.limits import Limits, LimitsChange
from hostler.core.names import check_name, link_name, new_id
from hostler.core.units import format_rate, format_size, parse_rate, parse_size


@pytest.mark.parametrize(("text", "size"), [("512M", 512 << 20), ("1.5G", 3 << 29), ("4096", 4096), ("10GiB", 10 << 30), ("2k", 2048), (7, 7)])
def test_sizes(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "-1", "1Q", "12 34", "9999999P", "1e9", "nan", "٣M" + "x"])
def test_what_is_no_size_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_size(text)
    assert caught.value.hint


def test_rates_are_decimal() -> None:
    assert parse_rate("100Mbit") == 100_000_000 and parse_rate("1G") == 10**9 and format_rate(1_500_000_000) == "1.5Gbit"


@given(st.integers(0, 2**50))
def test_a_formatted_size_reads_back_near(size: int) -> None:
    assert abs(parse_size(format_size(size)) - size) <= max(size * 0.06, 1)


@pytest.mark.parametrize("name", ["Web", "-a", "a-", "", "a" * 64, "a_b", "a.b", "ä", "a\n", "../x"])
def test_hostile_names_are_refused(name: str) -> None:
    with pytest.raises(Invalid):
        check_name(name)


def test_interface_names_fit_and_differ_by_installation() -> None:
    one, two = link_name("hv", "main", "c0ffee"), link_name("hv", "test", "c0ffee")
    assert len(one) <= 15 and one != two
    assert len({new_id() for _ in range(1000)}) == 1000


def test_a_change_touches_only_what_it_names() -> None:
    limits = Limits.model_validate({"memory": "256M", "cpu": 0.5, "pids": 100})
    changed = limits.changed(LimitsChange.model_validate({"memory": "512M"}))
    assert (changed.memory, changed.cpu, changed.pids) == (512 << 20, 0.5, 100)
    assert limits.changed(LimitsChange.model_validate({"cpu": None})).cpu is None


@pytest.mark.parametrize("bad", [{"memory": "1M"}, {"cpu": 0}, {"cpu": "nan"}, {"pids": 1}, {"cpus": "a"}, {"nonsense": 1}, {"memory": "8M", "memory_guarantee": "9M"}])
def test_limits_that_make_no_sense_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Limits.model_validate(bad)


def test_a_wrong_state_is_said_with_what_to_do() -> None:
    check_allowed("start", State.STOPPED, "web")
    with pytest.raises(Conflict) as caught:
        check_allowed("exec", State.STOPPED, "web")
    assert caught.value.hint == "start it first"


def test_errors_travel_with_code_hint_and_status() -> None:
    report = ErrorReport.of(NoRoom("full", hint="wait", code="no_server"))
    assert (report.code, report.bug, report.traceback) == ("no_server", False, None)
    again = report.raised()
    assert (again.stable_code, again.hint, again.http_status) == ("no_server", "wait", NoRoom.status)
