"""Sockets are taken from one container and made in another by TCP repair, as checkpoint and restore do."""

from __future__ import annotations

import socket
import struct

from tests.plugins.net.world import Container

#: Of linux/tcp.h: sockets whose state is read and set, as checkpointing programs do.
_REPAIR, _QUEUE, _SEQUENCE, _OPTIONS, _WINDOW = 19, 20, 21, 22, 29
_RECEIVED, _SENT, _MAXIMUM_SEGMENT = 1, 2, 2


def moved(served: socket.socket, target: Container) -> socket.socket:
    """The connection of ``served``, which is closed without a word, in another container. What was received must have been read."""
    served.setsockopt(socket.IPPROTO_TCP, _REPAIR, 1)
    sequences = {}
    for queue in (_RECEIVED, _SENT):
        served.setsockopt(socket.IPPROTO_TCP, _QUEUE, queue)
        sequences[queue] = served.getsockopt(socket.IPPROTO_TCP, _SEQUENCE, 4)
    window = served.getsockopt(socket.IPPROTO_TCP, _WINDOW, 20)
    own, other = served.getsockname(), served.getpeername()
    served.close()
    made = target.socket(served.family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.IPPROTO_TCP, _REPAIR, 1)
    made.bind(own)
    for queue, sequence in sequences.items():
        made.setsockopt(socket.IPPROTO_TCP, _QUEUE, queue)
        made.setsockopt(socket.IPPROTO_TCP, _SEQUENCE, sequence)
    made.connect(other)
    made.setsockopt(socket.IPPROTO_TCP, _OPTIONS, struct.pack("II", _MAXIMUM_SEGMENT, 1360))
    made.setsockopt(socket.IPPROTO_TCP, _WINDOW, window)
    made.setsockopt(socket.IPPROTO_TCP, _REPAIR, 0)
    return made
