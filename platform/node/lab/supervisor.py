"""The lab's supervisord: start it, see what its programs do, change, restart and stop them.

It is spoken to over its unix socket: http://supervisord.org/api.html
"""

from __future__ import annotations

import http.client
import time
import xmlrpc.client
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from supervisor.xmlrpc import SupervisorTransport

from hostler.core.errors import HostFailure, Timeout
from hostler.host.process import run
from hostler.node.lab.layout import MARK, Lab

#: Its answer to everything once it was told to end.
_ENDING = "SHUTDOWN_STATE"
_TRANSIENT = ("STARTING", "BACKOFF", "STOPPING")


@dataclass(frozen=True)
class ProgramState:
    """What supervisord says of one program."""

    full_name: str
    state: str
    pid: int
    started: int
    """Seconds since 1970 at which it was started last."""

    @property
    def name(self) -> str:
        """Without its group."""
        return self.full_name.partition(":")[2]


class Supervisor:
    """One lab's supervisord. What it refuses is raised as :class:`HostFailure`."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def _ask(self, method: str, *args: object) -> Any:
        # a new connection each time: the transport cannot use one again on which a call failed
        transport = SupervisorTransport(None, None, f"unix://{self.lab.supervisor_socket}")
        with xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport) as proxy:
            try:
                return getattr(proxy.supervisor, method)(*args)
            except xmlrpc.client.Fault as fault:
                raise HostFailure(f"supervisord refused {method}: {fault.faultString}", hint=f"see {self.lab.log('supervisord')}") from fault

    def is_there(self) -> bool:
        """Whether one answers on the socket, be it only to say that it is ending."""
        try:
            self._ask("getPID")
        except (OSError, http.client.HTTPException):
            return False
        except HostFailure:
            return True
        return True

    def start(self) -> None:
        """Start it, apart from the caller's terminal and session. Raises :class:`HostFailure`, :class:`Timeout`."""
        run(
            [self.lab.bin / "supervisord", "--configuration", self.lab.supervisor_config],
            env={MARK: str(self.lab.home)},
            cwd=self.lab.home,
            timeout=30,
        )
        _until(self.is_there, 10, "supervisord did not answer on its socket", f"see {self.lab.log('supervisord')}")

    def states(self) -> list[ProgramState]:
        """All programs."""
        return [ProgramState(f"{info['group']}:{info['name']}", info["statename"], int(info["pid"]), int(info["start"])) for info in self._ask("getAllProcessInfo")]

    def reload(self) -> None:
        """Take over a changed configuration: groups that changed are stopped and started."""
        (added, changed, removed), *_ = self._ask("reloadConfig")
        for group in (*removed, *changed):
            self._ask("stopProcessGroup", group)
            self._ask("removeProcessGroup", group)
        for group in (*changed, *added):
            self._ask("addProcessGroup", group)

    def restart(self, group: str) -> None:
        """Stop all programs of a group and start them again."""
        self._ask("stopProcessGroup", group)
        self._ask("startProcessGroup", group, False)

    def start_stopped(self) -> list[str]:
        """Start the programs that are neither running nor about to; their names."""
        idle = [state for state in self.states() if state.state not in ("RUNNING", *_TRANSIENT)]
        for state in idle:
            self._ask("startProcess", state.full_name, False)
        return [state.name for state in idle]

    def shut_down(self, seconds: float) -> None:
        """Stop every program and supervisord itself. Raises :class:`Timeout` when it is still there after ``seconds``."""
        try:
            self._ask("shutdown")
        except HostFailure as refused:
            if _ENDING not in refused.message:
                raise
        _until(lambda: not self.is_there(), seconds, "supervisord did not end", f"see {self.lab.log('supervisord')}")


def _until(done: Callable[[], bool], seconds: float, problem: str, hint: str) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise Timeout(f"{problem} within {seconds:g} s", hint=hint)
        time.sleep(0.05)
