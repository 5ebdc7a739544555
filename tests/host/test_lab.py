"""The lab's network on the real kernel. The machine stands in a namespace of the test's own: the real one is left alone."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostler.core.errors import HostFailure, Invalid
from hostler.core.names import new_id
from hostler.host import lab, netlink, netns

pytestmark = pytest.mark.lab


@pytest.fixture
def installation() -> Iterator[str]:
    chosen = "t" + new_id(6)
    yield chosen
    lab.remove_all(chosen)


@pytest.fixture
def machine(installation: str) -> Path:
    """A namespace that plays the machine; its name makes ``remove_all`` take it away."""
    return netns.create(f"h{installation}-themachine")


def _reaches(source: Path, address: str) -> bool:
    """Whether a host answers: with a reset, as nobody listens."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with netns.entered(source):
        probe = socket.socket(family, socket.SOCK_STREAM)
    with probe:
        probe.settimeout(2)
        try:
            probe.connect((address, 9))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return True


def test_servers_reach_each_other_and_the_machine_reaches_them(installation: str, machine: Path) -> None:
    for _ in range(2):
        alpha = lab.add_server(installation, "alpha", "198.18.0.11/15", "fd00::11/48")
        beta = lab.add_server(installation, "beta", "198.18.0.12/15", "fd00::12/48")
        with netns.entered(machine):
            name = lab.connect_machine(installation, "198.18.0.1/15", "fd00::1/48")
    assert _reaches(alpha, "198.18.0.12")
    assert _reaches(beta, "fd00::11")
    assert _reaches(machine, "198.18.0.11")
    assert _reaches(machine, "fd00::12")
    assert not _reaches(alpha, "198.18.0.99")
    with netns.entered(machine):
        assert Path(f"/proc/sys/net/ipv4/conf/{name}/forwarding").read_text() == "0\n"
        assert Path(f"/proc/sys/net/ipv6/conf/{name}/accept_ra").read_text() == "0\n"


def test_an_address_that_moved_to_a_bridge_is_not_given_twice(installation: str) -> None:
    where = lab.add_server(installation, "alpha", "198.18.0.11/15", None)
    with netns.entered(where), netlink.opened() as host:
        up0 = host.index(lab.UPLINK)
        (address,) = host.addresses(up0)
        host.add_bridge("br0", mtu=1500)
        host.add_address(host.index("br0"), address)
        host.delete_address(up0, address)
        lab.add_server(installation, "alpha", "198.18.0.11/15", None)
        assert host.addresses(up0) == []


def test_a_lost_end_is_joined_again(installation: str) -> None:
    where = lab.add_server(installation, "alpha", "198.18.0.11/15", None)
    lab.add_server(installation, "beta", "198.18.0.12/15", None)
    with netns.entered(where), netlink.opened() as host:
        host.delete_link(lab.UPLINK)
    lab.add_server(installation, "alpha", "198.18.0.11/15", None)
    assert _reaches(where, "198.18.0.12")


def test_another_installations_gateway_is_not_taken(installation: str, machine: Path) -> None:
    with netns.entered(machine):
        with netlink.opened() as host:
            host.add_bridge("other", mtu=1500)
            host.add_address(host.index("other"), ipaddress.ip_interface("198.18.0.1/15"))
        with pytest.raises(HostFailure) as failure:
            lab.connect_machine(installation, "198.18.0.1/15", None)
        assert failure.value.stable_code == "address_taken"
        assert "other" in failure.value.message
        assert netlink.index(lab.machine_link(installation)) is None


def test_all_is_removed_and_nothing_of_others(installation: str, machine: Path) -> None:
    lab.add_server(installation, "alpha", "198.18.0.11/15", None)
    neighbour = installation + "x"
    try:
        lab.add_server(neighbour, "alpha", "198.18.0.11/15", None)
        with netns.entered(machine):
            lab.connect_machine(installation, "198.18.0.1/15", None)
            lab.remove_all(installation)
            lab.remove_all(installation)
            assert netlink.names("m") == []
        assert netns.names(f"h{installation}-") == []
        assert len(netns.names(f"h{neighbour}-")) == 2
    finally:
        lab.remove_all(neighbour)


def test_bad_values_are_refused(installation: str) -> None:
    with pytest.raises(Invalid):
        lab.server_netns(installation, "switch")
    with pytest.raises(Invalid):
        lab.add_server(installation, "alpha", "198.18.0.300/15", None)
