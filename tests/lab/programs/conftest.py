"""The images with real programs, and the plan that their containers have."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.lab.installation import Platform, entered
from tests.lab.programs import image
from tests.lab.programs.journeys import ALL, LIMITS, PLAN


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the programs that take their time to those who ask for them."""
    away = [] if ALL else [item for item in items if item.get_closest_marker("programs")]
    config.hook.pytest_deselected(items=away)
    items[:] = [item for item in items if item not in away]


@pytest.fixture(scope="session")
def plan(installation: Platform) -> None:
    """What these tests' containers may use."""
    with entered(installation.apart):
        installation.client.create_plan(PLAN, LIMITS)


@pytest.fixture(scope="session")
def python(installation: Platform, plan: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Name of an image of Python and bash, with the programs of ``inside/``."""
    return _stock(installation, "python", tmp_path_factory.mktemp("image"), image.python, image.bash)


@pytest.fixture(scope="session")
def redis(installation: Platform, plan: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Name of an image of Redis."""
    return _stock(installation, "redis", tmp_path_factory.mktemp("image"), image.redis)


@pytest.fixture(scope="session")
def postgres(installation: Platform, plan: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Name of an image of PostgreSQL."""
    return _stock(installation, "postgres", tmp_path_factory.mktemp("image"), image.postgres)


@pytest.fixture(scope="session")
def nginx(installation: Platform, plan: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Name of an image of nginx. Skips where no mirror gives the package."""
    folder = tmp_path_factory.mktemp("image")
    try:
        package = image.fetch_nginx(folder / "package")
    except subprocess.CalledProcessError as failed:
        pytest.skip(f"no mirror gives the package nginx: {failed.stderr!r}")
    return _stock(installation, "nginx", folder, partial(image.nginx, package=package))


def _stock(platform: Platform, name: str, folder: Path, *parts: Callable[[image.Root], None]) -> str:
    archive = folder / f"{name}.tar"
    image.build(archive, *parts)
    with entered(platform.apart), archive.open("rb") as file:
        platform.done(platform.client.import_image(name, iter(lambda: file.read(1 << 20), b""), archive.stat().st_size))
    shutil.rmtree(folder)
    return name
