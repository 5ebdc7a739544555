"""Bring a lab up. Every part is made only if it is missing or different, so that a second run changes nothing."""

from __future__ import annotations

import json
import os
import shutil
from functools import partial
from pathlib import Path

from hostler.core.errors import HostFailure
from hostler.host import lab as network
from hostler.host.process import run
from hostler.node import doctor
from hostler.node.facts import memory_info
from hostler.node.lab import files, health, leftovers, tuning
from hostler.node.lab.layout import (
    DEFAULT_HOME,
    PROVIDER,
    USER,
    Lab,
    Machine,
    command_script,
    control_environment,
    env_file,
    folders,
    node_environment,
    node_settings,
    parse_env,
    platform_environment,
)
from hostler.node.lab.lock import locked
from hostler.node.lab.programs import PLATFORM, programs, redis_config, supervisord_config
from hostler.node.lab.record import Record
from hostler.node.lab.steps import step
from hostler.node.lab.supervisor import Supervisor

_LOCAL_ENV = """\
# Settings of your own for this installation, one HOSTLER_NAME=value a line (docs/operating.md lists them).
# They win over what ops/up writes; run ops/up again to apply them.
"""


def find_machine(home: Path) -> Machine:
    """What this machine has; ``home`` need not exist yet."""
    there = next(folder for folder in (home, *home.parents) if folder.is_dir())
    space = os.statvfs(there)
    return Machine(cpus=len(os.sched_getaffinity(0)), memory=memory_info()["MemTotal"], disk=space.f_frsize * space.f_blocks)


def find_criu(checkout: Path) -> Path | None:
    """The CRIU that ops/install brought, else the machine's, else none."""
    brought = checkout / ".tools/criu/bin/criu"
    if brought.is_file():
        return brought
    found = shutil.which("criu")
    return Path(found) if found else None


def read_extra(home: Path) -> dict[str, str]:
    """The operator's settings of an installation that may not exist yet."""
    file = home / "etc/local.env"
    return parse_env(file.read_text()) if file.is_file() else {}


def up(lab: Lab, *, restart: bool, seconds: float) -> None:
    """All of it, with progress on standard output. ``seconds`` bounds the wait for health."""
    lab.check()
    criu = find_criu(lab.checkout)
    with step(f"system user {USER}"):
        files.make_user()
    lab.home.mkdir(parents=True, exist_ok=True)
    with locked(lab.home):
        with step("this machine examined"):
            _examine(lab, criu)
        with step("folders and settings"):
            opened = _lay_out(lab, criu)
        for folder in opened:
            print(f"    user {USER} may now pass {folder} (access control list), or it could not reach the checkout")
        with step("machine tuned for moves"):
            tuned = tuning.tune(lab.installation)
        for told in tuned:
            print(f"    {told}")
        with step("network: a switch, " + ", ".join(lab.servers)):
            _network(lab)
        with step("store: tables, account, plans, servers"):
            _bootstrap(lab)
        _run_programs(lab, criu, restart=restart)
        _wait(lab, seconds)
        remark = files.put_on_path(lab) if lab.owns_path else ""
    _farewell(lab, remark)




def _examine(lab: Lab, criu: Path | None) -> None:
    settings = node_settings(lab, lab.servers[0], criu)
    # the servers' networks are not there yet
    alone = {name: driver for name, driver in settings.drivers.items() if not name.startswith("net:")}
    findings = doctor.examine(settings.model_copy(update={"drivers": alone}))
    blocking = [finding for finding in findings if finding.status is doctor.Status.BLOCKS]
    if blocking:
        told = "\n".join(f"  {finding.area}: {finding.what}: {finding.detail}. {finding.remedy}" for finding in blocking)
        raise HostFailure(f"this machine cannot run Hostler:\n{told}", hint="mend that and run ops/up again")


def _lay_out(lab: Lab, criu: Path | None) -> list[Path]:
    for folder in folders(lab):
        files.make_folder(folder)
    opened = files.let_pass(lab)
    shared = f"root:{USER}"
    files.write_file(Record.file(lab.home), Record.of(lab).model_dump_json(indent=2) + "\n", 0o644)
    files.write_file(lab.etc / "platform.env", env_file(platform_environment(lab)), 0o640, shared)
    files.write_file(lab.etc / "control.env", env_file(control_environment(lab)), 0o640, shared)
    for server in lab.servers:
        files.write_file(lab.etc / f"node-{server}.env", env_file(node_environment(lab, server, criu)), 0o600)
    if not (lab.etc / "local.env").exists():
        files.write_file(lab.etc / "local.env", _LOCAL_ENV, 0o640, shared)
    files.write_file(lab.etc / "redis.conf", redis_config(lab), 0o640, shared)
    files.write_file(lab.command, command_script(lab, criu), 0o755)
    return opened


def _network(lab: Lab) -> None:
    network.make_switch(lab.installation)
    network.name_machine(lab.installation)
    for server in lab.servers:
        network.add_server(lab.installation, server, *lab.server_addresses(server))
    if lab.machine_link:
        network.connect_machine(lab.installation, *lab.machine_addresses())


def _bootstrap(lab: Lab) -> None:
    nodes = [word for server in lab.servers for word in ("--node", server)]
    command: list[str | Path] = [*files.AS_USER, lab.bin / "python", "-m", "hostler.store.bootstrap", "--account", PROVIDER, *nodes]
    told = json.loads(run(command, env=control_environment(lab), cwd=Path("/"), timeout=120).text)
    if told["token"]:
        files.write_file(lab.first_login, told["token"] + "\n", 0o600)


def _run_programs(lab: Lab, criu: Path | None, *, restart: bool) -> None:
    supervisor = Supervisor(lab)
    changed = files.write_file(lab.supervisor_config, supervisord_config(lab, programs(lab, criu)), 0o600)
    if not supervisor.is_there():
        with step("supervisor and its programs started"):
            leftovers.end_processes(lab.home)  # of a supervisor that was killed
            supervisor.start()
        return
    if changed:
        with step("programs whose settings changed, restarted"):
            supervisor.reload()
    if restart:
        with step("programs restarted; containers go on"):
            supervisor.restart(PLATFORM)
    supervisor.start_stopped()


def _wait(lab: Lab, seconds: float) -> None:
    token = lab.first_login.read_text().strip() if lab.first_login.is_file() else ""
    supervisor = Supervisor(lab)
    checks: list[tuple[str, health.Check]] = [
        ("Redis answers", partial(health.broker_answers, lab)),
        ("panel answers", partial(health.panel_answers, lab)),
        *((f"server {server} is online", partial(health.server_online, lab, supervisor, server, token)) for server in lab.servers),
    ]
    for name, check in checks:
        with step(name):
            health.wait(lab, supervisor, name, check, seconds)


def _farewell(lab: Lab, remark: str) -> None:
    command = "hostler" if lab.owns_path and not remark else str(lab.command)
    token = lab.first_login.read_text().strip() if lab.first_login.is_file() else "TOKEN"
    print(f"""
Hostler is up, with servers {" and ".join(lab.servers)}.

  console   {lab.panel_url}/
  log in    {command} login {lab.panel_url} --token {token}
  then      {command} image build busybox
            {command} create web --image busybox --plan small
  settings  {lab.etc}/local.env    logs  {lab.logs}
  stop      ops/down{"" if lab.home == DEFAULT_HOME else f" --home {lab.home}"}""")
    if remark:
        print(f"\n{remark}")
