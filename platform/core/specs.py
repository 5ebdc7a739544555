"""Specs: everything that a server must know to make a thing. They travel in messages and are kept on the node.

A spec is complete: a node worker holds no database credentials, so whatever a step needs is in here.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from hostler.core.limits import Limits
from hostler.core.names import Id, Name
from hostler.core.units import Rate, Size

#: Host ids of one container's user namespace, as many as a 16-bit system knows.
ID_COUNT = 65_536


class Spec(BaseModel):
    """Base of all specs: unknown fields are refused, so that two versions notice each other."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class IdRange(Spec):
    """Host user and group ids ``base`` … ``base + count - 1``, seen inside as 0 … count - 1."""

    base: int = Field(ge=65_536, le=2**32 - 1 - ID_COUNT)
    count: int = ID_COUNT


class ImageConfig(Spec):
    """How an image wants to be run; the fields that Hostler honours of an OCI image configuration.

    https://github.com/opencontainers/image-spec/blob/main/config.md
    """

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    user: str = ""
    workdir: str = "/"
    ports: tuple[str, ...] = Field(default=(), description="such as 80/tcp; shown, not enforced")
    stop_signal: str = "SIGTERM"


class ImageSpec(Spec):
    """One immutable image. ``digest`` is ``sha256:`` of the archive, and its identity on every server."""

    digest: str = Field(pattern=r"^sha256:[0-9a-f]{64}$")
    driver: str = Field(description="images driver that unpacks it: rootfs, oci")
    size: int = Field(ge=0, description="bytes of the archive")
    url: str = Field(default="", description="where a server without it fetches the archive; holds a ticket")

    @property
    def short(self) -> str:
        """16 hex digits: the name of the image's folder or subvolume on a server."""
        return self.digest.removeprefix("sha256:")[:16]


class Process(Spec):
    """The first process of a container, below its init."""

    args: tuple[str, ...] = Field(default=(), description="empty: nothing but init, which waits for exec'd processes")
    env: tuple[str, ...] = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",)
    cwd: str = "/"
    user: str = Field(default="", description="uid, uid:gid, or a name of the image's /etc/passwd; empty is root")
    stop_signal: str = "SIGTERM"

    @field_validator("args", "env")
    @classmethod
    def _no_nul(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any("\0" in item for item in value):
            raise ValueError("holds a NUL byte, which no process can be given")
        return value


class FirewallRule(Spec):
    """One rule of a tenant's firewall. The first that matches decides; what matches none is accepted."""

    action: Literal["accept", "drop", "reject"]
    direction: Literal["in", "out"] = "in"
    """Seen from the container."""
    protocol: Literal["any", "tcp", "udp", "icmp"] = "any"
    """``icmp`` means ICMPv6 too."""
    ports: tuple[Annotated[int, Field(ge=1, le=65535)], Annotated[int, Field(ge=1, le=65535)]] | None = None
    """First and last destination port; of tcp and udp only."""
    peer: str = ""
    """Prefix of the other side, v4 or v6; empty: everybody."""

    @model_validator(mode="after")
    def _sane(self) -> Self:
        if self.ports is not None and (self.protocol not in ("tcp", "udp") or self.ports[0] > self.ports[1]):
            raise ValueError("ports are of tcp or udp, the first not above the last")
        if self.peer:
            ipaddress.ip_network(self.peer)
        return self


class Link(Spec):
    """One network interface of a container."""

    name: str = Field(default="eth0", pattern=r"^[a-z][a-z0-9]{0,14}$", description="inside the container")
    mac: str = Field(pattern=r"^[0-9a-f]{2}(:[0-9a-f]{2}){5}$")
    addresses: tuple[str, ...] = Field(description="with prefix length, v4 and v6, such as 198.18.4.2/15")
    gateways: tuple[str, ...] = Field(default=(), description="one per family at most")
    mtu: int = Field(default=1500, ge=1280, le=9216)
    rate_in: Rate | None = Field(default=None, description="towards the container, bit/s")
    rate_out: Rate | None = Field(default=None, description="from the container, bit/s")
    pool: tuple[str, ...] = Field(default=(), description="prefixes in which tenants live: closed but to `reachable`")
    reachable: tuple[str, ...] = Field(default=(), description="prefixes inside the pool that this account may talk to")
    firewall: tuple[FirewallRule, ...] = Field(default=(), max_length=256, description="the tenant's own rules, in order")
    network: int | None = Field(default=None, ge=1, lt=2**24, description="number of the tenant's own network (vxlan's VNI); none: the provider's")

    @model_validator(mode="after")
    def _addresses_parse(self) -> Self:
        for address in self.addresses:
            ipaddress.ip_interface(address)
        for prefix in (*self.pool, *self.reachable):
            ipaddress.ip_network(prefix)
        for gateway in self.gateways:
            ipaddress.ip_address(gateway)
        return self


class DriverNames(Spec):
    """The drivers a container was made with. It keeps them for life."""

    ns: str = "runc"
    net: str = "bridge"
    storage: str = "btrfs"
    limits: str = "cgroup1"


class ContainerSpec(Spec):
    """A container, whole: what a server must know to bring it to life."""

    id: Id
    name: Name
    account: Id
    account_weight: int = Field(default=100, ge=1, le=10000, description="share of processors among busy accounts")
    ids: IdRange
    image: ImageSpec
    process: Process = Process()
    limits: Limits = Limits()
    links: tuple[Link, ...] = ()
    drivers: DriverNames = DriverNames()
    nameservers: tuple[str, ...] = ()


class ExecSpec(Spec):
    """A command to run inside a running container, with bounded output."""

    args: tuple[str, ...] = Field(min_length=1)
    env: tuple[str, ...] = ()
    cwd: str = "/"
    user: str = ""
    stdin: str = Field(default="", max_length=1 << 20)
    timeout: float = Field(default=60, gt=0, le=3600, description="seconds, after which the command is killed")
    output_limit: Size = 1 << 16

    @field_validator("args", "env")
    @classmethod
    def _no_nul(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any("\0" in item for item in value):
            raise ValueError("holds a NUL byte, which no process can be given")
        return value


class ExecResult(Spec):
    """What an exec'd command did. Output beyond the limit is cut at its end and ``truncated`` says so."""

    exit_code: int
    stdout: str = ""
    stderr: str = ""
    truncated: bool = False
    timed_out: bool = False
    seconds: float = 0
