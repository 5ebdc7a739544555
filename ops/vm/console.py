"""What the machine says on its serial line, told apart: its own words, pytest's, and how it ended. Pure."""

from __future__ import annotations

from dataclasses import dataclass

_MARK = "@@hostler "
_PREFIX = "  vm | "


@dataclass
class Console:
    """Fed with bytes as they come; gives back lines to show."""

    kernel: str = ""
    """Release of the kernel and seconds since it was started, once pytest begins."""
    status: int | None = None
    """Exit status of what ran inside, once it has ended."""
    broken: str = ""
    """Why it cannot go on."""
    _partial: bytes = b""
    _inside: bool = False

    def feed(self, data: bytes) -> list[str]:
        """Lines for a person: pytest's own as they are, the machine's with a prefix. The marks are not shown."""
        *whole, self._partial = (self._partial + data).split(b"\n")
        shown = (self._line(line.decode("utf-8", "replace").rstrip("\r")) for line in whole)
        return [line for line in shown if line is not None]

    @property
    def ended(self) -> bool:
        """Whether nothing more is to come."""
        return self.status is not None or bool(self.broken)

    def _line(self, line: str) -> str | None:
        before, mark, rest = line.partition(_MARK)
        if mark:
            return self._marked(before, rest)
        if "Kernel panic" in line:
            self.broken = line.strip()
        if self._inside:
            return line
        return _PREFIX + line if line.strip() else None

    def _marked(self, before: str, rest: str) -> str | None:
        word, _, value = rest.partition(" ")
        if word == "begin":
            self._inside, self.kernel = True, value
            return f"{_PREFIX}kernel {value.replace(' ', ', up ')} s"
        if word == "end" and value.isdigit():
            self._inside, self.status = False, int(value)
        else:
            self.broken = rest
        return before or None
