"""The machine's settings are set for the first lab and set back after the last."""

from __future__ import annotations

from pathlib import Path

from hostler.node.lab.tuning import tune, untune


def test_what_was_before_is_back_after_the_last(tmp_path: Path) -> None:
    pipes, buckets, folder = tmp_path / "pipes", tmp_path / "buckets", tmp_path / "tuning"
    pipes.write_text("1048576\n")
    buckets.write_text("262144\n")
    wanted = {str(pipes): (1 << 24, "more"), str(buckets): (16384, "less"), str(tmp_path / "unknown"): (1, "more")}
    assert len(tune("one", folder, wanted)) == 2
    assert tune("two", folder, wanted) == [], "set already"
    assert (pipes.read_text(), buckets.read_text()) == (str(1 << 24), "16384")
    untune("one", folder)
    assert pipes.read_text() == str(1 << 24), "another lab is still up"
    untune("two", folder)
    assert (pipes.read_text(), buckets.read_text()) == ("1048576", "262144")
    assert not folder.exists()
    untune("two", folder)


def test_what_is_better_already_is_left(tmp_path: Path) -> None:
    pipes, folder = tmp_path / "pipes", tmp_path / "tuning"
    pipes.write_text(str(1 << 26))
    assert tune("one", folder, {str(pipes): (1 << 24, "more")}) == []
    untune("one", folder)
    assert pipes.read_text() == str(1 << 26)
