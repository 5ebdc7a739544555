"""What a server is and has: read once at start, and in small with every heartbeat."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from hostler.contracts.driver import Item
from hostler.contracts.ns import Ns
from hostler.contracts.storage import Storage
from hostler.core.messages import Capacity, NodeFacts
from hostler.node.drivers import Drivers
from hostler.node.wire.wire import Wire
from hostler.settings import NodeSettings


def memory_info() -> dict[str, int]:
    """``/proc/meminfo`` in bytes (proc(5) gives kibibytes)."""
    fields: dict[str, int] = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, rest = line.partition(":")
        number = rest.split()[0]
        fields[name] = int(number) * (1024 if rest.endswith("kB") else 1)
    return fields


def pool_space(drivers: Drivers) -> tuple[int, int]:
    """Bytes free and total of the server's first storage pool."""
    for driver in drivers.loaded["storage"].values():
        if isinstance(driver, Storage):
            return driver.free()
    return 0, 0


def capacity(settings: NodeSettings, drivers: Drivers) -> Capacity:
    """What the server has to give: as its settings say, else all that the machine has."""
    return Capacity(
        cpus=settings.capacity_cpus or float(len(os.sched_getaffinity(0))),
        memory=settings.capacity_memory or memory_info()["MemTotal"],
        disk=settings.capacity_disk or pool_space(drivers)[1],
    )


def containers_here(drivers: Drivers) -> list[str]:
    """Ids of all containers that any driver has something of."""
    owners = {item.owner for driver in drivers.all() for item in driver.inventory() if item.owner and not _of_an_image(item)}
    return sorted(owners)


def _of_an_image(item: Item) -> bool:
    """An unpacked image, or a draft of one, is nobody's: storage drivers keep them below ``images``."""
    return item.kind == "image" or item.name.startswith("images/")


def running_here(drivers: Drivers, containers: list[str]) -> list[str]:
    """Those of ``containers`` whose init runs, whichever ns driver made it."""
    ns_drivers = [driver for driver in drivers.loaded["ns"].values() if isinstance(driver, Ns)]
    return [container for container in containers if any(driver.inspect(container).state in ("running", "frozen") for driver in ns_drivers)]


def facts(settings: NodeSettings, drivers: Drivers, wire: Wire | None = None) -> NodeFacts:
    """All of it."""
    containers = containers_here(drivers)
    return NodeFacts(
        kernel=platform.release(),
        architecture=platform.machine(),
        capacity=capacity(settings, drivers),
        drivers=drivers.facts,
        containers=containers,
        running=running_here(drivers, containers),
        wire=wire.fact if wire is not None else None,
    )
