"""The lab's supervisord: start it, see what its programs do, change, restart and stop them.

It is spoken to over its unix socket: http://supervisord.org/api.html
"""

from __future__ import annotations

import time
import xmlrpc.client
from dataclasses import dataclass
from typing import Any

from supervisor.xmlrpc import SupervisorTransport

from hostler.core.errors import HostFailure, Timeout
from hostler.host.process import run
from hostler.node.lab.layout import MARK, Lab

_TRANSIENT = ("STARTING", "BACKOFF", "STOPPING")


@dataclass(frozen=True)
class ProgramState:
    """What supervisord says of one program."""

    full_name: str
    state: str
    description: str
    pid: int

    @property
    def name(self) -> str:
        """Without its group."""
        return self.full_name.partition(":")[2]


class Supervisor:
    """One lab's supervisord."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        transport = SupervisorTransport(None, None, f"unix://{lab.supervisor_socket}")
        self._rpc: Any = xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport).supervisor

    def pid(self) -> int | None:
        """Of the supervisord that answers on the socket; None when none does."""
        try:
            return int(self._rpc.getPID())
        except OSError:
            return None

    def start(self) -> None:
        """Start it, apart from the caller's terminal and session. Raises :class:`HostFailure`, :class:`Timeout`."""
        run(
            [self.lab.bin / "supervisord", "--configuration", self.lab.supervisor_config],
            env={MARK: str(self.lab.home)},
            cwd=self.lab.home,
            timeout=30,
        )
        _until(lambda: self.pid() is not None, 10, "supervisord did not answer on its socket", f"see {self.lab.log('supervisord')}")

    def states(self) -> list[ProgramState]:
        """All programs."""
        return [
            ProgramState(f"{info['group']}:{info['name']}", info["statename"], info["description"], int(info["pid"]))
            for info in self._rpc.getAllProcessInfo()
        ]

    def reload(self) -> list[str]:
        """Take over a changed configuration: groups that changed are stopped and started; their names."""
        (added, changed, removed), *_ = self._rpc.reloadConfig()
        for group in (*removed, *changed):
            self._rpc.stopProcessGroup(group)
            self._rpc.removeProcessGroup(group)
        for group in (*changed, *added):
            self._rpc.addProcessGroup(group)
        return [*added, *changed, *removed]

    def restart(self, group: str) -> None:
        """Stop and start all programs of a group."""
        self._rpc.stopProcessGroup(group)
        self._rpc.startProcessGroup(group, False)

    def start_stopped(self) -> list[str]:
        """Start the programs that are neither running nor about to; their names."""
        idle = [state for state in self.states() if state.state not in ("RUNNING", *_TRANSIENT)]
        for state in idle:
            self._call(lambda name=state.full_name: self._rpc.startProcess(name, False))
        return [state.name for state in idle]

    def shut_down(self, seconds: float) -> None:
        """Stop every program and supervisord itself. Raises :class:`Timeout` when it is still there after ``seconds``."""
        self._rpc.shutdown()
        _until(lambda: self.pid() is None, seconds, "supervisord did not end", f"see {self.lab.log('supervisord')}")

    @staticmethod
    def _call(ask: Any) -> None:
        try:
            ask()
        except xmlrpc.client.Fault as fault:
            raise HostFailure(f"supervisord refused: {fault.faultString}") from fault


def _until(done: Any, seconds: float, problem: str, hint: str) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise Timeout(f"{problem} within {seconds:g} s", hint=hint)
        time.sleep(0.05)
