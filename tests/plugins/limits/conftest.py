"""The node of the ns drivers' tests is used here too: limits are the same whichever runtime made the processes."""

from __future__ import annotations

import pytest

from hostler.host import cgroups
from hostler_plugins.ns.oci import Oci
from hostler_plugins.ns.runc import Runc
from tests.plugins.ns.conftest import libexec, rootfs
from tests.plugins.ns.conftest import world as any_world
from tests.plugins.ns.world import World

__all__ = ["any_world", "driver", "libexec", "rootfs"]


@pytest.fixture
def world(any_world: World) -> World:
    """Where version 1 has the memory controller: these tests read its files. Version 2 has its own in ``tests/vm``."""
    if cgroups.MEMORY not in cgroups.hierarchies():
        pytest.skip("this host has no cgroup v1 memory hierarchy")
    return any_world


@pytest.fixture
def driver() -> type[Oci]:
    """One ns driver will do."""
    return Runc
