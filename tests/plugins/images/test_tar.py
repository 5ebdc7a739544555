"""The tar reader: agrees with other programs on good archives, and names what is wrong with bad ones."""

from __future__ import annotations

import io
import subprocess
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostler.contracts.images import UnpackLimits
from hostler.core.errors import Invalid
from hostler.core.units import MIB
from hostler_plugins.images.stream import Budget, Stream
from hostler_plugins.images.tar import Entry, Kind, entries, shown

Make = Callable[..., bytes]
BLOCK = 512


def stream(data: bytes) -> Stream:
    return Stream(io.BytesIO(data), Budget(UnpackLimits(bytes=256 * MIB)))


def read(data: bytes, *, end_required: bool = True) -> list[tuple[Entry, bytes]]:
    source = stream(data)
    return [(entry, source.exactly(entry.stored)) for entry in entries(source, end_required=end_required)]


def header(name: bytes = b"x", kind: bytes = b"0", size: int | bytes = 0, body: bytes = b"") -> bytes:
    """A raw header with a right checksum, whatever it says, and its body."""
    field = size if isinstance(size, bytes) else b"%011o\0" % size
    block = bytearray(name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + field + b"%011o\0" % 0)
    block += b" " * 8 + kind + bytes(100) + b"ustar\x0000"
    block = block.ljust(BLOCK, b"\0")
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + body + bytes(-len(body) % BLOCK)


def pax(*records: tuple[bytes, bytes], kind: bytes = b"x") -> bytes:
    body = b""
    for key, value in records:
        rest = b" " + key + b"=" + value + b"\n"
        length = len(rest)
        while len(b"%d" % length) + len(rest) != length:
            length = len(b"%d" % length) + len(rest)
        body += b"%d" % length + rest
    return header(b"pax", kind, len(body), body)


END = bytes(2 * BLOCK)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_agrees_with_tarfile(make_tar: Make, form: int) -> None:
    items = [
        {"name": "./", "type": tarfile.DIRTYPE, "mode": 0o755, "mtime": 7},
        {"name": "ordner/ä ü.txt", "data": b"x" * 1000, "mode": 0o4755, "uid": 33, "gid": 65535, "mtime": 1_600_000_000},
        {"name": "a" * 90 + "/" + "b" * 60, "data": b"long"},
        {"name": "link", "type": tarfile.SYMTYPE, "linkname": "/etc/" + "c" * 80},
        {"name": "hard", "type": tarfile.LNKTYPE, "linkname": "ordner/ä ü.txt"},
        {"name": "pipe", "type": tarfile.FIFOTYPE},
        {"name": "null", "type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3},
    ]
    archive = make_tar(*items, format=form)
    wanted = []
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for m in tar:
            file = tar.extractfile(m) if m.isreg() else None
            content = file.read() if file is not None else b""
            wanted.append((m.name, m.mode, m.uid, m.gid, int(m.mtime), m.linkname, content))
    found = [
        (e.name.decode().rstrip("/"), e.mode, e.uid, e.gid, e.mtime // 10**9, e.link.decode(), data)
        for e, data in read(archive)
    ]
    assert found == wanted
    kinds = [Kind.FOLDER, Kind.FILE, Kind.FILE, Kind.SYMLINK, Kind.HARDLINK, Kind.FIFO, Kind.CHARACTER_DEVICE]
    assert [entry.kind for entry, _ in read(archive)] == kinds


def test_long_names_large_ids_and_fractions(make_tar: Make) -> None:
    name, link = "n/" * 300 + "x", "l" * 3000
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        archive = make_tar(
            {"name": name, "type": tarfile.SYMTYPE, "linkname": link, "uid": 3_000_000, "mtime": -5}, format=form
        )
        (entry, _), = read(archive)  # fmt: skip
        assert (entry.name.decode(), entry.link.decode(), entry.uid, entry.mtime) == (name, link, 3_000_000, -5 * 10**9)
    archive = pax((b"mtime", b"1.25"), (b"uid", b"70000")) + header() + END
    assert [(e.mtime, e.uid) for e, _ in read(archive)] == [(1_250_000_000, 70000)]


def test_global_headers_give_owners_and_never_names() -> None:
    archive = pax((b"uid", b"5"), (b"path", b"evil"), (b"comment", b"git"), kind=b"g") + header(b"a") + header(b"b") + END
    assert [(entry.name, entry.uid) for entry, _ in read(archive)] == [(b"a", 5), (b"b", 5)]


@pytest.mark.parametrize("version", ["--format=gnu", "--sparse-version=0.0", "--sparse-version=0.1", "--sparse-version=1.0"])
def test_sparse_files_of_gnu_tar(tmp_path: Path, version: str) -> None:
    with (tmp_path / "holes").open("wb") as file:
        for number in range(60):  # more segments than one header holds
            file.seek(number * 262_144)
            file.write(b"%03d" % number * 1000)
        file.truncate(100 * MIB)
    posix = [] if version == "--format=gnu" else ["--format=posix"]
    subprocess.run(["tar", "-S", *posix, version, "-cf", "t.tar", "holes"], cwd=tmp_path, check=True)
    archive = (tmp_path / "t.tar").read_bytes()
    assert len(archive) < MIB
    (entry, data), = read(archive)  # fmt: skip
    assert entry.name == b"holes"
    assert entry.size == 100 * MIB
    assert entry.segments is not None
    content = bytearray(100 * MIB)
    at = 0
    for offset, length in entry.segments:
        content[offset : offset + length] = data[at : at + length]
        at += length
    assert content == (tmp_path / "holes").read_bytes()


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=200).filter(
                lambda text: text not in (".", "..")
            ),
            st.binary(max_size=3000),
        ),
        max_size=8,
    )
)
def test_any_names_and_contents_come_back(items: list[tuple[str, bytes]]) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in items:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    assert [(entry.name.decode(), data) for entry, data in read(out.getvalue())] == items


def test_every_cut_is_noticed(make_tar: Make) -> None:
    archive = make_tar({"name": "a", "data": b"1" * 700}, {"name": "b" * 150, "data": b"2" * 10})
    end = len(archive.rstrip(b"\0")) // BLOCK * BLOCK + BLOCK
    for length in range(0, end, 100):
        with pytest.raises(Invalid) as caught:
            read(archive[:length])
        assert caught.value.stable_code == "image_damaged"
    assert len(read(archive[:end], end_required=False)) == 2


def test_a_broken_header_in_the_middle_is_not_the_end(make_tar: Make) -> None:
    archive = bytearray(make_tar({"name": "a"}, {"name": "b"}))
    archive[BLOCK + 3] ^= 1
    with pytest.raises(Invalid, match="checksum"):
        read(bytes(archive))


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        (header(size=b"\xff" * 12), "negative size"),
        (header(size=b"notanumber!\0"), "no number"),
        (header(kind=b"V"), "unknown type"),
        (header(kind=b"L", size=2**31), "more than 1 MiB"),
        (header(kind=b"x", size=8**11 - 1), "more than 1 MiB"),
        (pax((b"a", b"b")) * 20 + header(), "follow each other"),
        (header(kind=b"x", size=9, body=b"99999 a=b"), "malformed"),
        (header(kind=b"x", size=6, body=b"6 a=b!"), "malformed"),
        (header(kind=b"x", size=6, body=b"0 a=b\n"), "malformed"),
        (header(kind=b"x", size=1 << 19, body=b"1" * (1 << 19)), "malformed"),
        (pax((b"size", b"-1")) + header(), "no number"),
        (pax((b"size", b"9" * 30)) + header(), "no number"),
        (pax((b"mtime", b"nan")) + header(), "no number"),
        (pax((b"GNU.sparse.map", b"5,1,0,1"), (b"GNU.sparse.size", b"9")) + header(size=9), "not in order"),
        (pax((b"GNU.sparse.map", b"0,5,7"), (b"GNU.sparse.size", b"9")) + header(size=9), "does not fit"),
        (pax((b"GNU.sparse.map", b"0,50"), (b"GNU.sparse.size", b"9")) + header(size=90), "does not fit"),
        (pax((b"GNU.sparse.map", b"0,50"), (b"GNU.sparse.size", b"90")) + header(size=9), "does not fit"),
        (pax((b"GNU.sparse.map", b"0,x"), (b"GNU.sparse.size", b"90")) + header(size=9), "no number"),
        (
            pax((b"GNU.sparse.major", b"1")) + header(size=2 * MIB, body=b"9999999\n" + b"0\n" * MIB),
            "does not end",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(archive: bytes, message: str) -> None:
    with pytest.raises(Invalid, match=message):
        read(archive + END)


def test_headers_cost_no_memory() -> None:
    class Endless:
        """An extended header of 8 GiB, made up as it is read."""

        first = header(kind=b"x", size=8**11 - 1)

        def read(self, size: int, /) -> bytes:
            data, self.first = self.first[:size], self.first[size:]
            return data or bytes(size)

    tracemalloc.start()
    with pytest.raises(Invalid):
        list(entries(Stream(Endless(), Budget(UnpackLimits()))))
    assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    tracemalloc.stop()


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damage_gives_entries_or_a_typed_error(data: st.DataObject) -> None:
    good = pax((b"path", b"p"), (b"SCHILY.xattr.user.a", b"\0\xff")) + header(size=600, body=b"d" * 600) + header(b"l", b"2") + END
    bad = bytearray(good)
    for _ in range(data.draw(st.integers(1, 6))):
        block = data.draw(st.sampled_from([0, 1, 2, 5]))
        at = block * BLOCK + data.draw(st.integers(0, BLOCK - 1))
        bad[at] = data.draw(st.integers(0, 255))
        fixed = bytearray(bad[block * BLOCK : (block + 1) * BLOCK])
        fixed[148:156] = b" " * 8
        bad[block * BLOCK + 148 : block * BLOCK + 156] = b"%06o\0 " % sum(fixed)
    try:
        read(bytes(bad))
    except Invalid as error:
        assert error.hint


def test_names_are_shown_without_control_characters() -> None:
    assert shown(b"a\x1b[31m\n\xff") == repr("a\\x1b[31m\\n\\xff")
    assert len(shown(b"x" * 5000)) < 140
