"""The node of the ns drivers' tests is used here too: limits are the same whichever runtime made the processes."""

from __future__ import annotations

import pytest

from hostler_plugins.ns.oci import Oci
from hostler_plugins.ns.runc import Runc
from tests.plugins.ns.conftest import libexec, rootfs, world

__all__ = ["driver", "libexec", "rootfs", "world"]


@pytest.fixture
def driver() -> type[Oci]:
    """One ns driver will do."""
    return Runc
