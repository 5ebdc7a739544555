"""A lab: one installation with its servers on one machine. Where its files lie and what its processes are told.

Pure: everything here is a value made from a :class:`Lab`.
"""

from __future__ import annotations

import ipaddress
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from hostler.core.errors import Invalid
from hostler.core.units import GIB, MIB
from hostler.host.lab import UPLINK
from hostler.node.wire import address
from hostler.settings import NodeSettings

#: The unprivileged user of the panel, the control worker and Redis.
USER = "hostler"
#: In the environment of each supervised process, with the home folder as value: so that they are known after a crash.
MARK = "HOSTLER_SUPERVISED"
PROVIDER = "provider"
MAIN = "main"
DEFAULT_HOME = Path("/var/lib/hostler")
#: The lab's network, unless local.env says another.
NETWORK = {
    "HOSTLER_POOL_V4": "198.18.0.0/15",
    "HOSTLER_POOL_V6": "fd00:686f:7374::/48",
    "HOSTLER_GATEWAY_V4": "198.18.0.1",
    "HOSTLER_GATEWAY_V6": "fd00:686f:7374::1",
}
#: Host number of the first server. Containers' begin at 256: the first block of the pool is the provider's.
_FIRST_SERVER = 11
_SOCKET_PATH_LIMIT = 107  # sun_path of unix(7), less its final NUL


@dataclass(frozen=True)
class Machine:
    """What the machine has to share among the lab's servers."""

    cpus: int
    memory: int
    """Bytes."""
    disk: int
    """Bytes of the file system that holds the home folder, used or not."""


@dataclass(frozen=True)
class Lab:
    """One installation on one machine."""

    checkout: Path
    machine: Machine
    home: Path = DEFAULT_HOME
    installation: str = MAIN
    panel_port: int = 8650
    machine_link: bool = True
    """Whether this machine has an address on the lab's network. Without, servers cannot reach the panel."""
    servers: tuple[str, ...] = ("alpha", "beta")
    extra: dict[str, str] = field(default_factory=dict)
    """The operator's own settings, from etc/local.env; they win."""

    def check(self) -> None:
        """Raise :class:`Invalid` for an id or a home folder that cannot work."""
        if not re.fullmatch(r"[a-z0-9]{1,16}", self.installation):
            raise Invalid(f"{self.installation!r} cannot be an installation's id", hint="use 1 to 16 lower-case letters and digits")
        if not self.home.is_absolute() or len(self.home.parts) < 3:
            raise Invalid(f"{self.home} cannot be a home folder", hint="give an absolute path of two parts or more, such as /var/lib/hostler")
        if len(str(self.supervisor_socket)) + len(".12345678") > _SOCKET_PATH_LIMIT:
            raise Invalid(f"{self.home} is too long: a unix socket below it would pass {_SOCKET_PATH_LIMIT} bytes", hint="give a shorter path")
        if any(character in str(self.home) + str(self.checkout) for character in "'\"\n;#% \t"):
            raise Invalid("the path of the home folder or of the checkout holds a blank or one of ' \" ; # %", hint="use a plain path")

    # --- places ---

    @property
    def bin(self) -> Path:
        """Programs of the virtual environment."""
        return self.checkout / ".venv/bin"

    @property
    def libexec(self) -> Path:
        """Compiled programs."""
        return self.checkout / ".tools/libexec"

    @property
    def etc(self) -> Path:
        """Generated configuration, and local.env, which is the operator's."""
        return self.home / "etc"

    @property
    def run(self) -> Path:
        """Sockets and pid files."""
        return self.home / "run"

    @property
    def logs(self) -> Path:
        """One file a program."""
        return self.home / "logs"

    @property
    def control(self) -> Path:
        """What belongs to the unprivileged user: store, signing key, image archives, beat's schedule."""
        return self.home / "control"

    @property
    def redis_socket(self) -> Path:
        """Where Redis listens."""
        return self.run / "redis.sock"

    @property
    def supervisor_socket(self) -> Path:
        """Where supervisord listens; root's alone."""
        return self.run / "supervisor.sock"

    @property
    def supervisor_config(self) -> Path:
        """supervisord's configuration."""
        return self.etc / "supervisord.conf"

    @property
    def supervisor_pid(self) -> Path:
        """supervisord's pid."""
        return self.run / "supervisord.pid"

    @property
    def first_login(self) -> Path:
        """The provider's first token, kept so that it can be shown again."""
        return self.etc / "first-login"

    @property
    def command(self) -> Path:
        """The ``hostler`` command of this installation."""
        return self.home / "bin/hostler"

    @property
    def owns_path(self) -> bool:
        """Whether the machine's ``hostler`` command is this installation's; another's is run by its own path."""
        return self.installation == MAIN

    @property
    def panel_url(self) -> str:
        """Where people and the command line reach the panel."""
        return f"http://127.0.0.1:{self.panel_port}"

    @property
    def network_panel_url(self) -> str:
        """Where servers reach the panel."""
        return f"http://{self.gateway_v4}:{self.panel_port}"

    @property
    def gateway_v4(self) -> str:
        """The machine's address on the lab's network; containers use it as their gateway."""
        return (NETWORK | self.extra)["HOSTLER_GATEWAY_V4"]

    def machine_addresses(self) -> tuple[str, str]:
        """The machine's addresses on the lab's network, v4 and v6, with prefix lengths. Raises :class:`Invalid`."""
        said = NETWORK | self.extra
        v4, v6 = self._pools()
        return f"{said['HOSTLER_GATEWAY_V4']}/{v4.prefixlen}", f"{said['HOSTLER_GATEWAY_V6']}/{v6.prefixlen}"

    def server_addresses(self, server: str) -> tuple[str, str]:
        """A server's own addresses there. Raises :class:`Invalid`."""
        number = _FIRST_SERVER + self.servers.index(server)
        v4, v6 = self._pools()
        return f"{v4[number]}/{v4.prefixlen}", f"{v6[number]}/{v6.prefixlen}"

    def _pools(self) -> tuple[ipaddress.IPv4Network, ipaddress.IPv6Network]:
        said = NETWORK | self.extra
        try:
            return ipaddress.IPv4Network(said["HOSTLER_POOL_V4"]), ipaddress.IPv6Network(said["HOSTLER_POOL_V6"])
        except ValueError as error:
            raise Invalid(f"local.env: {error}", hint="HOSTLER_POOL_V4 and HOSTLER_POOL_V6 are prefixes such as 198.18.0.0/15") from error

    def netns(self, server: str) -> Path:
        """A server's network namespace."""
        return Path("/run/netns") / f"h{self.installation}-{server}"

    def node_state(self, server: str) -> Path:
        """A server's own folder."""
        return self.home / "node" / server

    def log(self, program: str) -> Path:
        """A program's log."""
        return self.logs / f"{program}.log"


@dataclass(frozen=True)
class Folder:
    """A folder that must exist, its mode and who owns it: ``user:group``."""

    path: Path
    mode: int
    owner: str = "root:root"


def folders(lab: Lab) -> list[Folder]:
    """Every folder of the home, parents first.

    The home itself is root's: who may write a folder may rename what lies in it, whoever owns that. ``run`` is sticky for
    the same reason, since Redis makes its socket there.
    """
    private = f"{USER}:{USER}"
    return [
        Folder(lab.home, 0o755),
        Folder(lab.etc, 0o750, f"root:{USER}"),
        Folder(lab.run, 0o1770, f"root:{USER}"),
        Folder(lab.logs, 0o750, f"root:{USER}"),
        Folder(lab.home / "bin", 0o755),
        Folder(lab.home / "redis", 0o700, private),
        Folder(lab.control, 0o700, private),
        Folder(lab.control / "blobs", 0o700, private),
        Folder(lab.home / "node", 0o700),
        *(Folder(lab.node_state(server), 0o700) for server in lab.servers),
    ]


def platform_environment(lab: Lab) -> dict[str, str]:
    """What every process is told."""
    return {
        "HOSTLER_INSTALLATION": lab.installation,
        "HOSTLER_HOME": str(lab.home),
        "HOSTLER_REDIS_SOCKET": str(lab.redis_socket),
        "HOSTLER_PANEL_URL": lab.network_panel_url,
        "HOSTLER_LIBEXEC": str(lab.libexec),
    } | {name: value for name, value in lab.extra.items() if name not in _CONTROL_ONLY}


#: Settings of local.env that hold credentials: the panel and the control worker alone are told.
_CONTROL_ONLY = frozenset({"HOSTLER_STORE_URL", "HOSTLER_SECRET_FILE"})


def control_environment(lab: Lab) -> dict[str, str]:
    """What the panel, the control worker and beat are told."""
    return {
        **platform_environment(lab),
        "HOME": str(lab.control),
        "HOSTLER_STORE_URL": f"sqlite:///{lab.control}/store.sqlite3",
        "HOSTLER_SECRET_FILE": str(lab.control / "secret"),
        "HOSTLER_BLOBS": str(lab.control / "blobs"),
        **NETWORK,
        **lab.extra,
    }


def pool_size(machine: Machine) -> int:
    """Bytes of one server's loop pool: an eighth of the disk, 2 to 20 GiB, in whole GiB. The file is sparse."""
    return min(20, max(2, machine.disk // 8 // GIB)) * GIB


def node_environment(lab: Lab, server: str, criu: Path | None) -> dict[str, str]:
    """What a server's worker and watch are told. Each server has an equal part of the machine to give away."""
    part = len(lab.servers)
    state = lab.node_state(server)
    size = pool_size(lab.machine)
    drivers = {
        "net:bridge": {"uplink": UPLINK},
        "net:routed": {"uplink": UPLINK},
        "net:vxlan": {"uplink": UPLINK, "peers": [lab.server_addresses(name)[0].partition("/")[0] for name in lab.servers]},
        "storage:btrfs": {"pool": str(state / "pool"), "file": str(state / "pool.btrfs"), "size": size},
    }
    values = {
        "HOSTLER_NODE": server,
        "HOSTLER_NODE_STATE": str(state),
        "HOSTLER_DRIVERS": json.dumps(drivers, separators=(",", ":")),
        "HOSTLER_CAPACITY_CPUS": f"{lab.machine.cpus / part:g}",
        "HOSTLER_CAPACITY_MEMORY": str(lab.machine.memory // part // MIB * MIB),
        "HOSTLER_CAPACITY_DISK": str(size),
        "HOSTLER_NODE_WIRE_LISTEN": address.written(lab.server_addresses(server)[0].partition("/")[0], address.PORT),
        "HOSTLER_BUILD_NETNS": str(lab.netns("machine")),
        "HOME": "/root",
    }
    if criu is not None:
        values["HOSTLER_CRIU"] = str(criu)
    return values | platform_environment(lab)


def node_settings(lab: Lab, server: str, criu: Path | None) -> NodeSettings:
    """The same as settings."""
    values = {name.removeprefix("HOSTLER_").lower(): value for name, value in node_environment(lab, server, criu).items()}
    return NodeSettings.model_validate(values | {"drivers": json.loads(values["drivers"])})


def env_file(values: dict[str, str]) -> str:
    """An environment file as systemd and ``set -a; . file`` both read it."""
    lines = [f"{name}='{plain_value(name, value)}'" for name, value in sorted(values.items())]
    return "\n".join(["# Written by ops/up: changes are lost. Settings of your own go to local.env.", *lines, ""])


def plain_value(name: str, value: str) -> str:
    """``value`` if every reader of our files takes it as it is. Raises :class:`Invalid` for quotes, newlines and comment marks."""
    if any(bad in value for bad in ("'", "\n", " ;", " #")):
        raise Invalid(f"the value of {name} holds a quote, a newline or a comment mark", hint="write it without, or put it in a file")
    return value


def parse_env(text: str) -> dict[str, str]:
    """Settings of local.env: ``HOSTLER_NAME=value`` lines, quotes around the value allowed. Raises :class:`Invalid`."""
    values: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or not name.startswith("HOSTLER_") or not name.replace("_", "").isalnum():
            raise Invalid(f"line {number} of local.env is not HOSTLER_NAME=value", hint="docs/operating.md lists the settings")
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        values[name] = plain_value(name, value)
    return values


def command_script(lab: Lab, criu: Path | None) -> str:
    """The ``hostler`` command: the virtual environment's, told which installation is meant."""
    defaults = {
        "HOSTLER_HOME": str(lab.home),
        "HOSTLER_INSTALLATION": lab.installation,
        "HOSTLER_REDIS_SOCKET": str(lab.redis_socket),
        "HOSTLER_PANEL_URL": lab.panel_url,
        "HOSTLER_LIBEXEC": str(lab.libexec),
    }
    if criu is not None:
        defaults["HOSTLER_CRIU"] = str(criu)
    lines = [f': "${{{name}:={value}}}"' for name, value in defaults.items()]
    return "\n".join(["#!/bin/sh", "# Written by ops/up.", *lines, f"export {' '.join(defaults)}", f'exec {lab.bin}/hostler "$@"', ""])
