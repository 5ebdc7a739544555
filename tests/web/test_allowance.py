"""What is above a plan, by value."""

from __future__ import annotations

from typing import Any

import pytest

from hostler.core.errors import Denied
from hostler.core.limits import Limits, LimitsChange
from hostler.web.allowance import check_within

PLAN = Limits.model_validate({"cpu": 1, "memory": "1G", "swap": "1G", "io": {"read_bps": "10M"}, "rate_in": "1G"})


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"cpu": 1, "memory": "1G", "swap": 0},
        {"disk": None, "pids": 10},
        {"io": {"read_bps": "10M", "write_bps": "1M"}},
        {"cpu_weight": 1},
        {"memory_guarantee": None},
        {"cpus": None},
    ],
)
def test_within(change: dict[str, Any]) -> None:
    check_within(LimitsChange.model_validate(change), PLAN, "small")


@pytest.mark.parametrize(
    "change",
    [
        {"cpu": 1.01},
        {"cpu": None},
        {"memory": (1 << 30) + 1},
        {"swap": "2G"},
        {"io": {}},
        {"io": {"read_bps": "11M"}},
        {"cpu_weight": 101},
        {"memory_guarantee": 1},
        {"cpus": "0"},
        {"rate_in": None},
    ],
)
def test_above(change: dict[str, Any]) -> None:
    with pytest.raises(Denied, match=next(iter(change))) as caught:
        check_within(LimitsChange.model_validate(change), PLAN, "small")
    assert caught.value.stable_code == "plan_exceeded"
