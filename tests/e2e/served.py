# SPDX-License-Identifier: Apache-2.0
"""Both halves by one `run --listen`: what asks it by HTTP, and a client of its control socket."""
import http.client
import json
import socket
import threading

import e2e
import halves

LONG = 1500  # tokens: an answer that lasts until it is ended


class Control:
    """A client of the socket."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(60)
        self.socket.connect(path)
        self.file = self.socket.makefile("rwb")

    def line(self, line):
        self.file.write(line.encode() + b"\n")
        self.file.flush()
        return json.loads(self.file.readline())

    def ask(self, method, **params):
        return self.line(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}))

    def result(self, method, **params):
        answer = self.ask(method, **params)
        e2e.check("result" in answer, "%s %s: %s" % (method, params, answer))
        return answer.get("result")

    def code(self, method, **params):
        return self.ask(method, **params).get("error", {}).get("code")


class Answer(threading.Thread):
    """An answer by HTTP, in the making; `status` and `body` when it has ended."""

    def __init__(self, port, n=LONG, prompt="Once upon a time there was a"):
        super().__init__(daemon=True)
        self.port, self.n, self.prompt, self.status, self.body = port, n, prompt, 0, None
        self.start()

    def run(self):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=e2e.TIMEOUT_S)
        try:
            c.request("GET", "/v1/models")
            name = json.loads(c.getresponse().read())["data"][0]["id"]
            c.request("POST", "/v1/completions", json.dumps({
                "model": name, "prompt": self.prompt, "max_tokens": self.n, "temperature": 0, "ignore_eos": True}),
                {"Content-Type": "application/json"})
            r = c.getresponse()
            self.status, self.body = r.status, r.read().decode()
        except (OSError, http.client.HTTPException, ValueError, LookupError) as error:
            self.body = repr(error)
        finally:
            c.close()

    def ended(self, seconds=60):
        self.join(seconds)
        return not self.is_alive()


def answers(path):
    """Whether somebody listens there, who may have replaced what a dead process left."""
    try:
        Control(path)
        return True
    except OSError:
        return False


def serving(path, model, *args):
    port = halves.free_port()
    half = halves.Half("run", "-m", model, "--listen", "127.0.0.1:%d" % port, "--control", path,
                       *e2e.ONE_CORE, *args)
    if not e2e.wait_for(lambda: answers(path) or half.process.poll() is not None, 120) \
            or half.process.poll() is not None:
        halves.hung("serving", half.said())
    return half, port
