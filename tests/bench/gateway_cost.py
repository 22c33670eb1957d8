#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the gateway's thread costs: microseconds of processor time per streamed token.

Starts `isthmus run --listen` unsplit and split, and lets clients in another process read streams from it by
plain sockets. The time is that of the thread named gateway (/proc/PID/task/TID/schedstat) from before the
requests to after the last byte, requests included; the tokens are those that the usage of each stream counts.
`wakes` are how often it went to sleep, per token. With --floor (`ninja -C build tests/bench/bench_wake`) also: what a thread
costs here that does nothing but wake and send as many bytes, for as many clients.

usage: tests/bench/gateway_cost.py [--model FILE] [--clients N[,N]...] [--tokens N] [--threads N]
                                   [--only local|split] [--floor] [--json]
"""
import argparse
import json
import os
import selectors
import socket
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
import e2e  # noqa: E402
import halves  # noqa: E402

FLOOR = os.path.join(e2e.ROOT, "build", "tests", "bench", "bench_wake")
CASES = {"local": ["--local"], "split": ["--split", "10"]}
READY_S = 60


def task(pid, name):
    for tid in os.listdir("/proc/%d/task" % pid):
        with open("/proc/%d/task/%s/comm" % (pid, tid), encoding="utf-8") as f:
            if f.read().strip() == name:
                return "/proc/%d/task/%s" % (pid, tid)
    sys.exit("process %d has no thread named %s" % (pid, name))


def spent(thread):
    """(microseconds on a processor, times that it slept)"""
    with open(thread + "/schedstat", encoding="utf-8") as f:
        us = int(f.read().split()[0]) / 1000
    with open(thread + "/status", encoding="utf-8") as f:
        sleeps = [line for line in f if line.startswith("voluntary_ctxt_switches")]
    return us, int(sleeps[0].split()[1])


def read_streams(port, model, n_clients, n_tokens):
    """In a process of its own: all streams at once, to their ends. How many tokens came."""
    waiting = selectors.DefaultSelector()
    text = {}
    for i in range(n_clients):
        body = json.dumps({"model": model, "prompt": "Client %d writes:" % i, "max_tokens": n_tokens,
                           "temperature": 0, "ignore_eos": True, "stream": True,
                           "stream_options": {"include_usage": True}}).encode()
        s = socket.create_connection(("127.0.0.1", port))
        s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
                  % len(body) + body)
        waiting.register(s, selectors.EVENT_READ)
        text[s] = bytearray()
    while waiting.get_map():
        for key, _ in waiting.select():
            some = key.fileobj.recv(65536)
            text[key.fileobj] += some
            if not some:
                waiting.unregister(key.fileobj)
                key.fileobj.close()
    tokens = 0
    for said in text.values():
        usage = [line for line in said.split(b"\n") if line.startswith(b"data: {") and b'"completion_tokens"' in line]
        if len(usage) != 1 or b"data: [DONE]" not in said:
            os.write(2, b"a stream was not whole: %r\n" % bytes(said[-300:]))
            os._exit(1)
        tokens += json.loads(usage[0][6:])["usage"]["completion_tokens"]
    return tokens


def in_a_process(*args):
    r, w = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(w, b"%d" % read_streams(*args))
            os._exit(0)
        finally: # nothing of what its parent started is to be ended by it
            os._exit(1)
    os.close(w)
    with os.fdopen(r, "rb") as f:
        said = f.read()
    if os.waitpid(child, 0)[1]:
        sys.exit("the clients failed")
    return int(said)


def measure(o, case):
    model = os.path.realpath(o.model or e2e.model("smollm2"))
    half = halves.Half("run", "-m", model, "--listen", "127.0.0.1:0", "--threads", o.threads, *CASES[case])
    if not e2e.wait_for(lambda: "/v1, model" in half.said(), READY_S):
        sys.exit("it is not ready: %s" % half.said())
    port = int(half.said().split("/v1, model")[0].rsplit(":", 1)[1])
    name = os.path.basename(model).removesuffix(".gguf")
    gateway = task(half.process.pid, "gateway")
    in_a_process(port, name, 1, 8)
    for n in o.clients:
        us, sleeps = spent(gateway)
        tokens = in_a_process(port, name, n, o.tokens)
        us_after, sleeps_after = spent(gateway)
        yield {"case": case, "clients": n, "tokens": tokens, "us_per_token": (us_after - us) / tokens,
               "wakes_per_token": (sleeps_after - sleeps) / tokens}
    half.stop()


def floor(n):
    done = subprocess.run([FLOOR, str(n), "500"], stdout=subprocess.PIPE, text=True, check=True)
    return {"case": "floor", "clients": n, "tokens": 500 * n, "us_per_token": float(done.stdout.split()[-4]),
            "wakes_per_token": 1 / n}


def main():
    p = argparse.ArgumentParser(usage=__doc__.split("usage: ")[1])
    p.add_argument("--model")
    p.add_argument("--clients", type=lambda text: [int(n) for n in text.split(",")], default=[1, 16])
    p.add_argument("--tokens", type=int, default=128)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--only", choices=list(CASES))
    p.add_argument("--floor", action="store_true")
    p.add_argument("--json", action="store_true")
    o = p.parse_args()
    for case in ([o.only] if o.only else list(CASES)) + ["floor"] * o.floor:
        for found in map(floor, o.clients) if case == "floor" else measure(o, case):
            if o.json:
                print(json.dumps(found))
            else:
                print("%-5s  %2d clients  %5d tokens  %6.1f us a token  %5.2f wakes a token"
                      % (found["case"], found["clients"], found["tokens"], found["us_per_token"],
                         found["wakes_per_token"]))
            sys.stdout.flush()


if __name__ == "__main__":
    main()
