"""What a tenant's root can and cannot do, asked from inside of a container."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from pathlib import Path

import pytest

from hostler.core.limits import Limits
from hostler.core.specs import Link
from hostler_plugins.ns import bundle
from tests.plugins.ns.world import World

pytestmark = pytest.mark.lab


def test_ids_are_shifted(world: World) -> None:
    spec = world.up("sleep", "1000")
    assert world.sh(spec, "id -u").stdout == "0\n"
    assert world.sh(spec, "cat /proc/self/uid_map").stdout.split() == ["0", str(spec.ids.base), "65536"]
    pid = world.ns.inspect(spec.id).pid
    assert Path(f"/proc/{pid}").stat().st_uid == spec.ids.base
    world.sh(spec, "touch /tmp/mine; chown 33 /tmp/mine")
    on_disk = (world.root_of(spec) / "tmp/mine").stat()
    assert (on_disk.st_uid, on_disk.st_gid) == (33, 0)


def test_every_namespace_is_its_own(world: World) -> None:
    spec = world.up("sleep", "1000")
    pid = world.ns.inspect(spec.id).pid
    for kind in ("pid", "net", "ipc", "uts", "mnt", "user", "cgroup"):
        assert os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}"), kind
    assert {line.split(":")[2] for line in world.sh(spec, "cat /proc/1/cgroup").stdout.split()} == {"/"}


def test_confinement(world: World) -> None:
    spec = world.up("sleep", "1000")
    for where in ("self", "1"):
        status = dict(
            line.split(":", 1) for line in world.sh(spec, f"cat /proc/{where}/status").stdout.splitlines() if ":" in line
        )
        assert status["NoNewPrivs"].strip() == "1"
        assert status["Seccomp"].strip() == "2"
        wanted = sum(1 << number for number in (0, 1, 3, 4, 5, 6, 7, 8, 10, 18, 31))
        for kind in ("CapPrm", "CapEff", "CapBnd"):
            assert int(status[kind], 16) == wanted, kind
        assert int(status["CapAmb"], 16) == int(status["CapInh"], 16) == 0
    assert world.sh(spec, "cat /proc/1/oom_score_adj").stdout == "200\n"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("mount -t tmpfs none /tmp", "not permitted|denied"),
        ("umount /proc", "not permitted|denied|Invalid"),
        ("mknod /tmp/disk b 8 0", "not permitted"),
        ("mknod /tmp/mem c 1 1", "not permitted"),
        ("unshare -U true", "not permitted"),
        ("unshare -n true", "not permitted"),
        ("hostname other", "not permitted"),
        ("ip link set lo down", "not permitted"),
        ("echo 1 > /proc/sys/kernel/panic", "ead-only|denied"),
        ("echo b > /proc/sysrq-trigger", "ead-only|denied|nonexistent"),
        ("echo x > /.hostler/hosts", "ead-only|denied"),
        ("rm /.hostler/out", "ead-only|denied"),
        ("touch /sys/x", "ead-only|denied"),
        ("swapoff -a; pivot_root / /tmp", "not permitted|not found|denied"),
        ("dmesg", "not permitted"),
        ("date -s 2020-01-01 && [ $(date +%Y) = 2020 ]", "not permitted"),
        ("chroot /proc/1/root/../../.. cat /etc/shadow", "No such file"),
    ],
)
def test_refused(world: World, script: str, words: str) -> None:
    spec = world.up("sleep", "1000")
    result = world.sh(spec, f"({script}) && echo DONE")
    assert "DONE" not in result.stdout
    assert re.search(words, result.stderr), result


def test_masked_paths(world: World) -> None:
    spec = world.up("sleep", "1000")
    for path in bundle.MASKED:
        if Path(path).is_dir():
            assert world.sh(spec, f"ls -A {path}").stdout == "", path
        elif Path(path).exists():
            assert world.sh(spec, f"head -c 10 {path}").stdout == "", path
    assert world.sh(spec, "head -c 10 /proc/version").stdout, "an unmasked file must be readable by the same means"


def test_devices(world: World) -> None:
    """Nodes are looked at through the devices cgroup, in which the test itself enters from outside with full rights."""
    spec = world.up("sleep", "1000")
    assert world.sh(spec, "echo x > /dev/null; head -c 3 /dev/zero | wc -c; head -c 3 /dev/urandom | wc -c").stdout.split() == ["3", "3"]
    folder = world.folder(spec, "devices")
    enter = f"echo 0 > {folder}/cgroup.procs"
    node = world.host.state_dir / "kmsg"
    os.mknod(node, stat.S_IFCHR | 0o600, os.makedev(1, 11))
    assert subprocess.run(["sh", "-c", f": < {node}"], capture_output=True).returncode == 0
    refused = subprocess.run(["sh", "-c", f"{enter}; : < {node}"], capture_output=True, text=True)
    assert refused.returncode != 0
    assert "not permitted" in refused.stderr
    made = world.sh(spec, "mknod /tmp/kmsg c 1 11")
    assert made.exit_code != 0 and "not permitted" in made.stderr
    if (folder / "devices.list").exists():  # version 2 has a program instead, which cannot be read
        listed = (folder / "devices.list").read_text()
        assert "10:200" not in listed
        assert "*:* m" not in listed
        assert "a *:*" not in listed


def test_sees_only_itself(world: World) -> None:
    first, second = world.up("sleep", "1111"), world.up("sleep", "2222")
    seen = world.sh(first, "ps -o args").stdout
    assert "sleep 1111" in seen
    assert "sleep 2222" not in seen
    assert world.sh(second, "ls /proc | grep -c '^[0-9]'").stdout.strip() in ("4", "5", "6")
    assert world.sh(first, "ip -o link | wc -l").stdout == "1\n"


def test_names_and_addresses(world: World) -> None:
    spec = world.spec("sleep", "1000")
    spec = spec.model_copy(
        update={
            "links": (Link(mac="02:00:00:00:00:01", addresses=("198.18.4.2/15", "fd00::2/64")),),
            "nameservers": ("198.18.0.1",),
        }
    )
    world.create(spec)
    world.ns.start(spec.id)
    assert world.sh(spec, "hostname; cat /etc/hostname").stdout.split() == [spec.name] * 2
    assert world.sh(spec, "cat /etc/resolv.conf").stdout == "nameserver 198.18.0.1\n"
    assert f"198.18.4.2 {spec.name}\nfd00::2 {spec.name}\n" in world.sh(spec, "cat /etc/hosts").stdout


def test_hostile_link_in_etc_stays_inside(world: World) -> None:
    """The image's /etc/hosts is a link that climbs out; nothing may appear on the host."""
    spec = world.up("sleep", "1000")
    assert not Path("/etc/escaped-hosts").exists()
    assert "localhost" in world.sh(spec, "cat /etc/escaped-hosts").stdout


def test_network_is_its_own_and_owned_by_the_user_namespace(world: World) -> None:
    spec = world.up("sleep", "1000")
    assert world.sh(spec, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start").stdout == "0\n"
    assert world.sh(spec, "cat /proc/sys/net/ipv4/ping_group_range").stdout.split() == ["0", "65535"]
    assert "UP" in world.sh(spec, "ip -o link show lo").stdout
    assert world.sh(spec, "nc -l -p 80 & sleep 0.2; echo hi | nc -w 1 127.0.0.1 80; wait", user="33").exit_code == 0


def test_shared_memory_is_bounded(world: World) -> None:
    spec = world.up("sleep", "1000", limits=Limits(memory=16 << 20))
    assert "No space left" in world.sh(spec, "dd if=/dev/zero of=/dev/shm/big bs=1M count=20").stderr
    assert "No space left" in world.sh(spec, "dd if=/dev/zero of=/dev/big bs=1k count=200").stderr


def test_standard_streams_are_the_containers_own(world: World) -> None:
    """What a checkpoint needs: no file of the host is open inside."""
    spec = world.up("sleep", "1000")
    found = world.sh(spec, "for f in /proc/1/fd/*; do readlink $f; done").stdout.split()
    assert sorted(found) == ["/.hostler/err", "/.hostler/out", "/.hostler/status", "/dev/null"]


_IOCTL = """
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
int main(int argc, char **argv)
{
	static char room[4096];
	errno = 0;
	ioctl(0, strtoul(argv[1], NULL, 0), room);
	printf("%d", errno);
	return argc != 2;
}
"""


@pytest.mark.parametrize(
    ("request_number", "allowed"),
    [
        (0x50009418, False),  # BTRFS_IOC_SUBVOL_CREATE_V2: with an empty list of groups it leaves the quota
        (0x5000940E, False),  # BTRFS_IOC_SUBVOL_CREATE
        (0x50009417, False),  # BTRFS_IOC_SNAP_CREATE_V2
        (0x5401, True),  # TCGETS
        (0x80086601, True),  # FS_IOC_GETFLAGS
        (0x40049409, True),  # FICLONE
        (0x94, True),  # the type is in bits 8 to 15, not here
    ],
)
def test_requests_of_btrfs_are_refused_and_others_are_not(world: World, request_number: int, allowed: bool) -> None:
    spec = world.up("sleep", "1000")
    source = world.host.state_dir / "ioctl.c"
    source.write_text(_IOCTL)
    subprocess.run(["cc", "-static", "-o", world.root_of(spec) / "bin/ioctl", source], check=True, timeout=60)
    answer = world.sh(spec, f"ioctl {request_number}").stdout.strip()
    assert answer.isdigit() and (answer != "1") == allowed  # EPERM is the filter's word: standard input is a pipe or null
