"""A server's drivers, loaded by stevedore. The platform knows a driver by its entry-point name alone.

One that is missing, broken at import, of the wrong type or of a newer contract is reported and left out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import structlog
from stevedore import DriverManager, ExtensionManager
from stevedore.exception import NoMatches

from hostler.contracts.checkpoint import Checkpoint
from hostler.contracts.driver import CONTRACT_VERSION, Driver, Host, Probe
from hostler.contracts.images import Images
from hostler.contracts.limits import LimitsDriver
from hostler.contracts.net import Net
from hostler.contracts.ns import Ns
from hostler.contracts.storage import Storage
from hostler.core.errors import ErrorReport, HostlerError, Unsupported
from hostler.core.messages import DriverFact

log = structlog.get_logger()

_LEFT_OUT = "left out: HOSTLER_DRIVERS_ENABLED names others of its group"
CONTRACTS: dict[str, Any] = {
    "ns": Ns, "net": Net, "storage": Storage, "limits": LimitsDriver, "images": Images, "checkpoint": Checkpoint,
}  # fmt: skip


@dataclass
class Drivers:
    """The drivers of one host, usable ones by group and name, and a fact for each that was found."""

    loaded: dict[str, dict[str, Driver]] = field(default_factory=lambda: {group: {} for group in CONTRACTS})
    facts: list[DriverFact] = field(default_factory=list)

    def _get(self, group: str, name: str) -> Driver:
        driver = self.loaded[group].get(name)
        if driver is None:
            raise Unsupported(f"this server has no usable {group} driver {name}", hint="hostler doctor on the server tells why", code="no_driver")
        return driver

    def ns(self, name: str) -> Ns:
        """By name. Raises :class:`Unsupported`, as the others do."""
        return cast(Ns, self._get("ns", name))

    def net(self, name: str) -> Net:
        """By name."""
        return cast(Net, self._get("net", name))

    def storage(self, name: str) -> Storage:
        """By name."""
        return cast(Storage, self._get("storage", name))

    def limits(self, name: str) -> LimitsDriver:
        """By name."""
        return cast(LimitsDriver, self._get("limits", name))

    def images(self) -> list[Images]:
        """All of them: an archive is offered to each."""
        return [cast(Images, driver) for driver in self.loaded["images"].values()]

    def checkpoint(self) -> Checkpoint:
        """The one that is usable here, the first by name of several. Raises :class:`Unsupported` without any, with what each lacks."""
        usable = self.loaded["checkpoint"]
        if not usable:
            problems = "; ".join(f"{fact.name}: {fact.problem}" for fact in self.facts if fact.group == "checkpoint" and fact.problem)
            said = problems or "no installed package has one"
            raise Unsupported(f"this server has no usable checkpoint driver: {said}", hint="hostler doctor on the server tells why", code="no_driver")
        return cast(Checkpoint, usable[min(usable)])

    def all(self) -> list[Driver]:
        """Every usable driver."""
        return [driver for group in self.loaded.values() for driver in group.values()]


def load(host: Host, *, setup: bool = False, enabled: Collection[str] = ()) -> Drivers:
    """Load, check and probe every installed driver; with ``setup`` also make what they share on the host.

    ``enabled``: of a group that has a ``group:name`` in it only those named are loaded; of the others all are.
    """
    drivers = Drivers()
    for group in CONTRACTS:
        chosen = {spec.partition(":")[2] for spec in enabled if spec.partition(":")[0] == group}
        for extension in sorted(extensions(group, partial(_failed_to_load, drivers, group)), key=lambda found: str(found.name)):
            if chosen and extension.name not in chosen:
                _refuse(drivers, group, extension.name, _LEFT_OUT)
            else:
                _take(drivers, host, group, extension.name, extension.plugin, setup)
        for name in sorted(chosen - {fact.name for fact in drivers.facts if fact.group == group}):
            _refuse(drivers, group, name, "HOSTLER_DRIVERS_ENABLED names it, and no installed package has it")
    return drivers


def load_classes(host: Host, classes: Iterable[object], *, setup: bool = False) -> Drivers:
    """The same for driver classes at hand instead of those installed: a lab's, a test's."""
    drivers = Drivers()
    for plugin in classes:
        _take(drivers, host, str(getattr(plugin, "group", "")), str(getattr(plugin, "name", plugin)), plugin, setup)
    return drivers


def load_one(host: Host, group: str, name: str) -> Driver:
    """One installed driver by name, neither probed nor set up, and no other imported: for who goes on with what the worker did with it.

    Raises :class:`Unsupported` where it cannot be had, with the reason.
    """
    failures: list[str] = []

    def failed(_manager: object, _entry_point: object, error: BaseException) -> None:
        failures.append(str(error))

    try:
        found: object = DriverManager(f"hostler.{group}", name, on_load_failure_callback=failed).driver
    except NoMatches:
        said = "; ".join(failures) or "no installed package has it"
        raise Unsupported(f"{group} driver {name} cannot be loaded: {said}", hint="hostler doctor on the server tells why", code="no_driver") from None
    if not (isinstance(found, type) and issubclass(found, CONTRACTS[group])):
        raise Unsupported(f"{group} driver {name} is no {CONTRACTS[group].__name__}", hint="hostler doctor on the server tells why", code="no_driver")
    return cast(Driver, found(host))


def extensions(group: str, failed: Callable[[Any, Any, BaseException], None]) -> ExtensionManager[Any]:
    """What is installed for a group, imported. ``failed`` is told of each entry point that cannot be."""
    return _Extensions(f"hostler.{group}", on_load_failure_callback=failed)


class _Extensions(ExtensionManager[Any]):
    """Stevedore lets a failed assertion, and an exit, of a driver's module end the process: here they are failures as others are."""

    def _load_one_plugin(self, ep: Any, *args: Any, **more: Any) -> Any:
        try:
            return super()._load_one_plugin(ep, *args, **more)
        except (AssertionError, SystemExit) as error:
            raise ImportError(f"its module ended with {type(error).__name__}: {error}") from error


def _take(drivers: Drivers, host: Host, group: str, name: str, plugin: object, setup: bool) -> None:
    contract = CONTRACTS.get(group)
    if contract is None:
        _refuse(drivers, group, name, "it is for no group that this platform has")
        return
    if name in {fact.name for fact in drivers.facts if fact.group == group}:
        _refuse(drivers, group, name, "another package brings a driver of that name: remove one of them")
        return
    if not (isinstance(plugin, type) and issubclass(plugin, Driver) and issubclass(plugin, contract)):
        _refuse(drivers, group, name, f"it is no {contract.__name__} of hostler.contracts")
        return
    if plugin.contract_version > CONTRACT_VERSION:
        _refuse(drivers, group, name, f"it wants contract {plugin.contract_version}; this platform has {CONTRACT_VERSION}")
        return
    try:
        driver = plugin(host)
        probe = driver.probe()
        if setup and probe.usable:
            driver.setup()
        fact = _fact(group, name, driver, probe)
    except Exception as error:  # a stranger's driver must not stop the worker; it is reported
        _not_loaded(drivers, group, name, error)
        return
    drivers.facts.append(fact)
    if probe.usable:
        drivers.loaded[group][name] = driver
    else:
        log.warning("driver not usable here", group=group, driver=name, problem=fact.problem)


def _fact(group: str, name: str, driver: Driver, probe: Probe) -> DriverFact:
    capabilities = [flag for flag, value in driver.capabilities.model_dump().items() if value]
    problem = "; ".join(f"{lack.what} ({lack.remedy})" if lack.remedy else lack.what for lack in probe.lacks)
    return DriverFact(group=group, name=name, version=driver.version, capabilities=capabilities, usable=probe.usable, problem=problem)


def _failed_to_load(drivers: Drivers, group: str, _manager: Any, entry_point: Any, error: BaseException) -> None:
    """Stevedore's callback for an entry point that cannot be imported."""
    _not_loaded(drivers, group, entry_point.name, error)


def _not_loaded(drivers: Drivers, group: str, name: str, error: BaseException) -> None:
    report = ErrorReport.of(error)
    log.error("driver not loaded", group=group, driver=name, error=report.message, traceback=report.traceback)
    said = f"{error.message} ({error.hint})" if isinstance(error, HostlerError) and error.hint else report.message
    _refuse(drivers, group, name, said)


def _refuse(drivers: Drivers, group: str, name: str, problem: str) -> None:
    drivers.facts.append(DriverFact(group=group, name=name, usable=False, problem=problem))
