"""The outer edge: runs a command and turns whatever it raises into words and an exit status.

0: done. 1: it could not be done. 2: the command line itself is wrong. 130: interrupted. ``exec`` ends with its command's own.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import click

INTERRUPTED = 130


def run(command: click.Command, args: list[str] | None = None) -> int:
    """Run a command line; the exit status."""
    try:
        result: Any = command.main(args, prog_name="hostler", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return error.exit_code
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx is not None else "hostler"
        failed(error.format_message().rstrip("."), f"{path} --help")
        return error.exit_code
    except click.ClickException as error:
        failed(error.format_message(), "")
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # who read our output has gone: say no more
        return 1
    except Exception as error:
        from hostler.core.errors import HostlerError  # costs more than all of --help: only now

        if not isinstance(error, HostlerError):
            raise  # a defect: its traceback is what helps
        return failed(error.message, error.hint)
    return result if isinstance(result, int) else 0


def failed(message: str, hint: str) -> int:
    """Say what went wrong and what to do next; the exit status."""
    click.echo(click.style("error: ", fg="red", bold=True) + message, err=True)
    if hint:
        click.echo(click.style("hint: ", fg="cyan") + hint, err=True)
    return 1
