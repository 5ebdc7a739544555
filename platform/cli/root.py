"""The commands by name. The table says where each is and what it does, so that listing them imports none."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

#: name → (module, attribute, what it does)
COMMANDS: dict[str, tuple[str, str, str]] = {
    "login": ("session", "login", "Keep a panel's address and a token."),
    "create": ("containers", "create", "Make a container and start it."),
    "list": ("containers", "list_containers", "List containers."),
    "show": ("containers", "show", "Show one container."),
    "exec": ("inside", "exec_command", "Run a command inside a container."),
    "logs": ("inside", "logs", "Show what a container wrote, or what the platform's programs did."),
    "resize": ("containers", "resize", "Give a container other limits, live."),
    "start": ("power", "start", "Start containers."),
    "stop": ("power", "stop", "Stop containers."),
    "restart": ("power", "restart", "Restart containers."),
    "suspend": ("mobility", "suspend", "Suspend containers: memory to disk, RAM and CPU given back."),
    "resume": ("mobility", "resume", "Resume suspended containers."),
    "migrate": ("mobility", "migrate", "Move a container to another server, as live as it can be."),
    "checkpoint": ("checkpoints", "checkpoint", "Checkpoints: create, ls, show, inspect, verify, export, import, rm."),
    "restore": ("mobility", "restore", "Take a container back in time, memory and files."),
    "clone": ("mobility", "clone", "Make a new container from a running one, warm."),
    "delete": ("power", "delete", "Delete containers with all that they have."),
    "image": ("images", "image", "Images: list, show, build, import, delete."),
    "plan": ("plans", "plan", "Plans: list, create, delete."),
    "node": ("nodes", "node", "Servers: list, show."),
    "plugins": ("plugins", "plugins", "Show the drivers of all servers."),
    "account": ("accounts", "account", "Accounts: list, create."),
    "token": ("accounts", "token", "Tokens: list, create, revoke."),
    "op": ("operations", "op", "Operations: list, show, follow, cancel."),
    "events": ("operations", "events", "Show what happened."),
    "doctor": ("session", "doctor", "Say what this host offers Hostler and what it lacks."),
    "version": ("session", "version", "Show the version."),
}
ALIASES = {"ls": "list"}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the table's order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name or alias."""
        entry = COMMANDS.get(ALIASES.get(cmd_name, cmd_name))
        if entry is None:
            return None
        command = getattr(import_module(f"hostler.cli.{entry[0]}"), entry[1])
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table, without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it, but an unknown name is answered with the nearest ones."""
        name = args[0]
        if name not in COMMANDS and name not in ALIASES and not name.startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(name, COMMANDS, n=1)
            raise click.UsageError(f"there is no command {name}" + (f"; did you mean {near[0]}?" if near else ""), ctx)
        return super().resolve_command(ctx, args)


CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


@click.group(cls=LazyGroup, context_settings=CONTEXT)
def cli() -> None:
    """Tenant containers on your own servers.

    Begin with `hostler login URL --token TOKEN`, then `hostler create web --image busybox --plan small`.
    """
