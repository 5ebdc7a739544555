"""Whether a server can have the addresses of a container that comes from another one, as far as its settings tell."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostler.contracts.driver import Host
from hostler.contracts.net import Net
from hostler_plugins.net.bridge import Bridge
from hostler_plugins.net.routed import Routed
from hostler_plugins.net.vxlan import Vxlan
from tests.plugins.net.world import link


@pytest.mark.parametrize(("driver", "setting"), [(Bridge, {"uplink": "eth0"}), (Routed, {"uplink": "eth0"}), (Vxlan, {"uplink": "eth0", "peers": ["198.18.0.12"]})])
def test_without_a_way_to_other_servers_addresses_cannot_move(driver: type[Net], setting: dict[str, object], tmp_path: Path) -> None:
    alone = driver(Host("tests", "alpha", tmp_path, tmp_path))
    lack = alone.lacks_for(link(7, 2))
    assert lack is not None and lack.blocks and lack.what and lack.remedy
    assert driver(Host("tests", "alpha", tmp_path, tmp_path, settings={f"net:{driver.name}": setting})).lacks_for(link(7, 2)) is None
