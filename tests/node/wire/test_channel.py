"""Messages, streams and relays between two servers, over real TLS on loopback."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import threading
import time
from pathlib import Path

import pytest

from hostler.core.errors import HostFailure, HostlerError, Invalid, NoRoom, Timeout, Unavailable
from hostler.node.wire.frames import CHUNK, Moved
from hostler.node.wire.pace import Pace
from tests.node.wire.conftest import Pair, aside


def test_messages_both_ways(pair: Pair) -> None:
    with pair.channels() as (near, far):
        near.send("prepare", container="web", size=3)
        assert far.receive(5, "prepare", "abort").fields == {"container": "web", "size": 3}
        far.send("prepared")
        far.send("restored", pid=7)
        assert near.receive(5).kind == "prepared"
        assert near.receive(5).fields["pid"] == 7
        assert (near.peer, far.peer) == (pair.beta.identity.fingerprint, pair.alpha.identity.fingerprint)


def test_nothing_in_time_is_a_timeout_and_the_wire_goes_on(pair: Pair) -> None:
    with pair.channels() as (near, far):
        began = time.monotonic()
        with pytest.raises(Timeout):
            near.receive(0.2)
        assert 0.15 < time.monotonic() - began < 2
        far.send("late")
        assert near.receive(5).kind == "late"


def test_a_message_that_came_in_part_is_not_lost(pair: Pair) -> None:
    with pair.channels() as (near, far):
        whole = b"\x01\x00\x00\x00\x1a" + b'{"kind":"cut","fields":{}}'
        for part in (whole[:3], whole[3:12]):
            far.put(part)
            with pytest.raises(Timeout):
                near.receive(0.2)
        far.put(whole[12:])
        assert near.receive(5).kind == "cut"


def test_an_unexpected_message_is_the_protocols_fault(pair: Pair) -> None:
    with pair.channels() as (near, far):
        far.send("prepared")
        with pytest.raises(HostFailure) as failure:
            near.receive(5, "restored")
        assert failure.value.stable_code == "wire_protocol"


def test_an_error_is_raised_on_the_other_side(pair: Pair) -> None:
    with pair.channels() as (near, far):
        far.fail(NoRoom("no room for web", hint="take another server", code="pool_full"))
        with pytest.raises(HostlerError) as failure:
            near.receive(5)
        assert (failure.value.stable_code, failure.value.hint) == ("pool_full", "take another server")


def test_a_closed_wire_is_a_cut_one(pair: Pair) -> None:
    with pair.channels() as (near, far):
        far.close()
        for _ in range(2):
            with pytest.raises(Unavailable) as failure:
                near.receive(5)
            assert failure.value.stable_code == "wire_cut"
        far.close()
        with pytest.raises(Unavailable):
            far.send("more")


def test_closing_wakes_who_waits(pair: Pair) -> None:
    with pair.channels() as (near, _), aside(lambda: near.receive(30)) as failures:
        time.sleep(0.2)
        near.close()
    assert isinstance(failures[0], Unavailable)


def test_two_threads_send_and_receive_at_once(pair: Pair) -> None:
    """Four threads on one connection, whose messages stay whole and in order."""
    count, size = 300, 20_000
    with pair.channels() as (near, far):

        def talk() -> None:
            for number in range(count):
                far.send("far", number=number, body="y" * size)

        def listen() -> None:
            for number in range(count):
                assert far.receive(10).fields["number"] == number

        def talk_near() -> None:
            for number in range(count):
                near.send("near", number=number, body="x" * size)

        with aside(talk) as first, aside(listen) as second, aside(talk_near) as third:
            for number in range(count):
                assert near.receive(10).fields["number"] == number
        assert not first + second + third


@pytest.mark.parametrize("size", [0, 1, 16384, CHUNK - 1, CHUNK, 3 * CHUNK + 17])
def test_a_stream_arrives_whole(pair: Pair, tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    (tmp_path / "source").write_bytes(content)
    with pair.channels() as (near, far):

        def send() -> None:
            assert near.send_stream(io.BytesIO(content)) == size
            with open(tmp_path / "source", "rb") as file:
                assert near.send_stream(file.fileno()) == size
            near.send("done")

        with aside(send) as failures:
            assert far.receive_stream().read() == content
            with open(tmp_path / "target", "wb") as file:
                assert far.receive_stream(limit=size).copy_to(file.fileno()) == size
            assert far.receive(5).kind == "done"
        assert not failures
    assert (tmp_path / "target").read_bytes() == content


def test_a_cut_is_told_from_an_end(pair: Pair) -> None:
    with pair.channels() as (near, far):
        near.put(b"\x02\x00\x00\x00\x05hello")
        near.close()
        reader = far.receive_stream()
        assert reader.read(5) == b"hello"
        with pytest.raises(Unavailable) as failure:
            reader.read(1)
        assert failure.value.stable_code == "wire_cut"


def test_an_end_that_hides_missing_bytes_is_found(pair: Pair) -> None:
    with pair.channels() as (near, far):
        near.put(b"\x02\x00\x00\x00\x05hello", b"\x03\x00\x00\x00\x10" + (6).to_bytes(8, "big") + bytes(8))
        with pytest.raises(HostFailure):
            far.receive_stream().read()


def test_more_than_agreed_is_refused(pair: Pair) -> None:
    sent = io.BytesIO(bytes(4 * CHUNK))
    with pair.channels() as (near, far), aside(lambda: near.send_stream(sent)) as failures, pytest.raises(NoRoom):
        far.receive_stream(limit=2 * CHUNK).read()
    assert not failures or isinstance(failures[0], Unavailable)


def test_a_source_that_fails_is_told_to_the_other_side(pair: Pair) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError(5, "Input/output error")

    with pair.channels() as (near, far):
        with pytest.raises(HostFailure):
            near.send_stream(Broken())
        with pytest.raises(HostlerError) as failure:
            far.receive_stream().read()
        assert "Input/output error" in failure.value.message


def test_a_source_that_gives_nothing_is_given_up(pair: Pair) -> None:
    reader, writer = os.pipe()
    try:
        with pair.channels() as (near, _), pytest.raises(Timeout):
            near.send_stream(reader, patience=0.2)
    finally:
        os.close(reader)
        os.close(writer)


def test_a_rate_is_kept(pair: Pair) -> None:
    size, rate = 2 << 20, 4 << 20
    with pair.channels() as (near, far), aside(lambda: near.send_stream(io.BytesIO(bytes(size)), rate=rate)) as failures:
        began = time.monotonic()
        assert len(far.receive_stream().read()) == size
        taken = time.monotonic() - began
    assert not failures
    assert 0.8 * (size / rate - 0.2) < taken < 5


def test_no_rate_of_nothing() -> None:
    with pytest.raises(Invalid):
        Pace(0)


def _fill(folder: Path, sizes: dict[str, int]) -> dict[str, str]:
    folder.mkdir()
    for name, size in sizes.items():
        (folder / name).write_bytes(os.urandom(size))
    return _digests(folder)


def _digests(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def test_a_folder_arrives_whole(pair: Pair, tmp_path: Path) -> None:
    sizes = {f"core-{number}.img": number * 37 for number in range(200)} | {"pages-1.img": 3 * CHUNK + 5, "empty": 0, "edge": 65536, "beyond": 65537}
    sent = _fill(tmp_path / "from", sizes)
    (tmp_path / "from/parent").symlink_to("../elsewhere")
    with pair.channels() as (near, far):

        def send() -> None:
            assert near.send_folder(tmp_path / "from", leave_out={"parent"}) == Moved(sum(sizes.values()), len(sizes))
            near.send("done")

        with aside(send) as failures:
            assert far.receive_folder(tmp_path / "to", limit=8 * CHUNK) == Moved(sum(sizes.values()), len(sizes))
            assert far.receive(5).kind == "done"
        assert not failures
    assert _digests(tmp_path / "to") == sent
    assert {oct(file.stat().st_mode & 0o777) for file in (tmp_path / "to").iterdir()} == {"0o600"}


def test_a_folder_with_a_link_is_not_sent_and_nothing_is_left(pair: Pair, tmp_path: Path) -> None:
    _fill(tmp_path / "from", {"a": 10})
    (tmp_path / "from/link").symlink_to("/etc/passwd")
    with pair.channels() as (near, far):
        with pytest.raises(Invalid):
            near.send_folder(tmp_path / "from")
        with pytest.raises(HostlerError):
            far.receive_folder(tmp_path / "to", limit=CHUNK)
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize(
    "hostile",
    [
        b"\x04\x00\x00\x00\x0b" + bytes(8) + b"../",
        b"\x04\x00\x00\x00\x0a" + bytes(8) + b"..",
        b"\x04\x00\x00\x00\x0d" + bytes(8) + b"taken",
        b"\x04\x00\x00\x00\x09" + b"\xff" * 8 + b"x",
        b"\x04\x00\x00\x00\x09" + bytes(7) + b"\x02x" + b"\x02\x00\x00\x00\x03abc",
        b"\x04\x00\x00\x00\x09" + bytes(7) + b"\x02x" + b"\x02\x00\x00\x00\x00",
        b"\x04\x00\x00\x00\x09" + bytes(7) + b"\x02x" + b"\x03\x00\x00\x00\x10" + bytes(16),
        b"\x02\x00\x00\x00\x03abc",
        b"\x03\x00\x00\x00\x10" + b"\1" * 16,
        b"\x01\x00\x00\x00\x02{}",
    ],
    ids=["path", "parent", "there", "huge", "too long", "nothing", "too short", "no file", "wrong end", "message"],
)
def test_hostile_folders_leave_nothing(pair: Pair, tmp_path: Path, hostile: bytes) -> None:
    (tmp_path / "to").mkdir()
    (tmp_path / "to/taken").write_text("mine")
    with pair.channels() as (near, far):
        near.put(b"\x04\x00\x00\x00\x0d" + bytes(7) + b"\x01first" + b"\x02\x00\x00\x00\x01x", hostile)
        with pytest.raises(HostlerError):
            far.receive_folder(tmp_path / "to", limit=CHUNK)
    assert {file.name: file.read_text() for file in (tmp_path / "to").iterdir()} == {"taken": "mine"}
    assert sorted(os.listdir(tmp_path)) == ["alpha", "beta", "to"]


def test_too_many_files_are_refused(pair: Pair, tmp_path: Path) -> None:
    _fill(tmp_path / "from", dict.fromkeys("abc", 1))
    with pair.channels() as (near, far):
        near.send_folder(tmp_path / "from")
        with pytest.raises(NoRoom):
            far.receive_folder(tmp_path / "to", limit=100, files=2)
    assert not (tmp_path / "to").exists()


def test_a_relay_carries_both_directions_and_their_ends(pair: Pair) -> None:
    there, back = os.urandom(3 << 20), os.urandom(1 << 20)
    with pair.channels() as (near, far):
        here, here_end = socket.socketpair()
        with here, here_end:
            other, other_end = socket.socketpair()
            with other, other_end:
                counts = []

                def program() -> None:
                    other.settimeout(10)
                    got = bytearray()
                    while data := other.recv(1 << 16):
                        got += data
                    assert got == there
                    other.sendall(back)
                    other.shutdown(socket.SHUT_WR)

                def client() -> None:
                    here.settimeout(10)
                    here.sendall(there)
                    here.shutdown(socket.SHUT_WR)
                    got = bytearray()
                    while data := here.recv(1 << 16):
                        got += data
                    assert got == back

                with (
                    aside(program) as first,
                    aside(client) as second,
                    aside(lambda: counts.append(far.pump(other_end))) as third,
                ):
                    moved = near.pump(here_end.fileno())
                assert not first + second + third
                assert (moved.sent, moved.received) == (len(there), len(back))
                assert (counts[0].sent, counts[0].received) == (len(back), len(there))
                near.send("on")
                assert far.receive(5).kind == "on"


def test_a_relay_ends_when_the_wire_does_and_its_program_sees_it(pair: Pair) -> None:
    with pair.channels() as (near, far):
        here, end = socket.socketpair()
        with here, end, aside(lambda: near.pump(end)) as failures:
            here.sendall(b"hello")
            assert far.receive_stream().read(5) == b"hello"
            far.close()
            here.settimeout(5)
            assert here.recv(1) == b""
        assert isinstance(failures[0], Unavailable)


def test_a_relay_whose_program_is_gone_drops_what_still_comes(pair: Pair) -> None:
    with pair.channels() as (near, far):
        here, end = socket.socketpair()
        with end, aside(lambda: near.pump(end)) as failures:
            here.close()
            assert far.receive_stream().read() == b""
            far.send_stream(io.BytesIO(bytes(4 << 20)))
        assert not failures


def test_a_peer_that_takes_nothing_for_a_while_is_not_cut_off(pair: Pair) -> None:
    """Longer than a dead peer is waited for: its kernel answers, so it is alive."""
    with pair.channels() as (near, far), aside(lambda: near.send_stream(io.BytesIO(bytes(64 << 20)))) as failures:
        time.sleep(7)
        reader = far.receive_stream()
        while reader.read(CHUNK):
            pass
        assert reader.received == 64 << 20
    assert not failures


def test_threads_and_descriptors_end_with_the_wires(tmp_path: Path) -> None:
    from hostler.node.wire.wire import Wire
    from tests.node.wire.conftest import descriptors

    threads = set(threading.enumerate())
    before = descriptors()
    alpha = Wire(tmp_path / "a", "alpha", "127.0.0.1:0")
    beta = Wire(tmp_path / "b", "beta", "127.0.0.1:0")
    both = Pair(alpha, beta)
    for number in range(5):
        with both.channels(f"op{number}") as (near, far):
            near.send("hello")
            far.receive(5)
    alpha.close()
    beta.close()
    beta.close()
    assert set(threading.enumerate()) == threads
    assert descriptors() == before
