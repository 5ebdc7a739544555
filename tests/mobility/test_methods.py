"""Which way memory goes, by value."""

from __future__ import annotations

import pytest

from hostler.core.units import MIB
from hostler.mobility.methods import SMALL, Method, choose

ALL = ["pre_copy", "post_copy", "stop_copy"]


@pytest.mark.parametrize(
    ("memory", "allowed", "source", "target", "method"),
    [
        (SMALL * 4, ALL, ALL, ALL, Method.PRE_COPY),
        (SMALL * 4, ALL, ["post_copy", "stop_copy"], ALL, Method.POST_COPY),
        (SMALL * 4, ALL, ["post_copy", "stop_copy"], ["stop_copy"], Method.STOP_COPY),
        (SMALL * 4, ALL, ["pre_copy"], [], Method.PRE_COPY),
        (SMALL * 4, ["stop_copy"], ALL, ALL, Method.STOP_COPY),
        (SMALL - 1, ALL, ALL, ALL, Method.STOP_COPY),
        (SMALL - 1, ["post_copy"], ALL, ALL, Method.POST_COPY),
        (SMALL - 1, ["pre_copy", "post_copy"], ALL, ALL, Method.PRE_COPY),
    ],
)
def test_the_best_of_what_both_can_and_is_allowed(memory: int, allowed: list[str], source: list[str], target: list[str], method: Method) -> None:
    choice = choose(memory, allowed, source, target)
    assert choice is not None and choice.method is method and choice.why


def test_nothing_that_is_allowed_can_be_done() -> None:
    assert choose(MIB, ["post_copy"], ["stop_copy"], ALL) is None


def test_the_reason_names_who_cannot() -> None:
    choice = choose(SMALL * 4, ALL, ["post_copy", "stop_copy"], ["stop_copy"])
    assert choice is not None
    assert "pre_copy: this server cannot" in choice.why and "post_copy: the other server cannot" in choice.why
