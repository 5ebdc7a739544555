"""``python -m hostler.node.lxcfs``: becomes this server's lxcfs, with the settings of the node worker.

It makes room at the mount point, which a killed one leaves behind dead, and turns into lxcfs in the foreground. Where the program is
missing it says so once and looks again each minute: containers then see the server's figures, and nothing else is amiss.
"""

from __future__ import annotations

import os
import shutil
import time

import structlog

from hostler.host import lxcfs, mounts
from hostler.host.process import run
from hostler.node.here import this_host
from hostler.settings import NodeSettings

log = structlog.get_logger()

#: Wanted where this lxcfs knows them: newer ones have pidfds on by themselves, and complain when told.
_OPTIONS = ("--enable-loadavg", "--enable-cfs", "--enable-pidfd")
_LOOK_AGAIN = 60.0


def main() -> None:
    """Become lxcfs; does not return."""
    point = lxcfs.mount_point(this_host(NodeSettings()))
    program, told = shutil.which("lxcfs"), False
    while program is None:
        if not told:
            log.warning("lxcfs is not installed: containers see the server's memory and processors", remedy="apt-get install lxcfs")
            told = True
        time.sleep(_LOOK_AGAIN)
        program = shutil.which("lxcfs")
    mounts.unmount(point, lazy=True)
    point.mkdir(mode=0o755, parents=True, exist_ok=True)
    known = run([program, "--help"], timeout=10, check=False)
    options = [option for option in _OPTIONS if option in f"{known.text}{known.error_text}"]
    os.execv(program, [program, "--foreground", *options, "--pidfile", str(point.with_name("lxcfs.pid")), str(point)])


if __name__ == "__main__":
    main()
