"""The log store: whole lines, bounded files, cursors that survive rotation and a crash."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostler.core.errors import Invalid
from hostler.node.logs import LINE_BYTES, LogStore


def texts(store: LogStore, tail: int | None = None, cursor: str | None = None) -> list[str]:
    return [line.text for line in store.read(tail=tail, cursor=cursor).lines]


def test_lines_with_stream_and_time(tmp_path: Path) -> None:
    store = LogStore(tmp_path / "log")
    store.append("out", b"one\ntwo\n")
    store.append("err", b"bad\xff\n")
    lines = store.read().lines
    assert [(line.stream, line.text) for line in lines] == [("out", "one"), ("out", "two"), ("err", "bad\ufffd")]
    assert lines[0].at <= lines[2].at


def test_a_line_in_two_reads_is_one(tmp_path: Path) -> None:
    store = LogStore(tmp_path / "log")
    store.append("out", b"hel")
    store.append("err", b"other\n")
    assert texts(store) == ["other"]
    store.append("out", b"lo\n")
    assert texts(store) == ["other", "hello"]


def test_prompt_is_flushed_as_a_piece(tmp_path: Path) -> None:
    store = LogStore(tmp_path / "log")
    store.append("out", b"name? ")
    store.flush(older_than=60)
    assert texts(store) == []
    store.flush()
    assert [(line.text, line.partial) for line in store.read().lines] == [("name? ", True)]


def test_long_line_is_cut(tmp_path: Path) -> None:
    store = LogStore(tmp_path / "log")
    store.append("out", b"x" * (2 * LINE_BYTES + 5) + b"\n")
    assert [(len(line.text), line.partial) for line in store.read().lines] == [(LINE_BYTES, True), (LINE_BYTES, True), (5, False)]


def test_tail_and_follow(tmp_path: Path) -> None:
    store = LogStore(tmp_path / "log")
    store.append("out", b"".join(b"%d\n" % number for number in range(10)))
    page = store.read(tail=3)
    assert [line.text for line in page.lines] == ["7", "8", "9"]
    assert store.read(cursor=page.cursor).lines == []
    store.append("out", b"10\n")
    assert texts(store, cursor=page.cursor) == ["10"]
    assert texts(store, tail=0) == []


def test_pages_join_without_gap(tmp_path: Path) -> None:
    store = LogStore(tmp_path / "log", segment_bytes=2000, segments=10)
    for number in range(300):
        store.append("out", b"line %d\n" % number)
    assert len(list((tmp_path / "log").iterdir())) > 3
    seen: list[str] = []
    cursor: str | None = None
    for _ in range(200):
        page = store.read(cursor=cursor, max_bytes=300)
        seen += [line.text for line in page.lines]
        cursor = page.cursor
    assert seen == [f"line {number}" for number in range(300)]


def test_rotation_bounds_the_disk_and_says_what_is_lost(tmp_path: Path) -> None:
    store = LogStore(tmp_path / "log", segment_bytes=4000, segments=2)
    store.append("out", b"first\n")
    cursor = store.read().cursor
    for number in range(1000):
        store.append("out", b"line %d\n" % number)
    assert sum(path.stat().st_size for path in (tmp_path / "log").iterdir()) <= 8000
    page = store.read(cursor=cursor)
    assert page.lost
    assert page.lines[-1].text == "line 999"
    assert not store.read(cursor=page.cursor).lost
    assert texts(store, tail=2) == ["line 998", "line 999"]


def test_torn_line_of_a_crash_is_removed(tmp_path: Path) -> None:
    store = LogStore(tmp_path / "log")
    store.append("out", b"whole\n")
    store.close()
    with (tmp_path / "log" / "1.log").open("ab") as file:
        file.write(b"1700000000 o to")
    assert texts(LogStore(tmp_path / "log")) == ["whole"]
    again = LogStore(tmp_path / "log")
    again.append("out", b"next\n")
    assert texts(again) == ["whole", "next"]


def test_nothing_yet_then_something(tmp_path: Path) -> None:
    store = LogStore(tmp_path / "log")
    page = store.read(tail=10)
    store.append("out", b"hello\n")
    follow = store.read(cursor=page.cursor)
    assert ([line.text for line in follow.lines], follow.lost) == (["hello"], False)


def test_forgotten_folder_is_not_made_again(tmp_path: Path) -> None:
    store = LogStore(tmp_path / "gone" / "log")
    with pytest.raises(FileNotFoundError):
        store.append("out", b"late\n")
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize("cursor", ["", "1", "a:b", "1:-2", "1:2:3", "²:1", "9" * 50 + ":1"])
def test_wrong_cursor(tmp_path: Path, cursor: str) -> None:
    with pytest.raises(Invalid):
        LogStore(tmp_path).read(cursor=cursor)
