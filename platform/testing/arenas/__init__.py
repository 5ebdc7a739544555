"""Environments for drivers under test, one for each contract: what a driver works on, and what there is to ask of it."""

from __future__ import annotations

from hostler.testing.arenas.arena import Arena
from hostler.testing.arenas.images import ImagesArena
from hostler.testing.arenas.limits import LimitsArena
from hostler.testing.arenas.net import NetArena
from hostler.testing.arenas.ns import NsArena
from hostler.testing.arenas.storage import StorageArena

ARENAS: dict[str, type[Arena]] = {"storage": StorageArena, "limits": LimitsArena, "net": NetArena, "ns": NsArena, "images": ImagesArena}
