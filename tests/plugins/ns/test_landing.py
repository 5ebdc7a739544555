"""Which of a container's mounts belong to the host, by value."""

from __future__ import annotations

from pathlib import Path

from hostler.host.mountinfo import parse
from hostler_plugins.ns import landing

MOUNTS = """\
80 70 0:40 /volumes/c1/root / rw - btrfs /dev/loop0 rw
81 80 0:41 / /proc rw - proc proc rw
82 80 0:42 / /dev rw - tmpfs tmpfs rw,size=64k
83 82 0:43 / /dev/shm rw - tmpfs shm rw
84 82 0:44 / /dev/pts rw - devpts devpts rw
85 80 0:45 /containers/c1/guest /.hostler ro - ext4 /dev/vda rw
86 85 0:25 /tools/hostler-init /.hostler/init ro - tmpfs none rw
87 80 0:45 /containers/c1/guest/hosts /etc/hosts ro - ext4 /dev/vda rw
88 82 0:6 /null /dev/null rw - devtmpfs udev rw
89 81 0:6 /null /proc/keys rw - devtmpfs udev rw
90 81 0:46 / /proc/acpi ro - tmpfs tmpfs ro
91 80 0:47 / /sys rw - sysfs sysfs ro
"""


def test_what_the_host_has_bound_is_named_by_what_it_is(tmp_path: Path) -> None:
    found = landing.outside(parse(MOUNTS), Path("/srv/containers/c1/guest"))
    assert found == {
        "/.hostler": "guest",
        "/.hostler/init": "hostler-init",
        "/etc/hosts": "guest/hosts",
        "/dev/null": "device/null",
        "/proc/keys": "device/null",
        "/proc/acpi": "nothing",
    }
