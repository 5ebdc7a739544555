"""A web server with a thread for each connection. It answers with what it was sent, and how often this connection and all of them asked."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_TOTAL = [0]
_LOCK = threading.Lock()


class Answer(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    asked = 0

    def do_POST(self) -> None:
        """Count, and send the body back."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.asked += 1
        with _LOCK:
            _TOTAL[0] += 1
        self._say(body, {"X-Asked": str(self.asked), "X-Thread": str(threading.get_ident())})

    def do_GET(self) -> None:
        """All that were counted."""
        self._say(json.dumps({"total": _TOTAL[0], "threads": threading.active_count()}).encode(), {})

    def _say(self, body: bytes, more: dict[str, str]) -> None:
        self.send_response(200)
        for name, value in {"Content-Length": str(len(body)), **more}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


class Server(ThreadingHTTPServer):
    """IPv4 on port 8000."""

    daemon_threads = True
    request_queue_size = 64


if __name__ == "__main__":
    Server(("0.0.0.0", 8000), Answer).serve_forever()
