"""Findings as people read them."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hostler.node.doctor.findings import Finding, Status

_MARKS = {Status.OK: "[green]ok[/]", Status.LACKS: "[yellow]lacks[/]", Status.BLOCKS: "[bold red]blocks[/]"}


def blocks(findings: list[Finding]) -> bool:
    """Whether Hostler cannot work with these."""
    return any(finding.status is Status.BLOCKS for finding in findings)


def show(findings: list[Finding], console: Console | None = None) -> None:
    """Print them as a table, with what to do below each that is not well, and a last line that sums up."""
    console = console or Console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("AREA", "WHAT", "", "DETAIL"):
        table.add_column(title, overflow="fold")
    area = ""
    for finding in findings:
        detail = escape(finding.detail) + (f"\n[dim]→ {escape(finding.remedy)}[/]" if finding.remedy else "")
        table.add_row("" if finding.area == area else escape(finding.area), escape(finding.what), _MARKS[finding.status], detail)
        area = finding.area
    console.print(table)
    counted = {status: sum(finding.status is status for finding in findings) for status in Status}
    verdict = "this host cannot run Hostler yet" if blocks(findings) else "this host can run Hostler"
    console.print(f"\n{counted[Status.OK]} ok, {counted[Status.LACKS]} lacking, {counted[Status.BLOCKS]} blocking: {verdict}")
