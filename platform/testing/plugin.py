"""The conformance suite as a pytest plugin.

    pytest --pyargs hostler.testing --driver storage:btrfs
    pytest --pyargs hostler.testing --driver net:mine --driver-settings '{"uplink": "{uplink}"}'
    pytest --pyargs hostler.testing --driver all --driver-table docs/drivers.md

Without ``--driver`` it does nothing. ``--driver`` may be given several times; all but those of the fakes need root.
"""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hostler.testing import promises

if TYPE_CHECKING:
    from hostler.testing.arenas.arena import Arena

_SUITE = Path(__file__).resolve().parent / "conformance"
GROUPS = ("ns", "net", "storage", "limits", "images")
_RESULTS = pytest.StashKey[dict[tuple[str, str], str]]()
_PROMISES = pytest.StashKey[dict[str, str]]()
_ALL = pytest.StashKey[bool]()
_NOT_HERE = pytest.StashKey[dict[str, str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--driver`` and its companions."""
    group = parser.getgroup("hostler", "conformance of Hostler's drivers")
    group.addoption("--driver", action="append", default=[], metavar="GROUP:NAME", help="the driver to test; may be given several times; all: every installed one that can be used here")
    group.addoption("--driver-table", type=Path, metavar="FILE", help="a document whose table of drivers and promises is brought up to date")
    group.addoption("--driver-settings", metavar="JSON", help="its settings; {folder}, {small} and {uplink} stand for places that the suite makes")
    group.addoption("--driver-kills", type=int, metavar="N", help="how often a worker is killed in each verb (default 8; 5 for ns)")
    group.addoption("--driver-small", choices=("tmpfs", "ext4"), default="tmpfs", help="what {small} is; ext4 is one with project quotas, which the kernel must have")
    group.addoption("--driver-libexec", metavar="FOLDER", help="where hostler-init, hostler-launch and hostler-enter are; default: compiled for the run")


def pytest_configure(config: pytest.Config) -> None:
    """The marker, and where results are kept."""
    config.addinivalue_line("markers", "promise(id, sentence): what a driver promises and the test checks")
    chosen: list[str] = config.getoption("--driver")
    config.stash[_ALL] = "all" in chosen
    config.stash[_NOT_HERE] = {}
    if config.stash[_ALL]:
        chosen[:] = list(dict.fromkeys([*_installed(), *(spec for spec in chosen if spec != "all")]))
    for spec in chosen:
        if spec.partition(":")[0] not in GROUPS or not spec.partition(":")[2]:
            raise pytest.UsageError(f"--driver {spec}: write group:name with a group of {', '.join(GROUPS)}")
    config.stash[_RESULTS] = {}
    config.stash[_PROMISES] = {}


def _installed() -> list[str]:
    """Every driver that a package brings, of the groups that the suite is for. One that cannot be imported is none of them."""
    from importlib.metadata import entry_points

    return [f"{group}:{point.name}" for group in GROUPS for point in sorted(entry_points(group=f"hostler.{group}"), key=lambda point: point.name)]


def _in_suite(path: Path) -> bool:
    return _SUITE in path.resolve().parents


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Of the suite, only what is for the chosen drivers' contracts."""
    if not _in_suite(collection_path) or collection_path.suffix != ".py":
        return None
    chosen: list[str] = config.getoption("--driver")
    if not chosen:
        raise pytest.UsageError("say which driver: --driver group:name, such as storage:btrfs")
    part = collection_path.stem.removeprefix("test_")
    return None if part == "shared" or part in {spec.partition(":")[0] for spec in chosen} else True


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each test of the suite once for each driver that it is for."""
    if "arena" in metafunc.fixturenames and _in_suite(Path(metafunc.definition.path)):
        part = Path(metafunc.definition.path).stem.removeprefix("test_")
        chosen = [spec for spec in metafunc.config.getoption("--driver") if part in ("shared", spec.partition(":")[0])]
        metafunc.parametrize("arena", chosen, indirect=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Remember every promise that is checked, kept or not."""
    for item in items:
        mark = item.get_closest_marker("promise")
        if mark is not None:
            item.config.stash[_PROMISES][mark.args[0]] = mark.args[1]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Note how each promise fared. A promise with several tests is kept when all of them pass."""
    report: Any = yield
    mark, spec = item.get_closest_marker("promise"), getattr(item, "callspec", None)
    if mark is not None and spec is not None and "arena" in spec.params:
        results, key = item.config.stash[_RESULTS], (spec.params["arena"], mark.args[0])
        if report.failed:
            results[key] = promises.BROKEN
        elif report.skipped:
            results.setdefault(key, promises.NOT_ASKED)
        elif report.when == "call" and results.get(key) != promises.BROKEN:
            results[key] = promises.KEPT
    return report


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The table of drivers and promises."""
    for spec, why in config.stash[_NOT_HERE].items():
        terminalreporter.write_line(f"{spec} was left out: {why}")
    results = {key: fared for key, fared in config.stash[_RESULTS].items() if key[0] not in config.stash[_NOT_HERE]}
    if not results:
        return
    terminalreporter.section("promises")
    sentences = config.stash[_PROMISES]
    for line, bad in promises.lines(results, sentences):
        terminalreporter.write_line(line, red=bad)
    document: Path | None = config.getoption("--driver-table")
    if document is not None:
        text = promises.document(document.read_text(), results, sentences, f"Linux {'.'.join(platform.release().split('.')[:2])}")
        document.write_text(text)
        terminalreporter.write_line(f"written to {document}")


@pytest.fixture(scope="session")
def driver_libexec(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the compiled programs that ns drivers start; empty for drivers that start none."""
    given = request.config.getoption("--driver-libexec")
    if given:
        return Path(given)
    folder = tmp_path_factory.mktemp("libexec")
    if any(spec.startswith("ns:") and "fake" not in spec for spec in request.config.getoption("--driver")):
        from hostler.host import native

        native.build(folder)
    return folder


@pytest.fixture
def arena(request: pytest.FixtureRequest, driver_libexec: Path) -> Iterator[Arena]:
    """The environment of a driver, made for one test and removed after it."""
    from hostler.testing.arenas import ARENAS
    from hostler.testing.arenas.arena import NotUsable

    folder = Path(tempfile.mkdtemp(prefix="hst-kit-", dir=request.config.getoption("basetemp") or os.environ.get("TMPDIR", "/var/tmp")))
    folder.chmod(0o755)
    try:
        made = ARENAS[request.param.partition(":")[0]](request.param, folder, driver_libexec, request.config.getoption("--driver-settings"))
    except BaseException:  # no such driver, or settings that it refuses
        folder.rmdir()
        raise
    made.small = request.config.getoption("--driver-small")
    made.kill_rounds = request.config.getoption("--driver-kills") or made.kill_rounds
    try:
        if not made.fake and os.geteuid() != 0:
            pytest.skip("drivers of real things need root")
        try:
            made.open()
        except NotUsable as error:
            if not request.config.stash[_ALL]:
                raise
            request.config.stash[_NOT_HERE][request.param] = error.message
            pytest.skip(error.message)
        yield made
    finally:
        made.close()
