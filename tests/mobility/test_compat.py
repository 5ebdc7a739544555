"""Whether a checkpoint fits a server: each reason by itself, and none where there is none."""

from __future__ import annotations

from typing import Any

import pytest

from hostler.mobility.compat import HostFacts, Mismatch, compatibility, version
from hostler.mobility.manifest import Manifest, PartInfo, PartKind


def host(**changes: Any) -> HostFacts:
    """A server on which everything fits."""
    facts: dict[str, Any] = {
        "node": "beta",
        "architecture": "x86_64",
        "kernel": "6.1.0-25-amd64",
        "cpu_features": {"avx2", "sse4_2", "avx512f"},
        "drivers": {"criu": "4.1"},
        "storage": {"btrfs", "loop"},
        "images": {"sha256:" + "ab" * 32},
    }
    return HostFacts.model_validate({**facts, **changes})


def only(manifest: Manifest, **changes: Any) -> Mismatch:
    """The one mismatch that a change makes."""
    (mismatch,) = compatibility(manifest, host(**changes))
    assert mismatch.remedy
    return mismatch


def test_where_all_fits_nothing_is_told(manifest: Manifest) -> None:
    assert compatibility(manifest, host()) == []
    assert compatibility(manifest, host(kernel="7.0.1", drivers={"criu": "v4.2", "other": "1"})) == []
    assert compatibility(manifest.model_copy(update={"parent": "ckpt0000"}), host(checkpoints={"ckpt0000"})) == []


@pytest.mark.parametrize(
    ("changes", "code", "told", "blocks"),
    [
        ({"architecture": "aarch64", "cpu_features": {"sve"}}, "architecture", "is of x86_64; server beta is aarch64", True),
        ({"cpu_features": {"sse4_2"}}, "cpu_features", "lacks .*: avx2$", True),
        ({"kernel": "5.15.0-1"}, "kernel", "older 5.15.0-1", True),
        ({"kernel": "6.0.9"}, "kernel", "older 6.0.9", False),
        ({"kernel": "custom"}, "kernel_unknown", "'custom' is no kernel release", False),
        ({"drivers": {}}, "driver", "no working checkpoint driver criu", True),
        ({"drivers": {"criu": "3.17.1"}}, "driver_version", "older 3.17.1", True),
        ({"drivers": {"criu": "4.0.9"}}, "driver_version", "older 4.0.9", True),
        ({"drivers": {"criu": "dev"}}, "driver_unknown", "cannot be compared", False),
        ({"storage": {"loop"}}, "storage", "storage driver btrfs", True),
        ({"images": set()}, "image", "abababababababab of the container is not on server beta", True),
    ],
)
def test_each_reason_is_told_with_its_remedy(manifest: Manifest, changes: dict[str, Any], code: str, told: str, blocks: bool) -> None:
    mismatch = only(manifest, **changes)
    assert (mismatch.code, mismatch.blocks) == (code, blocks)
    with pytest.raises(AssertionError, match=told):
        raise AssertionError(mismatch.message)


def test_a_missing_parent_blocks(manifest: Manifest) -> None:
    mismatch = only(manifest.model_copy(update={"parent": "ckpt0000"}), checkpoints={"ckpt0009"})
    assert (mismatch.code, mismatch.blocks) == ("parent", True)
    assert "ckpt0000" in mismatch.message


def test_too_little_room_blocks(manifest: Manifest) -> None:
    big = manifest.model_copy(update={"parts": (PartInfo(name="pages-1.img", kind=PartKind.MEMORY, size=1000), PartInfo(name="v", kind=PartKind.VOLUME))})
    assert only(big, free=999).code == "room"
    assert compatibility(big, host(free=1000)) == []


def test_many_missing_features_are_counted_and_those_that_block_come_first(manifest: Manifest) -> None:
    many = manifest.model_copy(update={"cpu_features": tuple(f"f{number:02}" for number in range(20))})
    first, second = compatibility(many, host(kernel="6.0"))
    assert "f07 and 12 more" in first.message
    assert (first.blocks, second.blocks) == (True, False)


@pytest.mark.parametrize(
    ("text", "numbers"), [("6.1.0-18-amd64", (6, 1, 0)), ("v4.1", (4, 1, 0)), ("4", (4, 0, 0)), ("3.17.1", (3, 17, 1)), ("dev", None), ("", None), ("9" * 50, (999999, 0, 0))]
)
def test_versions_are_their_first_three_numbers(text: str, numbers: tuple[int, int, int] | None) -> None:
    assert version(text) == numbers
