"""Settings of each process, from environment variables that begin with ``HOSTLER_``.

``ops/up`` writes them for the lab; on a real server they lie in ``/etc/hostler/*.env`` (see docs/operating.md).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class PlatformSettings(BaseSettings):
    """What every process of one installation shares."""

    model_config = SettingsConfigDict(env_prefix="HOSTLER_", extra="ignore")

    installation: str = Field(default="main", pattern=r"^[a-z0-9]{1,16}$", description="part of every name on a host")
    home: Path = Path("/var/lib/hostler")
    redis_socket: Path = Path("/var/lib/hostler/run/redis.sock")
    broker_url: str = Field(default="", description="empty: the Redis at redis_socket")
    panel_url: str = Field(default="http://127.0.0.1:8650", description="where servers and the command line reach the panel")
    log_level: str = "info"
    log_json: bool = True

    @property
    def broker(self) -> str:
        """Celery's broker URL."""
        return self.broker_url or f"redis+socket://{self.redis_socket}"


class ControlSettings(PlatformSettings):
    """The panel and the control worker: they alone know the store."""

    store_url: str = Field(default="", description="SQLAlchemy URL; empty: SQLite in home")
    blobs: Path | None = Field(default=None, description="folder of image archives; default home/blobs")
    secret_file: Path | None = Field(default=None, description="signing key of tickets; default home/secret")
    pool_v4: str = Field(default="198.18.0.0/15", description="prefix that containers' addresses come from")
    pool_v6: str = "fd00:686f:7374::/48"
    gateway_v4: str = "198.18.0.1"
    gateway_v6: str = "fd00:686f:7374::1"
    overcommit_cpu: float = Field(default=8.0, ge=0.1, description="CPUs promised per CPU that a server has")
    overcommit_memory: float = Field(default=1.0, ge=0.1, description="bytes promised per byte of memory")
    overcommit_disk: float = Field(default=2.0, ge=0.1, description="bytes promised per byte of the pool")
    image_limit: int = Field(default=4 << 30, description="largest archive that the panel takes, in bytes")
    checkpoint_limit: int = Field(default=64 << 30, description="largest exported checkpoint that the panel takes, in bytes")

    @property
    def store(self) -> str:
        """SQLAlchemy URL of the store."""
        return self.store_url or f"sqlite:///{self.home}/store.sqlite3"

    @property
    def blob_dir(self) -> Path:
        """Folder of image archives, by digest."""
        return self.blobs or self.home / "blobs"

    @property
    def secret_path(self) -> Path:
        """File with the signing key of tickets."""
        return self.secret_file or self.home / "secret"


class NodeSettings(PlatformSettings):
    """A node worker: no database credentials here."""

    node: str = Field(default="", pattern=r"^[a-z0-9-]{0,63}$", description="this server's name")
    node_state: Path = Path("/var/lib/hostler/node")
    libexec: Path = Path("/usr/local/libexec/hostler")
    criu: Path | None = None
    drivers: dict[str, dict[str, Any]] = Field(default_factory=dict, description="JSON: settings by group:name")
    drivers_enabled: tuple[Annotated[str, Field(pattern=r"^[a-z]+:[^:]+$")], ...] = Field(
        default=(), description="JSON list of group:name: of a group that it names, these alone are loaded; default all that can be used"
    )
    capacity_cpus: float | None = Field(default=None, gt=0, description="processors to give away; default all")
    capacity_memory: int | None = Field(default=None, gt=0, description="bytes of memory to give away; default all")
    capacity_disk: int | None = Field(default=None, gt=0, description="bytes of disk to give away; default the pool's size")
    node_wire_listen: str = Field(default="", description="address that other servers connect to, as host:port; empty: none can")
    node_wire_address: str = Field(default="", description="where they reach it, when that is another address")
    checkpoint_key: SecretStr = Field(default=SecretStr(""), description="key that checkpoints are encrypted with: hex or base64 of 32 bytes; empty: none")
    checkpoint_key_file: Path | None = Field(default=None, description="or a file that holds it, which only root may read")
    build_netns: str = Field(default="", description="path of a network namespace that reaches package mirrors, for image builds")
