"""Take everything off one server through its drivers: processes, cgroups, links. Run inside the server's namespace.

Volumes, images and the containers' own folders stay: they are what a later start goes on with.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

from hostler.contracts.driver import Driver
from hostler.contracts.limits import LimitsDriver
from hostler.contracts.net import Net
from hostler.contracts.ns import Ns
from hostler.core.errors import HostlerError
from hostler.node.drivers import Drivers

#: Kinds of items that belong to an image, not to a container.
_OF_IMAGES = frozenset({"image"})


class Emptied:
    """How far :func:`empty` came."""

    def __init__(self) -> None:
        self.containers = 0
        self.problems: list[str] = []

    def attempt(self, what: str, verb: Callable[[], None]) -> None:
        """Do one thing; a failure is kept in words, and the rest goes on."""
        try:
            verb()
        except HostlerError as error:
            self.problems.append(f"{what}: {error.message}{f' ({error.hint})' if error.hint else ''}")


def containers_of(drivers: Drivers) -> list[str]:
    """Ids of the containers that a driver other than storage has something of."""
    found = [item for driver in drivers.all() if driver.group != "storage" for item in driver.inventory()]
    return sorted({item.owner for item in found if item.owner and item.kind not in _OF_IMAGES})


def empty(drivers: Drivers) -> Emptied:
    """Delete all containers' processes, cgroups and links, then what those drivers share on the host."""
    done = Emptied()
    ids = containers_of(drivers)
    for container in ids:
        for driver in _in_order(drivers, "ns", "limits", "net"):
            done.attempt(f"{driver.group} driver {driver.name}, container {container}", _remove(driver, container))
    done.containers = len(ids)
    for driver in _in_order(drivers, "ns", "net", "limits", "checkpoint"):
        done.attempt(f"{driver.group} driver {driver.name}, teardown", driver.teardown)
    return done


def _in_order(drivers: Drivers, *groups: str) -> list[Driver]:
    return [driver for group in groups for driver in drivers.loaded[group].values()]


def _remove(driver: Driver, container: str) -> Callable[[], None]:
    if isinstance(driver, Ns):
        return partial(driver.delete, container)
    if isinstance(driver, LimitsDriver):
        return partial(driver.remove, container)
    return partial(cast(Net, driver).detach, container)
