"""The shelf: checkpoints by id, broken ones told as such, and nothing left of what failed."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hostler.core.errors import Conflict, Invalid, NoRoom, NotFound
from hostler.mobility.drafts import clean_drafts
from hostler.mobility.keys import Key
from hostler.mobility.manifest import Manifest, PartKind
from hostler.mobility.reading import extract
from hostler.mobility.shelf import Shelf
from hostler.mobility.writing import of_bytes, write

Named = Callable[[str, str | None], Manifest]
PART = of_bytes(b"registers", "core-1.img", PartKind.STATE)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "shelf", reserve=0)


@pytest.mark.parametrize("hostile", ["../x", "", "a/b", "A", ".", "..", "a\0b", "a.b", "-a", "x" * 64, "a\n"])
def test_what_is_no_id_leads_nowhere(shelf: Shelf, hostile: str) -> None:
    for verb in (shelf.path_of, shelf.manifest, shelf.inspect, shelf.remove):
        with pytest.raises(Invalid, match="cannot be an id"):
            verb(hostile)


def test_what_is_written_is_listed_read_and_removed_once(shelf: Shelf, named: Named) -> None:
    assert shelf.folder.stat().st_mode & 0o777 == 0o700
    for checkpoint in ("ckpt0002", "ckpt0001"):
        shelf.write(named(checkpoint, None), [PART])
    with pytest.raises(Conflict, match="exists already"):
        shelf.write(named("ckpt0001", None), [PART])
    assert [(entry.id, entry.reason, entry.size) for entry in shelf.entries()] == [(id, "", shelf.path_of(id).stat().st_size) for id in ("ckpt0001", "ckpt0002")]
    assert shelf.manifest("ckpt0001").id == shelf.inspect("ckpt0001").manifest.id == "ckpt0001"
    assert (shelf.remove("ckpt0001"), shelf.remove("ckpt0001")) == (True, False)
    with pytest.raises(NotFound, match="no checkpoint ckpt0001"):
        shelf.manifest("ckpt0001")


def test_broken_ones_are_listed_with_the_reason(shelf: Shelf, named: Named) -> None:
    shelf.write(named("ckpt0001", None), [PART])
    good = shelf.path_of("ckpt0001").read_bytes()
    for name, content in {"empty": b"", "noise": b"\x7fELF" * 40, "other": good}.items():
        shelf.path_of(name).write_bytes(content)
    for name in ("ckpt0008", "ckpt0009"):
        shelf.write(named(name, None), [PART])
    os.truncate(shelf.path_of("ckpt0008"), shelf.path_of("ckpt0008").stat().st_size - 1)
    with shelf.path_of("ckpt0009").open("ab") as file:
        file.write(b"x")
    shelf.path_of("folder").mkdir()
    shelf.path_of("link").symlink_to("/nowhere")
    (shelf.folder / "README").touch()
    reasons = {entry.id: entry.reason for entry in shelf.entries()}
    assert reasons.pop("ckpt0001") == ""
    assert set(reasons) == {"ckpt0008", "ckpt0009", "empty", "noise", "other", "folder", "link"}
    assert "cut, or something follows" in reasons["ckpt0008"]
    assert "cut, or something follows" in reasons["ckpt0009"]
    assert "it ends inside" in reasons["empty"]
    assert "no checkpoint of Hostler" in reasons["noise"]
    assert "holds checkpoint ckpt0001" in reasons["other"]
    assert "no regular file" in reasons["folder"]
    assert all(entry.manifest is None for entry in shelf.entries() if entry.reason)


def test_a_parent_stays_while_a_child_needs_it(shelf: Shelf, named: Named) -> None:
    shelf.write(named("ckpt0001", None), [PART])
    shelf.write(named("ckpt0002", "ckpt0001"), [PART])
    with pytest.raises(Conflict, match="continued by ckpt0002"):
        shelf.remove("ckpt0001")
    assert shelf.remove("ckpt0002")
    assert shelf.remove("ckpt0001")


@pytest.mark.parametrize("secret", [None, Key(bytes(range(32)))], ids=["plain", "encrypted"])
def test_what_arrives_is_verified_before_it_is_there(shelf: Shelf, tmp_path: Path, named: Named, secret: Key | None) -> None:
    write(tmp_path / "sent", named("ckpt0003", None), [PART], key=secret)
    sent = (tmp_path / "sent").read_bytes()
    for broken in (sent[:-9], sent + b"x", sent[:200] + bytes([sent[200] ^ 1]) + sent[201:], b""):
        with pytest.raises(Invalid):
            shelf.receive(io.BytesIO(broken), limit=1 << 20)
    with pytest.raises(Invalid, match="has more than 100"):
        shelf.receive(io.BytesIO(sent), limit=100)
    assert os.listdir(shelf.folder) == []
    assert shelf.receive(io.BytesIO(sent), limit=len(sent)).id == "ckpt0003"
    assert shelf.path_of("ckpt0003").read_bytes() == sent
    with pytest.raises(Conflict, match="exists already"):
        shelf.receive(io.BytesIO(sent), limit=len(sent))
    assert os.listdir(shelf.folder) == ["ckpt0003.checkpoint"]


def test_room_is_asked_for_beforehand(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "shelf")
    shelf.check_room(1)
    with pytest.raises(NoRoom, match="does not fit"):
        shelf.check_room(1 << 60)
    assert Shelf(tmp_path / "shelf", reserve=1 << 60).free() == 0


# --- killed writers ---

_WRITER = """
import io, sys, time
from pathlib import Path
from hostler.mobility import writing
from tests.mobility.conftest import a_manifest
class Slow(io.BytesIO):
    def readinto(self, buffer):
        print("writing", flush=True)
        time.sleep(60)
writing.write(Path(sys.argv[1]) / "ckpt0001.checkpoint", a_manifest(), [writing.PartSource("a", writing.PartKind.LOG, Slow)])
"""


@pytest.fixture
def writer(shelf: Shelf) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is in the middle of writing a checkpoint."""
    process = subprocess.Popen([sys.executable, "-c", _WRITER, str(shelf.folder)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        yield process
    finally:
        process.kill()
        process.wait(timeout=30)


def test_a_killed_writer_s_draft_is_cleaned_and_a_living_one_s_is_not(shelf: Shelf, writer: subprocess.Popen[bytes]) -> None:
    (draft,) = os.listdir(shelf.folder)
    assert shelf.clean_drafts() == []
    assert shelf.entries() == []
    writer.send_signal(signal.SIGKILL)
    writer.wait(timeout=30)
    assert shelf.clean_drafts() == [draft]
    assert os.listdir(shelf.folder) == []


def test_half_unpacked_folders_are_cleaned_and_other_things_are_not(tmp_path: Path) -> None:
    (tmp_path / ".out.0123456789abcdef.draft/images").mkdir(parents=True)
    (tmp_path / ".out.0123456789abcdef.draft/images/core-1.img").touch()
    for kept in (".out.draft", "out.0123456789abcdef.draft", ".x.0123456789ABCDEF.draft"):
        (tmp_path / kept).touch()
    (tmp_path / ".link.0123456789abcdef.draft").symlink_to("/etc/passwd")
    assert clean_drafts(tmp_path) == [".out.0123456789abcdef.draft"]
    assert sorted(os.listdir(tmp_path)) == [".link.0123456789abcdef.draft", ".out.draft", ".x.0123456789ABCDEF.draft", "out.0123456789abcdef.draft"]


# --- a full file system ---


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    place = tmp_path / "tiny"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(place)], check=True, timeout=30)
    try:
        yield place
    finally:
        for _ in range(50):
            if subprocess.run(["umount", str(place)], timeout=30, check=False).returncode == 0:
                break
            time.sleep(0.1)


@pytest.mark.lab
def test_a_full_file_system_is_no_room_and_nothing_is_left(tiny: Path, tmp_path: Path, manifest: Manifest) -> None:
    part = of_bytes(os.urandom(3 << 20), "pages-1.img", PartKind.MEMORY)
    with pytest.raises(NoRoom, match="no room left"):
        write(tiny / "a", manifest, [part])
    sent = tmp_path / "sent"
    write(sent, manifest, [part])
    with pytest.raises(NoRoom, match="no room left"):
        extract(sent, tiny / "out")
    with sent.open("rb", buffering=0) as wire, pytest.raises(NoRoom, match="no room left"):
        Shelf(tiny).receive(wire, limit=1 << 30)
    assert os.listdir(tiny) == []
    write(tiny / "a", manifest, [PART])
