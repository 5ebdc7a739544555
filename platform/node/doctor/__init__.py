"""What this host offers Hostler and what it lacks, in words with remedies.

:mod:`facts` looks, :mod:`judge` decides what a fact means (pure), :mod:`table` shows it. The drivers' own probes are part of it, with
the settings of the servers that this host is (:mod:`servers`), and where they work.
"""

from __future__ import annotations

import contextlib

from hostler.host import netns
from hostler.node import drivers
from hostler.node.doctor.facts import gather
from hostler.node.doctor.findings import Finding, Status
from hostler.node.doctor.judge import judge, judge_drivers, unreadable
from hostler.node.doctor.servers import Place, servers
from hostler.node.doctor.table import blocks, show
from hostler.node.drivers import Drivers
from hostler.node.here import this_host
from hostler.settings import NodeSettings

__all__ = ["Finding", "Status", "blocks", "examine", "show"]


def examine(settings: NodeSettings) -> list[Finding]:
    """Look at this host, and at each server that it is. Changes nothing; takes under a second or two."""
    try:
        places, unread = servers(settings), []
    except PermissionError as error:
        places = [Place(settings)]
        unread = [unreadable(str(error.filename))]
    findings = [*judge(gather(places[0].settings)), *unread]
    for place in places:
        findings += judge_drivers(_probed(place).facts, place.settings.node if len(places) > 1 else "")
    return findings


def _probed(place: Place) -> Drivers:
    with netns.entered(place.netns) if place.netns else contextlib.nullcontext():
        return drivers.load(this_host(place.settings), enabled=place.settings.drivers_enabled)
