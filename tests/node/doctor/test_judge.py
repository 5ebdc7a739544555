"""What facts of a host mean, by value."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from hostler.core.messages import DriverFact
from hostler.core.units import GIB
from hostler.host import criu
from hostler.node import doctor
from hostler.node.doctor.facts import CRIU_FEATURES, HELPERS, HostFacts, gather
from hostler.node.doctor.findings import Finding, Status
from hostler.node.doctor.judge import NAMESPACES, judge, judge_drivers
from hostler.settings import NodeSettings

#: A host that lacks nothing.
GOOD = HostFacts(
    kernel="6.12.9-cloud-amd64",
    root=True,
    capabilities=(1 << 41) - 1,
    namespaces=frozenset(NAMESPACES),
    filesystems=frozenset({"ext4", "btrfs", "overlay"}),
    cgroup_v1=frozenset(),
    cgroup_v2=frozenset({"cpu", "cpuset", "memory", "pids", "io"}),
    cgroup_v2_mounted=True,
    nftables=True,
    libnftables=True,
    programs={"runc": "1.1.5", "redis-server": "7.0.15"} | dict.fromkeys(("mkfs.btrfs", "mmdebstrap", "busybox", "nsenter", "setpriv"), "/usr/bin/it"),
    criu_version="4.2.1",
    criu_features=dict.fromkeys(CRIU_FEATURES, True),
    helpers=frozenset(HELPERS),
    libexec="/opt/libexec",
    home="/var/lib/hostler",
    disk_free=100 * GIB,
    sysctls={"user/max_user_namespaces": 1000, "fs/pipe-max-size": 1 << 20, "vm/unprivileged_userfaultfd": 1},
    run_kind="tmpfs",
)


def found(facts: HostFacts, what: str) -> Finding:
    (finding,) = [finding for finding in judge(facts) if finding.what == what]
    return finding


def test_a_host_that_lacks_nothing() -> None:
    assert [finding for finding in judge(GOOD) if finding.status is not Status.OK] == []


CASES: list[tuple[dict[str, Any], str, Status, str]] = [
    ({"kernel": "5.10.0-30-amd64"}, "version", Status.BLOCKS, "5.15"),
    ({"kernel": "5.10.0-30-amd64"}, "id-mapped mounts", Status.BLOCKS, "5.15"),
    ({"namespaces": frozenset(NAMESPACES) - {"user"}}, "namespaces", Status.BLOCKS, "kernel"),
    ({"sysctls": {"user/max_user_namespaces": 0}}, "user namespaces", Status.BLOCKS, "max_user_namespaces"),
    ({"root": False}, "root", Status.LACKS, "sudo"),
    ({"capabilities": GOOD.capabilities & ~(1 << 21)}, "CAP_SYS_ADMIN", Status.BLOCKS, "root"),
    ({"capabilities": GOOD.capabilities & ~(1 << 24)}, "CAP_SYS_RESOURCE", Status.LACKS, "container"),
    ({"capabilities": 0, "root": False}, "CAP_SYS_ADMIN", Status.LACKS, "root"),
    ({"cgroup_v2": frozenset(), "cgroup_v2_mounted": False}, "hierarchies", Status.BLOCKS, "cgroup2"),
    ({"cgroup_v2": frozenset({"cpu", "cpuset", "pids"})}, "controllers", Status.BLOCKS, "boot"),
    ({"cgroup_v2": GOOD.cgroup_v2 - {"io"}}, "block I/O", Status.LACKS, "kernel"),
    ({"nftables": False}, "nftables", Status.BLOCKS, "NF_TABLES"),
    ({"libnftables": False}, "libnftables", Status.BLOCKS, "libnftables1"),
    ({"filesystems": frozenset({"overlay"})}, "btrfs", Status.LACKS, "modprobe"),
    ({"filesystems": frozenset({"ext4"})}, "overlay", Status.BLOCKS, "modprobe"),
    ({"disk_free": GIB}, "disk space", Status.BLOCKS, "--home"),
    ({"programs": GOOD.programs | {"runc": ""}}, "runc", Status.BLOCKS, "ops/install"),
    ({"programs": GOOD.programs | {"runc": "1.0.3"}}, "runc", Status.BLOCKS, "ops/install"),
    ({"programs": GOOD.programs | {"mmdebstrap": ""}}, "mmdebstrap", Status.LACKS, "ops/install"),
    ({"helpers": frozenset({"hostler-init"})}, "compiled programs", Status.BLOCKS, "/opt/libexec"),
    ({"criu_version": "", "criu_features": {}}, "criu", Status.LACKS, "ops/install"),
    ({"criu_version": "3.19"}, "criu", Status.LACKS, "ops/install"),
    ({"criu_version": "4.1.1", "kernel": "6.18.0"}, "criu", Status.LACKS, "ops/install"),
    ({"criu_features": GOOD.criu_features | {"mem_dirty_track": False}}, "pre-copy", Status.LACKS, "SOFT_DIRTY"),
    ({"sysctls": GOOD.sysctls | {"vm/unprivileged_userfaultfd": 0}}, "post-copy", Status.LACKS, "unprivileged_userfaultfd=1"),
    ({"capabilities": GOOD.capabilities & ~(1 << 24)}, "post-copy", Status.LACKS, "pipe-max-size"),
    ({"clock_synchronized": False}, "clock", Status.LACKS, "chrony"),
    ({"run_kind": "ext4"}, "/run", Status.LACKS, "tmpfs"),
]


@pytest.mark.parametrize(("change", "what", "status", "remedy"), CASES, ids=[f"{what}-{status}" for _, what, status, _ in CASES])
def test_what_is_missing_is_said_with_a_remedy(change: dict[str, Any], what: str, status: Status, remedy: str) -> None:
    finding = found(replace(GOOD, **change), what)
    assert finding.status is status
    assert remedy in finding.remedy
    assert finding.detail


def test_post_copy_without_the_capability_needs_larger_pipes_only() -> None:
    facts = replace(GOOD, capabilities=GOOD.capabilities & ~(1 << 24), sysctls=GOOD.sysctls | {"fs/pipe-max-size": 4 << 20})
    assert found(facts, "post-copy").status is Status.OK


def _drivers(**usable: bool) -> list[DriverFact]:
    return [DriverFact(group=name.split("_")[0], name=name.split("_")[1], usable=well, problem="" if well else "broken") for name, well in usable.items()]


def test_one_usable_driver_of_a_group_is_enough() -> None:
    findings = judge_drivers(_drivers(ns_runc=True, net_bridge=True, storage_btrfs=False, storage_overlay=True, limits_cgroup1=True, images_oci=True))
    assert not doctor.blocks(findings)
    assert {finding.what: finding.status for finding in findings}["storage btrfs"] is Status.LACKS


def test_a_group_without_a_usable_driver_blocks() -> None:
    findings = judge_drivers(_drivers(ns_runc=True, net_bridge=False, storage_overlay=True, limits_cgroup1=True))
    assert {finding.what for finding in findings if finding.status is Status.BLOCKS} == {"net bridge", "images"}


def test_the_table_says_what_to_do_and_sums_up() -> None:
    out = io.StringIO()
    doctor.show(judge(replace(GOOD, nftables=False, run_kind="ext4 [odd]")), Console(file=out, width=200))
    text = out.getvalue()
    assert "→ boot a kernel with CONFIG_NF_TABLES" in text
    assert "on ext4 [odd]" in text
    assert "1 lacking, 1 blocking: this host cannot run Hostler yet" in text


def test_this_host_can_be_looked_at_by_anybody() -> None:
    facts = gather(NodeSettings())
    assert criu.numbers(facts.kernel)
    assert "user" in facts.namespaces
    assert facts.disk_free > 0
