#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a path gives while others use it, recorded for tests/sim/sim_adapt: the rate at which one stream gets through
it, round trip and loss, five times a second. The path leads through network namespaces and `isthmus netem` (a
bottleneck with one queue); all streams are kernel TCP, cubic: the one that is measured, and up to three at once that
come and go. As root.

    sudo tests/bench/record_trace.py --path delay=10ms,rate=2mbit,queue=12kB --seconds 50 --seed 1 > shared-2mbit.trace

Round trips are those of small packets beside the streams, twenty a second: the median of a fifth of a second. Rate and
the share that is lost are those of the last second.
"""
import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "e2e"))
from namespaces import bridged, started  # noqa: E402  pylint: disable=wrong-import-position

ROOT = os.path.join(HERE, "..", "..")
BINARY = os.environ.get("ISTHMUS", os.path.join(ROOT, "build", "isthmus"))
NAMES = ["isthmus-trace-%d-%s" % (os.getpid(), n) for n in ("edge", "netem", "cloud")]
EVERY_S, PROBES, STREAMS = .2, 4, 3  # of a line of the trace; in it; beside
FAR = r"""
import json, socket, threading, time
def swallow(c):
    with c:
        measured, heard = c.recv(1) == b"M", []
        while part := c.recv(1 << 16):
            heard.append((time.monotonic(), len(part)))
        if measured:
            c.sendall(json.dumps(heard).encode())
def echo():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("10.9.0.2", 7300))
        while True:
            s.sendto(*s.recvfrom(2048))
threading.Thread(target=echo, daemon=True).start()
with socket.create_server(("10.9.0.2", 7301)) as s:
    print("ready", flush=True)
    while True:
        threading.Thread(target=swallow, args=s.accept()[:1], daemon=True).start()
"""
PROBE = r"""
import json, socket, sys, threading, time
gap, seconds = float(sys.argv[1]), float(sys.argv[2])
sent, took = [], {}
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.connect(("10.9.0.2", 7300))
    def hear():
        while True:
            n = int(s.recv(2048))
            took[n] = time.monotonic() - sent[n]
    threading.Thread(target=hear, daemon=True).start()
    start = time.monotonic()
    for n in range(int(seconds / gap)):
        time.sleep(max(0, start + n * gap - time.monotonic()))
        sent.append(time.monotonic())
        s.send(b"%08d" % n)
    time.sleep(1)
json.dump([start, [took.get(n) for n in range(len(sent))]], sys.stdout)
"""
STREAM = r"""
import socket, sys, time
end = time.monotonic() + float(sys.argv[2])
with socket.create_connection(("10.9.0.2", 7301), timeout=60) as c:
    c.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
    c.sendall(sys.argv[1].encode())
    while time.monotonic() < end:
        c.send(bytes(4096))
    c.shutdown(socket.SHUT_WR)
    while sys.argv[1] == "M" and (part := c.recv(1 << 16)):
        sys.stdout.write(part.decode())
"""


def inside(i, *args):
    return ["ip", "netns", "exec", NAMES[i], *args]


def others(dice, seconds, over):
    """A stream of some seconds, nothing for some, and so on."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not over.wait(dice.expovariate(1 / 6)):
        lasts = min(dice.uniform(2, 10), end - time.monotonic())
        if lasts > 0:
            subprocess.run(inside(0, sys.executable, "-c", STREAM, "o", "%g" % lasts), check=False,
                           stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def lines(start, took, heard, seconds):
    """(ms, kbit/s, round trip in ms, share lost), a fifth of a second each."""
    rtt = None
    for n in range(int(seconds / EVERY_S)):
        at = start + n * EVERY_S
        since = max(start, at + EVERY_S - 1)
        nbytes = sum(b for t, b in heard if since <= t < at + EVERY_S)
        probes = [t for t in took[n * PROBES:(n + 1) * PROBES] if t is not None]
        rtt = statistics.median(probes) * 1e3 if probes else rtt
        second = took[max(0, n * PROBES - 16):(n + 1) * PROBES]
        if rtt:
            yield n * EVERY_S * 1e3, nbytes * 8e-3 / (at + EVERY_S - since), rtt, second.count(None) / len(second)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--path", required=True, help="of isthmus netem")
    p.add_argument("--seconds", type=float, default=50)
    p.add_argument("--seed", type=int, default=1, help="of when others come and go")
    o = p.parse_args()
    over = threading.Event()
    with bridged(NAMES), started(inside(1, BINARY, "netem", "west", "east", o.path), "bridging"), \
            started(inside(2, sys.executable, "-c", FAR), "ready"):
        crowd = [threading.Thread(target=others, args=(random.Random(o.seed * 10 + i), o.seconds, over))
                 for i in range(STREAMS)]
        for thread in crowd:
            thread.start()
        stream = subprocess.Popen(inside(0, sys.executable, "-c", STREAM, "M", str(o.seconds)), text=True,
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        done = subprocess.run(inside(0, sys.executable, "-c", PROBE, str(EVERY_S / PROBES), str(o.seconds)),
                              check=True, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        heard = json.loads(stream.communicate(timeout=60)[0])
        over.set()
        for thread in crowd:
            thread.join()
    print("isthmus-link-trace 1\n# one TCP stream through netem %s, up to %d beside it, seed %d\n"
          "# ms, kbit/s, round trip in ms, share lost" % (o.path, STREAMS, o.seed))
    for line in lines(*json.loads(done.stdout), heard, o.seconds):
        print("%d %.1f %.2f %.3f" % line)


main()
