"""The Python side of ``ops/up`` and ``ops/down``."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import click
import structlog

from hostler.core.errors import HostlerError
from hostler.node import drivers
from hostler.node.here import this_host
from hostler.node.lab.down import down
from hostler.node.lab.empty import empty
from hostler.node.lab.layout import DEFAULT_HOME, Lab
from hostler.node.lab.record import resolve
from hostler.node.lab.up import find_criu, find_machine, read_extra, up
from hostler.settings import NodeSettings


def _lab_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options that say which lab is meant. What is not said is as the home's installation was brought up before."""
    link_help = "give this machine an address on the lab's network; without, servers cannot reach the panel  [default: yes]"
    options = (
        click.option("--machine-link/--no-machine-link", default=None, envvar="HOSTLER_MACHINE_LINK", help=link_help),
        click.option("--panel-port", type=click.IntRange(1, 65535), envvar="HOSTLER_PANEL_PORT", help="where the panel listens  [default: 8650]"),
        click.option("--installation", envvar="HOSTLER_INSTALLATION", help="id that is part of every name on this machine  [default: main]"),
        click.option("--home", type=click.Path(path_type=Path), default=DEFAULT_HOME, envvar="HOSTLER_HOME", show_default=True, help="its folder"),
    )
    return reduce(lambda made, option: option(made), options, command)


def _lab(home: Path, installation: str | None, panel_port: int | None, machine_link: bool | None) -> Lab:
    home = Path(os.path.abspath(home))
    known = resolve(home, installation, panel_port, machine_link)
    return Lab(
        checkout=Path(__file__).resolve().parents[3],
        machine=find_machine(home),
        home=home,
        extra=read_extra(home),
        installation=known.installation,
        panel_port=known.panel_port,
        machine_link=known.machine_link,
    )


@click.group()
def main() -> None:
    """A lab: one installation with servers of its own on this machine."""


@main.command("up")
@_lab_options
@click.option("--restart", is_flag=True, help="restart the platform's programs (after an upgrade); containers go on")
@click.option("--wait", "seconds", type=float, default=60, show_default=True, help="seconds that each part has to become healthy")
def up_command(restart: bool, seconds: float, **options: Any) -> None:
    """Bring it up. Changes nothing that is as it should be."""
    up(_lab(**options), restart=restart, seconds=seconds)


@main.command("down")
@_lab_options
@click.option("--purge", is_flag=True, help="delete the home folder too: store, images, volumes, logs")
def down_command(purge: bool, **options: Any) -> None:
    """Take it down, containers included. Data stays, unless --purge."""
    lab = _lab(**options)
    down(lab, find_criu(lab.checkout), purge=purge)
    print(f"Hostler is down; {lab.home} {'is deleted' if purge else 'keeps its data'}")


@main.command("empty", hidden=True)
def empty_command() -> None:
    """Take every container off the server that the environment describes."""
    done = empty(drivers.load(this_host(NodeSettings())))
    for problem in done.problems:
        print(problem)
    sys.exit(1 if done.problems else 0)


def _run() -> None:
    if os.geteuid() != 0:
        sys.exit("error: this needs root\n       run it with sudo")
    # what is worth saying is said by the steps and in the findings; a step's failure ends the run with its error
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL), logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    try:
        main(prog_name="ops")
    except HostlerError as error:
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"       {error.hint}", file=sys.stderr)
        sys.exit(1)


_run()
