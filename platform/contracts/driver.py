"""What all drivers share: identity, capabilities, settings, probe and inventory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from hostler.core.names import check_id

#: The version of the contracts in this package. A driver made for a newer one is not loaded.
CONTRACT_VERSION = 1


@dataclass(frozen=True)
class Host:
    """The server that a driver works on. One driver object serves one host.

    ``state_dir`` is the node's own folder on a disk file system; a driver keeps its files in
    ``state_dir / <group>``. ``installation`` and ``node`` must be part of each name made on the host.
    """

    installation: str
    node: str
    state_dir: Path
    libexec: Path
    """Folder of the compiled helpers ``hostler-init``, ``hostler-launch`` and ``hostler-enter``."""
    criu: Path | None = None
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Driver settings by ``group:name``."""

    def container_dir(self, container: str) -> Path:
        """A container's own folder on this host, whatever its drivers: spec, guest files, log. Raises :class:`Invalid` for what is no id."""
        return self.state_dir / "containers" / check_id(container)


class Settings(BaseModel):
    """Base of a driver's own settings. Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Capabilities(BaseModel):
    """Named flags, false by default. A subsystem's contract derives its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Lack(BaseModel):
    """Something that the host does not offer."""

    what: str
    remedy: str = ""
    blocks: bool = False
    """True when the driver cannot work at all without it."""


class Probe(BaseModel):
    """What a host offers a driver, found by trying, never by guessing from versions."""

    offers: list[str] = []
    lacks: list[Lack] = []

    @property
    def usable(self) -> bool:
        """Whether the driver can work here."""
        return not any(lack.blocks for lack in self.lacks)


class Item(BaseModel):
    """One thing that exists on the host because of a driver."""

    kind: str
    """Such as ``subvolume``, ``link``, ``cgroup``, ``process``, ``chain``."""
    name: str
    owner: str | None = None
    """Id of the container or image it was made for; None when it cannot be told."""


class Driver(ABC):
    """Base of every driver. Constructing one does no I/O; ``probe`` and the verbs do."""

    group: ClassVar[str]
    name: ClassVar[str]
    version: ClassVar[str] = "1"
    contract_version: ClassVar[int] = CONTRACT_VERSION
    settings_model: ClassVar[type[Settings]] = Settings

    def __init__(self, host: Host) -> None:
        self.host = host
        self.settings = self.settings_model.model_validate(host.settings.get(f"{self.group}:{self.name}", {}))

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities:
        """What this driver can do on this host."""

    @abstractmethod
    def probe(self) -> Probe:
        """What this host offers and lacks, in words with remedies. Changes nothing; under a second."""

    @abstractmethod
    def inventory(self) -> list[Item]:
        """All that this driver has on this host for this installation and node, whoever made it."""

    def setup(self) -> None:
        """Make what all containers on the host share (a bridge, a pool, a parent cgroup). Idempotent."""

    def teardown(self) -> None:
        """Remove what :meth:`setup` made. Called only when no container is left. Idempotent."""

    @property
    def folder(self) -> Path:
        """Where the driver keeps its own files on this host."""
        return self.host.state_dir / self.group / self.name
