#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goals of the dataplane that no other command prints: a figure, its bound, and whether it is met.

  kill      the cloud is killed (kill -9) in mid-answer, with a history of 512 tokens, over kernel UDP with
            --netem 'rate=20mbit,delay=10ms', and started again at once, or another stands by: from the kill to the
            next token, against the time that its compressed history takes at that rate, the measured prefill of 512
            tokens by the cloud's layers, and 200 ms. Tokens and their log-probabilities must be those of an undisturbed
            answer, to the last digit
  idle      CPU time (utime + stime) of an edge and its cloud, connected, while nothing is asked: < 3 % of a core each,
            over memif and udp and, between network namespaces, packet and xdp
  xdp       round trip of 300 B over xdp between network namespaces, encrypted, beside the port without the link and
            the kernel's UDP and TCP over a second pair of the same kind: <= raw + 1.5 us
  sessions  1,000 sessions of 300 B over one memif link: what it carries at most (closed loop), and in an open loop
            at half of that p99 <= 5 x p50 of all messages, that rate being kept. Beside it, and not judged: core_lost
            of `isthmus bench transport`, the same ratio of the messages that no such time held up, and their share. A
            slow turn of our own may count as a lost core, so these say where to look, and excuse nothing

usage: tests/bench/dataplane.py [--only PART,...] [--rounds N] [--format md|jsonl] [--quick]
       (--quick: short, only see that it runs: no figure is judged)

Medians of the rounds. Exit code 1 when a goal is missed. packet and xdp need root and network namespaces; what cannot
be tried is said, and is a goal missed. Needs an idle machine with two cores."""
import argparse
import http.client
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
import e2e  # noqa: E402  pylint: disable=wrong-import-position
import halves  # noqa: E402  pylint: disable=wrong-import-position
from goals import Goals  # noqa: E402  pylint: disable=wrong-import-position
from namespaces import end_by, joined, started  # noqa: E402  pylint: disable=wrong-import-position

PARTS = ("kill", "idle", "xdp", "sessions")
SPLIT, LAYERS = 10, 30
EDGE = ("--split", str(SPLIT), "--threads", "1", "--first-core", "0")
CLOUD = ("--split", str(SPLIT), "--threads", "1", "--first-core", "1")
RATE_BIT_PER_S = 20e6
NETEM = "rate=20mbit,delay=10ms"
HISTORY, BEFORE, AFTER = 512, 64, 64  # tokens when the cloud is killed, those of them that were generated, and more
IDLE_PERCENT = 3


# --- kill --------------------------------------------------------------------------------------------------------


class Listening(halves.Half):
    """An edge that serves, and when it said what."""

    def __init__(self, model, ports, keys):
        peers = [x for _, fingerprint in keys for x in ("--peer", fingerprint)]
        super().__init__("edge", "-m", model, *[x for p in ports for x in ("--port", p)], *EDGE, "--netem", NETEM,
                         "--no-prefix-cache", "--identity", e2e.keygen("edge")[0], *peers, "--listen", "127.0.0.1:0",
                         "--model-id", "m", stdout=subprocess.DEVNULL)
        if not e2e.wait_for(lambda: self.address() or self.process.poll() is not None, halves.LIMIT_S):
            halves.hung("an edge that listens")

    def address(self):
        found = re.search(r"listening at (?:http://)?([0-9.]+:\d+)", self.said())
        return found and found[1]

    def when(self, words, after, times):
        """The time at which it says this, behind so many characters: into times[words]."""
        while self.process.poll() is None and words not in times:
            if words in self.said()[after:]:
                times[words] = time.monotonic()
            time.sleep(.001)


def events(address, ids, n_predict):
    """(when it came, token, its log-probability) of each token of an answer."""
    connection = http.client.HTTPConnection(address, timeout=halves.LIMIT_S)
    connection.request("POST", "/v1/completions", json.dumps(
        {"model": "m", "prompt": ids, "max_tokens": n_predict, "temperature": 0, "ignore_eos": True, "stream": True,
         "logprobs": 0}), {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        sys.exit("the edge answers %d: %s" % (response.status, response.read().decode()))
    for line in response:
        if line.startswith(b"data: {"):
            now, event = time.monotonic(), json.loads(line[6:])
            if "error" in event:
                sys.exit("the answer ended: %s" % event["error"])
            for choice in event["choices"]:
                found = choice["logprobs"] or {"tokens": [], "token_logprobs": []}
                yield from ((now, *pair) for pair in zip(found["tokens"], found["token_logprobs"]))
    connection.close()


def prefill_ms(model):
    """Of the history, by the cloud's layers on its one core."""
    row = e2e.json_lines(e2e.isthmus("bench", "compute", "-m", model, "--layers", "%d-%d" % (SPLIT, LAYERS),
                                     "--prefill", HISTORY, "--decode", 0, "--depth", 0, "--batch", 1, "--threads", 1,
                                     "--format", "jsonl"), "bench compute")[0]
    return 1e3 * HISTORY / row["tokens_per_s"]


def killed_once(edge, serve, clouds, ids, standby):
    """Tokens, and in ms: kill to next token, to the loss being seen, from there to the new connection, from there to
    the next token; and the history's kB as the edge said them."""
    before, times = len(edge.said()), {}
    watchers = [threading.Thread(target=edge.when, args=(words, before, times), daemon=True)
                for words in ("the cloud is lost", "connected again")]
    tokens, at, last = [], None, None
    for now, *token in events(edge.address(), ids, BEFORE + AFTER):
        if at is None and len(tokens) == BEFORE - 1: # with this one the history is whole
            for w in watchers:
                w.start()
            at = time.monotonic()
            clouds[0].process.send_signal(signal.SIGKILL)
            clouds[0].process.wait()
            if not standby:
                clouds.append(serve())
        elif at is not None and last is None and "connected again" in edge.said()[before:]:
            last = now
        tokens.append(token)
    for w in watchers:
        w.join(halves.LIMIT_S)
    del clouds[0]
    if standby:
        clouds.append(serve())
    found = re.search(r"replaying ([0-9.]+) kB", edge.said()[before:])
    if last is None or len(times) < 2 or not found:
        halves.hung("the loss of a cloud and the next", edge.said()[before:])
    lost, met = times["the cloud is lost"], times["connected again"]
    return tokens, [1e3 * t for t in (last - at, lost - at, met - lost, last - met)], float(found[1])


def kill_of(o, goals, standby, prefill):
    model = e2e.model("smollm2")
    text = " ".join(e2e.PROMPTS) * 4
    ids = e2e.json_lines(e2e.isthmus("tokenize", "-m", model, text_in=json.dumps({"text": text}) + "\n"),
                         "tokenize")[0]["ids"][:HISTORY - BEFORE]
    assert len(ids) == HISTORY - BEFORE
    ports = ["udp:127.0.0.1:%d" % halves.free_port() for _ in range(2 if standby else 1)]
    keys = [e2e.keygen("cloud-%d" % i) for i in range(len(ports))]
    turn = 0

    def serve():
        """At the ports in turn, so that with two of them the one that was killed is the next that stands by."""
        nonlocal turn
        i = turn % len(ports)
        turn += 1
        return halves.Cloud(model, ports[i], *CLOUD, "--netem", NETEM, "--identity", keys[i][0], "--peer",
                            e2e.keygen("edge")[1])

    clouds = [serve() for _ in ports]
    for c in clouds:
        e2e.check(c.ready(), "the cloud serves: " + c.said())
    edge = Listening(model, ports, keys)
    undisturbed = [token for _, *token in events(edge.address(), ids, BEFORE + AFTER)]
    same, parts, sizes = True, [], []
    for _ in range(o.rounds):
        tokens, split, kbytes = killed_once(edge, serve, clouds, ids, standby)
        same &= tokens == undisturbed
        parts.append(split)
        sizes.append(kbytes)
        e2e.check(clouds[-1].ready(), "the next cloud serves: " + clouds[-1].said())
    name = "kill: " + ("another takes over" if standby else "started again")
    e2e.check(same and len(undisturbed) == BEFORE + AFTER, name + ": the tokens of an undisturbed answer")
    e2e.check(edge.stop() == 0, "the edge ends well: " + edge.said()[-600:])
    halves.stop_all()
    pause, detection, join, rest = (statistics.median(p) for p in zip(*parts))
    history = statistics.median(sizes) * 8e6 / RATE_BIT_PER_S
    bound = history + prefill + 200
    detail = {"pauses_ms": [round(p[0]) for p in parts], "detection_ms": detection, "join_ms": join,
              "history_and_prefill_ms": rest, "history_kB": statistics.median(sizes), "its_time_ms": history,
              "prefill_alone_ms": prefill, "same_tokens": same}
    goals.judge(name + ", from the kill", pause, "<=", bound, "ms", **detail)
    goals.judge(name + ", from when the loss is seen", join + rest, "<=", bound, "ms")


def kill(o, goals):
    prefill = prefill_ms(e2e.model("smollm2"))
    for standby in (False, True):
        kill_of(o, goals, standby, prefill)


# --- idle --------------------------------------------------------------------------------------------------------


def cpu_s(process):
    with open("/proc/%d/stat" % process.pid, encoding="ascii") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def idle_at(o, goals, cloud_port, edge_port, inside=((), ())):
    model = e2e.model("smollm2")
    kind = cloud_port.split(":")[0]
    cloud = halves.Cloud(model, cloud_port, *CLOUD, prefix=inside[0])
    e2e.check(cloud.ready(), "the cloud serves: " + cloud.said())
    edge = halves.Edge(model, edge_port, *EDGE, "-n", "4", prefix=inside[1])
    edge.write("Hello\n")
    e2e.check(edge.line() != "", "an answer: " + edge.said())
    time.sleep(2)
    before, start = [cpu_s(h.process) for h in (edge, cloud)], time.monotonic()
    time.sleep(o.idle_s)
    took = time.monotonic() - start
    shares = [100 * (cpu_s(h.process) - b) / took for h, b in zip((edge, cloud), before)]
    edge.write("And now?\n")
    e2e.check(edge.line() != "", "they are still connected: " + edge.said())
    halves.stop_all()
    for half, share in zip(("edge", "cloud"), shares):
        goals.judge("idle CPU over %s, %s" % (kind, half), share, "<", IDLE_PERCENT, "%", seconds=round(took, 1))


def between(goals, kinds):
    """Those of these ports that there are between namespaces, each with how to run in them. What cannot be tried is
    said, and no goal met."""
    names = ["isthmus-bench-%d-%s" % (os.getpid(), n) for n in ("cloud", "edge")]
    for kind in kinds:
        try:
            with joined(names) as inside:
                done = subprocess.run([*inside[0], e2e.BINARY, "doctor", "--json"], check=False, text=True,
                                      stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
                found = {c["name"]: c for c in json.loads(done.stdout)["checks"]}["port " + kind]
                if found["status"] == "ok":
                    yield kind, inside
                    continue
                why = found["found"]
        except (OSError, subprocess.CalledProcessError) as error:
            why = "no network namespaces: %s" % (getattr(error, "output", None) or error)
        print("NOT TRIED HERE: %s: %s" % (kind, why.strip()), file=sys.stderr, flush=True)
        e2e.untried += 1
        goals.missed += 1


def idle(o, goals):
    memif, udp = "memif:@isthmus-bench-%d" % os.getpid(), "udp:127.0.0.1:%d" % halves.free_port()
    for port in (memif, udp):
        idle_at(o, goals, port, port)
    for kind, inside in between(goals, ("packet", "xdp")):
        idle_at(o, goals, kind + ":east,ip=10.9.0.1/24", kind + ":west,ip=10.9.0.2/24,peer=10.9.0.1", inside)


# --- xdp and sessions --------------------------------------------------------------------------------------------


def transport(*args, prefix=()):
    done = subprocess.run([*prefix, e2e.BINARY, "bench", "transport", *map(str, args), "--size", "300", "--format",
                           "jsonl"], check=False, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, timeout=halves.LIMIT_S)
    return {r["kind"]: r for r in e2e.json_lines(done, "bench transport")}


def xdp(o, goals):
    for kind, inside in between(goals, ("xdp",)):
        listen = [*inside[0], e2e.BINARY, "bench", "transport", "--port", kind + ":east,ip=10.9.0.1/24", "--listen",
                  "--floors", "10.9.1.1", "--core", "0", *e2e.secured("cloud")]
        with started(listen, "answering"):
            rounds = [transport("--port", kind + ":west,ip=10.9.0.2/24,peer=10.9.0.1", "--connect", "--core", "1",
                                "--sessions", "1", "--time", o.time_s, *e2e.secured("edge"), prefix=inside[1])
                      for _ in range(o.rounds)]
        p50 = {k: [r[k]["rtt_ns_p50"] * 1e-3 for r in rounds] for k in rounds[0]}
        more = [l - r for l, r in zip(p50["link"], p50["raw"])]
        goals.judge("RTT p50, 300 B, xdp, encrypted, beyond raw", statistics.median(more), "<=", 1.5, "us",
                    rounds_us=[round(m, 2) for m in more],
                    **{k + "_us": statistics.median(v) for k, v in p50.items()})


def undisturbed(row):
    """What is beside the ratio of all messages; None: not known, or there were no such messages."""
    ratio = row["rtt_ns_p99_kept"] and row["rtt_ns_p99_kept"] / row["rtt_ns_p50_kept"]
    share = row["kept"] if row["kept"] is None else row["kept"] / (row["round_trips"] + row["lost"])
    return {"undisturbed": ratio, "undisturbed_share": share, "core_lost": row["core_lost"]}


def sessions(o, goals):
    most, ratios, times, kept, beside = ([] for _ in range(5))
    for _ in range(o.rounds):
        common = ("--port", "memif", "--kind", "link", "--sessions", "1000", "--time", o.time_s)
        most.append(transport(*common)["link"]["round_trips_per_s"])
        row = transport(*common, "--rate", round(most[-1] / 2))["link"]
        kept.append(row["messages_per_s"] / row["rate_per_s"])
        times.append((row["rtt_ns_p50"] * 1e-3, row["rtt_ns_p99"] * 1e-3))
        ratios.append(times[-1][1] / times[-1][0])
        beside.append(undisturbed(row))
    p50, p99 = (statistics.median(t) for t in zip(*times))
    goals.judge("1,000 sessions, 300 B, memif, half of capacity: p99 / p50", statistics.median(ratios), "<=", 5, "x",
                rounds=[round(r, 2) for r in ratios], p50_us=p50, p99_us=p99,
                capacity_per_s=round(statistics.median(most)),
                **{k: [b[k] for b in beside] for k in beside[0]})
    goals.judge("1,000 sessions: of that rate, answered in time", min(kept), ">=", .98, "")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), metavar="PART,...")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--format", choices=("md", "jsonl"), default="md")
    parser.add_argument("--quick", action="store_true")
    o = parser.parse_args()
    o.idle_s, o.time_s = (2, .2) if o.quick else (30, 2)
    o.rounds = 1 if o.quick else o.rounds
    chosen = o.only.split(",")
    for name in chosen:
        if name not in PARTS:
            parser.error("--only %s: the parts are %s" % (name, ", ".join(PARTS)))
    signal.signal(signal.SIGTERM, end_by)
    goals = Goals("dataplane", o.format)
    for name in chosen:
        globals()[name](o, goals)
    if o.quick:
        e2e.finish()
    return int(e2e.failures or goals.missed > 0)


if __name__ == "__main__":
    sys.exit(main())
