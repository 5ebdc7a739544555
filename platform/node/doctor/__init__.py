"""What this host offers Hostler and what it lacks, in words with remedies.

:mod:`facts` looks, :mod:`judge` decides what a fact means (pure), :mod:`table` shows it. The drivers' own probes are part of it.
"""

from __future__ import annotations

from hostler.node import drivers
from hostler.node.doctor.facts import gather
from hostler.node.doctor.findings import Finding, Status
from hostler.node.doctor.judge import judge, judge_drivers
from hostler.node.doctor.table import blocks, show
from hostler.node.here import this_host
from hostler.settings import NodeSettings

__all__ = ["Finding", "Status", "blocks", "examine", "show"]


def examine(settings: NodeSettings) -> list[Finding]:
    """Look at this host. Changes nothing; takes under a second or two."""
    return [*judge(gather(settings)), *judge_drivers(drivers.load(this_host(settings)).facts)]
