"""A server that takes events as it is told to, on a port of this machine."""

import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answering = Callable[[list[dict[str, Any]]], tuple[int, dict[str, str], Any]]


def taken(_: list[dict[str, Any]]) -> tuple[int, dict[str, str], Any]:
    return 202, {}, {"object": "event.intake", "refused": []}


@dataclass
class Receiver:
    """What came, and what is answered: the answers of `script` first, then `answer` for ever."""

    url: str = ""
    answer: Answering = taken
    script: list[Answering] = field(default_factory=list)
    requests: list[tuple[dict[str, str], list[dict[str, Any]]]] = field(default_factory=list)
    accepted: dict[str, dict[str, Any]] = field(default_factory=dict)
    connections: int = 0
    hanging: threading.Event = field(default_factory=threading.Event)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def wait(self, condition: Callable[[], bool], timeout_s: float = 10.0) -> bool:
        """Wait until something has come."""
        with self.changed:
            return self.changed.wait_for(condition, timeout_s)

    def hang(self, events: list[dict[str, Any]]) -> tuple[int, dict[str, str], Any]:
        """Answer when the test is over."""
        self.hanging.wait(20)
        return 503, {}, {}

    def take(self, headers: dict[str, str], data: bytes) -> tuple[int, dict[str, str], Any]:
        events = json.loads(gzip.decompress(data) if headers.get("Content-Encoding") == "gzip" else data)["events"]
        with self.changed:
            self.requests.append((headers, events))
            answer = self.script.pop(0) if self.script else self.answer
            self.changed.notify_all()
        status, more, body = answer(events)
        with self.changed:
            if status == 202:
                refused = {one["index"] for one in body.get("refused", [])}
                self.accepted.update(
                    {event["event_id"]: event for index, event in enumerate(events) if index not in refused}
                )
            self.changed.notify_all()
        return status, more, body


def says(status: int, headers: dict[str, str] | None = None, body: Any = None) -> Answering:
    return lambda _: (status, headers or {}, body or {})


@contextmanager
def receiving() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            receiver.connections += 1

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            status, headers, body = receiver.take(dict(self.headers), data)
            text = json.dumps(body).encode()
            try:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)
            except OSError:
                self.close_connection = True  # the sender has gone

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    receiver.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield receiver
    finally:
        receiver.hanging.set()
        server.shutdown()
        thread.join()
        server.server_close()


def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> bool:
    """Look until something is so, or time is up."""
    ends_at = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > ends_at:
            return False
        time.sleep(0.005)
    return True
