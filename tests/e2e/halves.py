# SPDX-License-Identifier: Apache-2.0
"""The two halves as processes of their own, met at a port; in a network namespace each, if wanted."""
import atexit
import os
import random
import signal
import socket
import subprocess
import tempfile

import e2e

started = []


def stop_all():
    for p in started:
        if p.poll() is None:
            p.kill()
            p.wait()


atexit.register(stop_all)


def secured(half, args):
    """Encrypted unless a test says otherwise."""
    chosen = {"--insecure", "--identity", "--peer", "--authorized"}
    return [] if chosen & set(args) else e2e.secured(half)


def free_port():
    """A number nobody listens at, and that no client is given by the kernel meanwhile: below those."""
    while True:
        number = random.randrange(20000, 32000)
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                s.bind(("", number))
            return number
        except OSError:
            pass


def loopback_v6():
    """[::1], where this host has it; not every container does."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as s:
            s.bind(("::1", 0))
        return "[::1]"
    except OSError:
        e2e.say("NOT TRIED HERE: IPv6, for there is no ::1")
        return "127.0.0.1"


class Cloud:
    """`isthmus cloud`, its words in a file."""

    def __init__(self, model, port, *args, prefix=(), env=None):
        self.log = tempfile.TemporaryFile(mode="w+", encoding="utf-8")
        self.process = subprocess.Popen(
            [*prefix, e2e.BINARY, "cloud", "-m", model, "--port", port, *secured("cloud", args),
             *map(str, args)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self.log,
            env={**os.environ, **(env or {})})
        started.append(self.process)

    def said(self):
        self.log.seek(0)
        return self.log.read()

    def ready(self, seconds=60):
        """It serves; False: it ended, or does not come to it."""
        e2e.wait_for(lambda: " of " in self.said() or self.process.poll() is not None, seconds)
        return self.process.poll() is None

    def stop(self, sig=signal.SIGTERM):
        self.process.send_signal(sig)
        return self.process.wait(timeout=20)


def edge(model, port, *args, prefix=(), text_in=None, timeout=e2e.TIMEOUT_S):
    return subprocess.run([*prefix, e2e.BINARY, "edge", "-m", model, "--port", port,
                           *secured("edge", args), *map(str, args)], input=text_in, text=True, encoding="utf-8",
                          stdin=subprocess.DEVNULL if text_in is None else None,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout, check=False)


def edge_started(model, port, *args, prefix=()):
    """An edge in mid-answer."""
    p = subprocess.Popen([*prefix, e2e.BINARY, "edge", "-m", model, "--port", port,
                          *secured("edge", args), "-p",
                          "Once upon a time", "-n", "4000", "--ignore-eos", *map(str, args)],
                         stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    started.append(p)
    os.read(p.stdout.fileno(), 1)
    return p


def requests(quick=3, full=8):
    """Prompts, and what --local answers to them."""
    model = e2e.model("smollm2")
    prompts = [c["prompt_ids"] for c in e2e.golden("smollm2-greedy.jsonl")]
    n = 8 if e2e.QUICK else 24
    asked = [{"prompt_ids": p, "n_predict": n} for p in prompts[:quick if e2e.QUICK else full]]
    local = e2e.run_requests(asked, "-m", model, "--local", "--ignore-eos", "--parallel", "4")
    return asked, [r["ids"] for r in local]


def same_as_local(model, port, asked, local, *args, prefix=(), timeout=e2e.TIMEOUT_S):
    """The edge's ids are those of --local."""
    done = edge(model, port, "--split", "10", "--codec", "f32", "--ignore-eos", "--parallel", "4",
                "--requests", "-", *args, prefix=prefix, text_in=e2e.lines_of(asked),
                timeout=timeout)
    ids = [r["ids"] for r in e2e.json_lines(done, "edge " + port)]
    same = sum(a == b for a, b in zip(ids, local))
    e2e.say("%d of %d the same: %s %s" % (same, len(local), port, " ".join(map(str, args))))
    e2e.check(ids == local, "the ids of --local over " + port)
    return done
