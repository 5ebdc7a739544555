"""Whether a container could move to a server: each reason by itself, none where there is none, and the way that is taken."""

from __future__ import annotations

import re
from typing import Any

import pytest

from hostler.contracts.driver import Lack
from hostler.core.messages import DriverFact
from hostler.core.specs import ContainerSpec, IdRange, ImageSpec
from hostler.core.units import GIB, MIB
from hostler.mobility import fit
from hostler.mobility.compat import HostFacts
from hostler.mobility.fit import Leaving, Misfit, Place

SPEC = ContainerSpec(id="c0ffee00", name="web", account="acc0", ids=IdRange(base=2_000_000), image=ImageSpec(digest="sha256:" + "ab" * 32, driver="oci", size=1))
DRIVERS = tuple(DriverFact(group=group, name=name, usable=True) for group, name in SPEC.drivers.model_dump().items())
ALL = {"pre_copy": "", "post_copy": "", "stop_copy": ""}


def host(node: str, **changes: Any) -> HostFacts:
    facts = {"node": node, "architecture": "x86_64", "kernel": "6.12.1-amd64", "cpu_features": {"avx2", "sse4_2"}, "drivers": {"criu": "4.2.1"}, "free": GIB}
    return HostFacts.model_validate(facts | changes)


def leaving(**changes: Any) -> Leaving:
    """It runs on alpha."""
    return Leaving.model_validate({"host": host("alpha"), "methods": ALL, "memory": 200 * MIB, "disk": 500 * MIB} | changes)


def place(**changes: Any) -> Place:
    """All fits on beta."""
    own: dict[str, Any] = {key: changes.pop(key) for key in ("architecture", "kernel", "cpu_features", "free") if key in changes}
    if "writers" in changes:
        own["drivers"] = changes.pop("writers")
    return Place.model_validate({"host": host("beta", **own), "methods": ALL, "drivers": DRIVERS, "memory": GIB, "pool": GIB} | changes)


def test_where_all_fits_nothing_is_told() -> None:
    assert fit.misfits(SPEC, leaving(), place()) == []
    assert fit.misfits(SPEC, leaving(), place(kernel="7.0", writers={"criu": "4.3", "other": "1"}, cpu_features={"avx2", "sse4_2", "amx"})) == []
    assert fit.misfits(SPEC, None, place(memory=0, free=0, methods={})) == [], "what does not run has no memory"


@pytest.mark.parametrize(
    ("changes", "code", "told", "blocks", "only_memory"),
    [
        ({"architecture": "aarch64"}, "architecture", "runs on x86_64; server beta is aarch64", True, False),
        ({"cpu_features": {"sse4_2"}}, "cpu_features", "processor of server beta lacks .*: avx2$", True, True),
        ({"kernel": "5.15.0"}, "kernel", "Linux 5.15.0, older than the 6.12.1-amd64 of alpha", True, True),
        ({"kernel": "6.1.0"}, "kernel", "Linux 6.1.0, older", False, True),
        ({"kernel": "own"}, "kernel_unknown", "'own' is no kernel release", False, False),
        ({"writers": {}}, "checkpoint_driver", "no working checkpoint driver criu", True, True),
        ({"writers": {"criu": "4.1"}}, "driver_version", "criu 4.1, older than the 4.2.1 of alpha", True, True),
        ({"writers": {"criu": "dev"}}, "driver_unknown", "cannot be compared", False, False),
        ({"wire": False}, "no_wire", "cannot connect to server beta", True, False),
        ({"state": "running"}, "already_there", "web is running on server beta already", True, False),
        ({"receives": False}, "storage", "btrfs cannot send volumes", True, False),
        ({"image": False}, "image", "abababababababab is not on server beta yet", False, False),
        ({"memory": 100 * MIB}, "memory", "uses 200M of memory; server beta has 100M left", True, False),
        ({"free": 100 * MIB}, "room", "memory of 200M passes through the disk; server beta has 100M left", True, True),
        ({"pool": 100 * MIB}, "room", "files take 500M; the volumes of server beta have 100M left", True, False),
        ({"drivers": DRIVERS[1:]}, "driver", "no usable ns driver runc$", True, False),
        (
            {"drivers": [DRIVERS[0].model_copy(update={"usable": False, "problem": "the program runc"}), *DRIVERS[1:]]},
            "driver", "no usable ns driver runc: the program runc", True, False,
        ),
        ({"links": [Lack(what="an uplink", remedy="set one", blocks=True)]}, "address", "addresses of web cannot move to server beta, which lacks an uplink", True, False),
        ({"methods": dict.fromkeys(ALL, "no CRIU")}, "no_method", "its memory cannot move: on server beta no CRIU", True, True),
    ],
)
def test_each_reason_is_told_with_its_remedy(changes: dict[str, Any], code: str, told: str, blocks: bool, only_memory: bool) -> None:
    (found,) = fit.misfits(SPEC, leaving(), place(**changes))
    assert (found.code, found.blocks, found.only_memory) == (code, blocks, only_memory)
    assert found.remedy and re.search(told, found.message), found.message


def test_a_source_that_cannot_send_is_told_too() -> None:
    (found,) = fit.misfits(SPEC, leaving(sends=False), place())
    assert found == Misfit("storage", found.message, found.remedy) and found.blocks


def test_those_that_block_come_first() -> None:
    found = fit.misfits(SPEC, leaving(), place(image=False, kernel="6.1", cpu_features=set(), memory=0))
    assert [one.code for one in found] == ["memory", "cpu_features", "image", "kernel"]


def test_the_best_way_is_one_that_both_can() -> None:
    assert fit.methods(leaving(), place()) == ["pre_copy", "post_copy", "stop_copy"]
    no_tracking = leaving(methods=ALL | {"pre_copy": "no tracking"})
    assert fit.methods(no_tracking, place()) == ["post_copy", "stop_copy"]
    assert fit.methods(leaving(), place(methods=ALL | {"pre_copy": "no tracking"}))[0] == "pre_copy", "it is the source that tracks"
    late = place(methods=ALL | {"post_copy": "no userfaultfd"})
    assert fit.methods(no_tracking, late) == ["stop_copy"]
    said = fit.why(no_tracking, late)
    assert said.endswith("; pre-copy is not possible: on server alpha no tracking; post-copy is not possible: on server beta no userfaultfd")
    assert fit.methods(leaving(memory=10 * MIB), place()) == ["stop_copy", "pre_copy", "post_copy"], "as a move chooses"
    assert "10M of memory is copied in the freeze" in fit.why(leaving(memory=10 * MIB), place())
    assert fit.methods(leaving(), place(methods={})) == [] and fit.why(leaving(), place(methods={})) == ""
