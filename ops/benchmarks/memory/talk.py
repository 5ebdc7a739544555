"""talk.py ADDRESS PORT: ask a server over one connection every millisecond, until standard input ends; then print what was seen, as JSON.

A process of its own, so that nothing of the benchmark delays it.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time

#: Seconds between two questions, and for an answer.
EVERY, PATIENCE = 0.001, 30.0
#: Gaps from here on are told one by one, in ms.
TOLD = 10.0


def talk(address: str, port: int) -> dict[str, object]:
    """Answers counted, the largest gap between two of them, and each larger one: when it began (s on the monotonic clock) and its length (ms)."""
    gaps: list[tuple[float, float]] = []
    worst, count = 0.0, 0
    with socket.create_connection((address, port), timeout=PATIENCE) as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _say("talking")
        last = time.monotonic()
        while not select.select([sys.stdin], [], [], 0)[0]:
            count += 1
            asked = count.to_bytes(8, "big")
            link.sendall(asked)
            answer = b""
            while len(answer) < len(asked):
                some = link.recv(8 - len(answer))
                if not some:
                    raise ConnectionError("the server closed the connection")
                answer += some
            if answer != asked:
                raise ConnectionError(f"answer {answer.hex()} to question {count}")
            now = time.monotonic()
            gap = (now - last) * 1000
            worst = max(worst, gap)
            if gap >= TOLD:
                gaps.append((last, round(gap, 1)))
            last = now
            time.sleep(EVERY)
    return {"count": count, "worst": round(worst, 1), "gaps": gaps}


def _say(words: str) -> None:
    print(words, flush=True)


if __name__ == "__main__":
    os.nice(-10)
    _say(json.dumps(talk(sys.argv[1], int(sys.argv[2]))))
