"""supervisord's configuration, read back by supervisord's own parser."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from supervisor.options import ServerOptions

from hostler.core.units import GIB
from hostler.node.lab.layout import MARK, Lab, Machine
from hostler.node.lab.programs import (
    BROKER,
    PLATFORM,
    VIEWS,
    Program,
    programs,
    redis_config,
    supervisord_config,
)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(checkout=Path("/opt/hostler"), machine=Machine(2, 4 * GIB, 100 * GIB), home=tmp_path / "home", installation="t1", panel_port=8651)


def parse(text: str, folder: Path) -> Any:
    """What supervisord makes of the text."""
    (folder / "home/logs").mkdir(parents=True, exist_ok=True)
    (folder / "home/run").mkdir(exist_ok=True)
    file = folder / "supervisord.conf"
    file.write_text(text)
    options = ServerOptions()
    options.realize(["--configuration", str(file)])
    return options


def process_configs(lab: Lab, wanted: list[Program], folder: Path) -> dict[str, Any]:
    options = parse(supervisord_config(lab, wanted), folder)
    return {config.name: config for group in options.process_group_configs for config in group.process_configs}


def as_me(lab: Lab) -> list[Program]:
    """The lab's programs, all to be run by root: supervisord looks users up, and the platform's need not exist here."""
    return [Program(one.name, one.group, one.command, one.environment, "root", one.stop_seconds) for one in programs(lab, None)]


def test_supervisord_reads_back_what_was_meant(lab: Lab, tmp_path: Path) -> None:
    read = process_configs(lab, as_me(lab), tmp_path)
    for one in as_me(lab):
        config = read[one.name]
        assert tuple(shlex.split(config.command)) == one.command
        assert dict(one.environment).items() <= config.environment.items()
        assert config.environment[MARK] == str(lab.home)
        assert config.stopwaitsecs == one.stop_seconds
        assert config.stdout_logfile == str(lab.log(one.name))


def test_programs_and_who_they_run_as(lab: Lab) -> None:
    users = {one.full_name: one.user for one in programs(lab, None)}
    assert users == {
        "broker:redis": "hostler",
        "platform:control": "hostler",
        "platform:beat": "hostler",
        "platform:panel": "hostler",
        "views:lxcfs-alpha": "root",
        "platform:node-alpha": "root",
        "platform:watch-alpha": "root",
        "views:lxcfs-beta": "root",
        "platform:node-beta": "root",
        "platform:watch-beta": "root",
    }


def test_redis_starts_first_and_ends_last(lab: Lab, tmp_path: Path) -> None:
    options = parse(supervisord_config(lab, as_me(lab)), tmp_path)
    assert [group.name for group in sorted(options.process_group_configs)] == [BROKER, VIEWS, PLATFORM]


def test_a_stop_reaches_the_program_alone(lab: Lab, tmp_path: Path) -> None:
    for config in process_configs(lab, as_me(lab), tmp_path).values():
        assert (config.stopasgroup, config.killasgroup) == (False, True)
        assert config.autorestart


def test_each_server_runs_in_its_own_namespace_with_its_own_queue(lab: Lab) -> None:
    for one in programs(lab, None):
        if one.name.startswith(("node-", "watch-", "lxcfs-")):
            server = one.name.partition("-")[2]
            assert one.command[:3] == ("nsenter", f"--net=/run/netns/ht1-{server}", "--")
            assert one.environment["HOSTLER_NODE"] == server
        if one.name.startswith("node-"):
            assert one.command[one.command.index("-Q") + 1] == f"node.{server}"


def test_servers_know_no_store(lab: Lab) -> None:
    for one in programs(lab, None):
        assert ("HOSTLER_STORE_URL" in one.environment) == (one.name in ("control", "beat", "panel"))


def test_without_the_machine_s_link_the_panel_listens_on_loopback_only(lab: Lab) -> None:
    apart = Lab(lab.checkout, lab.machine, lab.home, lab.installation, lab.panel_port, machine_link=False)
    binds = [[word for before, word in zip(one.command, one.command[1:], strict=False) if before == "-b"] for lab_ in (lab, apart) for one in programs(lab_, None) if one.name == "panel"]
    assert binds == [["127.0.0.1:8651", "198.18.0.1:8651"], ["127.0.0.1:8651"]]


def test_redis_keeps_to_its_socket_and_its_environment_readable(lab: Lab) -> None:
    lines = redis_config(lab).splitlines()
    assert {"port 0", f"unixsocket {lab.home}/run/redis.sock", "appendonly yes", "daemonize no", "set-proc-title no"} <= set(lines)
