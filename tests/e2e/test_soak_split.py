#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Split generation for as long as wanted: 16 sessions at once over an encrypted link that drops 5 % and reorders 10 %,
while the cloud, the edge, or either is killed (kill -9) again and again. Who was killed is started anew by this
program, which asks again for what was not answered. Every answer must have the ids of --local, answers must keep
coming, the half that lives must not grow once it is warm, and a cloud must have freed what a killed edge had there.

Over kernel UDP and memif (`isthmus edge`, `isthmus cloud`), then by `isthmus run`, where one death is both halves'.
Memory budgets under load by HTTP are test_soak.py's.

  test_soak_split.py [--seconds N]      N in all, shared by the parts; 480: the acceptance's eight minutes"""
import argparse
import json
import os
import random
import signal
import statistics
import tempfile
import threading
import time

import e2e
import halves
import resident

SESSIONS = 16
BATCH = 4000  # requests of one edge's life: more than it lives for
NETEM = ("--netem", "drop=5%,reorder=10%")
# Caches small enough to be full soon: what grows after that is a leak.
COMMON = ("--split", "10", "--codec", "f32", "--ctx", "512", "--kv-budget", "24MB", *NETEM)
CORE = ("--first-core", "1", "--threads", "1")
LEASE_S = 4
SAMPLE_S = .25
WARM = .5    # of a part's time. The most that is resident after it is what was before, but for
GROWS = .03  # of that, and
GROWS_BYTES = 1500000
SLOPE_S = 40 # of more than that the trend is judged, too: it has seen many deaths


def rss_bytes(pid):
    """Resident now; 0 when the process has gone."""
    try:
        with open("/proc/%d/statm" % pid, encoding="ascii") as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGESIZE")
    except (OSError, IndexError):
        return 0


def requests():
    """Short answers and longer ones, greedy and not; what begins alike shares its cache."""
    asked = []
    for i in range(3 * len(e2e.PROMPTS)):
        one = {"prompt": e2e.PROMPTS[i % len(e2e.PROMPTS)], "n_predict": 6 + 11 * i % 50}
        if i % 3 == 1:
            one.update(temp=.9, top_k=40, repeat_penalty=1.1, seed=i)
        asked.append(one)
    return asked


class Asked:
    """Requests without end, in turns, and what came of them."""

    def __init__(self, model, folder):
        self.list = requests()
        done = e2e.run_requests(self.list, "-m", model, "--local", "--ignore-eos", "--parallel", "8")
        self.ids = [r["ids"] for r in done]
        self.file = os.path.join(folder, "requests")
        self.next = 0  # not answered yet
        self.tokens = self.wrong = 0

    def write(self):
        """Those that are to be answered next."""
        n = len(self.list)
        with open(self.file, "w", encoding="utf-8") as f:
            f.write(e2e.lines_of(self.list[(self.next + i) % n] for i in range(BATCH)))
        return self.file

    def answered(self, line):
        ids, wanted = json.loads(line)["ids"], self.ids[self.next % len(self.list)]
        if ids != wanted:
            self.wrong += 1
            e2e.check(False, "request %d: %s, not %s" % (self.next % len(self.list), ids, wanted))
        self.next += 1
        self.tokens += len(ids)


class Answering:
    """Who answers from a file of requests: its answers are compared as they come."""

    def __init__(self, asked, *command):
        self.half = halves.Half(*command, "--requests", asked.write(), "--parallel", SESSIONS, "--ignore-eos")
        self.asked, self.answers = asked, 0
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        with open(self.half.process.stdout.fileno(), encoding="utf-8", closefd=False) as lines:
            for line in lines:
                if line.endswith("\n"):  # else it was killed within
                    self.asked.answered(line)
                    self.answers += 1

    def end(self):
        """It has answered all: the exit code."""
        self.reader.join()
        return self.half.process.wait()

    def kill(self, pid=None):
        os.kill(pid or self.half.process.pid, signal.SIGKILL)
        with halves.within("the end of one that was killed"):
            self.half.process.wait()
            self.reader.join()


class Part:
    """One way to be joined, one of the halves to be killed."""

    def __init__(self, asked, model, port, victims, dice):
        self.asked, self.model, self.port, self.victims, self.dice = asked, model, port, victims, dice
        self.kills = {"cloud": 0, "edge": 0}
        self.rss = []  # (seconds, bytes) of who lives
        self.cloud = self.edge = None
        self.control = os.path.join(os.path.dirname(asked.file), "cloud.sock")

    def start_cloud(self):
        self.cloud = halves.Cloud(self.model, self.port, *COMMON, *CORE, "--max-sessions", SESSIONS, "--lease", LEASE_S,
                                  "--control", self.control)
        e2e.check(self.cloud.ready(), "the cloud serves: " + self.cloud.said()[-600:])

    def start_edge(self):
        self.edge = Answering(self.asked, "edge", "-m", self.model, "--port", self.port, *e2e.secured("edge"), *COMMON,
                              "--threads", "1")

    def start(self):
        self.start_cloud()
        self.start_edge()

    def revive(self):
        """Nobody ends but by a kill, or because all is answered."""
        if self.edge.half.process.poll() is not None:
            code = self.edge.end()
            e2e.check(code == 0, "the edge ended with %d: %s" % (code, self.edge.half.said()[-600:]))
            self.start_edge()
        if not e2e.check(self.cloud.process.poll() is None, "the cloud lives: " + self.cloud.said()[-600:]):
            self.start_cloud()

    def kill(self, victim):
        self.kills[victim] += 1
        if victim == "cloud":
            self.cloud.stop(signal.SIGKILL)
            self.start_cloud()
        else:
            self.edge.kill()
            self.start_edge()

    def survivor(self):
        if len(self.victims) > 1:
            return None
        return self.edge.half.process.pid if self.victims[0] == "cloud" else self.cloud.process.pid

    def run(self, seconds):
        self.start()
        start = now = time.monotonic()
        before = (self.asked.next, self.asked.tokens)
        heard_s, heard = start, self.asked.next
        # Not before something came since the last time, or nothing ever would.
        kill_at = heard + self.dice.randint(1, 2 * SESSIONS)
        # At least one kill, however slow this machine is.
        while not e2e.failures and (now - start < seconds or not sum(self.kills.values())):
            time.sleep(SAMPLE_S)
            now = time.monotonic()
            self.revive()
            if self.survivor():
                self.rss.append((now - start, rss_bytes(self.survivor())))
            if self.asked.next != heard:
                heard, heard_s = self.asked.next, now
            elif now - heard_s > halves.LIMIT_S:
                halves.hung("an answer")
            if heard >= kill_at:
                self.kill(self.dice.choice(self.victims))
                kill_at = self.asked.next + self.dice.randint(1, 2 * SESSIONS)
        self.report(now - start, self.asked.next - before[0], self.asked.tokens - before[1])
        self.end()

    def report(self, took_s, answers, tokens):
        e2e.say("%-6s %s killed: %.0f s, %d answers, %d tokens, kills: cloud %d, edge %d%s"
                % (self.port.split(":")[0], " or ".join(self.victims), took_s, answers, tokens, self.kills["cloud"],
                   self.kills["edge"], self.memory(took_s)))
        e2e.check(answers > 0, "answers came")

    def memory(self, took_s):
        """Of who lives. What it holds goes up and down with each death of the other."""
        cold = [(t, n) for t, n in self.rss if t < WARM * took_s]
        warm = self.rss[len(cold):]
        if not self.survivor() or min(len(cold), len(warm)) < 4:  # a start is long where the machine is slow
            return ""
        first, last = (max(n for _, n in some) for some in (cold, warm))
        mean_t, length_s = statistics.mean(t for t, _ in warm), warm[-1][0] - warm[0][0]
        slope = sum((t - mean_t) * n for t, n in warm) / sum((t - mean_t) ** 2 for t, _ in warm)
        grows = max(last - first, slope * length_s) if length_s >= SLOPE_S else 0
        e2e.check(grows <= GROWS * first + GROWS_BYTES,
                  "memory is flat: %s" % ["%.1f s: %.1f MB" % (t, n / 1e6) for t, n in self.rss])
        return "; %s resident, at most: %.1f MB in the first half, %.1f MB in the second, which has %+.2f MB/min" % (
            "edge" if self.victims[0] == "cloud" else "cloud", first / 1e6, last / 1e6, 60 * slope / 1e6)

    def sessions(self):
        """Of the cloud, as it says itself."""
        done = e2e.isthmus("ctl", "--json", "--socket", self.control, "stats")
        return json.loads(done.stdout)["running"] if done.returncode == 0 else None

    def end(self):
        """Once more the edge is killed, in the midst of its sessions, and none comes after it."""
        def busy():
            return (self.sessions() or 0) > 0

        e2e.check(e2e.wait_for(busy, 60), "sessions run: " + self.edge.half.said()[-300:])
        self.edge.kill()
        begun = time.monotonic()
        e2e.check(e2e.wait_for(lambda: self.sessions() == 0, LEASE_S + 60),
                  "the cloud frees them: %s" % self.sessions())
        e2e.say("       an edge that is gone: its sessions were freed after %.1f s" % (time.monotonic() - begun))
        e2e.check(self.cloud.stop() == 0, "the cloud ends well: " + self.cloud.said()[-600:])


class Run(Part):
    """`isthmus run`: the cloud is its child, and one that lost a half ends."""

    def __init__(self, asked, model, dice):
        super().__init__(asked, model, "run", ("cloud", "edge"), dice)

    def start_edge(self):
        self.edge = Answering(self.asked, "run", "-m", self.model, *COMMON)

    def start(self):
        self.start_edge()

    def revive(self):
        if self.edge.half.process.poll() is not None:
            code = self.edge.end()
            e2e.check(code == 0, "run ended with %d: %s" % (code, self.edge.half.said()[-600:]))
            self.start_edge()

    def kill(self, victim):
        cloud = resident.child_of(self.edge.half.process.pid)
        if not e2e.check(cloud, "there is a cloud: " + self.edge.half.said()[-600:]):
            return
        self.kills[victim] += 1
        self.edge.kill(cloud if victim == "cloud" else None)
        if victim == "cloud":
            e2e.check("killed by signal 9" in self.edge.half.said(), "run says why: " + self.edge.half.said()[-600:])
        if not e2e.check(e2e.wait_for(lambda: not rss_bytes(cloud), halves.LIMIT_S), "the cloud is gone, too"):
            os.kill(cloud, signal.SIGKILL)
        self.start_edge()

    def end(self):
        self.edge.kill()  # asked to end it would show answers that are cut off


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the kills")
    options = parser.parse_args()
    model = e2e.model("smollm2")
    before = e2e.leftovers()
    dice = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="isthmus-test-") as folder:
        asked = Asked(model, folder)
        ports = ("udp:127.0.0.1:%d" % halves.free_port(), "memif:@isthmus-test-%d" % halves.free_port())
        parts = [Part(asked, model, port, victims, dice)
                 for port in ports for victims in (("cloud",), ("edge",), ("cloud", "edge"))]
        parts.append(Run(asked, model, dice))
        weights = [1 if len(part.victims) > 1 else 3 for part in parts]
        for part, weight in zip(parts, weights):
            part.run(options.seconds * weight / sum(weights))
            if e2e.failures:
                break
        halves.stop_all()
    e2e.say("%d answers, %d of them not those of --local, %d tokens, kills: cloud %d, edge %d (seed %d)"
            % (asked.next, asked.wrong, asked.tokens, sum(p.kills["cloud"] for p in parts),
               sum(p.kills["edge"] for p in parts), options.seed))
    e2e.check_nothing_left(before)
    e2e.finish()


main()
