"""The node of the ns drivers' tests is used here too."""

from tests.plugins.ns.conftest import driver, libexec, rootfs, world

__all__ = ["driver", "libexec", "rootfs", "world"]
