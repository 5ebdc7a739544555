"""The node of the ns drivers' tests is used here too, with one of the drivers: what they do at a freeze is the same."""

from __future__ import annotations

import pytest

from hostler_plugins.ns.oci import Oci
from hostler_plugins.ns.runc import Runc
from tests.plugins.ns.conftest import libexec, rootfs, world

__all__ = ["driver", "libexec", "rootfs", "world"]


@pytest.fixture
def driver() -> type[Oci]:
    """The default one."""
    return Runc
