"""Which installation a call means."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostler.core.errors import Invalid
from hostler.node.lab.record import Record, resolve


@pytest.fixture
def home(tmp_path: Path) -> Path:
    Record.file(tmp_path).parent.mkdir()
    Record.file(tmp_path).write_text(Record(installation="second", panel_port=9000, machine_link=False).model_dump_json())
    return tmp_path


def test_what_is_not_said_is_as_before(home: Path) -> None:
    assert resolve(home, None, None, None) == Record(installation="second", panel_port=9000, machine_link=False)
    assert resolve(home, "second", 9001, True) == Record(installation="second", panel_port=9001, machine_link=True)


def test_a_home_keeps_its_installation(home: Path) -> None:
    with pytest.raises(Invalid, match="second, not main"):
        resolve(home, "main", None, None)


def test_a_home_of_ones_own_needs_an_id_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="needs an id"):
        resolve(tmp_path, None, None, None)
    assert resolve(tmp_path, "second", None, None) == Record(installation="second")
