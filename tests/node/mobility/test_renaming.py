"""Which address a clone has in the place of which. Pure."""

from __future__ import annotations

from hostler.core.specs import ContainerSpec, IdRange, ImageSpec, Link
from hostler.node.mobility.checkpoints import renaming


def spec(name: str, *links: tuple[str, ...]) -> ContainerSpec:
    made = tuple(Link(name=f"eth{index}", mac=f"02:00:00:00:00:0{index}", addresses=addresses) for index, addresses in enumerate(links))
    return ContainerSpec(id="c0ffee00", name=name, account="acc0", ids=IdRange(base=2_000_000), image=ImageSpec(digest="sha256:" + "0" * 64, driver="oci", size=0), links=made)


def test_addresses_are_paired_by_link_and_family() -> None:
    original = spec("web", ("198.18.7.2/15", "fd00::2/48"), ("10.0.0.2/8",))
    clone = spec("twin", ("fd00::3/48", "198.18.7.3/15"), ("10.0.0.3/8",))
    found = renaming(original, clone)
    assert found.hostname == "twin"
    assert found.addresses == {"198.18.7.2": "198.18.7.3", "fd00::2": "fd00::3", "10.0.0.2": "10.0.0.3"}


def test_an_address_without_a_counterpart_is_known_to_have_none() -> None:
    original = spec("web", ("198.18.7.2/15", "fd00::2/48"), ("10.0.0.2/8",))
    assert renaming(original, spec("twin", ("198.18.7.3/15", "198.18.7.4/15"))).addresses == {"198.18.7.2": "198.18.7.3", "fd00::2": "", "10.0.0.2": ""}
