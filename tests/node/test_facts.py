"""What a server says that it holds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from hostler.contracts.driver import Item
from hostler.node.drivers import Drivers
from hostler.node.facts import containers_here


def test_an_unpacked_image_is_no_container() -> None:
    items = [
        Item(kind="subvolume", name="images/0123456789abcdef", owner="0123456789abcdef"),
        Item(kind="draft", name="images/.draft-0123456789abcdef", owner="0123456789abcdef"),
        Item(kind="image", name="0123456789abcdef", owner="0123456789abcdef"),
        Item(kind="subvolume", name="volumes/c1", owner="c1"),
        Item(kind="pool", name="pool.btrfs"),
    ]
    driver = SimpleNamespace(inventory=lambda: items)
    assert containers_here(cast(Drivers, SimpleNamespace(all=lambda: [driver]))) == ["c1"]
