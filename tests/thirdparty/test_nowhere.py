"""A stranger's driver: installed without a network, found by its entry point, and passing the suite. And its guide says what is so."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from hostler.cli.root import cli
from tests.testing.suite import ROOT, run_suite

PACKAGE = ROOT / "tests/thirdparty/hostler-nowhere"
GUIDE = (ROOT / "docs/drivers.md").read_text()


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the package is installed in."""
    folder = tmp_path_factory.mktemp("thirdparty")
    shutil.copytree(PACKAGE, folder / "source", ignore=shutil.ignore_patterns("__pycache__"))
    words = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(folder / "target")]
    subprocess.run([sys.executable, *words, str(folder / "source")], check=True, timeout=120)
    return folder / "target"


def _python(target: Path, code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(target), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


def test_it_is_found_by_its_entry_point(target: Path) -> None:
    code = (
        "import json; from hostler.testing.subjects import driver_class; found = driver_class('net:nowhere');"
        "print(json.dumps([found.__module__, found.__name__, found.group, found.name, found.version]))"
    )
    assert json.loads(_python(target, code)) == ["hostler_nowhere", "Nowhere", "net", "nowhere", "1.0"]


@pytest.mark.lab
def test_it_passes_the_suite(target: Path, tmp_path: Path) -> None:
    status, found, printed = run_suite(tmp_path, "net:nowhere", env={"PYTHONPATH": str(target)})
    assert found == {"net:nowhere": set()} and status == 0, printed


def _blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", GUIDE, re.S)


def test_the_guides_code_is_the_packages() -> None:
    module, project = ((PACKAGE / name).read_text() for name in ("hostler_nowhere.py", "pyproject.toml"))
    assert _blocks("python") and all(block in module for block in _blocks("python"))
    assert _blocks("toml") and all(block in project for block in _blocks("toml"))


def test_the_guides_commands_are_commands(tmp_path: Path) -> None:
    lines = [shlex.split(line, comments=True) for block in _blocks("sh") for line in block.splitlines()]
    programs = {line[0] for line in lines}
    assert programs == {"pytest", "pip", "hostler", "ops/bench"}
    for words in lines:
        if words[0] == "pip":
            assert (ROOT / words[-1] / "pyproject.toml").is_file()
        elif words[0] == "ops/bench":
            told = subprocess.run([ROOT / words[0], words[1], "--help"], capture_output=True, text=True, timeout=60, check=True).stdout
            assert all(option in told for option in words[2:] if option.startswith("-"))
        elif words[0] == "hostler":
            shown = CliRunner().invoke(cli, [words[1], "--help"])
            assert shown.exit_code == 0 and all(option in shown.output for option in words[2:] if option.startswith("-"))
        elif words[words.index("--driver") + 1].endswith(":fake"):
            driver = words[words.index("--driver") + 1]
            assert run_suite(tmp_path, driver)[0] == 0


@pytest.mark.lab
def test_the_guides_settings_fit(tmp_path: Path) -> None:
    (words,) = [shlex.split(line) for block in _blocks("sh") for line in block.splitlines() if "--driver-settings" in line]
    settings = words[words.index("--driver-settings") + 1]
    status, _, printed = run_suite(tmp_path, words[words.index("--driver") + 1], words=("--driver-settings", settings, "-k", "probe or twice"))
    assert status == 0, printed


def test_the_guides_promises_are_the_suites() -> None:
    suite = "".join(file.read_text() for file in (ROOT / "platform/testing/conformance").glob("test_*.py"))
    known = set(re.findall(r'mark\.promise\("([a-z-]+)"', suite))
    told = {name for row in re.findall(r"^\|.*\| (`[a-z`, -]+`) \|$", GUIDE.split("## 4.")[1].partition("\n## ")[0], re.M) for name in re.findall(r"`([a-z-]+)`", row)}
    assert told and told <= known, told - known
