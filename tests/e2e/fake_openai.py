# SPDX-License-Identifier: Apache-2.0
"""An OpenAI server that answers as a script says, for tests of what asks one.

A script is a list of steps for each request, made by a function of the request's number and its body:

    ("wait", S)           nothing for S seconds
    ("bytes", b"...")     these bytes, raw
    ("head", code)        an HTTP head; 200 begins a chunked stream of events
    ("event", object)     a server-sent event in a chunk of its own
    ("end",)              the last chunk
    ("drop",)             the connection is reset
"""
import json
import socket
import struct
import threading
import time


class Fake:
    """Listens on 127.0.0.1; asked holds (seconds since the start, path, headers, body) of every request."""

    def __init__(self, script):
        self.script = script
        self.asked = []
        self.lock = threading.Lock()
        self.start = time.monotonic()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = "http://127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        with connection, connection.makefile("rb") as f:
            try:
                while self.answer(connection, f):
                    pass
            except OSError:
                pass

    def answer(self, connection, f):
        line = f.readline().decode()
        if not line:
            return False
        method, path, _ = line.split()
        headers = {}
        while (line := f.readline().decode().strip()):
            name, value = line.split(":", 1)
            headers[name.lower()] = value.strip()
        body = f.read(int(headers.get("content-length", 0)))
        if method == "GET":
            listed = json.dumps({"object": "list", "data": [{"id": "fake"}]}).encode()
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(listed) + listed)
            return True
        with self.lock:
            number = len(self.asked)
            self.asked.append((time.monotonic() - self.start, path, headers, json.loads(body)))
        for step in self.script(number, json.loads(body)):
            if not self.step(connection, *step):
                return False
        return True

    @staticmethod
    def step(connection, what, *args):
        if what == "wait":
            time.sleep(args[0])
        elif what == "bytes":
            connection.sendall(args[0])
        elif what == "head":
            code = args[0]
            kind = b"Transfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n" if code == 200 \
                else b"Content-Length: 0\r\n"
            connection.sendall(b"HTTP/1.1 %d X\r\n%s\r\n" % (code, kind))
        elif what == "event":
            data = args[0] if isinstance(args[0], bytes) else json.dumps(args[0]).encode()
            data = b"data: " + data + b"\n\n"
            connection.sendall(b"%x\r\n%s\r\n" % (len(data), data))
        elif what == "end":
            connection.sendall(b"0\r\n\r\n")
        elif what == "drop":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        return True


def text(piece, **more):
    return ("event", {"choices": [{"index": 0, "text": piece, **more}]})


def delta(piece, **more):
    return ("event", {"choices": [{"index": 0, "delta": {"content": piece}, **more}]})


def answer(tokens, first_s, gap_s, prompt_tokens=5, piece=text):
    """A whole answer: the first piece after first_s, each further one after gap_s."""
    steps = [("head", 200), ("wait", first_s), piece(" a")]
    for _ in range(tokens - 1):
        steps += [("wait", gap_s), piece(" b")]
    return steps + [("event", {"choices": [{"index": 0, "text": "", "finish_reason": "length"}]}),
                    ("event", {"choices": [], "usage": {"prompt_tokens": prompt_tokens,
                                                        "completion_tokens": tokens}}),
                    ("event", b"[DONE]"), ("end",)]
