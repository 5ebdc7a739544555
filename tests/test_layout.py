"""Guards the packaging: folder platform/ is package hostler, plugins/ is hostler_plugins. Each rule is also seen to fail."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"platform": "hostler", "plugins": "hostler_plugins"}
#: Programs by nature: importing them runs them.
_RUNNABLE = "__main__"


# --- the rules, each a function of a tree that says what is wrong with it ---


def init_problems(root: Path) -> list[str]:
    """An ``__init__.py`` where none may be, or none where one must be."""
    problems = [f"{folder}/__init__.py hides a module of the standard library" for folder in PACKAGES if (root / folder / "__init__.py").exists()]
    for folder in PACKAGES:
        holders = {file.parent for file in (root / folder).rglob("*.py") if "__pycache__" not in file.parts} - {root / folder}
        needed = {parent for holder in holders for parent in (holder, *holder.parents) if root / folder in parent.parents}
        problems += [f"{place.relative_to(root)} has no __init__.py" for place in sorted(needed) if not (place / "__init__.py").exists() and not _is_data(place)]
    return problems


def _is_data(folder: Path) -> bool:
    """Alembic's scripts are read by path, not imported."""
    return folder.name == "versions" or (folder / "env.py").exists()


def link_problems(root: Path) -> list[str]:
    """The two links that editable installs and static tools go through."""
    problems = []
    for folder, package in PACKAGES.items():
        link = root / ".pypath" / package
        if not link.is_symlink():
            problems.append(f".pypath/{package} is no link (a checkout without them: git config core.symlinks true)")
        elif os.readlink(link) != f"../{folder}":
            problems.append(f".pypath/{package} points to {os.readlink(link)}, not ../{folder}")
    return problems


def project_problems(project: dict[str, Any]) -> list[str]:
    """What in pyproject.toml would build an empty wheel or hide the standard library's module platform."""
    problems = []
    if "backend-path" in project["build-system"]:
        problems.append("backend-path makes newer pip find folder platform/ before the standard library's module")
    only = project["tool"]["hatch"]["build"]["targets"]["sdist"].get("only-include", [])
    if not set(PACKAGES) <= set(only) or ".pypath" in only:
        problems.append("the sdist's only-include must list the real folders, or the wheel built from it is empty")
    if project["tool"]["hatch"]["build"]["dev-mode-dirs"] != [".pypath"]:
        problems.append("dev-mode-dirs must be .pypath")
    return problems


def declared_entry_points(project: dict[str, Any]) -> set[tuple[str, str, str]]:
    """Group, name and object reference."""
    groups = {**project["project"]["entry-points"], "console_scripts": project["project"]["scripts"]}
    return {(group, name, value) for group, entries in groups.items() for name, value in entries.items()}


def installed_entry_points() -> set[tuple[str, str, str]]:
    """The same of what is installed."""
    return {(entry.group, entry.name, entry.value) for entry in importlib.metadata.distribution("hostler").entry_points}


# --- this checkout keeps them ---


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def tracked(*folders: str) -> set[str]:
    told = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z", "--", *folders], capture_output=True, check=True).stdout.decode()
    return {name for name in told.split("\0") if name}


def modules() -> list[str]:
    names = []
    for file in sorted(tracked(*PACKAGES)):
        path = Path(file)
        if path.suffix != ".py" or path.stem == _RUNNABLE or _is_data(ROOT / path.parent) or not (ROOT / path).exists():
            continue
        parts = (PACKAGES[path.parts[0]], *path.with_suffix("").parts[1:])
        names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


def test_init_files_are_where_they_belong() -> None:
    assert init_problems(ROOT) == []


def test_links_lead_to_the_folders() -> None:
    assert link_problems(ROOT) == []


def test_build_settings_are_the_measured_ones(project: dict[str, Any]) -> None:
    assert project_problems(project) == []


def test_platform_is_still_the_standard_library_s() -> None:
    told = subprocess.run([sys.executable, "-c", "import platform; print(platform.__file__)"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not told.stdout.startswith(str(ROOT / "platform"))


def test_declared_entry_points_are_installed(project: dict[str, Any]) -> None:
    assert installed_entry_points() == declared_entry_points(project), "pip install -e . again"


@pytest.mark.parametrize("entry", importlib.metadata.distribution("hostler").entry_points, ids=lambda entry: f"{entry.group}:{entry.name}")
def test_entry_points_load(entry: importlib.metadata.EntryPoint) -> None:
    loaded = entry.load()
    assert callable(loaded) or entry.group == "pytest11"  # pytest's plugins are modules


@pytest.mark.parametrize("name", modules())
def test_every_module_imports(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__file__ is None or ".venv" not in Path(module.__file__).parts


def build_wheel(source: Path, into: Path) -> zipfile.ZipFile:
    """Wheel from sdist, with the hatchling of this environment or, without it, an isolated build's."""
    isolation = [] if shutil.which("hatchling", path=str(Path(sys.executable).parent)) is None else ["--no-isolation"]
    subprocess.run([sys.executable, "-m", "build", *isolation, "--outdir", str(into), str(source)], cwd=into, capture_output=True, check=True, timeout=170)
    (wheel,) = into.glob("*.whl")
    return zipfile.ZipFile(wheel)


def copy_tracked(into: Path) -> set[str]:
    """A copy of what git tracks and of what it would (not ignored), as another checkout would have it; the two folders' files."""
    told = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"], capture_output=True, check=True).stdout.decode()
    names = {name for name in told.split("\0") if name and os.path.lexists(ROOT / name)}
    for name in names:
        (into / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, into / name, follow_symlinks=False)
    return {name for name in names if name.split("/")[0] in PACKAGES}


def wheel_names(wheel: zipfile.ZipFile) -> set[str]:
    """Files of the wheel as they are named in the checkout, without its metadata."""
    folders = {package: folder for folder, package in PACKAGES.items()}
    inside = [name.split("/", 1) for name in wheel.namelist() if ".dist-info/" not in name]
    return {f"{folders.get(package, package)}/{rest}" for package, rest in inside}


def test_the_wheel_holds_exactly_the_files_of_both_folders(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    expected = copy_tracked(source)
    with build_wheel(source, out) as wheel:
        assert wheel_names(wheel) == expected


# --- and each rule can fail ---


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small tree that keeps every rule."""
    for folder, package in PACKAGES.items():
        (tmp_path / folder / "part").mkdir(parents=True)
        (tmp_path / folder / "part/__init__.py").touch()
        (tmp_path / folder / "part/code.py").touch()
        (tmp_path / ".pypath").mkdir(exist_ok=True)
        (tmp_path / ".pypath" / package).symlink_to(f"../{folder}")
    assert init_problems(tmp_path) == link_problems(tmp_path) == []
    return tmp_path


@pytest.mark.parametrize("folder", PACKAGES)
def test_init_in_a_root_is_found(tree: Path, folder: str) -> None:
    (tree / folder / "__init__.py").touch()
    assert init_problems(tree) == [f"{folder}/__init__.py hides a module of the standard library"]


def test_folder_without_init_is_found(tree: Path) -> None:
    (tree / "plugins/part/__init__.py").unlink()
    assert init_problems(tree) == ["plugins/part has no __init__.py"]


def test_folder_of_packages_without_init_is_found(tree: Path) -> None:
    (tree / "platform/outer/inner").mkdir(parents=True)
    (tree / "platform/outer/inner/__init__.py").touch()
    assert init_problems(tree) == ["platform/outer has no __init__.py"]


def test_missing_link_is_found(tree: Path) -> None:
    (tree / ".pypath/hostler").unlink()
    (tree / ".pypath/hostler").write_text("../platform")  # what a checkout without links makes of it
    assert "is no link" in link_problems(tree)[0]


def test_strayed_link_is_found(tree: Path) -> None:
    (tree / ".pypath/hostler_plugins").unlink()
    (tree / ".pypath/hostler_plugins").symlink_to("../platform")
    assert link_problems(tree) == [".pypath/hostler_plugins points to ../platform, not ../plugins"]


def test_wrong_build_settings_are_found(project: dict[str, Any]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project["build-system"]["backend-path"] = ["."]
    project["tool"]["hatch"]["build"]["targets"]["sdist"] = {"exclude": [".pypath"]}
    project["tool"]["hatch"]["build"]["dev-mode-dirs"] = ["."]
    assert len(project_problems(project)) == 3


def test_an_undeclared_entry_point_would_be_found(project: dict[str, Any]) -> None:
    declared = declared_entry_points(project)
    assert ("console_scripts", "hostler", "hostler.cli:main") in declared
    assert installed_entry_points() != declared | {("hostler.ns", "other", "hostler_plugins.ns.other:Other")}


def test_an_sdist_that_walks_the_links_builds_another_wheel(tmp_path: Path) -> None:
    """The very mistake that the list of real folders is for."""
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    expected = copy_tracked(source)
    file = source / "pyproject.toml"
    listed = 'only-include = ["platform", "plugins", "tests", "ops"]'
    assert listed in file.read_text()
    file.write_text(file.read_text().replace(listed, 'exclude = [".pypath"]'))
    with build_wheel(source, out) as wheel:
        assert wheel_names(wheel) != expected
