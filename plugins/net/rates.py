"""Rates of a link: a token bucket on the host's end for what goes in, one on an ``ifb`` device for what comes out.

Both queue instead of dropping, so TCP reaches 96% of the rate, the rest being headers. A policer was measured 20–28% above it.
Both sit outside the container's network namespace, where a tenant cannot take them away.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from hostler.core.errors import Invalid
from hostler.core.units import Rate
from hostler.host.netlink import Netlink
from hostler_plugins.net.names import shaper

#: What may pass at once: more makes the rate of a slow link uneven. Offloaded packets larger than this are cut by the kernel.
_LEAST_BURST = 16 << 10
_BURST_SECONDS = 0.02
#: What may wait: longer is latency for the tenant, shorter is loss. TCP needs some packets' room, however slow the link.
_LEAST_QUEUE = 64 << 10
_QUEUE_SECONDS = 0.05
#: The slowest there is, in bit/s: a bucket knows no zero.
SLOWEST = 8_000
#: The fastest, in bit/s: what a faster link keeps waiting would not fit the kernel's 32 bits of bytes.
FASTEST = 400_000_000_000


_RATE: TypeAdapter[int | None] = TypeAdapter(Rate | None)


def check(*asked: int | None) -> None:
    """Raise :class:`Invalid` for what no link's record can hold."""
    for rate in asked:
        try:
            _RATE.validate_python(rate)
        except ValidationError as error:
            raise Invalid(f"{rate} bit/s is no rate: {error.errors()[0]['msg']}", hint="give bits per second, or none for no limit") from error


@dataclass(frozen=True)
class Bucket:
    """Of ``tc-tbf(8)``: bytes/s, and bytes."""

    rate: int
    burst: int
    queue: int

    @classmethod
    def of(cls, rate: int) -> Bucket:
        """For a rate in bit/s. Below :data:`SLOWEST` it is that, as good as closed; above :data:`FASTEST` that, as good as open."""
        bytes_per_second = min(max(rate, SLOWEST), FASTEST) // 8
        burst = max(_LEAST_BURST, int(bytes_per_second * _BURST_SECONDS))
        return cls(bytes_per_second, burst, burst + max(_LEAST_QUEUE, int(bytes_per_second * _QUEUE_SECONDS)))


def set_in(host: Netlink, index: int, rate: int | None) -> None:
    """Towards the container, in bit/s; None is no limit."""
    if rate is None:
        host.unlimit_rate(index)
    else:
        _limit(host, index, rate)


def set_out(host: Netlink, link: str, index: int, rate: int | None, alias: str) -> None:
    """From the container, in bit/s; None is no limit. ``alias`` tells whose the device is."""
    name = shaper(link)
    if rate is None:
        host.keep_arrivals(index)
        host.delete_link(name)
        return
    found = host.link(name)
    if found is None:
        host.add_ifb(name)
    device = host.index(name)
    _limit(host, device, rate)
    if found is None or found.alias != alias or not found.up:
        host.set_link(device, alias=alias, up=True, own_ipv6=False)
        host.keep_arrivals(index)
        host.redirect_arrivals(index, device)


def empty(host: Netlink, index: int, rate: int) -> None:
    """Forget what waits on its way to the container; the limit, in bit/s, stays."""
    host.unlimit_rate(index)
    _limit(host, index, rate)


def _limit(host: Netlink, index: int, rate: int) -> None:
    bucket = Bucket.of(rate)
    host.limit_rate(index, bucket.rate, burst=bucket.burst, queue=bucket.queue)
