"""Unpacking: what good archives become on disk, and that bad ones never reach out of their folder."""

from __future__ import annotations

import io
import os
import shutil
import stat
import struct
import subprocess
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hostler.contracts.images import UnpackLimits
from hostler.core.errors import HostlerError, Invalid, NoRoom
from hostler.core.units import GIB, MIB
from hostler_plugins.images.stream import Budget, Stream
from hostler_plugins.images.unpack import Tree, unpack_tar

pytestmark = pytest.mark.lab
Make = Callable[..., bytes]

FOLDER = {"type": tarfile.DIRTYPE, "mode": 0o755}
DEFAULT = UnpackLimits()


def link(name: str, target: str) -> dict[str, object]:
    return {"name": name, "type": tarfile.SYMTYPE, "linkname": target}


def hard(name: str, target: str) -> dict[str, object]:
    return {"name": name, "type": tarfile.LNKTYPE, "linkname": target}


def unpack(archive: bytes, into: Path, limits: UnpackLimits = DEFAULT) -> Budget:
    budget = Budget(limits)
    with Tree(into, budget) as tree:
        unpack_tar(Stream(io.BytesIO(archive), budget), tree)
        tree.finish()
    return budget


def test_keeps_owner_mode_time_and_content(make_tar: Make, into: Path) -> None:
    budget = unpack(
        make_tar(
            {"name": ".", "type": tarfile.DIRTYPE, "mode": 0o711, "mtime": 500},
            {"name": "d", "type": tarfile.DIRTYPE, "mode": 0o2775, "uid": 5, "gid": 6, "mtime": 1000},
            {"name": "d/sü", "data": b"tool", "mode": 0o4711, "uid": 33, "gid": 65535, "mtime": 2000.5},
            {"name": "d/ln", "type": tarfile.SYMTYPE, "linkname": "/nowhere", "uid": 7, "mtime": 3000},
            {"name": "d/pipe", "type": tarfile.FIFOTYPE, "mode": 0o620, "gid": 4},
            hard("again", "./d/sü"),
            {"name": "deep/er/file", "data": b"12"},
        ),
        into,
    )
    found = {
        str(path.relative_to(into)): (stat.filemode(s.st_mode), s.st_uid, s.st_gid, s.st_nlink)
        for path in [into, *into.rglob("*")]
        if (s := path.lstat()) and not stat.S_ISDIR(s.st_mode)
    }
    assert found == {
        "d/sü": ("-rws--x--x", 33, 65535, 2),
        "again": ("-rws--x--x", 33, 65535, 2),
        "d/ln": ("lrwxrwxrwx", 7, 0, 1),
        "d/pipe": ("prw--w----", 0, 4, 1),
        "deep/er/file": ("-rw-r--r--", 0, 0, 1),
    }
    folder = (into / "d").stat()
    assert (stat.filemode(folder.st_mode), folder.st_uid, folder.st_gid) == ("drwxrwsr-x", 5, 6)
    assert (stat.filemode(into.stat().st_mode), into.stat().st_mtime) == ("drwx--x--x", 500)
    times = [(into / name).lstat().st_mtime for name in ("d", "d/sü", "d/ln")]
    assert times == [1000, 2000.5, 3000]
    assert (into / "d/sü").read_bytes() == b"tool"
    assert os.readlink(into / "d/ln") == "/nowhere"
    assert stat.S_IMODE((into / "deep").stat().st_mode) == 0o755
    assert (budget.bytes, budget.entries) == (6, 9)


def test_the_process_umask_does_not_matter(make_tar: Make, into: Path) -> None:
    archive = make_tar({"name": "new/file", "mode": 0o666})
    before = os.umask(0o077)
    try:
        unpack(archive, into)
    finally:
        os.umask(before)
    assert stat.S_IMODE((into / "new/file").stat().st_mode) == 0o666
    assert stat.S_IMODE((into / "new").stat().st_mode) == 0o755


@pytest.mark.parametrize(
    "items",
    [
        [{"name": "../evil"}],
        [{"name": "a/../../evil"}],
        [{"name": "a/.."}],
        [{"name": "/evil"}],
        [{"name": "//evil"}],
        [hard("h", "../outside/secret")],
        [hard("h", "/etc/passwd")],
        [link("up", ".."), hard("h", "up/outside/secret")],
        [link("out", "../outside"), hard("h", "out/secret")],
    ],
)
def test_climbing_is_refused(make_tar: Make, into: Path, items: list[dict[str, object]]) -> None:
    with pytest.raises(Invalid) as caught:
        unpack(make_tar(*items), into)
    assert caught.value.hint
    assert not any(path.is_file() for path in into.rglob("*"))


def test_links_are_followed_only_inside(make_tar: Make, into: Path) -> None:
    """As a process would whose root this is: a merged /usr works, and a link to the outside leads to the inside."""
    unpack(
        make_tar(
            {"name": "usr/lib", **FOLDER},
            link("lib", "usr/lib"),
            {"name": "lib/so", "data": b"1"},
            {"name": "outside", **FOLDER},
            link("abs", "/outside"),
            link("dots", "../../../../../outside"),
            {"name": "abs/a"},
            {"name": "dots/b"},
        ),
        into,
    )
    assert sorted(os.listdir(into / "outside")) == ["a", "b"]
    assert (into / "usr/lib/so").read_bytes() == b"1"
    assert (into / "lib").is_symlink()


@pytest.mark.parametrize("target", ["/proc/self/root/etc", "/proc/self/cwd", "../outside", "loop", "/nowhere", "file"])
def test_a_file_below_a_link_that_leads_nowhere_is_refused(make_tar: Make, into: Path, target: str) -> None:
    with pytest.raises(Invalid):
        unpack(make_tar({"name": "file"}, link("loop", target), {"name": "loop/evil"}), into)
    assert sorted(os.listdir(into)) == ["file", "loop"]


def test_the_last_component_is_never_followed(make_tar: Make, into: Path) -> None:
    unpack(
        make_tar(link("a", "../outside/secret"), {"name": "a", "data": b"overwritten"}, link("d", "../outside"),
                 {"name": "d", **FOLDER}, {"name": "d/x"}, link("p", "../outside/secret"),
                 {"name": "p", "type": tarfile.FIFOTYPE, "mode": 0o777}, link("l", "../outside/secret"), hard("m", "l"),
                 {"name": "m", "mode": 0o777, "uid": 9, "data": b"new"}),
        into,
    )  # fmt: skip
    assert (into / "a").read_bytes() == b"overwritten"
    assert sorted(os.listdir(into / "d")) == ["x"]
    assert not (into / "m").is_symlink()


def test_a_file_linked_elsewhere_is_replaced_not_written(make_tar: Make, into: Path) -> None:
    unpack(make_tar({"name": "a", "data": b"one"}, hard("b", "a"), {"name": "a", "data": b"two!"}, hard("b", "b")), into)
    assert ((into / "a").read_bytes(), (into / "b").read_bytes()) == (b"two!", b"one")


def test_kinds_replace_each_other(make_tar: Make, into: Path) -> None:
    unpack(
        make_tar({"name": "x/y/z"}, {"name": "x", "data": b"file"}, {"name": "x", **FOLDER}, {"name": "x/new"}, link("x/l", ".")),
        into,
    )
    assert sorted(os.listdir(into / "x")) == ["l", "new"]


def test_a_folders_name_is_looked_up_again_after_a_removal(make_tar: Make, into: Path) -> None:
    """The folder d/self is d, until its entry `self` is replaced."""
    with pytest.raises(Invalid, match="its folder is a file"):
        unpack(make_tar(link("d/self", "."), {"name": "d/self/self", "data": b"file"}, {"name": "d/self/x"}), into)
    assert os.listdir(into / "d") == ["self"]


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_devices_are_refused(make_tar: Make, into: Path, kind: bytes) -> None:
    with pytest.raises(Invalid, match="'dev/sda' is a .* device"):
        unpack(make_tar({"name": "dev/sda", "type": kind, "devmajor": 8}), into)
    assert os.listdir(into) == []


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"name": "a", "uid": 65536}, "belongs to 65536:0"),
        ({"name": "a", "gid": 2**31}, "belongs to 0:"),
        ({"name": "n" * 256}, "too long"),
        ({"name": "d/" * 201 + "x"}, "too deep"),
        ({"name": "d" * 250 + "/" + ("e" * 250 + "/") * 16 + "x"}, "too long"),
        ({"name": "nul", "pax_headers": {"path": "a\0b"}}, "no file name"),
        ({"name": "ln", "type": tarfile.SYMTYPE, "pax_headers": {"linkpath": "a\0b"}}, "no valid target"),
        ({"name": "ln", "type": tarfile.SYMTYPE}, "no valid target"),
        ({"name": "h", "type": tarfile.LNKTYPE, "linkname": "missing"}, "which is not there"),
        ({"name": "h", "type": tarfile.LNKTYPE, "linkname": "."}, "which is not there"),
        ({"name": ".", "data": b"x"}, "its root is a file"),
    ],
)  # fmt: skip
def test_refused_by_name(make_tar: Make, into: Path, item: dict[str, object], message: str) -> None:
    with pytest.raises(Invalid, match=message):
        unpack(make_tar(item), into)
    assert os.listdir(into) == []


def test_depth_cannot_be_smuggled_through_links(make_tar: Make, into: Path) -> None:
    items: list[dict[str, object]] = []
    for step in range(8):
        base = f"l{step - 1}" if step else "start"
        path = base + "/d" * 60
        items += [{"name": path, **FOLDER}, link(f"l{step}", f"/{path}")]
    with pytest.raises(Invalid, match="too deep|too long"):
        unpack(make_tar(*items), into)
    shutil.rmtree(into)  # which recursion in Python must be able to do
    into.mkdir()


def test_a_hard_link_to_a_folder_is_refused(make_tar: Make, into: Path) -> None:
    with pytest.raises(Invalid, match="forbids"):
        unpack(make_tar({"name": "d", **FOLDER}, hard("h", "d")), into)


def test_attributes_that_tenants_may_have(make_tar: Make, into: Path) -> None:
    # As the kernel stores cap_net_raw+ep with a root id: struct vfs_ns_cap_data, little endian.
    version3 = struct.pack("<6I", 0x03000001, 1 << 13, 0, 0, 0, 100_000)
    attributes = {
        "user.mine": "\udcff\n=x",
        "user.overlay.redirect": "/etc",
        "trusted.overlay.opaque": "y",
        "security.selinux": "label",
        "system.posix_acl_access": "x",
        "security.capability": version3.decode("utf-8", "surrogateescape"),
    }
    headers = {f"SCHILY.xattr.{key}": value for key, value in attributes.items()}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8", errors="surrogateescape") as tar:
        for name, kind in (("f", tarfile.REGTYPE), ("d", tarfile.DIRTYPE), ("l", tarfile.SYMTYPE)):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "f" if kind == tarfile.SYMTYPE else ""
            entry.pax_headers = headers | {"hdrcharset": "BINARY"}
            tar.addfile(entry)
    unpack(out.getvalue(), into)
    assert {key: os.getxattr(into / "f", key) for key in os.listxattr(into / "f")} == {
        "user.mine": b"\xff\n=x",
        "security.capability": struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0),
    }
    assert os.listxattr(into / "d") == ["user.mine"]
    assert os.listxattr(into / "l", follow_symlinks=False) == []


@pytest.mark.parametrize("value", ["short", "x" * 20, "\1\0\0\2" + "\0" * 20])
def test_malformed_capabilities_are_refused(make_tar: Make, into: Path, value: str) -> None:
    with pytest.raises(Invalid, match="capabilities of 'c'"):
        unpack(make_tar({"name": "c", "pax_headers": {"SCHILY.xattr.security.capability": value}}), into)


# --- size ---


@pytest.mark.parametrize(
    ("items", "limits"),
    [
        ([{"name": "a", "data": bytes(MIB)}, {"name": "b", "data": bytes(1)}], UnpackLimits(bytes=MIB)),
        ([{"name": "a", "data": bytes(MIB)}, {"name": "a", "data": bytes(1)}], UnpackLimits(bytes=MIB)),
        ([{"name": f"f{number}"} for number in range(11)], UnpackLimits(entries=10)),
        ([{"name": "a/b/c/d/e/f"}], UnpackLimits(entries=5)),
    ],
)  # fmt: skip
def test_limits_hold(make_tar: Make, into: Path, items: list[dict[str, object]], limits: UnpackLimits) -> None:
    with pytest.raises(Invalid) as caught:
        unpack(make_tar(*items), into, limits)
    assert caught.value.stable_code == "image_too_large"


def test_holes_count_and_stay_holes(tmp_path: Path, into: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    with (folder / "holes").open("wb") as file:
        file.seek(GIB)
        file.write(b"end")
        file.truncate(2 * GIB)
    subprocess.run(["tar", "-S", "-cf", "t.tar", "holes"], cwd=folder, check=True)
    archive = (folder / "t.tar").read_bytes()
    with pytest.raises(Invalid, match="more than 1G"):
        unpack(archive, into, UnpackLimits(bytes=GIB))
    assert unpack(archive, into).bytes == 2 * GIB
    made = (into / "holes").stat()
    assert (made.st_size, made.st_blocks < 1000) == (2 * GIB, True)
    with (into / "holes").open("rb") as file:
        file.seek(GIB - 2)
        assert file.read(7) == b"\0\0end\0\0"


def test_a_full_disk_is_named(make_tar: Make, tmp_path: Path) -> None:
    target = tmp_path / "small"
    target.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "hostler-test", target], check=True)
    try:
        with pytest.raises(NoRoom, match="'big'"):
            unpack(make_tar({"name": "big", "data": bytes(MIB)}), target)
    finally:
        subprocess.run(["umount", target], check=True)


def test_a_file_cut_short(make_tar: Make, into: Path) -> None:
    with pytest.raises(Invalid, match="in the middle of 'a'"):
        unpack(make_tar({"name": "a", "data": bytes(9000)})[:4000], into)


def test_no_descriptor_stays_open(make_tar: Make, into: Path) -> None:
    bad: list[list[dict[str, object]]] = [[{"name": "d/x/y"}, {"name": "../x"}], [link("l", "l"), {"name": "l/x"}], [hard("h", "a/b")], [{"name": "d/x"}]]
    before = len(os.listdir("/proc/self/fd"))
    for items in bad * 5:
        try:
            unpack(make_tar(*items), into)
        except Invalid:
            continue
    assert len(os.listdir("/proc/self/fd")) == before


def test_two_at_once(make_tar: Make, into: Path) -> None:
    archive = make_tar(*({"name": f"d{n % 7}/e{n % 3}/f{n}", "data": b"%d" % n} for n in range(400)))
    threads = [threading.Thread(target=unpack, args=(archive, into / name)) for name in ("one", "two", "three")]
    for name in ("one", "two", "three"):
        (into / name).mkdir()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in ("one", "two", "three"):
        assert sorted(path.name for path in (into / name).rglob("f*")) == sorted(f"f{n}" for n in range(400))


# --- anything at all ---

_PIECES = st.sampled_from(["a", "b", "..", ".", "", "outside", "secret", "target", "proc", "self", "root", "ä", "\\", "-rf"])
_PATHS = st.lists(_PIECES, min_size=1, max_size=5).map("/".join) | st.just("/") | st.text(max_size=6)
_KINDS = st.sampled_from(
    [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE]
)
_TARGETS = _PATHS | st.sampled_from(["../outside", "/outside", "../outside/secret", "..", "/", "a/..", "../../.."])


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(_PATHS, _KINDS, _TARGETS, st.integers(0, 0o7777)), min_size=1, max_size=10))
def test_nothing_gets_out(make_tar: Make, into: Path, items: list[tuple[str, bytes, str, int]]) -> None:
    """The fixture compares all that lies beside the target, to the inode's time of change, after all examples."""
    target = into / "target"
    target.mkdir()
    outside = into / "outside"
    outside.mkdir()
    (outside / "secret").write_text("keep")
    before = [(p.stat().st_mode, p.stat().st_uid, p.stat().st_nlink, p.stat().st_ctime_ns) for p in (outside, outside / "secret")]
    try:
        archive = make_tar(
            *({"name": name.encode("utf-8", "replace").decode(), "type": kind, "linkname": to.encode("utf-8", "replace").decode(), "mode": mode,
               "uid": 7, "data": b"evil" if kind == tarfile.REGTYPE else b""} for name, kind, to, mode in items)
        )  # fmt: skip
        try:
            unpack(archive, target)
        except HostlerError as error:
            assert isinstance(error, Invalid)
            assert error.hint
        after = [(p.stat().st_mode, p.stat().st_uid, p.stat().st_nlink, p.stat().st_ctime_ns) for p in (outside, outside / "secret")]
        assert after == before
        assert sorted(os.listdir(into)) == ["outside", "target"]
        assert os.listdir(outside) == ["secret"]
    finally:
        shutil.rmtree(target)
        shutil.rmtree(outside)
