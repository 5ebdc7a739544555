"""Folders, files and the command on the PATH: changed only when different."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hostler.core.errors import Conflict, HostFailure
from hostler.core.units import GIB
from hostler.host.process import run
from hostler.node.lab import files
from hostler.node.lab.layout import USER, Folder, Lab, Machine
from hostler.node.lab.lock import locked
from hostler.node.lab.record import Record

pytestmark = pytest.mark.lab  # owners can be set by root only


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setattr(files, "PATH_COMMAND", tmp_path / "on-path/hostler")
    (tmp_path / "on-path").mkdir()
    lab = Lab(checkout=Path("/opt/hostler"), machine=Machine(2, 4 * GIB, 100 * GIB), home=tmp_path / "home", installation="t1")
    lab.command.parent.mkdir(parents=True)
    lab.command.write_text("#!/bin/sh\n")
    return lab


def test_a_folder_is_made_once_and_mended(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "a/b", 0o750, "root:daemon")
    assert [files.make_folder(folder) for _ in range(2)] == [True, False]
    folder.path.chmod(0o777)
    assert files.make_folder(folder)
    assert folder.path.stat().st_mode & 0o7777 == 0o750


def test_a_file_is_written_only_when_it_differs(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    assert [files.write_file(path, "one", 0o600) for _ in range(2)] == [True, False]
    before = path.stat().st_ino
    assert files.write_file(path, "two", 0o600)
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("two", 0o600)
    assert path.stat().st_ino != before  # replaced whole
    path.chmod(0o644)
    assert files.write_file(path, "two", 0o600)
    assert [entry.name for entry in tmp_path.iterdir()] == ["secret"]


def test_the_command_is_put_on_the_path_and_taken_off(lab: Lab) -> None:
    assert [files.put_on_path(lab) for _ in range(2)] == ["", ""]
    assert files.PATH_COMMAND.resolve() == lab.command
    files.take_off_path(lab)
    assert not files.PATH_COMMAND.is_symlink()
    files.take_off_path(lab)


def test_a_link_to_an_installation_that_is_gone_is_replaced(lab: Lab) -> None:
    files.PATH_COMMAND.symlink_to("/srv/gone/bin/hostler")
    assert files.put_on_path(lab) == ""
    assert files.PATH_COMMAND.resolve() == lab.command


def test_another_s_command_is_left_alone(lab: Lab) -> None:
    files.PATH_COMMAND.write_text("another's")
    assert "left alone" in files.put_on_path(lab)
    files.take_off_path(lab)
    assert files.PATH_COMMAND.read_text() == "another's"


def test_only_an_installation_s_home_is_deleted(lab: Lab) -> None:
    with pytest.raises(HostFailure, match="does not look like"):
        files.delete_home(lab)
    assert lab.command.exists()
    Record.file(lab.home).parent.mkdir()
    Record.file(lab.home).write_text(Record.of(lab).model_dump_json())
    files.delete_home(lab)
    assert not lab.home.exists()
    files.delete_home(lab)


def test_one_at_a_time(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(Conflict), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


@pytest.fixture
def user() -> str:
    files.make_user()
    return USER


@pytest.fixture
def closed() -> Iterator[Path]:
    """A folder like /root, outside of pytest's own, whose passage other runs of these tests depend on."""
    folder = Path(tempfile.mkdtemp(prefix="hst-closed-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


def test_the_user_may_pass_closed_folders_and_no_more(lab: Lab, user: str, closed: Path) -> None:
    lab = replace(lab, checkout=Path(__file__).resolve().parents[3], home=closed / "home")
    lab.home.mkdir(parents=True)
    assert files.as_user(["test", "-d", lab.home], check=False) != 0
    assert closed in files.let_pass(lab)
    assert files.let_pass(lab) == []
    assert f"user:{user}:--x" in run(["getfacl", "--omit-header", "--absolute-names", closed]).text
    assert files.as_user(["test", "-d", lab.home]) == 0
    assert files.as_user(["ls", closed], check=False) != 0


def test_a_checkout_that_the_user_cannot_run_is_refused_with_a_way_out(lab: Lab, user: str, tmp_path: Path) -> None:
    (tmp_path / "copy/.venv/bin").mkdir(parents=True)
    (tmp_path / "copy/.venv/bin/python").write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(HostFailure, match="cannot run the platform") as refused:
        files.let_pass(replace(lab, checkout=tmp_path / "copy"))
    assert "/opt" in refused.value.hint
