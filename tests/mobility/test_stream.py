"""The checkpoint stream: what goes in comes out, and nothing else does."""

from __future__ import annotations

import hashlib
import io
import os
import random
import struct
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hostler.core.errors import Conflict, HostFailure, Invalid, NotFound
from hostler.core.specs import Process
from hostler.mobility import frames
from hostler.mobility.keys import Key
from hostler.mobility.manifest import (
    CHUNK,
    MANIFEST_LIMIT,
    Cipher,
    Manifest,
    PartInfo,
    PartKind,
    decode,
    encode,
)
from hostler.mobility.reading import extract, inspect, read_manifest, verify
from hostler.mobility.writing import PartSource, of_bytes, of_file, of_folder, write, write_to
from tests.mobility.conftest import SECRET, a_manifest

KEY = Key(bytes(range(32)))
KEYS = pytest.mark.parametrize("secret", [None, KEY], ids=["plain", "encrypted"])

small = st.binary(max_size=300)
#: Lengths around the borders of chunks, of zeros, of text and of noise.
large = st.builds(
    lambda length, filling, seed: {"zeros": bytes(length), "text": (b"memory " * (length // 7 + 1))[:length], "noise": random.Random(seed).randbytes(length)}[filling],
    st.sampled_from([CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 5 * CHUNK + 7]),
    st.sampled_from(["zeros", "text", "noise"]),
    st.integers(0, 99),
)
names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}(/[a-z0-9][a-z0-9._-]{0,20})?", fullmatch=True)


def packed(content: dict[str, bytes], key: Key | None = None, level: int = 1, cipher: Cipher = Cipher.AES_256_GCM) -> bytes:
    out = io.BytesIO()
    write_to(out, a_manifest(), [of_bytes(data, name, PartKind.STATE) for name, data in content.items()], key=key, level=level, cipher=cipher)
    return out.getvalue()


def unpacked(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def free_of_clashes(content: dict[str, bytes]) -> bool:
    return not set(content) & {name.split("/")[0] for name in content if "/" in name} and "container.json" not in {name.split("/")[0] for name in content}


# --- what goes in comes out ---


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    content=st.dictionaries(names, st.one_of(small, large), max_size=5).filter(free_of_clashes),
    secret=st.sampled_from([None, KEY]),
    level=st.sampled_from([0, 1, -1]),
    cipher=st.sampled_from(list(Cipher)),
)
def test_parts_come_out_as_they_went_in(tmp_path_factory: pytest.TempPathFactory, content: dict[str, bytes], secret: Key | None, level: int, cipher: Cipher) -> None:
    folder = tmp_path_factory.mktemp("round")
    written = write(folder / "a.checkpoint", a_manifest(), [of_bytes(data, name, PartKind.STATE) for name, data in content.items()], key=secret, level=level, cipher=cipher)
    verify(folder / "a.checkpoint", secret)
    manifest = extract(folder / "a.checkpoint", folder / "out", secret)
    assert unpacked(folder / "out") == content
    assert manifest.container.process == a_manifest().container.process
    seen = inspect(folder / "a.checkpoint")
    assert {part.name: part.size for part in seen.parts if part.kind is not PartKind.CONTAINER} == {name: len(data) for name, data in content.items()}
    assert (seen.digest, seen.stored, seen.size) == (written.digest, written.stored, written.original)


@KEYS
def test_a_stream_of_unknown_length_is_read_to_its_end_and_no_further(tmp_path: Path, manifest: Manifest, secret: Key | None) -> None:
    content = random.Random(1).randbytes(2 * CHUNK)
    out = io.BytesIO()
    write_to(out, manifest, [PartSource("volume.send", PartKind.VOLUME, lambda: io.BytesIO(content))], key=secret)
    wire = io.BytesIO(out.getvalue() + b"what comes next on the wire")
    told = extract(wire, tmp_path / "out", secret)
    assert wire.read() == b"what comes next on the wire"
    assert unpacked(tmp_path / "out") == {"volume.send": content}
    assert told.parts[-1] == PartInfo(name="volume.send", kind=PartKind.VOLUME)


def test_a_folder_of_images_goes_in_by_kind_and_without_sockets(tmp_path: Path, manifest: Manifest) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "pages-1.img").write_bytes(os.urandom(9000))
    (images / "core-1.img").write_bytes(b"registers")
    os.mkfifo(images / "status")
    parts = of_folder(images, "images")
    assert [(part.name, part.kind) for part in parts] == [("images/core-1.img", PartKind.STATE), ("images/pages-1.img", PartKind.MEMORY)]
    write(tmp_path / "a", manifest, parts)
    extract(tmp_path / "a", tmp_path / "out")
    assert unpacked(tmp_path / "out/images") == {path.name: path.read_bytes() for path in images.iterdir() if path.is_file()}


def test_zeros_take_no_room_here_nor_there(tmp_path: Path, manifest: Manifest) -> None:
    written = write(tmp_path / "a", manifest, [of_bytes(bytes(8 * CHUNK) + b"end", "pages-1.img", PartKind.MEMORY), of_bytes(bytes(3 * CHUNK), "pages-2.img", PartKind.MEMORY)])
    assert written.stored == 3
    extract(tmp_path / "a", tmp_path / "out")
    assert (tmp_path / "out/pages-1.img").read_bytes() == bytes(8 * CHUNK) + b"end"
    assert (tmp_path / "out/pages-2.img").stat().st_size == 3 * CHUNK
    assert (tmp_path / "out/pages-2.img").stat().st_blocks == 0


def test_what_shrinks_is_stored_smaller_and_what_does_not_as_it_is() -> None:
    assert len(packed({"text": b"memory " * 100_000})) < 100_000
    noise = random.Random(2).randbytes(CHUNK)
    assert noise in packed({"noise": noise})


def test_files_and_folders_are_for_the_owner_alone(tmp_path: Path, manifest: Manifest) -> None:
    write(tmp_path / "a", manifest, [of_bytes(b"x", "images/core-1.img", PartKind.STATE)])
    extract(tmp_path / "a", tmp_path / "out")
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("a", "out", "out/images", "out/images/core-1.img")]
    assert modes == [0o600, 0o700, 0o700, 0o600]


def test_progress_is_told_and_ends_the_work_when_it_raises(tmp_path: Path, manifest: Manifest) -> None:
    part = of_bytes(random.Random(3).randbytes(4 * CHUNK), "pages-1.img", PartKind.MEMORY)
    seen: list[int] = []
    write(tmp_path / "a", manifest, [part], progress=seen.append)
    assert seen == [CHUNK, 2 * CHUNK, 3 * CHUNK, 4 * CHUNK]

    def cancelled(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "b", manifest, [part], progress=cancelled)
    with pytest.raises(KeyboardInterrupt):
        extract(tmp_path / "a", tmp_path / "out", progress=cancelled)
    assert os.listdir(tmp_path) == ["a"]


# --- secrets ---


def test_an_encrypted_checkpoint_tells_no_process_without_its_key(manifest: Manifest, key: Key) -> None:
    stream = packed({"a": b"the memory"}, key)
    for hidden in (SECRET, "daemon off", "ticket", "the memory"):
        assert hidden.encode() not in stream
    assert read_manifest(io.BytesIO(stream)).container.process == Process()
    assert read_manifest(io.BytesIO(stream), key).container.process == manifest.container.process


def test_no_checkpoint_keeps_the_image_s_ticket() -> None:
    assert b"ticket" not in packed({})


def test_two_files_of_one_content_share_no_ciphertext(key: Key) -> None:
    content = {"a": random.Random(4).randbytes(64)}
    first, second = (taken_apart(packed(content, key))[1] for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert len(one[0][1]) == len(other[0][1])
        assert not {one[0][1][at : at + 8] for at in range(len(one[0][1]) - 8)} & {other[0][1][at : at + 8] for at in range(len(other[0][1]) - 8)}


@pytest.mark.parametrize("cipher", list(Cipher))
def test_a_wrong_key_and_none_are_told_apart(tmp_path: Path, manifest: Manifest, key: Key, other_key: Key, cipher: Cipher) -> None:
    write(tmp_path / "a", manifest, [of_bytes(b"x", "a", PartKind.STATE)], key=key, cipher=cipher)
    with pytest.raises(Invalid, match=f"encrypted with key {key.id}; the key given is {other_key.id}"):
        verify(tmp_path / "a", other_key)
    with pytest.raises(Invalid, match=f"is encrypted with key {key.id}"):
        extract(tmp_path / "a", tmp_path / "out")
    verify(tmp_path / "a")  # its digests
    assert os.listdir(tmp_path) == ["a"]


def resigned(stream: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """The stream with another manifest and all its digests right, as a forger without the key can make it."""
    _, _, length = struct.unpack(">8sHI", stream[:14])
    text = change(stream[14 : 14 + length])
    start = struct.pack(">8sHI", frames.MAGIC, frames.VERSION, len(text)) + text
    return start + hashlib.sha256(start).digest() + stream[14 + length + 32 :]


def test_a_forged_manifest_opens_nothing(tmp_path: Path, key: Key) -> None:
    stream = packed({"a": b"x"}, key)
    forged = resigned(stream, lambda text: text.replace(b'"node":"alpha"', b'"node":"omega"'))
    assert read_manifest(io.BytesIO(forged)).node == "omega"
    with pytest.raises(Invalid, match="was not encrypted with this key, or was changed"):
        read_manifest(io.BytesIO(forged), key)
    with pytest.raises(Invalid, match="was not encrypted with this key, or was changed"):
        extract(io.BytesIO(forged), tmp_path / "out", key)


# --- damage ---

CONTENT = {"core-1.img": b"registers " * 20, "empty": b"", "noise": random.Random(5).randbytes(90)}


@KEYS
def test_every_flipped_byte_is_seen(secret: Key | None) -> None:
    stream = packed(CONTENT, secret)
    for at in range(len(stream)):
        for mask in (0x01, 0x80):
            broken = bytearray(stream)
            broken[at] ^= mask
            with pytest.raises(Invalid):
                verify(io.BytesIO(bytes(broken)), secret)


def test_every_flipped_byte_of_an_encrypted_one_is_seen_without_its_key(key: Key) -> None:
    stream = packed(CONTENT, key)
    for at in range(len(stream)):
        broken = bytearray(stream)
        broken[at] ^= 0x10
        with pytest.raises(Invalid):
            verify(io.BytesIO(bytes(broken)))


def test_every_flipped_byte_of_a_manifest_is_seen_by_who_reads_no_further() -> None:
    stream = packed(CONTENT)
    for at in range(14 + struct.unpack(">I", stream[10:14])[0] + 32):
        broken = bytearray(stream)
        broken[at] ^= 0x01
        with pytest.raises(Invalid):
            read_manifest(io.BytesIO(bytes(broken)))


def test_the_damaged_part_is_named() -> None:
    stream = packed({"first": b"a" * 500, "second": b"b" * 500})
    end = stream.index(b"E" + struct.pack(">Q", 500))
    broken = bytearray(stream)
    broken[end + 20] ^= 1
    with pytest.raises(Invalid, match="part first does not match its digest"):
        verify(io.BytesIO(bytes(broken)))


@KEYS
def test_every_cut_is_seen(tmp_path: Path, secret: Key | None) -> None:
    stream = packed(CONTENT, secret)
    for length in range(len(stream)):
        with pytest.raises(Invalid, match=r"it ends inside"):
            verify(io.BytesIO(stream[:length]), secret)
    (tmp_path / "cut").write_bytes(stream[:-200])
    with pytest.raises(Invalid, match="it ends inside"):
        inspect(tmp_path / "cut")


@KEYS
def test_what_follows_the_end_of_a_file_is_seen(tmp_path: Path, secret: Key | None) -> None:
    (tmp_path / "a").write_bytes(packed(CONTENT, secret) + b"\0")
    for look in (lambda: verify(tmp_path / "a", secret), lambda: inspect(tmp_path / "a"), lambda: extract(tmp_path / "a", tmp_path / "out", secret)):
        with pytest.raises(Invalid, match="something follows its end"):
            look()
    assert os.listdir(tmp_path) == ["a"]


@KEYS
def test_a_damaged_checkpoint_leaves_no_file_behind(tmp_path: Path, secret: Key | None) -> None:
    content = {"first": random.Random(6).randbytes(6 * CHUNK), "images/second": b"x" * 100}
    stream = bytearray(packed(content, secret))
    for at in (len(stream) // 2, len(stream) - 1):
        broken = bytearray(stream)
        broken[at] ^= 1
        with pytest.raises(Invalid, match="damaged"):
            extract(io.BytesIO(bytes(broken)), tmp_path / "out", secret)
        assert os.listdir(tmp_path) == []


Chunks = list[tuple[frames.Chunk, bytes]]


def taken_apart(stream: bytes) -> tuple[bytes, list[Chunks]]:
    """The manifest's text, and of each part its chunks."""
    reader = frames.FrameReader(io.BytesIO(stream))
    manifest, _ = reader.prefix()
    parts = []
    for index, info in enumerate(manifest.parts):
        reader.part(index, info)
        chunks: Chunks = []
        while not chunks or not chunks[-1][0].last:
            chunk = reader.chunk(info)
            data = bytearray(chunk.stored)
            reader.data(memoryview(data), info)
            chunks.append((chunk, bytes(data)))
        reader.part_end(info)
        parts.append(chunks)
    return stream[14 : 14 + struct.unpack(">I", stream[10:14])[0]], parts


def put_together(text: bytes, parts: list[Chunks]) -> bytes:
    """A stream whose digests are all right, whatever its parts: what a forger without the key can make."""
    out = io.BytesIO()
    writer = frames.FrameWriter(out)
    writer.prefix(text)
    for index, (info, chunks) in enumerate(zip(decode(text).parts, parts, strict=True)):
        writer.part(index, info)
        for chunk, data in chunks:
            writer.chunk(chunk, data)
        writer.part_end()
    writer.trailer(len(parts))
    return out.getvalue()


def test_chunks_that_were_moved_are_seen_by_the_encryption_alone(key: Key) -> None:
    noise = {name: random.Random(name).randbytes(3 * CHUNK) for name in ("first", "second")}
    stream = packed(noise, key, level=0)
    text, (spec, first, second) = taken_apart(stream)
    assert put_together(text, [spec, first, second]) == stream
    verify(io.BytesIO(stream), key)
    for forged in (
        [spec, [first[1], first[0], first[2]], second],  # reordered
        [spec, [first[0], first[0], first[2]], second],  # repeated
        [spec, second, first],  # of another part
        [spec, [*first[:2], second[2]], second],
    ):
        moved = put_together(text, forged)
        verify(io.BytesIO(moved))  # its digests are right
        with pytest.raises(Invalid, match="was not encrypted with this key, or was changed"):
            verify(io.BytesIO(moved), key)


def test_a_part_cut_at_a_chunk_is_seen_by_the_encryption_alone(key: Key) -> None:
    out = io.BytesIO()
    write_to(out, a_manifest(), [PartSource("volume", PartKind.VOLUME, lambda: io.BytesIO(random.Random(9).randbytes(3 * CHUNK)))], key=key, level=0)
    text, (spec, chunks) = taken_apart(out.getvalue())
    told = frames.Chunk(chunks[1][0].flags | frames.LAST, chunks[1][0].original, chunks[1][0].stored, chunks[1][0].digest)
    cut = put_together(text, [spec, [chunks[0], (told, chunks[1][1])]])
    verify(io.BytesIO(cut))
    with pytest.raises(Invalid, match="was not encrypted with this key, or was changed"):
        verify(io.BytesIO(cut), key)


# --- hostile streams ---


def refused(change: Callable[[bytes], bytes]) -> str:
    with pytest.raises(Invalid) as caught:
        verify(io.BytesIO(resigned(packed({"core-1.img": b"x", "second": b"y"}), change)))
    assert caught.value.hint
    return caught.value.message


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../b", "a/b/c", "..", ".", "", "a//b", "a\\u0000b", ".hidden", "-rf", "a b", "ä", "x" * 129, "a/"])
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    assert "cannot be the name of a part" in refused(lambda text: text.replace(b"core-1.img", name.encode())) or len(name) > 128


def test_doubled_and_nested_names_are_refused() -> None:
    assert "two parts have one name" in refused(lambda text: text.replace(b"core-1.img", b"second"))
    assert "the folder of a part" in refused(lambda text: text.replace(b"core-1.img", b"second/x"))


def test_unknown_fields_versions_and_kinds_are_refused(tmp_path: Path) -> None:
    assert "unheard: Extra inputs" in refused(lambda text: text.replace(b'"sealed":', b'"unheard":1,"sealed":'))
    assert "parts.0.kind" in refused(lambda text: text.replace(b'"kind":"state"', b'"kind":"program"', 1))
    assert "manifest is not one" in refused(lambda text: b"[" * 100_000)
    stream = bytearray(packed({}))
    stream[9] = 2
    with pytest.raises(Invalid, match="format 2; this Hostler reads format 1"):
        read_manifest(io.BytesIO(bytes(stream)))
    with pytest.raises(Invalid, match="no checkpoint of Hostler"):
        read_manifest(io.BytesIO(b"\x7fELF" + bytes(100)))


def test_too_many_parts_and_too_much_manifest_are_refused(manifest: Manifest) -> None:
    one = b'{"name":"%d","kind":"log","size":0}'
    many = b",".join(one % number for number in range(17_000))
    assert "at most" in refused(lambda text: text[: text.index(b'"parts":[') + 9] + many + text[text.index(b'],"filters"') :])
    with pytest.raises(Invalid, match="17000 parts is too large"):
        write_to(io.BytesIO(), manifest, [of_bytes(b"", str(number), PartKind.LOG) for number in range(17_000)])
    with pytest.raises(Invalid, match="may have"):
        encode(manifest.model_copy(update={"details": {"log": "x" * MANIFEST_LIMIT}}))


class Counting(io.BytesIO):
    """Remembers the largest piece that was asked of it."""

    largest = 0

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        self.largest = max(self.largest, len(buffer))
        return super().readinto(buffer)


def test_a_length_that_is_claimed_is_not_allocated() -> None:
    source = Counting(struct.pack(">8sHI", frames.MAGIC, 1, 2**32 - 1))
    with pytest.raises(Invalid, match="claims 4294967295 bytes"):
        read_manifest(source)
    assert source.largest < 100


@pytest.mark.parametrize(("flags", "original", "stored"), [(1, 2**32 - 1, 2**32 - 1), (1, 5, 2**31), (0, 5, 5), (3, 5, 9), (5, 5, 5), (8, 5, 5), (7, 5, 0), (5, 0, 0)])
def test_impossible_chunks_are_refused_before_their_data_is_read(flags: int, original: int, stored: int) -> None:
    stream = packed({"a": b"12345"})
    at = stream.index(b"C", stream.index(b"P\0\0\0\0"))
    source = Counting(stream[:at] + struct.pack(">cBII32s", b"C", flags, original, stored, bytes(32)) + bytes(64))
    with pytest.raises(Invalid, match="impossible chunk"):
        verify(source)
    assert source.largest < 8192


def test_a_bomb_is_refused_unexpanded() -> None:
    import zstandard

    bomb = zstandard.ZstdCompressor(level=1).compress(bytes(64 << 20))
    size = len(bomb) + 1
    out = io.BytesIO()
    writer = frames.FrameWriter(out)
    info = PartInfo(name="a", kind=PartKind.LOG)
    writer.prefix(encode(a_manifest().model_copy(update={"parts": (info,)})))
    writer.part(0, info)
    writer.chunk(frames.Chunk(frames.LAST | frames.COMPRESSED, size, len(bomb), hashlib.sha256(bomb).digest()), bomb)
    writer.part_end()
    writer.trailer(1)
    with pytest.raises(Invalid, match="another length than it says"):
        verify(io.BytesIO(out.getvalue()))


@settings(max_examples=150, deadline=None)
@given(noise=st.binary(max_size=400))
def test_noise_is_invalid_and_nothing_worse(noise: bytes) -> None:
    for start in (b"", frames.MAGIC + b"\0\1", packed({})[:-20]):
        with pytest.raises(Invalid):
            verify(io.BytesIO(start + noise))


def test_a_manifest_survives_its_json(manifest: Manifest) -> None:
    assert decode(encode(manifest)) == manifest


# --- writers ---


def test_a_part_that_changes_meanwhile_is_a_conflict_and_leaves_nothing(tmp_path: Path, manifest: Manifest) -> None:
    (tmp_path / "log").write_bytes(b"short")
    part = of_file(tmp_path / "log", "log", PartKind.LOG)
    (tmp_path / "log").write_bytes(b"longer than before")
    with pytest.raises(Conflict, match="had 5 bytes and has 18 now"):
        write(tmp_path / "a", manifest, [part])
    (tmp_path / "log").unlink()
    with pytest.raises(HostFailure, match="part log cannot be read"):
        write(tmp_path / "a", manifest, [part])
    assert os.listdir(tmp_path) == []


def test_links_and_pipes_are_no_parts(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe"):
        with pytest.raises(Invalid, match="no regular file"):
            of_file(tmp_path / name, name, PartKind.STATE)
    with pytest.raises(NotFound):
        of_file(tmp_path / "absent", "absent", PartKind.STATE)
    with pytest.raises(Invalid, match="no regular file"):
        verify(tmp_path / "pipe")


def test_bad_levels_names_and_kinds_are_refused_before_anything_is_written(tmp_path: Path, manifest: Manifest) -> None:
    with pytest.raises(Invalid, match="no level of compression"):
        write(tmp_path / "a", manifest, [], level=23)
    with pytest.raises(Invalid, match="cannot be the name of a part"):
        write(tmp_path / "a", manifest, [of_bytes(b"", "../x", PartKind.LOG)])
    with pytest.raises(Invalid, match="written by the stream itself"):
        write(tmp_path / "a", manifest, [of_bytes(b"", "container.json", PartKind.CONTAINER)])
    assert os.listdir(tmp_path) == []


def test_what_exists_is_not_written_over_unless_wanted(tmp_path: Path, manifest: Manifest) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(Conflict, match="exists already"):
        write(tmp_path / "a", manifest, [])
    assert (tmp_path / "a").read_bytes() == b"old"
    write(tmp_path / "a", manifest, [], replace=True)
    assert verify(tmp_path / "a").id == manifest.id
    (tmp_path / "out").mkdir()
    (tmp_path / "out/kept").touch()
    with pytest.raises(Conflict, match="no empty folder"):
        extract(tmp_path / "a", tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["a", "out"]


def test_a_missing_folder_is_told(tmp_path: Path, manifest: Manifest) -> None:
    with pytest.raises(NotFound):
        write(tmp_path / "absent/a", manifest, [])
    with pytest.raises(NotFound):
        verify(tmp_path / "absent")


def test_of_two_writers_of_one_target_one_wins_whole(tmp_path: Path, manifest: Manifest) -> None:
    both = threading.Barrier(2, timeout=30)
    outcomes: dict[int, str] = {}

    def one(number: int) -> None:
        def opened() -> io.BytesIO:
            both.wait()  # both have their draft by now
            return io.BytesIO(bytes([number]) * (2 * CHUNK + number))

        try:
            write(tmp_path / "a", manifest, [PartSource("who", PartKind.LOG, opened)])
            outcomes[number] = "won"
        except Conflict:
            outcomes[number] = "lost"

    threads = [threading.Thread(target=one, args=(number,)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(outcomes.values()) == ["lost", "won"]
    (winner,) = (number for number, outcome in outcomes.items() if outcome == "won")
    extract(tmp_path / "a", tmp_path / "out")
    assert (tmp_path / "out/who").read_bytes() == bytes([winner]) * (2 * CHUNK + winner)
    assert sorted(os.listdir(tmp_path)) == ["a", "out"]


class Trickle(io.RawIOBase):
    """Takes and gives a few bytes at a time, as sockets do."""

    def __init__(self, content: bytes = b"") -> None:
        self.content = bytearray(content)

    def writable(self) -> bool:
        return True

    def write(self, data: bytes | memoryview, /) -> int:  # type: ignore[override]
        self.content += data[:7]
        return min(7, len(data))

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        count = min(11, len(buffer), len(self.content))
        buffer[:count] = self.content[:count]
        del self.content[:count]
        return count


@KEYS
def test_a_wire_may_take_and_give_little_at_a_time(tmp_path: Path, manifest: Manifest, secret: Key | None) -> None:
    wire = Trickle()
    write_to(wire, manifest, [of_bytes(b"registers" * 50, "core-1.img", PartKind.STATE)], key=secret)
    extract(wire, tmp_path / "out", secret)
    assert (tmp_path / "out/core-1.img").read_bytes() == b"registers" * 50
    assert not wire.content


def test_what_a_wire_raises_is_passed_on_and_nothing_is_left(tmp_path: Path) -> None:
    class Cut(io.BytesIO):
        def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
            if self.tell() > CHUNK:
                raise ConnectionResetError("reset by peer")
            return super().readinto(buffer)

    with pytest.raises(ConnectionResetError):
        extract(Cut(packed({"a": random.Random(8).randbytes(3 * CHUNK)})), tmp_path / "out")
    assert os.listdir(tmp_path) == []
