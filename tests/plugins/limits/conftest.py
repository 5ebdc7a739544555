"""The node of the ns drivers' tests is used here too."""

from tests.plugins.ns.conftest import libexec, rootfs, world

__all__ = ["libexec", "rootfs", "world"]
