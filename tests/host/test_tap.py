"""Devices whose packets a descriptor holds, on the real kernel."""

from __future__ import annotations

import socket

import pytest

from hostler.core.errors import Conflict, HostFailure
from hostler.host import netlink, netns
from hostler.host.tap import Instruction, Tap

pytestmark = pytest.mark.lab

_FRAME = b"\x02\0\0\0\0\x09" + b"\x02\0\0\0\0\x08" + b"\x88\xb5"


def _raised(name: str, queue: int) -> None:
    with netlink.opened() as host:
        host.set_link(host.index(name), up=True, queue=queue, own_ipv6=False)


def test_what_is_sent_waits_in_order_and_no_more_than_fits() -> None:
    def work() -> None:
        tap = Tap("w0", ethernet=True)
        _raised("w0", 20)
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as wire:
            for number in range(100):
                wire.sendto(_FRAME + bytes([number]) * 50, ("w0", 0))
        found = [frame[14] for frame in tap.waiting(1000) if frame[:14] == _FRAME]
        assert found == list(range(len(found)))
        assert 10 <= len(found) <= 20
        assert list(tap.waiting(10)) == []
        tap.close()
        tap.close()
        assert netlink.names("w") == []

    netns.inside_new(work)


def test_what_the_program_refuses_does_not_wait() -> None:
    def work() -> None:
        tap = Tap("w0", ethernet=True)
        last_is_one = [Instruction(0x30, 14), Instruction(0x15, 1, if_false=1), Instruction(0x06, 0xFFFFFFFF), Instruction(0x06, 0)]
        tap.admit(last_is_one)
        _raised("w0", 20)
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as wire:
            for number in (1, 2, 1):
                wire.sendto(_FRAME + bytes([number]) * 50, ("w0", 0))
        assert [frame[14] for frame in tap.waiting(10)] == [1, 1]
        with pytest.raises(HostFailure):
            tap.admit([Instruction(0xFFFF, 0)])
        tap.close()

    netns.inside_new(work)


def test_what_is_put_arrives() -> None:
    def work() -> None:
        tap = Tap("w0", ethernet=True)
        tap.put(_FRAME)  # down: lost
        _raised("w0", 20)
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as wire:
            wire.bind(("w0", 3))
            wire.settimeout(2)
            for packet in (b"", b"x", _FRAME + b"y" * 50):  # the first two are none
                tap.put(packet)
            assert wire.recv(2000) == _FRAME + b"y" * 50
        tap.close()

    netns.inside_new(work)


def test_a_device_has_one_holder_and_may_be_deleted_by_others() -> None:
    def work() -> None:
        tap = Tap("w0", ethernet=False)
        with pytest.raises(Conflict) as raised:
            Tap("w0", ethernet=False)
        assert raised.value.stable_code == "busy"
        with netlink.opened() as host:
            assert host.delete_link("w0")
        assert list(tap.waiting(10)) == []
        tap.put(b"x" * 20)
        tap.close()

    netns.inside_new(work)
