"""The lab's programs, and supervisord's configuration made from them. Pure.

http://supervisord.org/configuration.html
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hostler.node.lab.layout import (
    MARK,
    USER,
    Lab,
    control_environment,
    node_environment,
    plain_value,
    platform_environment,
)

LOG_BYTES = "10MB"
LOG_FILES = 4
#: Groups: Redis starts first and ends last. lxcfs is not of the platform, so that it goes on when that is restarted: containers use it.
BROKER, VIEWS, PLATFORM = "broker", "views", "platform"


@dataclass(frozen=True)
class Program:
    """One supervised program."""

    name: str
    group: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str = "root"
    stop_seconds: int = 15
    """Time it has to end after SIGTERM, before its process group is killed."""

    @property
    def full_name(self) -> str:
        """As supervisord names it."""
        return f"{self.group}:{self.name}"


def programs(lab: Lab, criu: Path | None) -> list[Program]:
    """Every program of the lab, in the order they start."""
    return [_redis(lab), *_control_side(lab), *(program for server in lab.servers for program in _server(lab, server, criu))]


def _redis(lab: Lab) -> Program:
    return Program("redis", BROKER, ("redis-server", str(lab.etc / "redis.conf")), platform_environment(lab), USER)


def _celery(lab: Lab, app: str, *rest: str) -> tuple[str, ...]:
    return (str(lab.bin / "celery"), "-A", f"hostler.workers.{app}:app", *rest)


def _worker(queue: str, threads: int, name: str) -> tuple[str, ...]:
    quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat")
    return ("worker", "-Q", queue, "--pool", "threads", "-c", str(threads), "-n", name, *quiet)


def _control_side(lab: Lab) -> list[Program]:
    environment = control_environment(lab)
    binds = [f"127.0.0.1:{lab.panel_port}", *([f"{lab.gateway_v4}:{lab.panel_port}"] if lab.machine_link else [])]
    panel = (
        str(lab.bin / "gunicorn"),
        "hostler.web:create_app()",
        # one copy of the code for all workers: the app opens nothing before the fork
        *("-k", "gthread", "-w", "2", "--threads", "16", "--preload"),
        *(word for bind in binds for word in ("-b", bind)),
        # open event streams would hold up a stop for the default of 30 s
        *("--graceful-timeout", "3", "--no-control-socket"),
    )
    return [
        Program("control", PLATFORM, _celery(lab, "control", *_worker("control", 4, "control@%h")), environment, USER),
        Program("beat", PLATFORM, _celery(lab, "control", "beat", "-s", str(lab.control / "beat-schedule"), "--pidfile="), environment, USER),
        Program("panel", PLATFORM, panel, environment, USER, stop_seconds=8),
    ]


def in_server(lab: Lab, server: str) -> tuple[str, ...]:
    """Prefix of a command that runs in a server's network namespace; it keeps its pid."""
    return ("nsenter", f"--net={lab.netns(server)}", "--")


def _server(lab: Lab, server: str, criu: Path | None) -> list[Program]:
    environment = node_environment(lab, server, criu)
    inside = in_server(lab, server)
    worker = _celery(lab, "node", *_worker(f"node.{server}", 8, f"node-{server}@%h"))
    watch = (str(lab.bin / "python"), "-m", "hostler.node.watch")
    views = (str(lab.bin / "python"), "-m", "hostler.node.lxcfs")
    return [
        Program(f"lxcfs-{server}", VIEWS, (*inside, *views), environment),
        Program(f"node-{server}", PLATFORM, (*inside, *worker), environment, stop_seconds=40),
        Program(f"watch-{server}", PLATFORM, (*inside, *watch), environment),
    ]


def supervisord_config(lab: Lab, all_programs: list[Program]) -> str:
    """supervisord's whole configuration file.

    A program gets SIGTERM alone and ends its children itself; only past its time its process group is killed. Containers'
    inits and whatever a step runs are in process groups of their own, so neither reaches them.
    """
    sections = [
        _section(
            "supervisord",
            logfile=lab.log("supervisord"),
            logfile_maxbytes=LOG_BYTES,
            logfile_backups=LOG_FILES,
            pidfile=lab.supervisor_pid,
            childlogdir=lab.logs,
            nocleanup="true",
            umask="027",
            directory="/",
        ),
        _section("unix_http_server", file=lab.supervisor_socket, chmod="0700"),
        _section("rpcinterface:supervisor", **{"supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"}),
        _section("supervisorctl", serverurl=f"unix://{lab.supervisor_socket}"),
        *(_program(lab, program) for program in all_programs),
        *(_group(name, priority, all_programs) for name, priority in ((BROKER, 1), (VIEWS, 5), (PLATFORM, 10))),
    ]
    return "; Written by ops/up: changes are lost.\n" + "\n".join(sections)


def _program(lab: Lab, program: Program) -> str:
    environment = {MARK: str(lab.home), "SPT_NOENV": "1", "PYTHONUNBUFFERED": "1", **_FEWER_ARENAS, "PATH": _PATH, **program.environment}
    pairs = ",".join(f"{name}='{plain_value(name, value)}'" for name, value in sorted(environment.items()))
    return _section(
        f"program:{program.name}",
        command=shlex.join(program.command),
        environment=pairs,
        user=program.user,
        directory="/",
        umask="027",
        autorestart="true",
        startsecs=2,
        startretries=20,
        stopsignal="TERM",
        stopwaitsecs=program.stop_seconds,
        stopasgroup="false",
        killasgroup="true",
        stdout_logfile=lab.log(program.name),
        stdout_logfile_maxbytes=LOG_BYTES,
        stdout_logfile_backups=LOG_FILES,
        redirect_stderr="true",
    )


#: Without it glibc keeps a heap for each thread of a pool, most of it empty (mallopt(3), M_ARENA_MAX).
_FEWER_ARENAS = {"MALLOC_ARENA_MAX": "2"}
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def _group(name: str, priority: int, all_programs: list[Program]) -> str:
    members = ",".join(program.name for program in all_programs if program.group == name)
    return _section(f"group:{name}", programs=members, priority=priority)


def _section(title: str, **values: object) -> str:
    """One section; per cent signs are doubled, which supervisord would else expand."""
    lines = [f"{name} = {str(value).replace('%', '%%')}" for name, value in values.items()]
    return "\n".join([f"[{title}]", *lines, ""])


def redis_config(lab: Lab) -> str:
    """Redis on a private socket, nothing on the network, each write kept within a second."""
    return "\n".join(
        [
            "# Written by ops/up: changes are lost.",
            "port 0",
            f"unixsocket {lab.redis_socket}",
            "unixsocketperm 770",
            f"dir {lab.home / 'redis'}",
            "appendonly yes",
            "appendfsync everysec",
            'save ""',
            "maxmemory-policy noeviction",
            "daemonize no",
            'logfile ""',
            # a title would be written over the environment by which a process of ours is known
            "set-proc-title no",
            "",
        ]
    )
