"""The units of a real server start what the lab starts, and the manual knows every setting."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from configparser import RawConfigParser
from pathlib import Path

import pytest

from hostler.core.units import GIB
from hostler.node.lab.layout import Lab, Machine, parse_env
from hostler.node.lab.programs import programs
from hostler.settings import ControlSettings, NodeSettings

ROOT = Path(__file__).resolve().parents[2]
UNITS = ROOT / "ops/systemd"
LAB = Lab(checkout=Path("/opt/hostler"), machine=Machine(2, 4 * GIB, 100 * GIB), servers=("one",), machine_link=False)
#: Services that run as root, by nature.
ROOTS = {"hostler-node@", "hostler-watch@", "hostler-lxcfs@"}


def service(path: Path) -> dict[str, list[str]]:
    """The [Service] section of a unit, whose keys may come more than once."""
    values: dict[str, list[str]] = {}
    lines = path.read_text().partition("[Service]")[2].partition("[Install]")[0].splitlines()
    for line in lines:
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            values.setdefault(name, []).append(value)
    return values


def lab_commands() -> dict[str, list[str]]:
    """Unit → the lab's command, without the lab's namespace prefix and with the unit's own places."""
    commands = {}
    for program in programs(LAB, None):
        words = list(program.command)
        if words[0] == "nsenter":
            words = words[words.index("--") + 1 :]
        words = ["/usr/bin/redis-server" if word == "redis-server" else word.replace(str(LAB.etc), "/etc/hostler") for word in words]
        commands[program.name.replace("-one", "@")] = words
    return commands


@pytest.mark.parametrize("name", ["redis", "control", "beat", "panel", "node@", "watch@", "lxcfs@"])
def test_units_start_what_the_lab_starts(name: str) -> None:
    (line,) = service(UNITS / f"hostler-{name}.service")["ExecStart"]
    assert shlex.split(line.replace("%i", "one").replace("%%", "%")) == lab_commands()[name]


@pytest.mark.parametrize("unit", sorted(UNITS.glob("*.service")), ids=lambda path: path.stem)
def test_only_the_workers_of_servers_are_root(unit: Path) -> None:
    values = service(unit)
    if unit.stem in ROOTS:
        assert values["User"] == ["root"]
        assert not any("control.env" in file for file in values["EnvironmentFile"])
    else:
        assert values["User"] == ["hostler"]
        assert values["NoNewPrivileges"] == ["yes"] and values["ProtectSystem"] == ["strict"] and values["CapabilityBoundingSet"] == [""]


def test_containers_survive_their_worker() -> None:
    values = service(UNITS / "hostler-node@.service")
    assert (values["Delegate"], values["KillMode"]) == (["yes"], ["process"])


def test_what_lxcfs_mounts_is_seen_by_all() -> None:
    """These and many others give a service mounts of its own (systemd.exec(5))."""
    values = service(UNITS / "hostler-lxcfs@.service")
    assert not [name for name in values if name.startswith(("Private", "Protect", "ReadOnly", "ReadWrite", "Bind", "Root", "Mount", "Inaccessible"))]


@pytest.mark.parametrize("unit", sorted(UNITS.glob("*.service")), ids=lambda path: path.stem)
def test_units_parse(unit: Path) -> None:
    RawConfigParser(strict=False, delimiters="=").read_string(unit.read_text())
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not on this host")
    told = subprocess.run([program, "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60)
    # the programs of /opt/hostler need not be on this host
    complaints = [line for line in told.stderr.splitlines() if unit.name in line and "is not executable" not in line]
    assert complaints == []


def test_env_examples_are_settings() -> None:
    known = {f"HOSTLER_{name.upper()}" for model in (ControlSettings, NodeSettings) for name in model.model_fields}
    for example in UNITS.glob("*.env.example"):
        assert set(parse_env(example.read_text())) <= known, example.name


def test_the_manual_knows_every_setting() -> None:
    manual = (ROOT / "docs/operating.md").read_text()
    for model in (ControlSettings, NodeSettings):
        for name in model.model_fields:
            assert f"`HOSTLER_{name.upper()}`" in manual, name
