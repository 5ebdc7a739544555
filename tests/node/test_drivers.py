"""Drivers that are wrong in every way are reported and left out; the others are loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from hostler.contracts.driver import CONTRACT_VERSION, Host, Lack, Probe
from hostler.contracts.net import NetCapabilities
from hostler.core.errors import HostFailure, Unsupported
from hostler.core.messages import DriverFact
from hostler.node.drivers import Drivers, load, load_classes
from hostler.settings import NodeSettings
from hostler.testing.fakes import FAKES
from hostler.testing.fakes.net import FakeNet
from hostler.testing.fakes.storage import FakeStorage


class Newer(FakeNet):
    name = "newer"
    contract_version = CONTRACT_VERSION + 1


class WrongType:
    group, name = "net", "wrong"


class BadProbe(FakeNet):
    name = "badprobe"

    def probe(self) -> Probe:
        raise HostFailure("the card does not answer", hint="put it in again")


class BuggyProbe(FakeNet):
    name = "buggyprobe"

    def probe(self) -> Probe:
        raise ZeroDivisionError("division by zero")


class BadSetup(FakeNet):
    name = "badsetup"

    def setup(self) -> None:
        raise OSError(28, "No space left on device")


class BadCapabilities(FakeNet):
    name = "badcapabilities"

    @property
    def capabilities(self) -> NetCapabilities:
        raise RuntimeError("no idea")


class Lacking(FakeNet):
    name = "lacking"

    def probe(self) -> Probe:
        return Probe(lacks=[Lack(what="the kernel has no veth", remedy="modprobe veth", blocks=True)])


class Abstract(FakeNet):
    name = "abstract"

    def __init__(self, host: Host) -> None:
        raise TypeError("Can't instantiate abstract class")


def _host(folder: Path) -> Host:
    return Host(installation="t", node="alpha", state_dir=folder, libexec=folder, settings={"net:fake": {}})


def _fact(drivers: Drivers, name: str) -> DriverFact:
    (found,) = [fact for fact in drivers.facts if fact.name == name]
    return found


def test_the_fakes_are_loaded_and_found_by_name(tmp_path: Path) -> None:
    drivers = load_classes(_host(tmp_path), FAKES.values(), setup=True)
    assert [fact.usable for fact in drivers.facts] == [True] * len(FAKES)
    assert isinstance(drivers.net("fake"), FakeNet)
    assert "hold" in next(fact for fact in drivers.facts if fact.group == "net").capabilities
    with pytest.raises(Unsupported, match="no usable net driver bridge"):
        drivers.net("bridge")


@pytest.mark.parametrize(
    ("plugin", "said"),
    [
        (Newer, f"it wants contract {CONTRACT_VERSION + 1}; this platform has {CONTRACT_VERSION}"),
        (WrongType, "it is no Net of hostler.contracts"),
        (BadProbe, "the card does not answer (put it in again)"),
        (BuggyProbe, "unexpected ZeroDivisionError: division by zero"),
        (BadSetup, "No space left on device"),
        (BadCapabilities, "unexpected RuntimeError: no idea"),
        (Abstract, "Can't instantiate abstract class"),
        (Lacking, "the kernel has no veth (modprobe veth)"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_wrong_is_told_and_left_out(plugin: type, said: str, tmp_path: Path) -> None:
    drivers = load_classes(_host(tmp_path), [plugin, FakeNet], setup=True)
    fact = _fact(drivers, str(vars(plugin).get("name")))
    assert not fact.usable and said in fact.problem
    assert list(drivers.loaded["net"]) == ["fake"]


def test_a_name_that_two_have_goes_to_the_first(tmp_path: Path) -> None:
    drivers = load_classes(_host(tmp_path), [FakeNet, FakeNet])
    assert [fact.usable for fact in drivers.facts] == [True, False]
    assert "another package" in drivers.facts[1].problem


def test_settings_that_are_not_known_leave_a_driver_out(tmp_path: Path) -> None:
    host = Host(installation="t", node="alpha", state_dir=tmp_path, libexec=tmp_path, settings={"net:fake": {"uplnik": "eth0"}})
    drivers = load_classes(host, [FakeNet, FakeStorage])
    assert [fact.usable for fact in drivers.facts] == [False, True]
    assert "uplnik" in drivers.facts[0].problem


# --- installed ones, as stevedore finds them ---

MODULES = {
    "fine": "from hostler.testing.fakes.net import FakeNet\nclass Found(FakeNet):\n    name = 'fine'\n",
    "missing": "",
    "syntax": "def broken(:\n",
    "asserts": "assert False, 'not on a Tuesday'\n",
    "exits": "raise SystemExit('bye')\n",
    "needs": "import a_module_that_is_not_there\n",
    "function": "def Found(host): return None\n",
}


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder with a distribution whose entry points are good and bad."""
    folder = tmp_path / "site"
    info = folder / "strangers-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: strangers\nVersion: 1.0\n")
    points = "\n".join(f"{name} = strangers_{name}:Found" for name in MODULES)
    (info / "entry_points.txt").write_text(f"[hostler.net]\n{points}\n")
    for name, text in MODULES.items():
        if name != "missing":
            (folder / f"strangers_{name}.py").write_text(text)
    return folder


def test_installed_drivers_that_are_broken_do_not_stop_the_others(installed: Path, tmp_path: Path) -> None:
    code = (
        "import json, sys; from pathlib import Path; from hostler.contracts.driver import Host; from hostler.node.drivers import load;"
        "from hostler.node import drivers; drivers.CONTRACTS = {'net': drivers.CONTRACTS['net']};"
        "found = load(Host('t', 'alpha', Path(sys.argv[1]), Path(sys.argv[1])));"
        "print('FACTS' + json.dumps({fact.name: [fact.usable, fact.problem] for fact in found.facts}))"
    )
    env = {"PYTHONPATH": str(installed), "PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=env, capture_output=True, text=True, timeout=60, check=True)
    facts = json.loads(done.stdout.rpartition("FACTS")[2])
    assert facts["fine"] == [True, ""]
    said = {
        "missing": "No module named 'strangers_missing'",
        "syntax": "SyntaxError",
        "asserts": "not on a Tuesday",
        "exits": "SystemExit: bye",
        "needs": "a_module_that_is_not_there",
        "function": "it is no Net",
    }
    for name, words in said.items():
        usable, problem = facts[name]
        assert not usable and words in problem, (name, problem)
    assert "bridge" in facts


def test_a_server_may_name_the_drivers_it_wants(tmp_path: Path) -> None:
    host = Host(installation="t", node="alpha", state_dir=tmp_path, libexec=tmp_path)
    everything = {(fact.group, fact.name): fact for fact in load(host).facts}
    chosen = load(host, enabled=("storage:loop", "storage:none-such"))
    facts = {(fact.group, fact.name): fact for fact in chosen.facts}
    assert facts["storage", "btrfs"].problem.startswith("left out: HOSTLER_DRIVERS_ENABLED")
    assert "no installed package has it" in facts["storage", "none-such"].problem
    assert set(chosen.loaded["storage"]) <= {"loop"}
    assert facts["storage", "loop"] == everything["storage", "loop"]
    assert {name: fact for name, fact in facts.items() if name[0] != "storage"} == {name: fact for name, fact in everything.items() if name[0] != "storage"}


def test_what_is_no_drivers_name_is_refused_in_the_settings() -> None:
    assert NodeSettings(drivers_enabled=("storage:loop",)).drivers_enabled == ("storage:loop",)
    with pytest.raises(ValidationError):
        NodeSettings(drivers_enabled=("loop",))
