"""A fake driver for each contract, on plain files: the whole platform runs on them without root.

They keep the promises of their contracts, capabilities and all, and break them where :class:`hostler.testing.faults.Faults` say so. They
are no entry points, so no server loads them by itself: give :data:`FAKES` to :func:`hostler.node.drivers.load_classes`.
"""

from __future__ import annotations

from hostler.contracts.driver import Driver
from hostler.testing.fakes.checkpoint import FakeCheckpoint
from hostler.testing.fakes.images import FakeImages
from hostler.testing.fakes.limits import FakeLimits
from hostler.testing.fakes.net import FakeNet
from hostler.testing.fakes.ns import FakeNs
from hostler.testing.fakes.storage import FakeStorage

#: All of them by group.
FAKES: dict[str, type[Driver]] = {
    "ns": FakeNs, "net": FakeNet, "storage": FakeStorage, "limits": FakeLimits, "images": FakeImages, "checkpoint": FakeCheckpoint,
}  # fmt: skip
