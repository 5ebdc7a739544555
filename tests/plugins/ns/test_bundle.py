"""The OCI configuration by value."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hostler.core.errors import Invalid
from hostler.core.limits import Limits
from hostler.core.specs import ContainerSpec, ExecSpec, IdRange, ImageSpec, Process
from hostler_plugins.ns import bundle

SPEC = ContainerSpec(
    id="c0nta1ner",
    name="web",
    account="acc0",
    ids=IdRange(base=131_072),
    image=ImageSpec(digest="sha256:" + "0" * 64, driver="rootfs", size=0),
    process=Process(args=("nginx", "-g", "daemon off;"), env=("PATH=/bin", "A=1"), user="www", cwd="/srv"),
    limits=Limits(memory=32 << 20),
)


@pytest.fixture(name="config")
def _config() -> dict[str, Any]:
    made = bundle.config(
        SPEC, root=Path("/run/x/root"), guest=Path("/state/guest"), init=Path("/libexec/hostler-init"), cgroups_path="h/c", nofile=4096
    )
    assert json.loads(json.dumps(made)) == made
    return made


def test_init_gets_the_command(config: dict[str, Any]) -> None:
    assert config["process"]["args"] == ["/.hostler/init", "-u", "www", "-w", "/srv", "--", "nginx", "-g", "daemon off;"]
    assert config["process"]["env"] == ["PATH=/bin", "A=1", "HOSTNAME=web"]
    assert config["process"]["user"] == {"uid": 0, "gid": 0}


def test_isolation(config: dict[str, Any]) -> None:
    linux = config["linux"]
    assert [one["type"] for one in linux["namespaces"]] == ["pid", "network", "ipc", "uts", "mount", "user", "cgroup"]
    assert all("path" not in one for one in linux["namespaces"])
    assert linux["uidMappings"] == [{"containerID": 0, "hostID": 131_072, "size": 65_536}] == linux["gidMappings"]
    assert config["process"]["noNewPrivileges"] is True
    capabilities = config["process"]["capabilities"]
    assert "inheritable" not in capabilities and "ambient" not in capabilities
    for never in ("CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_MKNOD", "CAP_SYS_PTRACE", "CAP_SYS_MODULE"):
        assert never not in capabilities["bounding"]
    assert linux["resources"]["devices"][0] == {"allow": False, "access": "rwm"}
    assert not any(rule["type"] == "b" or "m" in rule["access"] for rule in linux["resources"]["devices"][1:])


def test_mounts(config: dict[str, Any]) -> None:
    mounts = {mount["destination"]: mount for mount in config["mounts"]}
    assert mounts["/.hostler"]["source"] == "/state/guest"
    assert {"bind", "ro", "nosuid", "nodev", "noexec"} <= set(mounts["/.hostler"]["options"])
    assert f"size={16 << 20}" in mounts["/dev/shm"]["options"]
    assert "ro" in mounts["/sys"]["options"]
    for name in ("hosts", "hostname", "resolv.conf"):
        assert mounts[f"/etc/{name}"]["source"] == f"/state/guest/{name}"


def test_seccomp_allows_by_name_only() -> None:
    profile = bundle.seccomp("x86_64")
    assert (profile["defaultAction"], profile["defaultErrnoRet"]) == ("SCMP_ACT_ERRNO", 1)
    allowed = {name for rule in profile["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"]}
    assert {"read", "execve", "futex", "clone", "socket"} <= allowed
    host_reaching = {
        "mount", "umount2", "pivot_root", "setns", "unshare", "bpf", "perf_event_open", "init_module", "finit_module", "kexec_load",
        "io_uring_setup", "io_uring_enter", "userfaultfd", "keyctl", "add_key", "open_by_handle_at", "reboot", "swapon", "quotactl",
        "settimeofday", "clock_settime", "move_mount", "open_tree", "fsopen", "mount_setattr", "syslog", "acct", "iopl", "ioperm",
        "clone3", "sethostname", "lookup_dcookie", "nfsservctl", "fanotify_init",
    }  # fmt: skip
    assert host_reaching & allowed == set()
    free = [name for rule in profile["syscalls"] if not rule.get("args") for name in rule["names"]]
    assert not {"clone", "personality", "socket", "ioctl"} & set(free)


def test_exec_is_confined_as_init(config: dict[str, Any]) -> None:
    template = config["process"]
    made = bundle.exec_process(template, ExecSpec(args=("env",), env=("A=2", "HOME=/x"), user="33", cwd="/tmp"))
    assert made["args"] == ["/.hostler/init", "-x", "-k", "-u", "33", "-w", "/tmp", "--", "env"]
    assert made["env"] == ["PATH=/bin", "A=2", "HOSTNAME=web", "HOME=/x"]
    for field in ("capabilities", "noNewPrivileges", "rlimits", "oomScoreAdj"):
        assert made[field] == template[field]


@pytest.mark.parametrize(("name", "number"), [("SIGTERM", 15), ("term", 15), ("SIGQUIT", 3), ("9", 9)])
def test_stop_signal(name: str, number: int) -> None:
    assert bundle.stop_signal(name) == number


@pytest.mark.parametrize("name", ["SIGNOTHING", "0", "65", "-1", ""])
def test_no_signal(name: str) -> None:
    with pytest.raises(Invalid):
        bundle.stop_signal(name)
