#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The link beside kernel TCP over the same bad path: `isthmus netem` between network namespaces, as root.

For each path: what `isthmus bench transport` streams one way through it, encrypted, over kernel UDP, beside one
stream of TCP (cubic), and how long pings wait meanwhile, which is the queue; and 4 MB
by TCP, from connect() to the answer. Markdown on stdout. About two minutes; --paths 0,2 does some of them."""
import argparse
import contextlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "e2e"))
from namespaces import bridged, started  # noqa: E402  pylint: disable=wrong-import-position

ROOT = os.path.join(HERE, "..", "..")
BINARY = os.environ.get("ISTHMUS", os.path.join(ROOT, "build", "isthmus"))
NAMES = ["isthmus-bench-%d-%s" % (os.getpid(), n) for n in ("edge", "netem", "cloud")]
PATHS = (
    ("RTT 20 ms, 100 Mbit/s", "delay=10ms,rate=100mbit,queue=1MB"),
    ("the same, 1 % lost", "delay=10ms,rate=100mbit,queue=1MB,drop=1%,seed=1"),
    ("RTT 100 ms, 100 Mbit/s, .1 % lost", "delay=50ms,rate=100mbit,queue=5MB,drop=.1%,seed=1"),
)
TCP = r"""
import socket, sys, time
def cubic(s):
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
nbytes, seconds = int(sys.argv[2]), float(sys.argv[3])
if sys.argv[1] == "serve":
    with socket.create_server(("10.9.0.2", 7301)) as s:
        print("ready", flush=True)
        with s.accept()[0] as c:
            cubic(c)
            total, first = 0, time.monotonic()
            while part := c.recv(1 << 20):
                total += len(part)
            c.sendall(b"%d %f" % (total, time.monotonic() - first))
else:
    start = time.monotonic()
    with socket.create_connection(("10.9.0.2", 7301), timeout=60) as c:
        cubic(c)
        sent, block = 0, bytes(65536)
        while (sent < nbytes) if nbytes else (time.monotonic() < start + seconds):
            sent += c.send(block[:nbytes - sent] if nbytes else block)
        c.shutdown(socket.SHUT_WR)
        total, took = c.recv(64).split()
        print(time.monotonic() - start, int(total) * 8 / float(took))
"""


def inside(i, *args):
    return ["ip", "netns", "exec", NAMES[i], *args]


def out(args):
    return subprocess.run(args, check=True, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE).stdout


@contextlib.contextmanager
def pinged(times):
    """Round-trip times in ms, of pings that share the way."""
    p = subprocess.Popen(inside(0, "ping", "-i", ".02", "10.9.0.2"), text=True, stdout=subprocess.PIPE,
                         stdin=subprocess.DEVNULL)
    yield
    p.send_signal(signal.SIGINT)
    times.extend(float(t) for t in re.findall(r"time=([0-9.]+) ms", p.communicate(timeout=20)[0]))


def tcp(nbytes, seconds):
    with started(inside(2, sys.executable, "-c", TCP, "serve", "0", "0"), "ready"):
        took, rate = out(inside(0, sys.executable, "-c", TCP, "send", str(nbytes), str(seconds))).split()
    return float(took), float(rate)


def link(folder, seconds, times):
    keys = [os.path.join(folder, n) for n in ("asker.key", "answerer.key")]
    if not os.path.exists(keys[0]):
        for key in keys:
            out([BINARY, "keygen", "-o", key])
    prints = [out([BINARY, "keygen", "--show", k]).strip() for k in keys]
    common = [BINARY, "bench", "transport", "--port", "udp:10.9.0.2:7300"]
    with started(inside(2, *common, "--listen", "--identity", keys[1], "--peer", prints[0]), "answering"):
        with pinged(times):
            rows = out(inside(0, *common, "--connect", "--identity", keys[0], "--peer", prints[1], "--size",
                              "60000", "--sessions", "8", "--kind", "link", "--time", str(4 * seconds), "--format",
                              "jsonl"))
    row = [r for r in map(json.loads, rows.splitlines()) if r["kind"] == "link"][0]
    return row["goodput_bit_per_s"]


def queue(times, base):
    late = sorted(t - base for t in times[len(times) // 4:]) # without start-up
    return "%.1f / %.1f" % (late[len(late) // 2], late[len(late) * 99 // 100]) if late else "-"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--paths", default="0,1,2")
    parser.add_argument("--time", type=float, default=4, help="seconds a stream")
    parser.add_argument("--transfers", type=int, default=3)
    args = parser.parse_args()
    print("| path | link Mbit/s | its queue ms p50 / p99 | TCP cubic Mbit/s | its queue | 4 MB by TCP, s |", flush=True)
    print("|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder, bridged(NAMES):
        for name, spec in (PATHS[int(i)] for i in args.paths.split(",")):
            with started(inside(1, BINARY, "netem", "west", "east", spec), "bridging"):
                base = min(float(t) for t in re.findall(r"time=([0-9.]+) ms", out(
                    inside(0, "ping", "-c", "5", "-i", ".05", "10.9.0.2"))))
                by_link, by_tcp = [], []
                mbit = link(folder, args.time, by_link) * 1e-6
                with pinged(by_tcp):
                    stream = tcp(0, args.time)[1] * 1e-6
                whole = sorted(tcp(4000000, 0)[0] for _ in range(args.transfers))
            print("| %s | %.1f | %s | %.1f | %s | %s |" % (
                name, mbit, queue(by_link, base), stream, queue(by_tcp, base),
                "%.2f (%.2f to %.2f)" % (statistics.median(whole), whole[0], whole[-1])), flush=True)


main()
