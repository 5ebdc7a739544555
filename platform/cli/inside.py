"""exec and logs."""

from __future__ import annotations

import os
import stat
import sys
from typing import TYPE_CHECKING, Any

import click

from hostler.cli import output
from hostler.cli.connection import connect
from hostler.cli.waiting import finished
from hostler.core.errors import Invalid

if TYPE_CHECKING:
    from hostler.core.api import LogPage

#: What a shell ends with for a command that ran out of time (timeout(1)).
TIMED_OUT = 124
INPUT_LIMIT = 1 << 20


@click.command("exec")
@click.argument("name")
@click.option("--user", default="", help="Name, uid or uid:gid inside; root when left out.")
@click.option("-e", "--env", multiple=True, metavar="NAME=VALUE", help="An environment variable; may be given again.")
@click.option("--cwd", default="/", help="Folder inside.")
@click.option("--timeout", type=click.FloatRange(0.1, 3600), default=60.0, show_default=True, help="Seconds before it is killed.")
@click.option("-n", "--no-stdin", is_flag=True, help="Do not pass standard input on.")
@click.argument("command", nargs=-1, required=True, metavar="-- COMMAND [ARG...]")
@output.json_option
def exec_command(
    name: str, user: str, env: tuple[str, ...], cwd: str, timeout: float, no_stdin: bool, command: tuple[str, ...], as_json: bool
) -> int:
    """Run a command inside a container and end as it ends.

    Its input is what a pipe or file gives, up to 1 MiB: echo hello | hostler exec web -- cat
    """
    body: dict[str, Any] = {"args": list(command), "env": list(env), "user": user, "cwd": cwd, "timeout": timeout, "output_limit": 1 << 20}
    body["stdin"] = "" if no_stdin else _input()
    with connect() as client:
        operation = finished(client, client.exec(name, body))
    from hostler.client.client import failure
    from hostler.core.specs import ExecResult

    error = failure(operation)
    if error is not None:
        raise error
    result = ExecResult.model_validate(operation.result)
    if as_json:
        output.print_json(result)
        return 0
    click.echo(result.stdout, nl=False)
    click.echo(result.stderr, nl=False, err=True)
    if result.truncated:
        click.echo("hostler: the output was cut at 1 MiB", err=True)
    if result.timed_out:
        click.echo(f"hostler: killed after {timeout:g} s", err=True)
        return TIMED_OUT
    return result.exit_code


def _input() -> str:
    """What is piped in. A terminal, /dev/null or a socket is no input: waiting for those would hang under cron."""
    if sys.stdin is None or sys.stdin.closed:
        return ""
    mode = os.fstat(sys.stdin.fileno()).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISREG(mode)):
        return ""
    data = sys.stdin.buffer.read(INPUT_LIMIT + 1)
    if len(data) > INPUT_LIMIT:
        raise Invalid("the input is larger than 1 MiB", hint="put it into a file of the image, or let the command fetch it")
    text = data.decode("utf-8", errors="surrogateescape")
    if "\0" in text or any("\udc80" <= char <= "\udcff" for char in text):
        raise Invalid("the input is not text", hint="pass binary data as base64: base64 FILE | hostler exec NAME -- base64 -d")
    return text


@click.command()
@click.argument("name", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written from now on.")
@click.option("--tail", type=click.IntRange(0, 100_000), help="Only so many last lines.")
@click.option("--platform", "of_platform", is_flag=True, help="Of the platform's programs on this machine; NAME is one of them.")
@output.json_option
def logs(name: str | None, follow: bool, tail: int | None, of_platform: bool, as_json: bool) -> None:
    """Show what a container wrote, or with --platform what the platform's programs did."""
    if of_platform:
        from hostler.cli.platform_logs import show

        show(name, tail, follow)
        return
    if name is None:
        raise click.UsageError("say which container, or --platform", click.get_current_context())
    with connect() as client:
        if not follow:
            page = client.logs(name, tail=tail)
            _print(page, as_json)
            while tail is None and page.lines:
                page = client.logs(name, cursor=page.cursor)
                _print(page, as_json)
            return
        for page in client.follow_logs(name, tail=tail):
            _print(page, as_json)


def _print(page: LogPage, as_json: bool) -> None:
    for line in page.lines:
        click.echo(line.model_dump_json() if as_json else line.text, err=line.stream == "stderr" and not as_json)
