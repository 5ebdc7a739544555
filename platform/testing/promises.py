"""The table of drivers and promises, as a terminal shows it and as a document keeps it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

KEPT, BROKEN, NOT_ASKED = "kept", "BROKEN", "-"
#: Lines of a document between which the table stands.
BEGIN, END = "<!-- promises: written by pytest --driver-table -->", "<!-- promises: end -->"
_SHOWN = {KEPT: "✓", BROKEN: "**broken**", NOT_ASKED: "–", "": ""}
_READ = {shown: word for word, shown in _SHOWN.items()}
_WHERE = "seen on"

#: (driver, promise) → how it fared.
Results = Mapping[tuple[str, str], str]


def lines(results: Results, promises: Mapping[str, str]) -> Iterator[tuple[str, bool]]:
    """For a terminal: each line, and whether a promise in it is broken. ``promises``: id → sentence."""
    drivers = sorted({driver for driver, _ in results})
    columns = {driver: max(len(driver), 6) for driver in drivers}
    width = max(len(promise) for promise in promises)
    yield " ".join(["promise".ljust(width), *(driver.ljust(size) for driver, size in columns.items()), "what it says"]), False
    for promise, sentence in promises.items():
        cells = [results.get((driver, promise), "").ljust(size) for driver, size in columns.items()]
        yield " ".join([promise.ljust(width), *cells, sentence]), any(BROKEN in cell for cell in cells)


def document(text: str, results: Results, promises: Mapping[str, str], where: str) -> str:
    """A document with the table brought up to date: columns of drivers that were not run stay. ``where``: the host, in a word or two.

    Raises :class:`LookupError` when the document has no place for it.
    """
    before, begin, rest = text.partition(BEGIN + "\n")
    old, end, after = rest.partition(END)
    if not begin or not end:
        raise LookupError(f"the lines {BEGIN} and {END} are missing")
    known, sentences = _parse(old)
    ran = {driver for driver, _ in results}
    cells = {key: word for key, word in known.items() if key[0] not in ran} | dict(results) | {(driver, _WHERE): where for driver in ran}
    return before + begin + _table(cells, sentences | dict(promises)) + end + after


def _table(cells: Mapping[tuple[str, str], str], sentences: Mapping[str, str]) -> str:
    drivers = sorted({driver for driver, _ in cells})
    rows = [["promise", *(driver.replace(":", ": ") for driver in drivers), "what it says"], ["---"] * (len(drivers) + 2)]
    rows.append([_WHERE, *(cells.get((driver, _WHERE), "") for driver in drivers), ""])
    for promise in sorted(sentences, key=lambda one: (-sum((driver, one) in cells for driver in drivers), one)):
        rows.append([f"`{promise}`", *(_SHOWN[cells.get((driver, promise), "")] for driver in drivers), sentences[promise]])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _parse(table: str) -> tuple[dict[tuple[str, str], str], dict[str, str]]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("|")]
    cells: dict[tuple[str, str], str] = {}
    sentences: dict[str, str] = {}
    if not rows:
        return cells, sentences
    drivers = [name.replace(": ", ":") for name in rows[0][1:-1]]
    for promise, *words, sentence in rows[2:]:
        if promise == _WHERE:
            cells |= {(driver, _WHERE): word for driver, word in zip(drivers, words, strict=True) if word}
            continue
        sentences[promise.strip("`")] = sentence
        cells |= {(driver, promise.strip("`")): _READ[word] for driver, word in zip(drivers, words, strict=True) if word}
    return cells, sentences
