"""Take a lab down: programs, containers, mounts, networks, in this order; after a crash too. Data stays unless purged."""

from __future__ import annotations

from pathlib import Path

from hostler.core.errors import HostFailure, Timeout
from hostler.host import lab as network
from hostler.host.process import run
from hostler.node.lab import files, leftovers, tuning
from hostler.node.lab.layout import Lab, node_environment
from hostler.node.lab.lock import locked
from hostler.node.lab.programs import in_server
from hostler.node.lab.steps import step
from hostler.node.lab.supervisor import Supervisor

#: More than the longest time that a program has to end.
_STOP_SECONDS = 60


def down(lab: Lab, criu: Path | None, *, purge: bool) -> None:
    """All of it, with progress on standard output. Raises :class:`HostFailure` for what could not be removed, after all else was."""
    lab.check()
    problems: list[str] = []
    if lab.home.is_dir():
        with locked(lab.home):
            with step("programs stopped"):
                _stop(lab)
            for server in lab.servers:
                with step(f"containers of {server} removed"):
                    problems += _empty(lab, server, criu)
            with step("mounts and loop devices released"):
                leftovers.clear(lab)
    with step("networks removed"):
        network.remove_all(lab.installation)
    files.take_off_path(lab)
    tuning.untune(lab.installation)
    if problems:
        raise HostFailure("not everything could be removed:\n" + "\n".join(f"  {problem}" for problem in problems), hint="run ops/down again")
    if purge:
        with step(f"{lab.home} deleted"):
            files.delete_home(lab)


def _stop(lab: Lab) -> None:
    supervisor = Supervisor(lab)
    if supervisor.is_there():
        try:
            supervisor.shut_down(_STOP_SECONDS)
        except Timeout:
            print("    supervisord did not end in time: its processes are ended one by one")
    # whatever is left now has no supervisor, or one that hangs
    leftovers.end_processes(lab.home)


def _empty(lab: Lab, server: str, criu: Path | None) -> list[str]:
    """Run ``empty`` where the server's worker ran; in an empty network namespace if the server's own is gone, as after a reboot."""
    if not lab.node_state(server).is_dir():
        return []
    inside = in_server(lab, server) if lab.netns(server).exists() else ("unshare", "--net", "--")
    command: list[str | Path] = [*inside, lab.bin / "python", "-m", "hostler.node.lab", "empty"]
    done = run(command, env=node_environment(lab, server, criu), cwd=Path("/"), check=False, timeout=300)
    if done.returncode == 0:
        return []
    return [f"server {server}: {line}" for line in (done.text.strip() or done.error_text).splitlines()]
