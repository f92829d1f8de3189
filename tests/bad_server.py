"""A local HTTP server that misbehaves on purpose, and an OpenAI-compatible answer for when it does not."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Answers by the server's `reply`; what it was asked is in the server's `seen`."""

    def do_POST(self) -> None:
        length = int(self.headers.get("content-length", 0))
        body = json.loads(self.rfile.read(length) or b"null")
        self.server.seen.append((self.path, dict(self.headers), body))  # type: ignore[attr-defined]
        with suppress(OSError):  # the client has had enough
            self.server.reply(self)  # type: ignore[attr-defined]

    do_GET = do_POST

    def send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing on stderr."""


class Server:
    """`url`; `seen`: (path, headers, body) of every request."""

    def __init__(self, reply: Reply) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.seen: list[tuple[str, dict[str, str], Any]] = []
        self._server.reply, self._server.seen = reply, self.seen  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def serving(reply: Reply) -> Iterator[Server]:
    server = Server(reply)
    try:
        yield server
    finally:
        server.close()


def completion(text: str = "so\n42", prompt_tokens: int = 10, completion_tokens: int = 5) -> bytes:
    return completions(text, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)


def completions(
    *texts: str | None, cut: tuple[int, ...] = (), prompt_tokens: int = 10, completion_tokens: int = 50
) -> bytes:
    """A choice of each text; `cut`: the places of those that ended at their most tokens."""
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    choices = [
        {"index": at, "message": {"content": text}, "finish_reason": "length" if at in cut else "stop"}
        for at, text in enumerate(texts)
    ]
    return json.dumps({"choices": choices, "usage": usage}).encode()


def good(handler: Handler) -> None:
    handler.send(200, completion())


def silent(handler: Handler) -> None:
    time.sleep(5)


def dripping(handler: Handler) -> None:
    """A byte now and then: no single wait is long."""
    handler.send_response(200)
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.05)


def dripping_headers(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    for _ in range(100):
        handler.wfile.write(b"x")
        handler.wfile.flush()
        time.sleep(0.05)


def limited(handler: Handler) -> None:
    handler.send(429, b"slow down", retry_after="0")


def limited_for_an_hour(handler: Handler) -> None:
    handler.send(429, b"slow down", retry_after="3600")


def broken(handler: Handler) -> None:
    handler.send(500, b"oops")


def refusing(handler: Handler) -> None:
    handler.send(401, b"who are you")


def nonsense(handler: Handler) -> None:
    handler.send(200, b"<html>hello</html>")


def other_json(handler: Handler) -> None:
    handler.send(200, b'{"choices": []}')


def array(handler: Handler) -> None:
    handler.send(200, b"[1, 2]")


def textless(handler: Handler) -> None:
    handler.send(200, completion(text="  "))


def endless(handler: Handler) -> None:
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b"x" * 65536)


def cut(handler: Handler) -> None:
    """Hangs up in mid-answer."""
    handler.send_response(200)
    handler.send_header("content-length", "1000")
    handler.end_headers()
    handler.wfile.write(b"{")
    handler.wfile.flush()
    handler.connection.close()


MISBEHAVIOURS = (
    silent,
    dripping,
    dripping_headers,
    limited,
    limited_for_an_hour,
    broken,
    refusing,
    nonsense,
    other_json,
    array,
    textless,
    endless,
    cut,
)
