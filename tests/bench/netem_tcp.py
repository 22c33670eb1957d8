#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The link beside kernel TCP over the same bad path: `isthmus netem` between network namespaces, as root.

For each path: what `isthmus bench transport` streams one way through it, encrypted, over kernel UDP, beside one
stream of TCP (cubic), and how long pings wait meanwhile, which is the queue; and 4 MB, by the link and by TCP, on a
connection that has carried nothing yet, from the first byte to the answer that says that the last has come. The link
gets them as 8 messages of 500 kB, for one has 512 packets at most.

Goals: 4 MB with 1 % lost within twice the time without losses, and before TCP; over 100 ms with .1 % lost 90 % of
the rate, and a queue of half an RTT at most (p99).

usage: tests/bench/netem_tcp.py [--paths 0,1,2] [--time S] [--transfers N] [--format md|jsonl] [--quick]
       (--quick: short, only see that it runs: no figure is judged)

About two minutes. Exit code 1 when a goal is missed; 77, as that of a test that is skipped, without network
namespaces."""
import argparse
import contextlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "e2e"))
import e2e  # noqa: E402  pylint: disable=wrong-import-position
from goals import Goals  # noqa: E402  pylint: disable=wrong-import-position
from namespaces import bridged, end_by, started  # noqa: E402  pylint: disable=wrong-import-position

NAMES = ["isthmus-bench-%d-%s" % (os.getpid(), n) for n in ("edge", "netem", "cloud")]
RATE_MBIT = 100
PATHS = (
    ("RTT 20 ms, 100 Mbit/s", "delay=10ms,rate=100mbit,queue=1MB"),
    ("RTT 20 ms, 100 Mbit/s, 1 % lost", "delay=10ms,rate=100mbit,queue=1MB,drop=1%,seed=1"),
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
    with socket.create_connection(("10.9.0.2", 7301), timeout=60) as c:
        cubic(c)
        start = time.monotonic()
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


@contextlib.contextmanager
def answering():
    """How the asking end of `bench transport` begins, while there is another that answers it."""
    common = [e2e.BINARY, "bench", "transport", "--port", "udp:10.9.0.2:7300"]
    with started(inside(2, *common, "--listen", *e2e.secured("cloud")), "answering"):
        yield inside(0, *common, "--connect", "--kind", "link", "--format", "jsonl", *e2e.secured("edge"))


def link_stream(asking, seconds):
    row = out([*asking, "--size", "60000", "--sessions", "8", "--time", str(4 * seconds)])
    return json.loads(row)["goodput_bit_per_s"] * 1e-6


def link_transfer(asking):
    return json.loads(out([*asking, "--size", "500000", "--sessions", "8", "--transfer", "8"]))["time_s"]


def queue(times, base):
    """ms that pings waited, p50 and p99, without start-up."""
    late = sorted(t - base for t in times[len(times) // 4:])
    return (late[len(late) // 2], late[len(late) * 99 // 100]) if late else (None, None)


def measure(name, spec, o):
    with started(inside(1, e2e.BINARY, "netem", "west", "east", spec), "bridging"), answering() as asking:
        base = min(float(t) for t in re.findall(r"time=([0-9.]+) ms", out(
            inside(0, "ping", "-c", "5", "-i", ".05", "10.9.0.2"))))
        by_link, by_tcp = [], []
        with pinged(by_link):
            link = link_stream(asking, o.time)
        with pinged(by_tcp):
            stream = tcp(0, o.time)[1] * 1e-6
        pairs = [(link_transfer(asking), tcp(4000000, 0)[0]) for _ in range(o.transfers)]
    row = {"path": name, "netem": spec, "link_mbit_per_s": link, "tcp_mbit_per_s": stream}
    row["link_queue_ms_p50"], row["link_queue_ms_p99"] = queue(by_link, base)
    row["tcp_queue_ms_p50"], row["tcp_queue_ms_p99"] = queue(by_tcp, base)
    row["link_4mb_s"], row["tcp_4mb_s"] = ([round(t, 4) for t in sorted(times)] for times in zip(*pairs))
    return row


def table_row(r):
    def spread(times):
        return "%.2f (%.2f to %.2f)" % (statistics.median(times), times[0], times[-1])

    def waits(who):
        p50, p99 = r[who + "_queue_ms_p50"], r[who + "_queue_ms_p99"]
        return "-" if p50 is None else "%.1f / %.1f" % (p50, p99)

    return "| %s | %.1f | %s | %.1f | %s | %s | %s |" % (
        r["path"], r["link_mbit_per_s"], waits("link"), r["tcp_mbit_per_s"], waits("tcp"), spread(r["link_4mb_s"]),
        spread(r["tcp_4mb_s"]))


def judge(goals, rows):
    """What the paths that were measured allow to judge. rows: by their numbers."""
    whole = {i: statistics.median(r["link_4mb_s"]) for i, r in rows.items()}
    if 1 in rows:
        goals.judge("4 MB, 1 % lost: before TCP cubic", whole[1], "<", statistics.median(rows[1]["tcp_4mb_s"]), "s")
    if 0 in rows and 1 in rows:
        goals.judge("4 MB, 1 % lost: twice the time without losses", whole[1], "<=", 2 * whole[0], "s")
    if 2 in rows:
        goals.judge("RTT 100 ms, .1 % lost: 90 % of the rate", rows[2]["link_mbit_per_s"], ">=", .9 * RATE_MBIT,
                    "Mbit/s")
        if rows[2]["link_queue_ms_p99"] is not None:
            goals.judge("RTT 100 ms, .1 % lost: queue p99, half an RTT", rows[2]["link_queue_ms_p99"], "<=", 50, "ms")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paths", default="0,1,2")
    parser.add_argument("--time", type=float, default=4, help="seconds a stream")
    parser.add_argument("--transfers", type=int, default=5)
    parser.add_argument("--format", choices=("md", "jsonl"), default="md")
    parser.add_argument("--quick", action="store_true")
    o = parser.parse_args()
    chosen = o.paths.split(",")
    if not set(chosen) <= set(map(str, range(len(PATHS)))):
        parser.error("--paths %s: numbers from 0 to %d" % (o.paths, len(PATHS) - 1))
    if o.quick:
        o.time, o.transfers = .5, 1
    if subprocess.run(["ip", "netns", "add", NAMES[0]], check=False).returncode: # which says why not
        e2e.skip("no network namespaces here")
    subprocess.run(["ip", "netns", "del", NAMES[0]], check=False)
    signal.signal(signal.SIGTERM, end_by)
    rows, goals = {}, Goals("netem_tcp", o.format)
    if o.format == "md":
        e2e.say("| path | link Mbit/s | its queue ms p50 / p99 | TCP cubic Mbit/s | its queue | 4 MB by the link, s | "
                "by TCP, s |\n|---|---|---|---|---|---|---|")
    with bridged(NAMES):
        for i in map(int, chosen):
            rows[i] = measure(*PATHS[i], o)
            e2e.say(table_row(rows[i]) if o.format == "md" else json.dumps({"bench": "netem_tcp", **rows[i]}))
    if o.format == "md":
        e2e.say("")
    judge(goals, rows)
    return 0 if o.quick else int(goals.missed > 0)


if __name__ == "__main__":
    sys.exit(main())
