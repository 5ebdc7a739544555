"""Images of one container made those of another: pure changes, by value. The bytes are those that CRIU 4.2.1 writes."""

from __future__ import annotations

import sys
from ipaddress import ip_address
from pathlib import Path

import pytest

from hostler.contracts.checkpoint import Renaming
from hostler.core.errors import Conflict
from hostler_plugins.checkpoint.images import (
    read_entries,
    rename,
    with_addresses,
    with_hostname,
    write_entries,
)
from hostler_plugins.checkpoint.protobuf import Field, Malformed, encode, number, parse, text

UTS, FILES = 0x54473203, 0x56303138
#: Of a container called web0.
WRITTEN = bytes.fromhex("19435654 03324754 0e000000 0a04 77656230 1206 286e6f6e6529")
#: A file_entry of a regular file (type 1).
REGULAR = bytes.fromhex("0801 1009 1a1c 0809 1000 1800 2a0a 08001000180020002800 3201 2f 38e80350ed8301")


def words(address: str) -> list[Field]:
    packed = ip_address(address).packed
    return [number(11, int.from_bytes(packed[at : at + 4], sys.byteorder)) for at in range(0, len(packed), 4)]


def socket(address: str, port: int = 80) -> bytes:
    """A file_entry of a socket that listens."""
    inside = [number(1, 7), number(3, 2), number(6, 10), number(7, port), number(8, 0), *words(address), number(12, 0), text(13, b"\x08\x00")]
    return encode([number(1, 4), number(2, 7), text(4, encode(inside))])


def test_a_message_is_taken_apart_and_put_together_again() -> None:
    whole = encode([number(1, 0), number(2, 2**64 - 1), text(300, b"x" * 200), Field(5, 5, b"1234"), Field(6, 1, b"12345678")])
    assert encode(parse(whole)) == whole
    assert [field.number for field in parse(whole)] == [1, 2, 300, 5, 6]
    assert encode(parse(REGULAR)) == REGULAR


@pytest.mark.parametrize("broken", [b"\x08", b"\x0a\x05abc", b"\x0d\x01", b"\x08" + b"\xff" * 11, b"\x0b", b"\xff" * 10])
def test_what_is_no_message_is_told(broken: bytes) -> None:
    with pytest.raises(Malformed):
        parse(broken)


def test_the_host_name_becomes_the_clones_and_all_else_stays() -> None:
    (entry,) = read_entries(WRITTEN, UTS)
    changed = with_hostname(entry, "a-much-longer-name")
    assert parse(changed) == [text(1, b"a-much-longer-name"), text(2, b"(none)")]
    assert with_hostname(changed, "web0") == entry
    with pytest.raises(Malformed):
        with_hostname(b"", "web0")


def test_sockets_at_an_address_of_the_original_are_at_the_clones() -> None:
    known = {"198.18.7.2": "198.18.7.3", "fd00::2": "fd00::3"}
    assert with_addresses(socket("198.18.7.2"), known) == socket("198.18.7.3")
    assert with_addresses(socket("fd00::2"), known) == socket("fd00::3")
    assert with_addresses(socket("::ffff:198.18.7.2"), known) == socket("::ffff:198.18.7.3")
    for other in (socket("0.0.0.0"), socket("::"), socket("127.0.0.1"), socket("198.18.7.20"), REGULAR):
        assert with_addresses(other, known) == other


def test_an_address_that_the_clone_has_no_counterpart_of_is_told() -> None:
    with pytest.raises(Conflict, match="its own address fd00::2 .port 443.") as told:
        with_addresses(socket("fd00::2", 443), {"fd00::2": ""})
    assert told.value.stable_code == "cannot_clone" and "::" in told.value.hint


def test_images_are_changed_all_or_none(tmp_path: Path) -> None:
    files = write_entries([REGULAR, socket("198.18.7.2")], FILES)
    (tmp_path / "utsns-12.img").write_bytes(WRITTEN)
    (tmp_path / "files.img").write_bytes(files)
    with pytest.raises(Conflict):
        rename(tmp_path, Renaming(hostname="web1", addresses={"198.18.7.2": ""}))
    assert (tmp_path / "utsns-12.img").read_bytes() == WRITTEN and (tmp_path / "files.img").read_bytes() == files
    to = Renaming(hostname="web1", addresses={"198.18.7.2": "198.18.7.3"})
    for _ in range(2):
        rename(tmp_path, to)
        assert (tmp_path / "utsns-12.img").read_bytes() == WRITTEN.replace(b"web0", b"web1")
        assert read_entries((tmp_path / "files.img").read_bytes(), FILES) == [REGULAR, socket("198.18.7.3")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["files.img", "utsns-12.img"]


@pytest.mark.parametrize("image", [b"", WRITTEN[:-1], WRITTEN[:10], b"\0" * 8 + WRITTEN[8:], WRITTEN + WRITTEN[8:]], ids=["empty", "cut", "head", "magic", "twice"])
def test_another_layout_is_refused_in_words(tmp_path: Path, image: bytes) -> None:
    (tmp_path / "utsns-12.img").write_bytes(image)
    (tmp_path / "files.img").write_bytes(write_entries([REGULAR], FILES))
    with pytest.raises(Conflict, match="utsns-12.img") as told:
        rename(tmp_path, Renaming(hostname="web1"))
    assert told.value.hint


def test_without_the_images_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Conflict, match="0 images utsns"):
        rename(tmp_path, Renaming(hostname="web1"))
