"""The conformance suite: good drivers pass it whole, and it finds each planted bug."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.testing.planted import PLANTED
from tests.testing.suite import ROOT, run_suite

FAKES = ("storage:fake", "limits:fake", "net:fake", "ns:fake", "images:fake")
OURS = (
    "storage:btrfs", "storage:loop", "storage:overlay", "limits:cgroup1", "ns:runc", "ns:crun", "net:bridge", "net:routed", "net:vxlan", "images:rootfs", "images:oci",
)  # fmt: skip


def test_the_fakes_pass_it(tmp_path: Path) -> None:
    status, found, printed = run_suite(tmp_path, *FAKES, words=("--driver-kills", "3"))
    assert not any(found.values()) and status == 0, printed
    assert "promise" in printed and "kept" in printed


@pytest.mark.lab
@pytest.mark.parametrize("driver", OURS)
def test_our_drivers_pass_it(driver: str, tmp_path: Path) -> None:
    status, found, printed = run_suite(tmp_path, driver)
    assert found == {driver: set()} and status == 0, printed


@pytest.mark.lab  # it needs no root, but most of a minute
def test_every_planted_bug_is_found_and_nothing_else(tmp_path: Path) -> None:
    specs = {name.replace(":", ":tests.testing.planted:"): bug for name, bug in PLANTED.items()}
    status, found, printed = run_suite(tmp_path, *specs, env={"PYTHONPATH": str(ROOT)}, words=("--driver-kills", "5"))
    assert status == 1, printed
    for spec, (must, may) in specs.items():
        assert must <= found[spec] <= must | may, f"{spec}: {found[spec]}\n{printed}"


def test_without_a_driver_it_says_what_to_give(tmp_path: Path) -> None:
    status, _, printed = run_suite(tmp_path)
    assert status != 0
    assert "--driver group:name" in printed


@pytest.mark.parametrize(("driver", "said"), [("storage:none-such", "no installed package has driver"), ("disk:btrfs", "write group:name with a group of")])
def test_a_driver_that_is_not_there_is_told(driver: str, said: str, tmp_path: Path) -> None:
    status, _, printed = run_suite(tmp_path, driver)
    assert status != 0
    assert said in printed
