"""Address management, on both stores."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from hostler.core.errors import NoRoom
from hostler.store import addresses
from hostler.store.accounts import create_account
from hostler.store.addresses import BLOCK, Pool
from hostler.store.engine import Store
from hostler.store.models import Address, Container, Image, Plan

POOL = Pool.of("198.18.0.0/22", "fd00:1::/64", "198.18.0.1", "fd00:1::1")


def containers(store: Store, account_name: str, count: int) -> tuple[str, list[str]]:
    """An account with containers that have no address yet."""
    with store.write() as session:
        account = create_account(session, account_name)
        plan = session.scalar(select(Plan)) or Plan(name="p", limits={})
        image = session.scalar(select(Image)) or Image(name="i")
        session.add_all([plan, image])
        session.flush()
        rows = [
            Container(
                account_id=account.id, name=f"c{i}", plan_id=plan.id, image_id=image.id, wanted="running", state="provisioning",
                limits={}, process={}, drivers={},
            )
            for i in range(count)
        ]
        session.add_all(rows)
        session.flush()
        return account.id, [row.id for row in rows]


def test_numbers_become_addresses_of_both_families() -> None:
    assert str(POOL.address_v4(257)) == "198.18.1.1"
    assert str(POOL.address_v6(257)) == "fd00:1::c612:101"
    assert POOL.prefixes(1) == ("198.18.1.0/24", "fd00:1::c612:100/120")
    link = POOL.link(257, [1], None, None)
    assert link.mac == "02:48:c6:12:01:01" and link.reachable == POOL.prefixes(1)


def test_every_container_has_its_own_and_accounts_have_their_own_blocks(store: Store) -> None:
    first, ours = containers(store, "one", 3)
    second, theirs = containers(store, "two", 1)
    with store.write() as session:
        mine = [addresses.allocate(session, POOL, first, container) for container in ours]
        other = addresses.allocate(session, POOL, second, theirs[0])
        assert addresses.allocate(session, POOL, first, ours[0]) == mine[0]
    assert len(set(mine)) == 3 and {number // BLOCK for number in mine} == {1}
    assert other // BLOCK == 2


def test_a_released_one_is_given_again_only_when_the_fresh_ones_are_used_up(store: Store) -> None:
    account, rows = containers(store, "one", BLOCK)
    with store.write() as session:
        numbers = [addresses.allocate(session, POOL, account, row) for row in rows[:3]]
        addresses.release(session, rows[0])
        assert addresses.allocate(session, POOL, account, rows[3]) not in numbers
    with store.write() as session:
        for row in rows[4 : BLOCK - 1]:
            addresses.allocate(session, POOL, account, row)
        given = set(session.scalars(select(Address.number).where(Address.container_id.is_not(None))))
    assert len(given) == BLOCK - 2 and numbers[0] in given  # 254 hosts; the first comes round last


def test_an_empty_pool_is_said_in_words(store: Store) -> None:
    tiny = Pool.of("198.18.0.0/23", "fd00:1::/64", "", "")
    first, ours = containers(store, "one", 1)
    second, theirs = containers(store, "two", 1)
    with store.write() as session:
        addresses.allocate(session, tiny, first, ours[0])
        with pytest.raises(NoRoom, match="pool is used up"):
            addresses.allocate(session, tiny, second, theirs[0])
