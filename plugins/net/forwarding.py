"""The kernel settings by which a server becomes the router of its containers, and what they were before.

Settings of a network namespace alone, the calling thread's. What they were is kept in a file of the running system's boot, so
that the way back is known, and so that what forwarded nothing before can be kept from forwarding for strangers.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from hostler.core.errors import HostFailure

_SYSCTL = Path("/proc/sys/net")
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_V6 = "ipv6/conf/all/forwarding"


class _Before(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    boot: str
    uplink: str
    values: dict[str, str]


@dataclass(frozen=True)
class Forwarding:
    """Of one driver. ``uplink`` is empty where containers meet on this server only."""

    file: Path
    uplink: str

    def remember(self) -> None:
        """Keep what the settings are, unless that is known already. What was set for another uplink is undone first."""
        if self._before() is not None:
            return
        self.restore()
        before = _Before(boot=_BOOT.read_text().strip(), uplink=self.uplink, values=self._read_all())
        self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = self.file.with_name(f".{self.file.name}")
        temporary.write_text(before.model_dump_json())
        os.replace(temporary, self.file)

    def enable(self, *, proxy: bool) -> None:
        """Forward, and answer for containers on the uplink where ``proxy``. Idempotent; IPv6 as far as the kernel has it."""
        self.remember()
        before = self._before()
        if before is not None:
            for name, value in self._wanted(before, proxy=proxy).items():
                _write(name, value)

    def restore(self) -> None:
        """Undo :meth:`enable`, whatever the uplink was; what has gone with its interface is no failure."""
        before = self._kept()
        if before is not None:
            for name, value in before.values.items():
                _write(name, value)
        self.file.unlink(missing_ok=True)

    @property
    def v4_was_closed(self) -> bool:
        """Whether the uplink forwarded no IPv4 before."""
        return bool(self.uplink) and self._was(self._v4) == "0"

    @property
    def v6_was_closed(self) -> bool:
        """Whether the server forwarded no IPv6 before."""
        return self._was(_V6) == "0"

    @property
    def _v4(self) -> str:
        return f"ipv4/conf/{self.uplink}/forwarding"

    def _was(self, name: str) -> str | None:
        before = self._before()
        return None if before is None else before.values.get(name)

    def _before(self) -> _Before | None:
        """None where nothing was kept since the system's boot, or for another uplink."""
        kept = self._kept()
        return kept if kept is not None and kept.uplink == self.uplink else None

    def _kept(self) -> _Before | None:
        try:
            kept = _Before.model_validate_json(self.file.read_bytes())
        except (FileNotFoundError, ValidationError):
            return None
        return kept if kept.boot == _BOOT.read_text().strip() else None

    def _read_all(self) -> dict[str, str]:
        names = [_V6]
        if self.uplink:
            names += [self._v4, f"ipv6/conf/{self.uplink}/accept_ra", f"ipv6/conf/{self.uplink}/proxy_ndp"]
            names += [f"{family}/neigh/{self.uplink}/proxy_delay" for family in ("ipv4", "ipv6")]
        return {name: (_SYSCTL / name).read_text().strip() for name in names if (_SYSCTL / name).exists()}

    def _wanted(self, before: _Before, *, proxy: bool) -> dict[str, str]:
        wanted = {name: "1" for name in (_V6, self._v4) if name in before.values}
        router_advertised = f"ipv6/conf/{self.uplink}/accept_ra"
        if before.values.get(router_advertised) == "1":
            wanted[router_advertised] = "2"  # also while forwarding: the server's own default route may come so
        if proxy:
            # Answers wait up to 0.8 s otherwise, in favour of the real holder of an address; here there is none.
            answers = {"proxy_ndp": "1", "proxy_delay": "0"}
            wanted |= {name: answers[name.rsplit("/", 1)[1]] for name in before.values if name.rsplit("/", 1)[1] in answers}
        return wanted


def forward_from(interface: str) -> None:
    """Forward IPv4 that arrives on an interface."""
    _write(f"ipv4/conf/{interface}/forwarding", "1")


def _write(name: str, value: str) -> None:
    """Nothing where the interface, or IPv6, is not there."""
    file = _SYSCTL / name
    if not file.exists():
        return
    try:
        file.write_text(value)
    except OSError as error:
        raise HostFailure(f"cannot set {name} to {value}: {error.strerror}", hint="/proc/sys must be writable for the worker") from error
