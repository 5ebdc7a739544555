"""A container that counts, somebody outside who counts along over one connection, and who sees where it runs."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from hostler.core.api import ContainerOut
from hostler.core.errors import HostFailure
from hostler.node import points
from tests.lab.installation import Platform
from tests.lab.machine import wait_until
from tests.node.wire import lines

PORT = 7000
#: Whoever connects gets numbers, from 1 on, some 150 a second; the last is in a file, too.
SERVE = "#!/bin/sh\nn=0\nwhile :; do n=$((n+1)); echo $n || exit; echo $n > /count; usleep 5000; done\n"
PROGRAM = ("sh", "-c", f"printf '%s' '{SERVE}' > /serve; chmod 755 /serve; exec nc -ll -p {PORT} -e /serve")


class Listener(threading.Thread):
    """Reads numbers over one connection: each once, in order. Start it on the machine."""

    def __init__(self, address: str) -> None:
        super().__init__(name="listener", daemon=True)
        self._connection = socket.create_connection((address, PORT), timeout=5)
        self.heard: list[float] = []
        """When each number came, by the monotonic clock; the first is number 1."""
        self.broken = ""

    def run(self) -> None:
        self._connection.settimeout(None)
        rest = b""
        try:
            while data := self._connection.recv(65536):
                moment = time.monotonic()
                *whole, rest = (rest + data).split(b"\n")
                for line in whole:
                    if int(line) != len(self.heard) + 1:
                        self.broken = f"{line.decode()} after {len(self.heard)}"
                        return
                    self.heard.append(moment)
            self.broken = "the connection was ended"
        except (OSError, ValueError) as error:
            self.broken = self.broken or str(error)

    def next_after(self, moment: float, seconds: float) -> float:
        """Seconds from ``moment`` until the first number that came after it; infinity if none does in time."""
        deadline = time.monotonic() + seconds
        while not (self.heard and self.heard[-1] > moment):
            if self.broken or time.monotonic() > deadline:
                return float("inf")
            time.sleep(0.002)
        return next(at for at in self.heard if at > moment) - moment

    def goes_on(self, seconds: float = 10) -> bool:
        """Whether twenty more numbers come, the last of them in time."""
        wanted, deadline = len(self.heard) + 20, time.monotonic() + seconds
        while len(self.heard) < wanted and not self.broken and time.monotonic() < deadline:
            time.sleep(0.005)
        return len(self.heard) >= wanted and not self.broken

    def close(self) -> None:
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self.join(5)
        self._connection.close()


class Witness(threading.Thread):
    """Sees on both servers' disks which copy of a container runs: its counter is in its volume."""

    def __init__(self, platform: Platform, container: str) -> None:
        super().__init__(name="witness", daemon=True)
        self._files = {server: self._file(platform, server, container) for server in platform.servers}
        self._over = threading.Event()
        self.moves: list[tuple[float, str, int]] = []
        """When, where, and to what the counter changed."""

    def _file(self, platform: Platform, server: str, container: str) -> Path:
        (volumes,) = platform.pool(server).glob("*/volumes")
        return volumes / container / "count"

    def run(self) -> None:
        last: dict[str, int] = {}
        while not self._over.wait(0.003):
            for server, file in self._files.items():
                number = _number(file)
                if number is not None and number != last.get(server):
                    if server in last:
                        self.moves.append((time.monotonic(), server, number))
                    last[server] = number

    def stop(self) -> None:
        self._over.set()
        self.join(5)

    def ran_twice(self, source: str, target: str) -> str:
        """In words, if the source ran once the target had begun to. A volume that arrives changes once without anybody running."""
        begun = [at for at, server, _ in self.moves if server == target][2:]
        after = [(at, number) for at, server, number in self.moves if server == source and begun and at > begun[0]]
        return f"{source} ran to {after[-1][1]}, {len(after)} steps, after {target} had begun" if after else ""


def _number(file: Path) -> int | None:
    try:
        text = file.read_text()
    except OSError:
        return None
    return int(text) if text.endswith("\n") else None


@dataclass
class Traveller:
    """The container that is moved, and who listens to it."""

    platform: Platform
    name: str
    container: ContainerOut = field(init=False)
    listener: Listener | None = None

    def __post_init__(self) -> None:
        self.container = self.platform.create(self.name, *PROGRAM)
        self.listen()

    def listen(self) -> None:
        """Count along, from the beginning."""
        if self.listener is not None:
            self.listener.close()
        address = self.container.address_v4
        assert address is not None
        wait_until(lambda: self.platform.listens(address, PORT), 10, "it does not listen")
        self.listener = Listener(address)
        self.listener.start()
        wait_until(lambda: self.listener is not None and len(self.listener.heard) > 10, 10, "it does not count")

    def close(self) -> None:
        if self.listener is not None:
            self.listener.close()


# --- stopping at points, and striking ---


@contextmanager
def stopped_at(platform: Platform, server: str, point: str) -> Iterator[Callable[[], bool]]:
    """Have that server's work stop at ``point`` during the block. Gives what tells whether it has."""
    folder = points.points(platform.host(server))
    folder.mkdir(exist_ok=True)
    wanted, reached = folder / point, folder / f"{point}.reached"
    wanted.touch()
    try:
        yield reached.exists
    finally:
        wanted.unlink(missing_ok=True)
        reached.unlink(missing_ok=True)
        folder.rmdir()


def go_on(platform: Platform, server: str, point: str) -> None:
    """Let work go on that has stopped."""
    (points.points(platform.host(server)) / f"{point}.reached").unlink(missing_ok=True)


def criu_processes(platform: Platform, server: str, verb: str) -> list[int]:
    """CRIU at work for a server, dumping or restoring."""
    folder = f"{platform.state(server)}/revivals/".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has just ended
            if verb.encode() in words and any(word.startswith(folder) for word in words) and not any(b"hostler-launch" in word for word in words[:1]):
                found.append(int(entry.name))
    return found


def kill_criu(platform: Platform, server: str, verb: str) -> int:
    """SIGKILL to the CRIU at work for a server; how many processes of it there were."""
    found = criu_processes(platform, server, verb)
    for pid in found:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(found)


def deafen(platform: Platform, server: str) -> None:
    """Nothing of the wire arrives at a server any more; what it sends does arrive."""
    lines.cut(platform.netns(server))


def heal(platform: Platform) -> None:
    """All wires are whole."""
    for server in platform.servers:
        with suppress(HostFailure, FileNotFoundError):
            lines.heal(platform.netns(server))


