"""Where a server listens and is reached: ``host:port``, IPv6 hosts in brackets. Pure."""

from __future__ import annotations

from hostler.core.errors import Invalid

#: Where none is said. Not registered with IANA; the panel's is 8650.
PORT = 8653


def parse(text: str) -> tuple[str, int]:
    """Host and port; :data:`PORT` when none is said. Raises :class:`Invalid`."""
    wrong = Invalid(f"{text[:80]!r} is no address", hint=f"write HOST:PORT, such as 10.0.0.1:{PORT} or [fd00::1]:{PORT}")
    host, colon, port = text, "", str(PORT)
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise wrong
        port = rest[1:] if rest else port
    elif text.count(":") == 1:
        host, colon, port = text.partition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535 or any(c in host for c in " /[]"):
        raise wrong
    return host, int(port)


def written(host: str, port: int) -> str:
    """The same as text."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
