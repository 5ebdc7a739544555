"""The table of drivers and promises."""

from __future__ import annotations

import pytest

from hostler.testing.promises import BEGIN, BROKEN, END, KEPT, NOT_ASKED, document, lines

PROMISES = {"twice": "every verb may be called twice", "quota": "a volume holds what its size says"}
TEXT = f"# Drivers\n\n{BEGIN}\n{END}\n\nThe end.\n"


def test_a_document_is_filled_and_columns_of_others_stay() -> None:
    first = document(TEXT, {("storage:btrfs", "twice"): KEPT, ("storage:btrfs", "quota"): KEPT, ("limits:cgroup2", "twice"): KEPT}, PROMISES, "Linux 6.12")
    again = document(first, {("storage:btrfs", "twice"): BROKEN, ("storage:btrfs", "quota"): NOT_ASKED}, PROMISES, "Linux 6.18")
    assert again.startswith("# Drivers\n\n") and again.endswith("\n\nThe end.\n")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in again.splitlines() if line.startswith("|")]
    assert rows == [
        ["promise", "limits: cgroup2", "storage: btrfs", "what it says"],
        ["---"] * 4,
        ["seen on", "Linux 6.12", "Linux 6.18", ""],
        ["`twice`", "✓", "**broken**", "every verb may be called twice"],
        ["`quota`", "", "–", "a volume holds what its size says"],
    ]
    assert document(again, {}, {}, "nowhere") == again, "what is read is what was written"


def test_a_document_without_a_place_for_it_is_told() -> None:
    with pytest.raises(LookupError, match="are missing"):
        document("# Drivers\n", {}, PROMISES, "here")


def test_a_terminal_is_shown_what_is_broken() -> None:
    shown = list(lines({("net:a", "twice"): BROKEN, ("net:b", "twice"): KEPT}, PROMISES))
    assert [bad for _, bad in shown] == [False, True, False]
    assert shown[1][0].split()[:3] == ["twice", "BROKEN", "kept"]
