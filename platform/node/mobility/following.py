"""How the network follows a container: its packets wait while it stands still, and come to it where it goes on.

From the moment that it stands still its peers' packets are drawn to the server that it comes to. What came to the old one in the instant before
goes along with the last word of the move. All of it is for speed alone: what fails here costs peers a retransmission, and no move.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from hostler.core.errors import HostlerError
from hostler.core.specs import ContainerSpec
from hostler.node.verbs import Server

log = structlog.get_logger()

#: Bytes of packets that go along with a word, which is JSON of 1 MiB at most.
_ALONG = 512 << 10


@contextmanager
def expected(server: Server, spec: ContainerSpec) -> Iterator[None]:
    """A container that stands still elsewhere is expected here from now on; no longer where the block fails."""
    try:
        _expect(server, spec)
        yield
    except BaseException:
        if spec.links:
            server.drivers.net(spec.drivers.net).detach(spec.id)
        raise


def _expect(server: Server, spec: ContainerSpec) -> None:
    for link in spec.links:
        net = server.drivers.net(spec.drivers.net)
        try:
            if net.capabilities.expect:
                net.expect(spec.id, link)
        except HostlerError as error:
            log.warning("packets for a container that comes here are lost while it stands still", link=link.name, code=error.stable_code, error=error.message)


def left_behind(server: Server, spec: ContainerSpec) -> dict[str, list[str]]:
    """What came here for a container that has gone, by links, as text. It waits here no longer."""
    if not spec.links:
        return {}
    net = server.drivers.net(spec.drivers.net)
    try:
        kept = net.kept(spec.id, _ALONG) if net.capabilities.expect else {}
    except HostlerError as error:
        log.warning("packets that waited were lost", code=error.stable_code, error=error.message)
        return {}
    return {link: [base64.b64encode(packet).decode() for packet in packets] for link, packets in kept.items()}


def bring(server: Server, spec: ContainerSpec, packets: dict[str, list[str]]) -> None:
    """What :func:`left_behind` gave on the other server waits here now, before all else that does."""
    if not packets:
        return
    try:
        found = {link: [base64.b64decode(text, validate=True) for text in texts] for link, texts in packets.items()}
        server.drivers.net(spec.drivers.net).bring(spec.id, found)
    except (HostlerError, binascii.Error) as error:
        log.warning("packets that came along were lost", error=str(error))
