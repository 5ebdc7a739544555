"""What a container has written goes with it to another server: there its log goes on where it was, and a reader's place in it stays good.

Its output is in FIFOs until the server's watch has read it (:mod:`hostler.node.watched`), then in files of lines
(:mod:`hostler.node.logs`).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import struct
import termios
import time
from pathlib import Path

from hostler.contracts.driver import Host
from hostler.core.units import MIB
from hostler.host import guest
from hostler.node.logs import LINE_BYTES, SEGMENT_BYTES, SEGMENTS
from hostler.node.wire.channel import Channel

#: Seconds that a standstill lasts longer at most, until the watch has read what was written before it.
_SETTLING = 0.05
_GRAIN = 0.0005
#: Seconds for the other server's answer.
_PATIENCE = 60.0
#: Bytes of a log at most: all segments full, one of them new, and a last line in each.
_MOST = (SEGMENTS + 1) * (SEGMENT_BYTES + 2 * LINE_BYTES) + MIB


def settle(host: Host, container: str) -> None:
    """Of a frozen container: wait until what it wrote was read, or :data:`_SETTLING` is over. What is left in a FIFO is part of a dump,
    and would come again after it."""
    deadline = time.monotonic() + _SETTLING
    for name in (guest.OUT, guest.ERR):
        fifo = guest.guest_dir(host, container) / name
        if not fifo.exists():
            continue
        handle = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            while _unread(handle) and time.monotonic() < deadline:
                time.sleep(_GRAIN)
        finally:
            os.close(handle)


def _unread(handle: int) -> int:
    """Bytes in a pipe (ioctl_tty(2), FIONREAD)."""
    return int(struct.unpack("i", fcntl.ioctl(handle, termios.FIONREAD, bytes(4)))[0])


def send(host: Host, container: str, channel: Channel, draft: Path) -> int:
    """Send the log; the bytes. ``draft``: a folder that is not there, for a copy that does not grow meanwhile."""
    log = guest.log_dir(host, container)
    draft.mkdir(mode=0o700)
    for segment in log.glob("*.log"):
        with contextlib.suppress(FileNotFoundError):  # the oldest goes when a new one begins
            shutil.copyfile(segment, draft / segment.name)
    moved = channel.send_folder(draft)
    channel.receive(_PATIENCE, "received")
    return moved.bytes


def receive(host: Host, container: str, channel: Channel) -> None:
    """Take the log of a container that is not here yet."""
    channel.receive_folder(guest.log_dir(host, container), limit=_MOST, files=SEGMENTS + 2)
    channel.send("received")
