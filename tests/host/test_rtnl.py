"""Packed requests to rtnetlink: by value, and on the real kernel."""

from __future__ import annotations

import errno
import struct

import pytest

from hostler.host import netlink, netns, rtnl
from hostler.host.rtnl import Mailbox, Refusal, Request, attribute, attributes, nested


def test_attributes_are_padded_and_read_back() -> None:
    packed = attribute(3, "up0") + attribute(4, 1500) + nested(18, attribute(1, b"\x07"))
    assert len(packed) % 4 == 0
    found = dict(attributes(packed))
    assert found[3] == b"up0\0" and found[4] == struct.pack("=I", 1500)
    assert dict(attributes(found[18])) == {1: b"\x07"}


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x00\x00\x01\x00", b"\xff\xff\x01\x00abc", b"\x03\x00\x01\x00"])
def test_attributes_that_are_none_end_the_row(data: bytes) -> None:
    assert list(attributes(data)) == []


def _message(index: int, flags: int = 0) -> bytes:
    return struct.pack("=BxHiII", 0, 0, index, flags, flags)


def _is_up(mailbox: Mailbox) -> bool:
    (answer,) = mailbox.send([Request("look", rtnl.GETLINK, _message(1))])
    return bool(struct.unpack_from("=I", answer, 8)[0] & 1)


@pytest.mark.lab
def test_all_requests_are_tried_and_the_first_refusal_is_raised() -> None:
    def work() -> None:
        mailbox = Mailbox()
        assert not _is_up(mailbox)
        with pytest.raises(Refusal) as raised:
            mailbox.send([Request(f"raise {index}", rtnl.NEWLINK, _message(index, 1)) for index in (77, 1, 78)])
        assert (raised.value.request.what, raised.value.number) == ("raise 77", errno.ENODEV)
        assert _is_up(mailbox)
        assert mailbox.send([]) == []
        mailbox.close()

    netns.inside_new(work)


@pytest.mark.lab
def test_a_long_list_comes_whole() -> None:
    def work() -> None:
        with netlink.opened() as host:
            for number in range(60):
                host.add_veth(f"v{number}", f"p{number}", mtu=1500)
            assert len([link for link in host.links() if link.kind == "veth"]) == 120

    netns.inside_new(work)
