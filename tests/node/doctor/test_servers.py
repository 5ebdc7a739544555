"""Whose drivers are judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hostler.core.errors import Invalid
from hostler.node import doctor
from hostler.node.doctor.servers import servers
from hostler.node.lab.layout import (
    Lab,
    Machine,
    env_file,
    node_environment,
    node_settings,
    platform_environment,
)
from hostler.settings import NodeSettings


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """The files of a lab of two servers."""
    lab = Lab(checkout=tmp_path, machine=Machine(cpus=2, memory=4 << 30, disk=100 << 30), home=tmp_path / "home", installation="doctest")
    lab.etc.mkdir(parents=True)
    (lab.etc / "platform.env").write_text(env_file(platform_environment(lab)))
    for server in lab.servers:
        (lab.etc / f"node-{server}.env").write_text(env_file(node_environment(lab, server, None)))
    return lab


def of(lab: Lab) -> NodeSettings:
    """What the ``hostler`` command knows of itself."""
    return NodeSettings(installation=lab.installation, home=lab.home)


def test_a_labs_servers_are_judged_by_their_own_settings(lab: Lab, tmp_path: Path) -> None:
    found = servers(of(lab), tmp_path / "none")
    assert [place.settings for place in found] == [node_settings(lab, server, None) for server in lab.servers]
    pools = {place.settings.drivers["storage:btrfs"]["pool"] for place in found}
    assert pools == {str(lab.node_state(server) / "pool") for server in lab.servers}
    assert {finding.area for finding in doctor.examine(of(lab))} >= {"drivers of alpha", "drivers of beta"}


def test_a_real_server_is_judged_by_its_files(tmp_path: Path) -> None:
    (tmp_path / "platform.env").write_text("HOSTLER_INSTALLATION=prod\n")
    drivers = {"storage:loop": {"reserve": "1G"}}
    (tmp_path / "node-one.env").write_text(f"# of server one\nHOSTLER_NODE=one\nHOSTLER_DRIVERS='{json.dumps(drivers)}'\nHOSTLER_DRIVERS_ENABLED='[\"storage:loop\"]'\n")
    (found,) = servers(NodeSettings(installation="prod", home=tmp_path / "none"), tmp_path)
    assert (found.settings.node, found.settings.drivers, found.settings.drivers_enabled, found.netns) == ("one", drivers, ("storage:loop",), None)
    another = NodeSettings(installation="other", home=tmp_path / "none")
    assert [place.settings for place in servers(another, tmp_path)] == [another]


def test_a_servers_own_environment_is_its_own(lab: Lab) -> None:
    own = NodeSettings(installation=lab.installation, home=lab.home, node="alpha")
    assert [place.settings for place in servers(own)] == [own]


def test_files_that_nobody_could_start_with_are_told(lab: Lab, tmp_path: Path) -> None:
    (lab.etc / "node-alpha.env").write_text("HOSTLER_NODE=alpha\nHOSTLER_DRIVERS='{'\n")
    with pytest.raises(Invalid) as raised:
        servers(of(lab), tmp_path)
    assert "node-alpha.env" in raised.value.message
