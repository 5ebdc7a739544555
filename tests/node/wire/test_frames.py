"""Frames, names and addresses, by value."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from hostler.core.errors import ErrorReport, HostFailure, HostlerError, Invalid, NoRoom
from hostler.node.wire import address, frames
from hostler.node.wire.frames import HEADER, Kind, Moved


class Order(BaseModel):
    name: str
    size: int = 0


def test_a_message_is_what_it_was() -> None:
    data = frames.message("order", Order(name="web"), {"size": 3, "more": [1, None]})
    assert frames.parse_header(data[:5]) == (Kind.MESSAGE, len(data) - 5)
    message = frames.parse_message(data[5:])
    assert (message.kind, message.fields) == ("order", {"name": "web", "size": 3, "more": [1, None]})
    assert message.parse(Order) == Order(name="web", size=3)


def test_fields_that_a_model_does_not_take_are_the_other_sides_fault() -> None:
    with pytest.raises(HostFailure) as failure:
        frames.Message("order", {"size": "large"}).parse(Order)
    assert failure.value.stable_code == "wire_protocol"


@pytest.mark.parametrize("fields", [{"x": "y" * frames.MESSAGE_LIMIT}, {"x": object()}])
def test_a_message_that_cannot_be_sent_is_refused_here(fields: dict[str, object]) -> None:
    with pytest.raises(Invalid):
        frames.message("order", None, fields)


@pytest.mark.parametrize(
    "head", [HEADER.pack(0, 0), HEADER.pack(9, 1), HEADER.pack(1, frames.MESSAGE_LIMIT + 1), HEADER.pack(2, 1 << 31), HEADER.pack(4, 1000), HEADER.pack(3, 17)]
)
def test_headers_that_nobody_sends_are_refused_before_the_body(head: bytes) -> None:
    with pytest.raises(HostFailure):
        frames.parse_header(head)


@given(st.binary(max_size=64))
def test_hostile_bodies_raise_typed_errors_only(body: bytes) -> None:
    for parse in (frames.parse_message, frames.parse_file, lambda body: frames.check_end(body, Moved(1, 1))):
        try:
            parse(body)
        except HostlerError as error:
            assert error.stable_code == "wire_protocol"
    assert isinstance(frames.parse_failed(body), HostlerError)


def test_json_nested_without_end_is_refused() -> None:
    with pytest.raises(HostFailure):
        frames.parse_message(b"[" * 500_000)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc/passwd", "../x", "nul\0", "x" * 256, "\udcff"])
def test_hostile_names_are_neither_sent_nor_taken(name: str) -> None:
    with pytest.raises(Invalid):
        frames.file(name, 1)
    with pytest.raises(HostFailure):
        frames.parse_file(b"\0" * 8 + name.encode("utf-8", "surrogateescape"))


@pytest.mark.parametrize("name", ["core-1.img", "pages-1.img", "grüße", "x" * 255, "...", "-rf"])
def test_plain_names_pass(name: str) -> None:
    assert frames.parse_file(frames.file(name, 1 << 40)[5:]) == (name, 1 << 40)


def test_an_error_arrives_with_code_and_hint_and_a_bug_without_its_traceback() -> None:
    error = frames.parse_failed(frames.failed(NoRoom("no room", hint="make some", code="full"))[5:])
    assert isinstance(error, HostlerError)
    assert (error.message, error.hint, error.stable_code) == ("no room", "make some", "full")
    report = ErrorReport.model_validate_json(frames.failed(KeyError("secret"))[5:])
    assert report.traceback is None
    assert report.bug


@pytest.mark.parametrize(
    ("text", "host", "port"), [("10.0.0.1:1", "10.0.0.1", 1), ("10.0.0.1", "10.0.0.1", 8653), ("[fd00::1]:0", "fd00::1", 0), ("fd00::1", "fd00::1", 8653), ("[::]", "::", 8653)]
)
def test_addresses(text: str, host: str, port: int) -> None:
    assert address.parse(text) == (host, port)
    assert address.parse(address.written(host, port)) == (host, port)


@pytest.mark.parametrize("text", ["", ":1", "a:b", "a:65536", "[::1", "[::1]x", "a b:1", "a/b", "[]:1"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(Invalid):
        address.parse(text)
