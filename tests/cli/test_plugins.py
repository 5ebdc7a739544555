"""hostler plugins: what each server's drivers can do, and why one was left out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from hostler.cli.root import cli
from hostler.core.messages import Capacity, DriverFact, Hello, NodeFacts
from hostler.store.nodes import greet
from tests.web.fixtures import World

FACTS = [
    DriverFact(group="net", name="bridge", version="1", capabilities=["hold", "firewall"], usable=True),
    DriverFact(group="net", name="odd", usable=False, problem="it wants contract 2; this platform has 1"),
    DriverFact(group="storage", name="btrfs", version="3", capabilities=["quota"], usable=True),
]


def test_drivers_of_all_servers(world: World, panel_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = NodeFacts(kernel="6.18", architecture="x86_64", capacity=Capacity(cpus=1, memory=1, disk=1), drivers=FACTS)
    with world.store.write() as session:
        greet(session, Hello(node="alpha", instance="i1", facts=facts))
    for name, value in (("HOSTLER_URL", panel_url), ("HOSTLER_TOKEN", world.provider.token), ("HOME", str(tmp_path))):
        monkeypatch.setenv(name, value)
    shown = CliRunner().invoke(cli, ["plugins"])
    assert shown.exit_code == 0, shown.output
    assert re.search(r"^net +bridge +1 +alpha +usable +hold, firewall +-$", shown.output, re.M)
    assert re.search(r"^net +odd +alpha +left out +- +it wants contract 2; this platform has 1$", shown.output, re.M)
    only = CliRunner().invoke(cli, ["plugins", "--group", "storage", "--node", "alpha"]).output
    assert "btrfs" in only and "bridge" not in only
    assert '"version": "3"' in CliRunner().invoke(cli, ["plugins", "--json"]).output
