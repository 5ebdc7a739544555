"""This server, as its drivers see it."""

from __future__ import annotations

from hostler.contracts.driver import Host
from hostler.settings import NodeSettings


def this_host(settings: NodeSettings) -> Host:
    """The host that the settings of a node's processes describe."""
    return Host(
        installation=settings.installation,
        node=settings.node,
        state_dir=settings.node_state,
        libexec=settings.libexec,
        criu=settings.criu,
        settings=settings.drivers,
    )
