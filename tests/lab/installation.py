"""What a test does with a running installation: asks its panel as any caller would, and kills its programs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from hostler.client.client import Client
from hostler.contracts.driver import Host
from hostler.core.api import ContainerOut, EventOut, OperationOut
from hostler.core.names import new_id
from hostler.core.specs import ExecResult
from hostler.host import guest, netns
from hostler.host.guest import InitRecord
from hostler.node import drivers
from hostler.node.drivers import Drivers
from hostler.node.here import this_host
from hostler.node.lab import health
from hostler.node.lab.layout import node_settings
from hostler.node.lab.supervisor import Supervisor
from hostler.node.lab.up import find_criu
from hostler.store.engine import Store
from tests.lab.machine import Apart, wait_until

IMAGE = "busybox"
#: Small enough that a test may have dozens, large enough for a shell.
PLAN = "tiny"
#: What keeps a container up and obeys its stop signal at once.
IDLE = ("sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done")


@dataclass
class Platform:
    """A running installation and a client of the provider's. All is called in the machine's network namespace."""

    apart: Apart
    client: Client
    token: str
    store: Store
    _drivers: dict[str, Drivers] = field(default_factory=dict)

    @property
    def supervisor(self) -> Supervisor:
        """Its supervisord."""
        return Supervisor(self.apart.lab)

    @property
    def servers(self) -> tuple[str, ...]:
        """Names of its servers."""
        return self.apart.lab.servers

    def state(self, server: str) -> Path:
        """A server's own folder."""
        return self.apart.lab.node_state(server)

    def pool(self, server: str) -> Path:
        """Where a server's pool is mounted."""
        return self.state(server) / "pool"

    def netns(self, server: str) -> Path:
        """A server's network namespace."""
        return self.apart.lab.netns(server)

    def drivers(self, server: str) -> Drivers:
        """A server's drivers, loaded in this process. Call this and their verbs in the server's network namespace."""
        if server not in self._drivers:
            lab = self.apart.lab
            self._drivers[server] = drivers.load(this_host(node_settings(lab, server, find_criu(lab.checkout))))
        return self._drivers[server]

    # --- asking ---

    def done(self, operation: OperationOut) -> OperationOut:
        """The operation once it is done; any other end fails the test."""
        ended = self.client.wait(operation.id)
        assert ended.state == "done", told(ended)
        return ended

    def failed(self, operation: OperationOut, code: str) -> OperationOut:
        """The operation once it has failed with ``code``, everything undone, a message and a hint with it."""
        ended = self.client.wait(operation.id)
        assert ended.state == "failed" and ended.error is not None, told(ended)
        assert ended.error.code == code, told(ended)
        assert ended.error.message and ended.error.hint and not ended.error.bug, told(ended)
        return ended

    def body(self, name: str, *args: str, plan: str = PLAN, **more: Any) -> dict[str, Any]:
        """What asks for a container."""
        return {"name": name, "image": IMAGE, "plan": plan, "args": args or IDLE, **more}

    def create(self, name: str, *args: str, plan: str = PLAN, client: Client | None = None, **more: Any) -> ContainerOut:
        """A running container."""
        asked = client or self.client
        ended = asked.wait(asked.create(self.body(name, *args, plan=plan, **more)).id)
        assert ended.state == "done", told(ended)
        return asked.container(name)

    def create_on(self, server: str, name: str, *args: str, client: Client | None = None, **more: Any) -> ContainerOut:
        """A running container on that very server: others are made until placement comes there, and deleted again."""
        asked = client or self.client
        elsewhere = []
        try:
            for _ in range(6):
                made = self.create(name, *args, client=asked, **more)
                if made.node == server:
                    return made
                elsewhere.append(self._set_aside(asked, made, name, args, more))
            raise AssertionError(f"placement never chose {server}")
        finally:
            for aside in elsewhere:
                self.delete(aside, client=asked)

    def _set_aside(self, client: Client, made: ContainerOut, name: str, args: tuple[str, ...], more: dict[str, Any]) -> str:
        """Names cannot be changed: delete it, and keep its server's room taken by another."""
        self.delete(name, client=client)
        aside = f"aside-{new_id(6)}"
        self.create(aside, *args, client=client, **more)
        return aside

    def delete(self, name: str, client: Client | None = None) -> None:
        """No such container any more."""
        asked = client or self.client
        ended = asked.wait(asked.delete(name).id)
        assert ended.state == "done", told(ended)

    def delete_all(self, client: Client | None = None) -> None:
        """No container of the client's account any more."""
        asked = client or self.client
        operations = [asked.delete(container.name) for container in asked.containers()]
        for operation in operations:
            ended = asked.wait(operation.id)
            assert ended.state == "done", told(ended)

    def exec(self, name: str, *args: str, client: Client | None = None, timeout: float = 20, **more: Any) -> ExecResult:
        """A command inside a container, whatever its status."""
        asked = client or self.client
        ended = asked.wait(asked.exec(name, {"args": args, "timeout": timeout, **more}).id)
        assert ended.state == "done", told(ended)
        return ExecResult.model_validate(ended.result)

    def shell(self, name: str, script: str, client: Client | None = None, timeout: float = 20) -> str:
        """What a shell script inside prints; it must succeed."""
        result = self.exec(name, "sh", "-c", script, client=client, timeout=timeout)
        assert result.exit_code == 0, f"{script}: {result}"
        return result.stdout

    def event(self, name: str, kind: str, seconds: float = 10) -> EventOut:
        """The newest event of a kind about a container, once there is one."""

        def found() -> list[EventOut]:
            return [event for event in self.client.events(container=name) if event.kind == kind]

        wait_until(found, seconds, f"no event {kind} of {name}")
        return found()[0]

    @contextmanager
    def tenant(self, name: str) -> Iterator[Client]:
        """A client of another account. What the account has is deleted at the end."""
        self.client.create_account(name)
        with Client(self.apart.lab.panel_url, self.client.create_token("test", account=name).secret) as client:
            yield client
            self.delete_all(client)

    # --- looking from outside ---

    def host(self, server: str) -> Host:
        """A server as its drivers see it."""
        lab = self.apart.lab
        return Host(installation=lab.installation, node=server, state_dir=self.state(server), libexec=lab.libexec)

    def init(self, container: ContainerOut) -> InitRecord:
        """The container's init on its server; it must live."""
        assert container.node is not None
        record = guest.read_init(self.host(container.node), container.id)
        assert record is not None and record.identity.alive()
        return record

    def http(self, address: str, port: int = 8000) -> str:
        """What ``GET /`` on a container gives to somebody on the machine."""
        literal = f"[{address}]" if ":" in address else address
        return httpx.get(f"http://{literal}:{port}/", timeout=5).text

    def listens(self, address: str, port: int = 8000) -> bool:
        """Whether a container takes a TCP connection from the machine."""
        try:
            socket.create_connection((address, port), timeout=1).close()
        except OSError:
            return False
        return True

    def in_server(self, server: str, *command: str, check: bool = True) -> str:
        """A program's output, run in a server's network namespace."""
        told = subprocess.run(["nsenter", f"--net={self.netns(server)}", "--", *command], capture_output=True, text=True, timeout=30)
        assert not check or told.returncode == 0, told.stderr
        return told.stdout

    # --- programs that die ---

    def kill(self, program: str) -> int:
        """SIGKILL to a program's first process, by its pid; the pid."""
        pid = self.apart.pids()[program]
        assert pid > 0, f"{program} does not run"
        os.kill(pid, signal.SIGKILL)
        return pid

    def wait_for(self, program: str, other_than: int = 0, seconds: float = 30) -> None:
        """Until supervisord has a program up for the two seconds after which it calls it running."""

        def up() -> bool:
            seen = self.apart.programs()[program]
            return seen.state == "RUNNING" and seen.pid not in (0, other_than)

        wait_until(up, seconds, f"{program} was not started again")

    def wait_online(self, *servers: str, seconds: float = 40) -> None:
        """Until these servers (default: all) were heard since their workers were started."""
        for server in servers or self.servers:
            wait_until(partial(self._online, server), seconds, f"server {server} did not come back")

    def _online(self, server: str) -> bool:
        return health.server_online(self.apart.lab, self.supervisor, server, self.token) is None

    def stop_program(self, program: str) -> None:
        """Have supervisord stop a program, and wait."""
        self._supervisorctl("stop", program)

    def start_program(self, program: str) -> None:
        """Have supervisord start it, and wait until it runs."""
        self._supervisorctl("start", program)

    def _supervisorctl(self, verb: str, program: str) -> None:
        lab = self.apart.lab
        self.apart.run(lab.bin / "supervisorctl", "-c", lab.supervisor_config, verb, self.apart.programs()[program].full_name)


def told(operation: OperationOut) -> str:
    """An operation in words, for a failing test."""
    steps = "; ".join(f"{step.name} {step.state}{f' {step.error.message}' if step.error else ''}" for step in operation.steps)
    error = f"{operation.error.code}: {operation.error.message} ({operation.error.hint}) {operation.error.traceback}" if operation.error else ""
    return f"{operation.kind} {operation.target} is {operation.state} on {operation.node or 'no server'}: {error} [{steps}]"


@contextmanager
def entered(apart: Apart) -> Iterator[None]:
    """The calling thread, and what it starts, is on the machine: its requests go to the panel there."""
    with netns.entered(apart.netns):
        yield
