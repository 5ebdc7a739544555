"""A lab's places, folders and environments, by value."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from hostler.core.errors import Invalid
from hostler.core.units import GIB
from hostler.host import lab as network
from hostler.node.lab import layout
from hostler.node.lab.layout import Lab, Machine

CRIU = Path("/opt/criu")


@pytest.fixture
def lab() -> Lab:
    return Lab(checkout=Path("/opt/hostler"), machine=Machine(cpus=4, memory=8 * GIB, disk=400 * GIB), home=Path("/srv/second"), installation="second")


@pytest.mark.parametrize("home", ["relative/path", "/", "/srv", "/srv/with blank", "/srv/quo'te", "/srv/semi;colon", "/srv/" + "long" * 30])
def test_a_home_that_cannot_work_is_refused(lab: Lab, home: str) -> None:
    with pytest.raises(Invalid) as refused:
        replace(lab, home=Path(home)).check()
    assert refused.value.hint


@pytest.mark.parametrize("installation", ["", "Main", "a-b", "x" * 17, "../up"])
def test_an_id_that_cannot_be_part_of_names_is_refused(lab: Lab, installation: str) -> None:
    with pytest.raises(Invalid):
        replace(lab, installation=installation).check()


def test_a_plain_lab_is_fine(lab: Lab) -> None:
    lab.check()


def test_the_unprivileged_user_owns_no_folder_that_holds_others_files(lab: Lab) -> None:
    owners = {folder.path: folder for folder in layout.folders(lab)}
    for folder in owners.values():
        parent = owners.get(folder.path.parent)
        if parent is not None and parent.owner.startswith(layout.USER):
            assert folder.owner == parent.owner
    assert owners[lab.home].owner == "root:root"
    assert owners[lab.run].mode & 0o1000
    for server in lab.servers:
        assert (owners[lab.node_state(server)].mode, owners[lab.node_state(server)].owner) == (0o700, "root:root")


def test_parents_come_first(lab: Lab) -> None:
    seen: set[Path] = {lab.home.parent}
    for folder in layout.folders(lab):
        assert folder.path.parent in seen
        seen.add(folder.path)


def test_servers_are_told_nothing_of_the_store(lab: Lab) -> None:
    lab = replace(lab, extra={"HOSTLER_STORE_URL": "postgresql+psycopg://u:secret@db/hostler", "HOSTLER_LOG_LEVEL": "debug"})
    assert layout.control_environment(lab)["HOSTLER_STORE_URL"] == "postgresql+psycopg://u:secret@db/hostler"
    for values in (layout.node_environment(lab, "alpha", CRIU), layout.platform_environment(lab)):
        assert not any("secret" in value for value in values.values())
        assert values["HOSTLER_LOG_LEVEL"] == "debug"


def test_servers_share_the_machine(lab: Lab) -> None:
    settings = [layout.node_settings(lab, server, CRIU) for server in lab.servers]
    assert sum(one.capacity_cpus or 0 for one in settings) == 4
    assert sum(one.capacity_memory or 0 for one in settings) == 8 * GIB
    assert len({one.node_state for one in settings}) == len({one.drivers["storage:btrfs"]["file"] for one in settings}) == 2
    assert settings[0].criu == CRIU
    assert settings[0].installation == "second"


def test_addresses_come_from_the_pool_and_follow_local_settings(lab: Lab) -> None:
    assert lab.machine_addresses() == ("198.18.0.1/15", "fd00:686f:7374::1/48")
    assert [lab.server_addresses(server) for server in lab.servers] == [
        ("198.18.0.11/15", "fd00:686f:7374::b/48"),
        ("198.18.0.12/15", "fd00:686f:7374::c/48"),
    ]
    other = replace(lab, extra={"HOSTLER_POOL_V4": "10.9.0.0/16", "HOSTLER_GATEWAY_V4": "10.9.0.1"})
    assert other.machine_addresses()[0] == "10.9.0.1/16"
    assert other.server_addresses("beta")[0] == "10.9.0.12/16"
    assert other.network_panel_url == "http://10.9.0.1:8650"
    with pytest.raises(Invalid, match="local.env"):
        replace(lab, extra={"HOSTLER_POOL_V4": "10.9.0.1/16"}).machine_addresses()


def test_names_agree_with_the_lab_s_network(lab: Lab) -> None:
    assert [lab.netns(server).name for server in lab.servers] == [network.server_netns(lab.installation, server) for server in lab.servers]


@pytest.mark.parametrize(("disk", "size"), [(4 * GIB, 2 * GIB), (80 * GIB, 10 * GIB), (81 * GIB, 10 * GIB), (4000 * GIB, 20 * GIB)])
def test_pool_size(disk: int, size: int) -> None:
    assert layout.pool_size(Machine(cpus=1, memory=GIB, disk=disk)) == size


def test_env_files_read_back_in_a_shell_and_by_ourselves(lab: Lab, tmp_path: Path) -> None:
    values = {"HOSTLER_DRIVERS": '{"a:b":{"pool":"/x y/$HOME"}}', "HOSTLER_LOG_LEVEL": "info"}
    file = tmp_path / "some.env"
    file.write_text(layout.env_file(values))
    told = subprocess.run(["sh", "-c", f'. {file}; printf "%s|%s" "$HOSTLER_DRIVERS" "$HOSTLER_LOG_LEVEL"'], capture_output=True, text=True, check=True)
    assert told.stdout == "|".join(values.values())
    assert layout.parse_env(file.read_text()) == values


@pytest.mark.parametrize("value", ["it's", "a\nb", "a ;b", "a #b"])
def test_values_that_readers_disagree_on_are_refused(value: str) -> None:
    with pytest.raises(Invalid):
        layout.env_file({"HOSTLER_X": value})


@pytest.mark.parametrize("line", ["PATH=/evil", "HOSTLER_LOG_LEVEL", "LD_PRELOAD=/x", "HOSTLER_$(id)=1"])
def test_local_settings_are_ours_only(line: str) -> None:
    with pytest.raises(Invalid) as refused:
        layout.parse_env(f"# a remark\n\n{line}\n")
    assert "line 3" in refused.value.message


def test_the_command_means_its_installation_and_lets_the_caller_choose(lab: Lab, tmp_path: Path) -> None:
    program = tmp_path / ".venv/bin/hostler"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\necho "$HOSTLER_HOME $HOSTLER_INSTALLATION $HOSTLER_CRIU $1"\n')
    program.chmod(0o755)
    script = tmp_path / "hostler"
    script.write_text(layout.command_script(replace(lab, checkout=tmp_path), CRIU))
    told = [subprocess.run(["sh", script, "list"], env=env, capture_output=True, text=True, check=True).stdout for env in ({}, {"HOSTLER_HOME": "/other"})]
    assert told == ["/srv/second second /opt/criu list\n", "/other second /opt/criu list\n"]


def test_each_server_listens_for_the_others_on_its_own_address(lab: Lab) -> None:
    listens = [layout.node_settings(lab, server, CRIU).node_wire_listen for server in lab.servers]
    assert listens == ["198.18.0.11:8653", "198.18.0.12:8653"]
