"""What CRIU says, in words for a person. Pure.

The reason of a failure is the first line ``Error (`` of its log that is not about RLIMIT_NOFILE, which every run without
CAP_SYS_RESOURCE complains of, and not about tun, which it tries for its own knowledge.
"""

from __future__ import annotations

import re

_ERROR = re.compile(r"^(?:\(\d+\.\d+\) )?(?:\s*\d+: )?Error \((?P<where>[^)]*)\): (?P<words>.*)$")
_HARMLESS = ("RLIMIT_NOFILE", "Unable to create tun", "rlimit:")
#: Words of CRIU → what they mean, and what to do.
_KNOWN = (
    ("send_fds failed", "a process has a file that cannot be taken along, such as an io_uring", "end the program that uses it, or have it run without io_uring"),
    ("Can't retrieve FDs", "a process has a file that cannot be taken along, such as an io_uring", "end the program that uses it, or have it run without io_uring"),
    ("Can't dump file", "a process has a file that cannot be taken along", "end the program that uses it"),
    ("secretmem", "a process has secret memory", "end the program that uses it, or have it run without"),
    ("isn't empty", "there are message queues in /dev/mqueue", "end the program that uses them, and remove them"),
    ("link-remap", "a file that was deleted is in use and has another name", "restart the program that uses it"),
    ("proto 262", "a process has a socket of MPTCP", "have the program use plain TCP (Go: GODEBUG=multipathtcp=0)"),
    ("data to read", "a netlink socket has a message that nobody has read yet", "try again"),
    ("corked dgram", "a datagram is being put together", "try again"),
    ("Unsupported proto", "a process has a socket of a kind that cannot be taken along", "end the program that uses it"),
    ("Unknown socket collected", "a process has a socket of a kind that cannot be taken along", "end the program that uses it"),
    ("Can't dump nested", "a process has namespaces of its own", "end the container or sandbox that runs inside of this one"),
    ("more than one netns", "a process has a network namespace of its own", "end the container or sandbox that runs inside of this one"),
    ("found while seizing", "a process is being traced, or just ended", "end the debugger, or try again"),
    ("Can't bind inet socket", "an address that a program listens on is not the container's here", "have it listen on 0.0.0.0 or ::"),
    ("Can't lookup mount", "a process has a file open that lies outside of the container, or a message queue", "a command run from outside is under way: wait until it has ended"),
    ("external socket", "a connection to a socket outside of the container is open", "close it"),
    ("Can't dump ghost file", "a deleted file that is still open is too large", "close it: files of up to 64 MiB that were deleted are taken along"),
    ("ctty inheritance", "a shell keeps /dev/tty open on a terminal that another process serves", "end it, or use bash, which does not"),
    ("Connected TCP socket", "a TCP connection cannot be taken along", "close it"),
    ("In-flight connection", "a connection is just being made", "try again"),
    ("Unsupported socket", "a process has a socket of a kind that cannot be taken along", "end the program that uses it"),
    ("is in ptrace", "a process is being traced", "end the debugger"),
    ("Can't set a memory policy", "a process has bound its memory to a NUMA node", "run it without numactl"),
    ("Can't seize", "a process could not be halted", "a debugger holds it, or it waits for a disk: try again"),
    ("No space left", "the server has no room for the images", "free disk on the server"),
    ("Unable to find task", "processes of the container are not below its init", "a command run from outside is under way: wait until it has ended"),
)


def reason(log: str) -> str:
    """The line of ``log`` that says why; empty when none does."""
    for line in log.splitlines():
        found = _ERROR.match(line)
        if found and not any(word in found["words"] for word in _HARMLESS):
            return found["words"].strip()
    return ""


def explained(said: str) -> tuple[str, str]:
    """What a reason means for a person, and a remedy; the reason itself where it is not known."""
    for words, meaning, remedy in _KNOWN:
        if words.lower() in said.lower():
            return f"{meaning} (CRIU: {said})", remedy
    return said or "CRIU gave no reason", "the operation's log on the server (dump.log, restore.log) tells more"


_STATS = {"pages": "Memory pages written", "skipped": "Memory pages skipped from parent", "frozen": "Frozen time", "freezing": "Freezing time"}


def stats(output: str) -> dict[str, int]:
    """The figures of ``--display-stats``: pages, skipped pages, µs frozen and µs to freeze; 0 where CRIU does not say."""
    found = {}
    for key, words in _STATS.items():
        match = re.search(rf"^{words}: (\d+)", output, re.MULTILINE)
        found[key] = int(match[1]) if match else 0
    return found
