"""One-time tickets, with a clock of the test's own."""

from __future__ import annotations

import pytest

from hostler.core.errors import Invalid, NoRoom
from hostler.node.wire.channel import Channel
from hostler.node.wire.tickets import Tickets

PEER, OTHER = "a" * 64, "b" * 64


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def serve(channel: Channel) -> None:
    """Nobody calls it."""


def test_each_stream_once_and_for_the_right_server_only() -> None:
    tickets = Tickets()
    ticket = tickets.issue("op", PEER, serve, 60, ("control", "memory"))
    assert isinstance(tickets.take("op", "control", ticket.secret, OTHER), str)
    assert isinstance(tickets.take("op", "control", "0" * 64, PEER), str)
    assert isinstance(tickets.take("op", "control", "no hex", PEER), str)
    assert isinstance(tickets.take("op", "volume", ticket.secret, PEER), str)
    assert isinstance(tickets.take("another", "control", ticket.secret, PEER), str)
    assert tickets.take("op", "control", ticket.secret, PEER) is serve
    assert isinstance(tickets.take("op", "control", ticket.secret, PEER), str)
    assert tickets.knows(PEER)
    assert tickets.take("op", "memory", ticket.secret, PEER) is serve
    assert not tickets.knows(PEER)


def test_a_ticket_expires() -> None:
    clock = Clock()
    tickets = Tickets(clock)
    ticket = tickets.issue("op", PEER, serve, 60, ("control",))
    clock.now += 59
    assert tickets.knows(PEER)
    clock.now += 2
    assert isinstance(tickets.take("op", "control", ticket.secret, PEER), str)
    assert not tickets.knows(PEER)


def test_a_new_ticket_replaces_the_old_one_and_forgetting_ends_it() -> None:
    tickets = Tickets()
    old = tickets.issue("op", PEER, serve, 60, ("control",))
    new = tickets.issue("op", PEER, serve, 60, ("control",))
    assert isinstance(tickets.take("op", "control", old.secret, PEER), str)
    tickets.forget("op")
    tickets.forget("op")
    assert isinstance(tickets.take("op", "control", new.secret, PEER), str)


def test_the_secret_is_in_no_log_line_and_not_kept() -> None:
    tickets = Tickets()
    ticket = tickets.issue("op", PEER, serve, 60, ("control",))
    assert ticket.secret not in repr(ticket)
    assert ticket.secret not in repr(vars(tickets))
    assert type(ticket).model_validate_json(ticket.model_dump_json()) == ticket


def test_tickets_are_bounded_and_expired_ones_make_room() -> None:
    clock = Clock()
    tickets = Tickets(clock)
    for number in range(256):
        tickets.issue(f"op{number}", PEER, serve, 60, ("control",))
    with pytest.raises(NoRoom):
        tickets.issue("one more", PEER, serve, 60, ("control",))
    clock.now += 61
    tickets.issue("one more", PEER, serve, 60, ("control",))


@pytest.mark.parametrize(("peer", "lifetime", "streams"), [("", 60, ("control",)), ("A" * 64, 60, ("control",)), (PEER, 0, ("control",)), (PEER, 60, ())])
def test_tickets_for_nobody_are_refused(peer: str, lifetime: float, streams: tuple[str, ...]) -> None:
    with pytest.raises(Invalid):
        Tickets().issue("op", peer, serve, lifetime, streams)
