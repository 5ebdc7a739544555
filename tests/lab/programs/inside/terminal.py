"""A terminal for whoever connects: a shell on a pseudo-terminal of its own, as ssh would give one."""

from __future__ import annotations

import os
import pty
import selectors
import socket


def serve(link: socket.socket) -> None:
    """One session, until either end is over."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv("/bin/bash", ["bash", "--norc", "-i"])
    both = selectors.DefaultSelector()
    both.register(link.fileno(), selectors.EVENT_READ, terminal)
    both.register(terminal, selectors.EVENT_READ, link.fileno())
    while True:
        for key, _ in both.select():
            try:
                some = os.read(key.fd, 4096)
            except OSError:  # the shell has ended: EIO
                return
            if not some:
                return
            os.write(key.data, some)


def main() -> None:
    """A process for each connection."""
    with socket.create_server(("0.0.0.0", 8000)) as listener:
        while True:
            link, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                serve(link)
                os._exit(0)
            link.close()


if __name__ == "__main__":
    main()
