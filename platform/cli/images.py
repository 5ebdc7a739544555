"""image: list, show, build, import, delete."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import click

from hostler.cli import output, progress
from hostler.cli.connection import connect
from hostler.cli.waiting import conclude, wait_options
from hostler.core.units import format_size

_CHUNK = 1 << 18


@click.group()
def image() -> None:
    """Images: archives of root file systems that containers are made from."""


@image.command("list")
@output.json_option
def list_images(as_json: bool) -> None:
    """List your images and the provider's."""
    with connect() as client:
        found = list(client.images())
    if as_json:
        output.print_json(found)
        return
    rows = [[row.name, row.state, "own" if row.own else "provider's", format_size(row.size), format_size(row.unpacked_size), row.digest[7:19]] for row in found]
    output.table(["NAME", "STATE", "WHOSE", "ARCHIVE", "UNPACKED", "DIGEST"], rows)


@image.command()
@click.argument("name")
@output.json_option
def show(name: str, as_json: bool) -> None:
    """Show one image."""
    with connect() as client:
        found = client.image(name)
    if as_json:
        output.print_json(found)
        return
    config = found.config
    output.fields(
        [
            ("name", found.name),
            ("whose", "own" if found.own else "the provider's"),
            ("state", found.state),
            ("digest", found.digest),
            ("format", found.driver),
            ("archive", format_size(found.size)),
            ("unpacked", format_size(found.unpacked_size)),
            ("entry point", " ".join(config.entrypoint)),
            ("command", " ".join(config.cmd)),
            ("environment", " ".join(config.env)),
            ("user", config.user),
            ("ports", ", ".join(config.ports)),
            ("created", output.ago(found.created_at)),
        ]
    )


@image.command()
@click.argument("recipe")
@click.option("--name", help="The image's name; the recipe's when left out.")
@wait_options
def build(recipe: str, name: str | None, no_wait: bool, as_json: bool) -> None:
    """Make an image from one of the platform's recipes."""
    with connect() as client:
        conclude(client, client.build_image(name or recipe, recipe), no_wait=no_wait, as_json=as_json)


@image.command("import")
@click.argument("source", type=click.Path(exists=True, path_type=Path), metavar="FILE|FOLDER")
@click.option("--name", required=True, help="The image's name.")
@wait_options
def import_image(source: Path, name: str, no_wait: bool, as_json: bool) -> None:
    """Upload an archive: a tar of a root file system, `docker save`'s, or an OCI layout as file or folder."""
    with connect() as client, _archive(source) as file:
        size = os.fstat(file.fileno()).st_size
        with progress.of_bytes(f"upload {name}", size) as advance:
            operation = client.import_image(name, _chunks(file, advance), size)
        conclude(client, operation, no_wait=no_wait, as_json=as_json)


@image.command()
@click.argument("name")
@wait_options
def delete(name: str, no_wait: bool, as_json: bool) -> None:
    """Delete an image that no container uses."""
    with connect() as client:
        conclude(client, client.delete_image(name), no_wait=no_wait, as_json=as_json)


@contextmanager
def _archive(source: Path) -> Iterator[BinaryIO]:
    """The file itself, or a folder's OCI layout packed into one that goes away after."""
    if source.is_file():
        with source.open("rb") as file:
            yield file
        return
    from hostler.client.archives import tar_layout

    with tempfile.TemporaryFile() as packed:
        tar_layout(source, packed)
        packed.seek(0)
        yield packed


def _chunks(file: BinaryIO, advance: Callable[[int], None]) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK):
        yield chunk
        advance(len(chunk))
