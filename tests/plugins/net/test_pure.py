"""Names, records, rates and announcements: values and files, no kernel."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from hostler.core.specs import Link
from hostler_plugins.net import announce, rates, waiting
from hostler_plugins.net.names import Names, shaper
from hostler_plugins.net.records import Record, Records

NAMES = Names("main", "alpha")
LINK = Link(mac="02:00:c6:12:01:02", addresses=("198.18.1.2/15", "fd00::102/48"))


def test_names_fit_the_kernel_and_tell_whose_they_are() -> None:
    name = NAMES.link("abcd2345", "eth0")
    assert len(name) == 15
    assert name.startswith(NAMES.links_of("abcd2345"))
    assert NAMES.links_of("abcd2345").startswith(NAMES.links)
    assert shaper(name).startswith(NAMES.shapers)
    assert len({name, NAMES.link("abcd2345", "eth1"), NAMES.link("abcd2346", "eth0"), shaper(name), NAMES.bridge}) == 5


@pytest.mark.parametrize("other", [Names("main", "beta"), Names("test", "alpha")])
def test_nodes_and_installations_on_one_machine_never_meet(other: Names) -> None:
    assert other.links != NAMES.links
    assert other.table != NAMES.table
    assert other.owner(NAMES.alias("abcd2345")) is None
    assert NAMES.owner(NAMES.alias("abcd2345")) == "abcd2345"


@pytest.mark.parametrize("alias", ["", "uplink to rack 4", "hostler main/alpha", "hostler main/alpha a b"])
def test_an_alias_of_others_has_no_owner(alias: str) -> None:
    assert NAMES.owner(alias) is None


def test_records_come_back_and_go(tmp_path: Path) -> None:
    records = Records(tmp_path / "links")
    assert records.names("v") == []
    records.write("v1", Record(container="abcd2345", link=LINK))
    assert records.read("v1") == Record(container="abcd2345", link=LINK)
    assert records.names("v") == ["v1"]
    records.remove("v1")
    records.remove("v1")
    assert records.read("v1") is None


def test_a_torn_record_is_none(tmp_path: Path) -> None:
    records = Records(tmp_path)
    (tmp_path / "v1").write_text('{"container": "ab')
    assert records.read("v1") is None
    assert records.names("v") == ["v1"]


def test_buckets() -> None:
    assert rates.Bucket.of(100_000_000) == rates.Bucket(rate=12_500_000, burst=250_000, queue=875_000)
    assert rates.Bucket.of(1_000_000) == rates.Bucket(rate=125_000, burst=16_384, queue=81_920)
    assert rates.Bucket.of(0).rate == 1_000


def test_the_arp_announcement_asks_for_its_own_address() -> None:
    frame = announce.frames(LINK)[0]
    assert frame[:14].hex() == "ffffffffffff" + "0200c6120102" + "0806"
    assert frame[14:22].hex() == "0001080006040001"
    assert frame[22:].hex() == "0200c6120102" + "c6120102" + "000000000000" + "c6120102"


def test_the_neighbour_advertisement_is_one_a_kernel_takes() -> None:
    frame = announce.frames(LINK)[1]
    assert frame[:14].hex() == "333300000001" + "0200c6120102" + "86dd"
    packet, message = frame[14:], frame[54:]
    assert packet[7] == 255  # hop limit: less is dropped (RFC 4861 section 7.1.2)
    assert message[8:24] == ipaddress.IPv6Address("fd00::102").packed
    pseudo = packet[8:40] + len(message).to_bytes(4, "big") + (58).to_bytes(4, "big")
    assert announce.checksum(pseudo + message) == 0


# --- what waits ---


def _accepted(frame: bytes) -> bool:
    """What the kernel's machine would say."""
    program, at, value = waiting.sieve(LINK), 0, 0
    while True:
        one = program[at]
        at += 1
        if one.code in (0x20, 0x28):  # load
            size = 4 if one.code == 0x20 else 2
            if len(frame) < one.value + size:
                return False
            value = int.from_bytes(frame[one.value : one.value + size], "big")
        elif one.code == 0x15:  # jump if equal
            at += one.if_true if value == one.value else one.if_false
        else:
            return one.value > 0


_OWN, _OTHER, _ALL = bytes.fromhex("0200c6120102"), bytes.fromhex("0200c6120103"), b"\xff" * 6


def _asks_for(target: str) -> bytes:
    return _ALL + _OTHER + b"\x08\x06" + bytes(24) + ipaddress.IPv4Address(target).packed + bytes(18)


@pytest.mark.parametrize(
    ("frame", "waits"),
    [
        (_OWN + _OTHER + b"\x08\x00" + bytes(50), True),
        (_OTHER + _OWN + b"\x08\x00" + bytes(50), False),
        (_ALL + _OTHER + b"\x08\x00" + bytes(50), False),
        (_asks_for("198.18.1.2"), True),
        (_asks_for("198.18.1.3"), False),
        (bytes.fromhex("3333ff000102") + _OTHER + b"\x86\xdd" + bytes(72), True),
        (bytes.fromhex("3333ff000103") + _OTHER + b"\x86\xdd" + bytes(72), False),
        (bytes.fromhex("333300000001") + _OTHER + b"\x86\xdd" + bytes(72), False),
        (b"", False),
        (_ALL + _OTHER + b"\x08\x06", False),
    ],
)
def test_what_waits_is_for_the_link_or_asks_for_its_addresses(frame: bytes, waits: bool) -> None:
    assert _accepted(frame) is waits


def test_a_room_is_bounded_in_packets_and_bytes() -> None:
    assert waiting.depth(1500) == waiting.PACKETS
    assert waiting.depth(9000) * 9014 <= waiting.BYTES
