"""What both sides of a move say to each other, and how they keep each other's patience.

S is the server that the container leaves, T the one that it comes to. S speaks on the channel *control*; the volume travels on a channel of its
own, so that it may be under way while memory is.

    S                                    T
    ── start {live, volume, snapshot}──► 
    ══ volume, whole ══════════════════► receives it while the container still runs on S
    ◄── ready ──────────────────────────
    ── round, images ──────────────────► (pre-copy: memory that changed, while the container runs)
    (freezes)
    ══ volume, what changed since, log ►
    ── images ═════════════════════════► restores, holds
    ◄── restored {pid} ─────────────────
    (writes "handed over", kills its copy)
    ── go ─────────────────────────────► lets it run
    ◄── running ────────────────────────

From ``frozen`` on T says ``restoring`` now and then. S may say ``abort`` instead of ``go``. Whatever breaks before "handed over" is written, S goes on and T throws away what it has. After it, T is the owner: ``go`` may be
lost, then the control side, which has S's word, tells T (verb ``move.in``).
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

#: Channels of a move.
CONTROL, VOLUME = "control", "volume"
#: Seconds for the other side to say the next word: what takes long, bulk data, has a patience of its own.
PATIENCE = 60.0
#: Seconds between two rounds of a pre-copy, each of which copies memory while the container runs.
ROUND_PATIENCE = 900.0
#: Seconds between two signs of life of T while it restores, and without one until S gives up: its tenant waits.
SIGN_OF_LIFE, SILENCE = 0.15, 0.75
#: Seconds after which, with the tenant waiting, S takes a wire for cut on which nothing that it sends is acknowledged.
NOTICE = 0.6
#: Seconds that a restore may take at most.
RESTORE_PATIENCE = 60.0


class Start(BaseModel):
    """First word of S. ``live``: a running container comes, memory and all; ``checkpoint``: a suspended one's file comes."""

    model_config = ConfigDict(extra="forbid")

    live: bool
    snapshots: bool
    """The volume comes as snapshots: whole, and then what changed. Else it does not travel at all (a driver that cannot send)."""
    checkpoint: str | None = None
    memory_follows: bool = False
    """Post-copy is wanted: T starts a carrier and says in :class:`Ready` where."""


class Ready(BaseModel):
    """T has the volume. ``memory``: where T's carrier waits for S's; empty: memory comes in the freeze, and ``why``."""

    model_config = ConfigDict(extra="forbid")

    memory: str = ""
    why: str = ""


class Round(BaseModel):
    """A folder of images follows that was written while the container ran, or (``frozen``) the last one. ``parent``: the folder that it
    continues. ``follows``: memory comes by the carriers."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(default="images", pattern=r"^[a-z]+(-[0-9]+)?$")
    parent: str | None = Field(default=None, pattern=r"^[a-z]+-[0-9]+$")
    follows: bool = False


class Restored(BaseModel):
    """T's word that the container stands there, held."""

    model_config = ConfigDict(extra="forbid")

    pid: int
    milliseconds: float
    phases: dict[str, float] = {}


class Go(BaseModel):
    """S's word that T is the owner."""

    model_config = ConfigDict(extra="forbid")

    packets: dict[str, list[str]] = {}
    """What came to S for the container while it stood still (:mod:`.following`)."""


class Running(BaseModel):
    """T's last word."""

    model_config = ConfigDict(extra="forbid")

    milliseconds: float
    phases: dict[str, float] = {}
