"""A chat-completions server on 127.0.0.1 that answers by a script, and counts what it was asked."""

import json
import threading
import time
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def completion(text="", *, model="suspect", **changes):
    """The body of an ordinary answer; ``changes`` replace fields of the message, the choice or the whole."""
    message = {"role": "assistant", "content": text, **changes.pop("message", {})}
    choice = {"index": 0, "message": message, "finish_reason": "stop", **changes.pop("choice", {})}
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    return {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": model, "choices": [choice], "usage": usage,
        "system_fingerprint": "fp_1", **changes,
    }


def asked(body):
    """What identifies a request: its last message, or its prompt."""
    return body["messages"][-1]["content"] if "messages" in body else body["prompt"]


def forget_proxies(monkeypatch):
    """Ask servers of this machine directly, whatever proxies the environment names."""
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


class ChatServer(ThreadingHTTPServer):
    """``script(body, times)`` gives the reply to a request that was seen ``times`` times before; None is the usual one.

    A reply is a dict with any of ``status``, ``headers``, ``body`` (JSON or bytes), ``delay`` (seconds before it), ``cut``
    (bytes after which the connection ends) and ``drip`` (seconds between bytes). ``seen`` counts requests, ``answered``
    answers that were whole and in time.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, script=None, delay=0.0):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script, self.delay = script, delay
        self.lock = threading.Lock()
        self.open = 0
        self.forget()

    def forget(self):
        """Count from nothing."""
        self.requests, self.headers, self.seen, self.answered = [], [], Counter(), Counter()
        self.most_open = 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def wait_for(self, count, timeout=60.0):
        """Wait until ``count`` requests have arrived."""
        end = time.monotonic() + timeout
        while len(self.requests) < count:
            assert time.monotonic() < end, f"only {len(self.requests)} of {count} requests came"
            time.sleep(0.005)

    def handle_error(self, request, client_address):
        """A client that was killed is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server, key = self.server, asked(body)
        with server.lock:
            server.requests.append(body)
            server.headers.append({**{name.lower(): value for name, value in self.headers.items()}, "path": self.path})
            times = server.seen[key]
            server.seen[key] += 1
            server.open += 1
            server.most_open = max(server.most_open, server.open)
        try:
            reply = (server.script and server.script(body, times)) or {}
            time.sleep(reply.get("delay", server.delay))
            self._reply(reply, key)
        finally:
            with server.lock:
                server.open -= 1

    def _reply(self, reply, key):
        body = reply.get("body", completion(f"answer to {key}"))
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(reply.get("status", 200))
        headers = {"Content-Type": "application/json", "Content-Length": str(len(data)), "x-request-id": "req_1"}
        for name, value in {**headers, **reply.get("headers", {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if "drip" in reply:
            for byte in data:
                self.wfile.write(bytes([byte]))
                time.sleep(reply["drip"])
        elif "cut" in reply:
            self.wfile.write(data[: reply["cut"]])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
        else:
            self.wfile.write(data)
            with self.server.lock:
                self.server.answered[key] += reply.get("status", 200) == 200 and "delay" not in reply


@contextmanager
def chat_server(script=None, delay=0.0):
    """A running server."""
    server = ChatServer(script, delay)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
