#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""--memory-budget: an edge that serves and a cloud, each in a memory cgroup with a hard limit, while
sessions come and go, prompts are long, clients leave and the cloud is killed. The limit is 5 % above the
budget while a half starts, for which it asks, then 5 % above what the account says that can come to be: a budget has
all packets that it allows, of which few are ever touched. It is never hit, the account is what the kernel counts, no
more requests fail than kills explain, and the ladder is climbed and left.

  test_soak.py [--seconds N]"""
import argparse
import http.client
import json
import os
import random
import signal
import tempfile
import threading
import time

import e2e
import halves
import resident

MB = 1000000
EDGE_MB, CLOUD_MB = 81, 149  # hardly more than both refuse to start with
CTX = 2048
ABOVE = 1.05
# How far the account may be from what is resident: at the end, and at any moment, for what a session was just given may
# not be touched yet. 7 % of a cloud; of an edge, which has half as much, more: each format in use has a pool on huge
# pages, of which those hardly begun are resident whole and counted by what is held, up to 2 MB a format.
NEAR = {"edge": .10, "cloud": .07}
WORST = {"edge": .15, "cloud": .10}
PACKETS_MB = 2  # of all buffers, those that are touched
CLIENTS = 10


class Load:
    """Clients of all sorts, until it is over."""

    def __init__(self, model, port, seed):
        self.model = os.path.basename(model)[:-len(".gguf")]
        self.port, self.dice = port, random.Random(seed)
        self.over = threading.Event()
        self.count = {"answered": 0, "left": 0, "refused": 0, "failed": 0}
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.client, args=(i,), daemon=True) for i in range(CLIENTS)]
        for thread in self.threads:
            thread.start()

    def note(self, what):
        with self.lock:
            self.count[what] += 1

    def client(self, which):
        dice = random.Random(self.dice.random() + which)
        while not self.over.is_set():
            try:
                self.ask(dice)
            except (OSError, http.client.HTTPException):
                self.note("failed")
                time.sleep(.2)

    def ask(self, dice):
        words = dice.choice([3, 6, 20, 100, 700])
        body = {"model": self.model, "prompt": " ".join(dice.choice(WORDS) for _ in range(words)),
                "max_tokens": dice.choice([2, 4, 16, 600]), "temperature": .8, "stream": True}
        leaves = dice.random() < .2
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("POST", "/v1/completions", json.dumps(body),
                               {"Content-Type": "application/json"})
            response = connection.getresponse()
            if response.status != 200:
                said = response.read().decode(errors="replace")
                known = response.status in (429, 503) or "context" in said
                if not known:
                    e2e.say("%d: %s" % (response.status, said))
                self.note("refused" if known else "failed")
                time.sleep(.1)
                return
            begun = time.monotonic()
            while response.readline():
                if self.over.is_set() or (leaves and time.monotonic() - begun > .5):
                    self.note("left")
                    return
            self.note("answered")
        finally:
            connection.close()

    def end(self):
        self.over.set()
        for thread in self.threads:
            thread.join(90)


WORDS = ("the river ran over stones of grey and gold while people from a far village came to sell "
         "their bread and wool at market before winter").split()


def ctl(path, method):
    done = e2e.isthmus("ctl", "--json", "--socket", path, method)
    return json.loads(done.stdout) if done.returncode == 0 else None


def off(memory):
    """By how much of what is resident the account is wrong."""
    return (memory["known_bytes"] - memory["rss_bytes"]) / memory["rss_bytes"]


def can_be(memory):
    """Bytes that the account says it can come to: caches and histories full."""
    return sum(PACKETS_MB * MB if i["what"] == "packets" else max(i["bytes"], i["limit_bytes"] or 0)
               for i in memory["items"])


def start_cloud(model, port, group, socket):
    cloud = halves.Cloud(model, port, "--split", 10, "--ctx", CTX, "--memory-budget", "%dMB" % CLOUD_MB,
                         "--control", socket, "--insecure", prefix=group.prefix())
    e2e.check(cloud.ready(), "the cloud serves: " + cloud.said()[-500:])
    return cloud


def soak(model, seconds, folder, groups):
    paths = {half: os.path.join(folder, half + ".sock") for half in groups}
    port = "udp:127.0.0.1:%d" % halves.free_port()
    http_port = halves.free_port()
    cloud = start_cloud(model, port, groups["cloud"], paths["cloud"])
    edge = halves.Edge(model, port, "--split", 10, "--ctx", CTX, "--memory-budget", "%dMB" % EDGE_MB,
                       "--history", 5, "--max-tpot", 5000, "--listen", "127.0.0.1:%d" % http_port,
                       "--control", paths["edge"], "--stats", "--insecure", stdin=None,
                       prefix=groups["edge"].prefix())
    if not e2e.check(e2e.wait_for(lambda: "listening at" in edge.said(), 60),
                     "the edge serves: " + edge.said()[-800:]):
        return
    load = Load(model, http_port, 1)
    began, kills, worst, rungs, at_end = time.monotonic(), 0, {"edge": 0, "cloud": 0}, set(), {}
    while time.monotonic() - began < seconds:
        time.sleep(.5)
        stats = ctl(paths["edge"], "stats")
        if stats:
            rungs.add(stats["memory_step"])
        for half, path in paths.items():
            memory = ctl(path, "memory")
            # What was only promised so far counts when it is touched: not in the first moments.
            if memory and time.monotonic() - began > 5:
                if half not in at_end:
                    groups[half].set(ABOVE * can_be(memory))
                at_end[half] = memory
                if abs(off(memory)) > abs(worst[half]):
                    worst[half] = off(memory)
        if time.monotonic() - began > 7 * (kills + 1) and seconds - (time.monotonic() - began) > 4:
            cloud.stop(signal.SIGKILL)
            near = groups["cloud"].bytes
            groups["cloud"].set(ABOVE * CLOUD_MB * MB)
            cloud = start_cloud(model, port, groups["cloud"], paths["cloud"])
            groups["cloud"].set(near)
            kills += 1
    load.end()
    e2e.check(edge.process.poll() is None and cloud.process.poll() is None, "both halves live")
    e2e.wait_for(lambda: (ctl(paths["edge"], "stats") or {}).get("memory_step") == "easy", 60)
    stats = ctl(paths["edge"], "stats")
    e2e.check(edge.stop() == 0, "the edge ends: " + edge.said()[-500:])
    cloud.stop()
    e2e.say("| | budget | limit | most by the cgroup | hit | account of what is resident, at last | at worst |\n"
            "|---|---:|---:|---:|---:|---:|---:|")
    for half, group in groups.items():
        budget = (EDGE_MB if half == "edge" else CLOUD_MB) * MB
        last = at_end[half]
        e2e.say("| %s | %.0f MB | %.1f MB | %.1f MB | %d times | %.1f of %.1f MB (%+.1f %%) | %+.1f %% |"
                % (half, budget / MB, group.bytes / MB, group.most() / MB, group.hits(), last["known_bytes"] / MB,
                   last["rss_bytes"] / MB, 100 * off(last), 100 * worst[half]))
        e2e.check(group.hits() == 0, "%s: the limit was hit %d times" % (half, group.hits()))
        e2e.check(last["peak_rss_bytes"] <= budget, "%s: within its budget" % half)
        e2e.check(abs(off(last)) <= NEAR[half], "%s: the account within %.0f %%: %s"
                  % (half, 100 * NEAR[half], json.dumps(last)))
        e2e.check(abs(worst[half]) <= WORST[half], "%s: the account within %.0f %% at any time: %+.1f %%"
                  % (half, 100 * WORST[half], 100 * worst[half]))
        e2e.check(group.bytes <= ABOVE * budget, "%s: what can come to be is within its budget" % half)
    e2e.say("%.0f s, %d kills of the cloud: %s; steps of the ladder: %s"
            % (seconds, kills, load.count, sorted(filter(None, rungs))))
    e2e.check(load.count["answered"] > 0, "answers came: %s" % load.count)
    e2e.check(load.count["failed"] <= CLIENTS * kills, "no more failed than were under way at %d kills: %s"
              % (kills, load.count))
    e2e.check(kills > 0, "the cloud was killed")
    e2e.check(stats and stats["memory_step"] == "easy" and stats["memory_steps"] > 1,
              "the ladder was climbed and left: %s" % (stats and stats["memory_step"]))
    e2e.check("memory: " in edge.said() and " MB weights" in edge.said(), "--stats says where it was")


def refusals(model):
    """What cannot fit is refused at once, with each term and what would fit."""
    port = "udp:127.0.0.1:%d" % halves.free_port()
    for half, budget, term in (("edge", "120MB", "history"), ("cloud", "100MB", "logits")):
        done = e2e.isthmus(half, "-m", model, "--port", port, "--insecure", "--split", "10",
                           "--memory-budget", budget, *(["-p", "x"] if half == "edge" else []))
        e2e.check(done.returncode == 2, "%s: exit code %d" % (half, done.returncode))
        for word in ("weights", "keys and values", "scratch", "packets", "program", term, "reserve of 2 %",
                     "would fit"):
            e2e.check(word in done.stderr, "%s: the refusal names %s: %s" % (half, word, done.stderr))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=22)
    seconds = parser.parse_args().seconds
    model = e2e.model("smollm2")
    refusals(model)
    if os.geteuid() != 0:
        e2e.skip("a cgroup needs root")
    with open(model, "rb") as f:  # its pages are nobody's of ours
        while f.read(1 << 24):
            pass
    with tempfile.TemporaryDirectory() as folder, \
            resident.Group("soak-edge", EDGE_MB * MB * ABOVE) as edge, \
            resident.Group("soak-cloud", CLOUD_MB * MB * ABOVE) as cloud:
        try:
            soak(model, seconds, folder, {"edge": edge, "cloud": cloud})
        finally:
            halves.stop_all()
    e2e.finish()


main()
