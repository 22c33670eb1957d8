#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`isthmus bench transport`: all kinds give rows, the rows agree with themselves, what cannot be is
refused, and a lost process is said at once. No figure is judged."""
import csv
import io
import os
import signal
import subprocess
import time

import e2e
import halves

KINDS = ["link", "raw", "udp", "tcp", "tls"]
ENCRYPTED = ("link", "tls")
KEYS = {"bench", "port", "kind", "cipher", "size_bytes", "sessions", "rate_per_s", "rtt_ns_min",
        "rtt_ns_p50", "rtt_ns_p90", "rtt_ns_p99", "rtt_ns_p999", "rtt_ns_max", "round_trips",
        "round_trips_per_s", "lost", "messages_per_s", "goodput_bit_per_s", "cpu_ns_per_message",
        "core_lost", "rtt_ns_p50_kept", "rtt_ns_p99_kept", "kept",
        "retransmits", "copied_bytes", "driver_copied_bytes", "time_s",
        "netem", "cpu", "cores", "kernel", "version", "commit"}
COMMAND = ("bench", "transport")


def transport(*args):
    done = e2e.isthmus(*COMMAND, "--time", ".2", *args, timeout=120)
    e2e.check(done.returncode == 0, "%s: exit %d, %s" % (args, done.returncode, done.stderr))
    return done


def rows(*args):
    return e2e.json_lines(transport("--format", "jsonl", *args), "bench transport")


def agree(r, rate=None):
    e2e.check(set(r) == KEYS, "keys: %s" % sorted(set(r) ^ KEYS))
    times = [r["rtt_ns_" + k] for k in ("min", "p50", "p90", "p99", "p999", "max")]
    e2e.check(times[0] > 0 and times == sorted(times), "in order: %s" % r)
    e2e.check(r["round_trips"] > 0 and r["messages_per_s"] > 0 and r["cpu_ns_per_message"] > 0,
              "something was measured: %s" % r)
    e2e.check(abs(r["goodput_bit_per_s"] / r["messages_per_s"] / r["size_bytes"] - 8) < .01,
              "two ways to say one speed: %s" % r)
    e2e.check(r["rate_per_s"] == rate, "rate: %s" % r)
    e2e.check((r["retransmits"] is None) == (r["kind"] != "link"), "only the link sends again: %s" % r)
    e2e.check(r["kind"] in ("raw", "udp") or r["lost"] == 0, "none is lost: %s" % r)


def closed_loop():
    lines = rows("--size", "64,65536", "--sessions", "1,40")
    e2e.check([(r["port"], r["size_bytes"], r["sessions"], r["kind"]) for r in lines]
              == [(p, n, s, k) for p in ("memif", "udp") for n in (64, 65536) for s in (1, 40)
                  for k in KINDS if n == 64 or k in ("link", "tcp", "tls")],
              "a row for each port, size, number of sessions and kind: %s" % lines)
    for r in lines:
        agree(r)
        if r["kind"] == "link" and r["port"] == "memif":
            e2e.check(r["copied_bytes"] == 0, "nothing is copied on the way: %s" % r)
            # There and back.
            e2e.check(r["driver_copied_bytes"] >= 2 * r["round_trips"] * r["size_bytes"],
                      "memif's driver copies: %s" % r)
        elif r["kind"] == "link":
            e2e.check(r["copied_bytes"] >= r["round_trips"] * r["size_bytes"],
                      "udp copies what it receives: %s" % r)
        if r["kind"] != "link" or r["port"] != "memif":
            e2e.check(r["driver_copied_bytes"] is None, "what is not known is not said: %s" % r)
        e2e.check(r["cipher"] == ("AES-128-GCM" if r["kind"] in ENCRYPTED else "none"), "cipher: %s" % r)


def waits_counted():
    """Whether this kernel counts how long threads wait for a core."""
    try:
        with open("/proc/thread-self/schedstat", encoding="ascii") as f:
            return int(f.read().split()[0]) > 0
    except OSError:
        return False


def open_loop():
    for r in rows("--rate", "2000", "--size", "300", "--sessions", "100", "--port", "memif"):
        agree(r, 2000)
        known = r["kind"] in ("link", "raw") and waits_counted()
        e2e.check((r["core_lost"] is not None) == known and (r["kept"] is not None) == known, "known: %s" % r)
        e2e.check(not known or (0 <= r["core_lost"] <= 1 and 0 <= r["kept"] <= r["round_trips"] + r["lost"]),
                  "cores and what is kept: %s" % r)
        e2e.check(r["round_trips"] + r["lost"] == 4 * 20, "all that were due in four turns: %s" % r)


def transfer():
    for r in rows("--transfer", "40", "--size", "100000", "--sessions", "8", "--port", "udp", "--kind", "link,tcp",
                  "--netem", "rate=1gbit,delay=1ms"):
        e2e.check(r["round_trips"] == 0 and r["rtt_ns_p50"] is None and r["time_s"] > 0, "one way alone: %s" % r)
        e2e.check(abs(r["goodput_bit_per_s"] * r["time_s"] / 8e5 - 40) < .01, "40 messages: %s" % r)
        e2e.check(r["kind"] == "tcp" or r["time_s"] >= .03, "the link's share at 1 Gbit/s is 32 ms or more: %s" % r)


def impaired():
    done = transport("--port", "udp", "--insecure", "--netem", "drop=20%,dup=5%,reorder=5%,seed=3",
                     "--size", "300", "--sessions", "8", "--format", "jsonl")
    lines = e2e.json_lines(done, "impaired")
    for r in lines:
        agree(r)
        e2e.check((r["cipher"] == "none") == (r["kind"] != "tls"), "only TLS is encrypted: %s" % r)
        e2e.check((r["netem"] is None) == (r["kind"] in ("udp", "tcp", "tls")), "netem: %s" % r)
    by_kind = {r["kind"]: r for r in lines}
    e2e.check(by_kind["link"]["retransmits"] > 0 and by_kind["raw"]["lost"] > 0,
              "the link sends again what is lost, raw counts it: %s" % lines)
    e2e.check("INSECURE" in done.stderr, "this is shouted: " + done.stderr)
    # One copy on the way of what memif sends is seen.
    r = rows("--port", "memif", "--netem", "delay=1us", "--size", "300", "--sessions", "1", "--kind", "link")[0]
    e2e.check(r["copied_bytes"] >= r["round_trips"] * r["size_bytes"], "netem copies what is sent: %s" % r)


def formats():
    short = ("--port", "memif", "--size", "100", "--sessions", "1")
    found = list(csv.DictReader(io.StringIO(transport(*short, "--format", "csv").stdout)))
    e2e.check([r["kind"] for r in found] == KINDS and all(set(r) == KEYS for r in found), "csv: %s" % found)
    text = transport(*short).stdout
    table = [l for l in text.splitlines() if l.startswith("|")]
    e2e.check(len(table) == 2 + len(KINDS) and len({l.count("|") for l in table}) == 1, "md:\n" + text)
    e2e.check("cores" in text.splitlines()[0] and "isthmus 0." in text.splitlines()[0], "md:\n" + text)
    e2e.to_full_disk(*COMMAND, "--time", ".05", *short)


def refused():
    for args, words in (
            (["--size", "23"], "--size 23"), (["--size", ","], "--size"),
            (["--sessions", "0"], "--sessions 0"), (["--sessions", "2001"], "--sessions 2001"),
            (["--rate", "0"], "--rate 0"), (["--time", "0"], "--time 0"),
            (["--format", "xml"], "--format xml"), (["--port", "carrier:pigeon"], "pigeon"),
            (["--netem", "drop=2"], "drop=2"),
            (["--listen"], "one --port"), (["--connect", "--listen"], "two ends"),
            (["--connect", "--port", "memif"], "whole name"),
            (["--peer", "sha256:0"], "keys of their own"),
            (["--port", "packet:eth0,ip=10.0.0.1/24,peer=10.0.0.2"], "--listen"),
            (["--transfer", "0"], "--transfer 0"), (["--transfer", "9"], "one --port"),
            (["--transfer", "9", "--rate", "5"], "one of them"),
            (["--floors", "127.0.0.1"], "--listen"),
            (["--listen", "--port", "memif:@x", "--floors", "::1"], "--floors ::1"), (["--core", "1"], "--core"),
            (["--listen", "--port", "memif:@x", "--insecure", "--core", "4000"], "--core 4000"),
            (["--connect", "--port", "udp:127.0.0.1:9"], "--insecure"),
            (["--port", "memif", "--size", "1000000"], "--size 1000000")):
        done = e2e.isthmus(*COMMAND, *args)
        e2e.check(done.returncode == 2 and words in done.stderr,
                  "%s: exit %d, %s" % (args, done.returncode, done.stderr))


def started(*args):
    p = subprocess.Popen([e2e.BINARY, *COMMAND, *args], stdin=subprocess.DEVNULL,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    halves.others.append(p)
    return p


def two_commands():
    """One listens, the other connects: over each port, with keys from files."""
    for port in ("memif:@isthmus-bench-%d" % os.getpid(), "udp:127.0.0.1:%d" % halves.free_port()):
        other = started("--listen", "--port", port, *e2e.secured("cloud"), "--core", "0")
        lines = rows("--connect", "--port", port, *e2e.secured("edge"), "--size", "300",
                     "--sessions", "1,4")
        e2e.check([r["kind"] for r in lines] == ["link", "raw"] * 2, "no floors elsewhere: %s" % lines)
        for r in lines:
            agree(r)
        lines = rows("--connect", "--port", port, *e2e.secured("edge"), "--size", "300",
                     "--sessions", "1")
        e2e.check(len(lines) == 2, "it serves the next one: %s" % lines)
        e2e.end(other, "--listen")
        e2e.check(other.returncode == 0, "--listen: exit %d" % other.returncode)
    other = started("--listen", "--port", port, *e2e.secured("cloud"), "--floors", "127.0.0.1")
    lines = rows("--connect", "--port", port, *e2e.secured("edge"), "--size", "300", "--sessions", "1")
    e2e.check([r["kind"] for r in lines] == KINDS, "floors where they are wanted: %s" % lines)
    for r in lines:
        agree(r)
    e2e.check(e2e.end(other, "--listen") == "" and other.returncode == 0, "--floors: %d" % other.returncode)


def children_of(pid):
    with open("/proc/%d/task/%d/children" % (pid, pid), encoding="utf-8") as f:
        return [int(c) for c in f.read().split()]


def gone(pid):
    try:
        with open("/proc/%d/stat" % pid, encoding="utf-8") as f:
            return f.read().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def killed():
    for port in ("memif", "udp"):
        p = started("--port", port, "--time", "30", "--size", "300", "--sessions", "1")
        e2e.check(e2e.wait_for(lambda: children_of(p.pid), 10), "there is another process")
        child = children_of(p.pid)[0]
        time.sleep(1)
        os.kill(child, signal.SIGKILL)
        start = time.monotonic()
        err = p.communicate(timeout=20)[1].decode()
        e2e.check(p.returncode == 1 and "killed by signal 9" in err and time.monotonic() - start < 5,
                  "%s: the other is killed: exit %d after %.1f s, %s"
                  % (port, p.returncode, time.monotonic() - start, err))
        p = started("--port", port, "--time", "30", "--size", "300", "--sessions", "1")
        e2e.check(e2e.wait_for(lambda: children_of(p.pid), 10), "there is another process")
        child = children_of(p.pid)[0]
        time.sleep(1)
        p.send_signal(signal.SIGINT)
        e2e.check(p.wait(timeout=20) == 130 and gone(child), "%s: ^C ends both: %s" % (port, p.poll()))
        p = started("--port", port, "--time", "30", "--size", "300", "--sessions", "1")
        e2e.check(e2e.wait_for(lambda: children_of(p.pid), 10), "there is another process")
        child = children_of(p.pid)[0]
        time.sleep(1)
        p.kill()
        p.communicate(timeout=20)
        e2e.check(e2e.wait_for(lambda: gone(child), 10), "%s: the other ends, too" % port)


def main():
    before = e2e.leftovers()
    refused()
    closed_loop()
    open_loop()
    transfer()
    impaired()
    formats()
    two_commands()
    killed()
    e2e.check_nothing_left(before)
    e2e.finish()


main()
