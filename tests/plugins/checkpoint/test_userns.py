"""Whose host ids images name. The bytes are those that CRIU 4.2.1 writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostler.core.errors import Invalid
from hostler.core.specs import IdRange
from hostler_plugins.checkpoint.userns import rehome

#: Of a container with host ids 1,000,000 to 1,065,535.
WRITTEN = bytes.fromhex("19435654 06494755 18000000 0a0a 0800 10c0843d 18808004 120a 0800 10c0843d 18808004")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Such an image."""
    file = tmp_path / "userns-13.img"
    file.write_bytes(WRITTEN)
    return file


def test_ids_become_the_new_ones_and_may_come_back(image: Path) -> None:
    rehome(image.parent, IdRange(base=1_065_536))
    assert image.read_bytes() == bytes.fromhex("19435654 06494755 18000000 0a0a 0800 10c08441 18808004 120a 0800 10c08441 18808004")
    rehome(image.parent, IdRange(base=1_065_536))
    rehome(image.parent, IdRange(base=1_000_000))
    assert image.read_bytes() == WRITTEN
    assert [file.name for file in image.parent.iterdir()] == [image.name]


def test_images_without_a_user_namespace_stay(tmp_path: Path) -> None:
    (tmp_path / "pstree.img").write_bytes(b"x")
    rehome(tmp_path, IdRange(base=1_000_000))
    assert (tmp_path / "pstree.img").read_bytes() == b"x"


@pytest.mark.parametrize(
    "text",
    [b"", WRITTEN[:-1], WRITTEN[:12], b"\0" * 36, WRITTEN[:20] + b"\xff" * 16, WRITTEN.replace(b"\x18\x80\x80\x04", b"\x18\x80\x80\x02"), WRITTEN + WRITTEN],
    ids=["empty", "cut", "head", "zeros", "endless", "fewer", "twice"],
)
def test_what_is_no_such_image_is_refused_and_stays(image: Path, text: bytes) -> None:
    image.write_bytes(text)
    with pytest.raises(Invalid):
        rehome(image.parent, IdRange(base=2_000_000))
    assert image.read_bytes() == text
