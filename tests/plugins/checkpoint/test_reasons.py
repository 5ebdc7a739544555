"""What CRIU said, in words for a person; the lines are of CRIU 4.2.1."""

from __future__ import annotations

import pytest

from hostler_plugins.checkpoint.reasons import explained, reason

LOG = """(00.000123) Version: 4.2.1 (gitid 0)
(00.000800) Error (criu/util.c:1234): Can't setup RLIMIT_NOFILE for self: Operation not permitted
(00.001000) Error (criu/tun.c:83): tun: Unable to create tun: No such file or directory
(00.020000)  7: Error (criu/sk-inet.c:140): inet: Unsupported proto 262 for socket 4cf33b
(00.021000) Error (criu/cr-dump.c:2111): Dumping FAILED.
"""


def test_the_first_line_that_matters_is_the_reason() -> None:
    assert reason(LOG) == "inet: Unsupported proto 262 for socket 4cf33b"
    assert reason("") == ""


@pytest.mark.parametrize(
    ("said", "meaning"),
    [
        ("inet: Unsupported proto 262 for socket 4cf33b", "MPTCP"),
        ("Can't create link remap for /tmp/ghost. Use link-remap option.", "has another name"),
        ("sockets: BUG! Unknown socket collected (family 40)", "socket of a kind"),
        ("Can't dump nested uts namespace for 1460", "namespaces of its own"),
        ("Unknown shit 100600 (/secretmem (deleted))", "secret memory"),
        ("Can't retrieve FDs from socket", "io_uring"),
        ("zombie 24648 (comm awk) found while seizing", "traced"),
        ("Can't bind inet socket (id 7): Cannot assign requested address", "address"),
    ],
)
def test_a_known_reason_is_explained_with_a_remedy(said: str, meaning: str) -> None:
    words, remedy = explained(said)
    assert meaning in words and said in words and remedy


def test_an_unknown_one_is_told_as_it_is() -> None:
    assert explained("something else")[0] == "something else"
    assert "dump.log" in explained("")[1]
