"""libnftables on the real kernel, in namespaces of the test's own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from hostler.core.errors import HostFailure
from hostler.host import netns, nftables

pytestmark = pytest.mark.lab


def _tables(context: nftables.Nftables) -> list[str]:
    return [thing["table"]["name"] for thing in context.listing("list tables") if "table" in thing]


def test_commands_run_and_are_listed() -> None:
    def work() -> None:
        with nftables.opened() as context:
            context.run("add table bridge t\nadd set bridge t s { type ifname; }\nadd element bridge t s { veth1 }")
            listed = context.listing("list set bridge t s")
            assert [thing["set"]["elem"] for thing in listed if "set" in thing] == [["veth1"]]

    netns.inside_new(work)


def test_a_transaction_is_all_or_nothing() -> None:
    def work() -> None:
        with nftables.opened() as context:
            with pytest.raises(HostFailure) as failure:
                context.run("add table bridge t\nadd rule bridge t nochain accept")
            assert nftables.absent(failure.value)
            assert "nochain" in failure.value.hint
            assert _tables(context) == []

    netns.inside_new(work)


def test_errors_say_what_the_library_says() -> None:
    def work() -> None:
        with nftables.opened() as context:
            with pytest.raises(HostFailure, match="syntax error") as failure:
                context.run("add nothing")
            assert not nftables.absent(failure.value)
            assert context.listing("list table bridge none") == []

    netns.inside_new(work)


def test_a_context_stays_in_the_namespace_it_was_made_in() -> None:
    def outer() -> None:
        with nftables.opened() as here:
            here.run("add table bridge outer")

            def inner() -> None:
                with nftables.opened() as there:
                    there.run("add table bridge inner")
                    assert _tables(there) == ["inner"]
                    assert _tables(here) == ["outer"]

            netns.inside_new(inner)
            assert _tables(here) == ["outer"]

    netns.inside_new(outer)


def test_many_threads_share_a_context() -> None:
    def work() -> None:
        with nftables.opened() as context, ThreadPoolExecutor(8) as pool:
            context.run("add table bridge t\nadd set bridge t s { type ifname; }")
            list(pool.map(lambda number: context.run(f"add element bridge t s {{ v{number} }}"), range(200)))
            listed = context.listing("list set bridge t s")
            assert len(next(thing["set"]["elem"] for thing in listed if "set" in thing)) == 200

    netns.inside_new(work)


def test_a_closed_context_says_so() -> None:
    def work() -> None:
        context = nftables.Nftables()
        context.close()
        context.close()
        with pytest.raises(HostFailure, match="closed"):
            context.run("add table bridge t")

    netns.inside_new(work)
