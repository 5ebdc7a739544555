"""Address management (IPAM): no address is given twice.

The pool is cut into blocks of 256; a block belongs to one account, so that "other tenants" is a set of prefixes
and not a list of addresses. A host number stands for a v4 address and for the v6 address that ends in the same 32 bits.
Block 0 is the provider's (gateways, servers). Uniqueness is the primary key's; who loses a race tries again.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from hostler.core.errors import NoRoom
from hostler.core.messages import now
from hostler.core.specs import Link
from hostler.store.models import Address, Block

BLOCK = 256


@dataclass(frozen=True)
class Pool:
    """The provider's prefixes, and what containers are told as their gateways (empty: none)."""

    v4: ipaddress.IPv4Network
    v6: ipaddress.IPv6Network
    gateway_v4: str
    gateway_v6: str

    @classmethod
    def of(cls, v4: str, v6: str, gateway_v4: str, gateway_v6: str) -> Pool:
        """From settings' text. Raises ValueError for a bad prefix."""
        return cls(ipaddress.IPv4Network(v4), ipaddress.IPv6Network(v6), gateway_v4, gateway_v6)

    def address_v4(self, number: int) -> ipaddress.IPv4Address:
        """The v4 address of a host number."""
        return self.v4.network_address + number

    def address_v6(self, number: int) -> ipaddress.IPv6Address:
        """The v6 address of a host number: the pool's prefix, then the v4 address."""
        return self.v6.network_address + int(self.address_v4(number))

    def prefixes(self, block: int) -> tuple[str, str]:
        """The v4 /24 and the v6 /120 of a block."""
        v4 = ipaddress.IPv4Network((int(self.address_v4(block * BLOCK)), 24))
        v6 = ipaddress.IPv6Network((int(self.address_v6(block * BLOCK)), 120))
        return str(v4), str(v6)

    def link(self, number: int, blocks: list[int], rate_in: int | None, rate_out: int | None) -> Link:
        """The container's interface: one flat network, closed between accounts."""
        v4, v6 = self.address_v4(number), self.address_v6(number)
        return Link(
            mac=mac_of(v4),
            addresses=(f"{v4}/{self.v4.prefixlen}", f"{v6}/{self.v6.prefixlen}"),
            gateways=tuple(gateway for gateway in (self.gateway_v4, self.gateway_v6) if gateway),
            rate_in=rate_in,
            rate_out=rate_out,
            pool=(str(self.v4), str(self.v6)),
            reachable=tuple(prefix for block in blocks for prefix in self.prefixes(block)),
        )


def mac_of(address: ipaddress.IPv4Address) -> str:
    """A locally administered MAC (02:48: and the address): unique as the address is, and it moves with it."""
    return ":".join(f"{byte:02x}" for byte in b"\x02\x48" + address.packed)


def allocate(session: Session, pool: Pool, account: str, container: str) -> int:
    """Give a container a host number. One that has one keeps it. Raises :class:`NoRoom` when the pool is used up.

    May raise IntegrityError at flush when another transaction took the same number: try the transaction again.
    """
    held = session.scalar(select(Address.number).where(Address.container_id == container))
    if held is not None:
        return held
    blocks = account_blocks(session, account)
    for block in blocks:
        number = _from_block(session, block, container)
        if number is not None:
            return number
    block = _new_block(session, pool, account)
    number = _from_block(session, block, container)
    if number is None:
        raise NoRoom("a new address block has no free address", hint="this is a defect: report it")
    return number


def _from_block(session: Session, block: int, container: str) -> int | None:
    fresh = session.scalar(select(func.max(Address.number)).where(Address.block == block))
    number = block * BLOCK + 1 if fresh is None else fresh + 1
    if number < (block + 1) * BLOCK - 1:
        session.add(Address(number=number, block=block, container_id=container))
        session.flush()
        return number
    freed = session.scalar(
        select(Address.number)
        .where(Address.block == block, Address.container_id.is_(None))
        .order_by(Address.released_at)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    if freed is None:
        return None
    session.execute(update(Address).where(Address.number == freed).values(container_id=container, released_at=None))
    return freed


def _new_block(session: Session, pool: Pool, account: str) -> int:
    last = session.scalar(select(func.max(Block.number)))
    block = 1 if last is None else last + 1
    if (block + 1) * BLOCK > pool.v4.num_addresses:
        raise NoRoom(
            "the address pool is used up", hint="delete containers, or give the platform a larger pool (HOSTLER_POOL_V4)", code="no_address"
        )
    session.add(Block(number=block, account_id=account))
    session.flush()
    return block


def account_blocks(session: Session, account: str) -> list[int]:
    """Numbers of the account's blocks, lowest first."""
    return list(session.scalars(select(Block.number).where(Block.account_id == account).order_by(Block.number)))


def release(session: Session, container: str) -> None:
    """Take a container's address back; none is a success."""
    session.execute(update(Address).where(Address.container_id == container).values(container_id=None, released_at=now()))
