#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The ladder of --memory-budget on the real program: coarser activations, for histories; shorter contexts; no new
sessions; each logged, shown by the control socket, and left when what it was for has ended. That of keys and values is
test_kv.py's, all of it under load test_soak.py's."""
import os
import tempfile

import e2e
import halves
from served import Answer, Control

N_CTX = 1024
SESSION = 256  # tokens: whole pages
# Of keys and values: seven sessions are .86 of it, eight .98. Of histories: one of 500 to 1,000 tokens has room for
# 262 kB, .66 of it.
KV_BUDGET, HISTORY = 16000000, "400kB"


class Serving:
    """An edge that serves, with its cloud, at a distance: answers last."""

    def __init__(self, model, folder, *args):
        port = "udp:127.0.0.1:%d" % halves.free_port()
        self.http, path = halves.free_port(), os.path.join(folder, "edge.sock")
        self.cloud = halves.Cloud(model, port, "--split", 10, "--max-sessions", 10)
        e2e.check(self.cloud.ready(), "the cloud serves: " + self.cloud.said()[-500:])
        self.edge = halves.Edge(model, port, "--split", 10, "--ctx", N_CTX, "--kv-least", "f16", "--kv-budget",
                                KV_BUDGET, "--memory-budget", "400MB", "--max-sessions", 10, "--netem", "delay=40ms",
                                "--listen", "127.0.0.1:%d" % self.http, "--control", path, *args, stdin=None)
        e2e.check(e2e.wait_for(lambda: "listening at" in self.edge.said(), 60),
                  "the edge serves: " + self.edge.said()[-800:])
        self.control = Control(path)

    def await_step(self, step, holds=lambda stats: True):
        stats = {}

        def there():
            stats.update(self.control.result("stats"))
            return stats["memory_step"] == step and holds(stats)
        e2e.check(e2e.wait_for(there, 90), "%s: %s, %s" % (step, stats, self.edge.said()[-600:]))
        return stats

    def end(self, asked, *steps):
        """What it all was for is given up: the ladder is left. Every step was logged."""
        for s in self.control.result("sessions.list"):
            if s["state"] == "running":
                self.control.result("sessions.kill", id=s["id"])
        for a in asked:
            a.join(e2e.TIMEOUT_S)
        stats = self.await_step("easy")
        e2e.check(stats["memory_steps"] >= 2 * len(steps), "up and down: %s" % stats["memory_steps"])
        e2e.check(self.edge.stop() == 0, "the edge ends: " + self.edge.said()[-500:])
        self.cloud.stop()
        for step in steps:
            e2e.check("%s (step " % step in self.edge.said(), "%s is logged: %s" % (step, self.edge.said()[-800:]))
        return stats


def activations(model, folder):
    """A history that fills up: what is kept in it becomes coarser, whatever the limit of time would allow."""
    s = Serving(model, folder, "--history", HISTORY, "--max-tpot", 60000)
    e2e.check(s.control.result("stats")["adaptation"]["floor"] == 0, "any quality at first")
    asked = Answer(s.http, 500, "The river " * 250)
    stats = s.await_step("coarser activations", lambda stats: stats["adaptation"]["level"] > 0)
    a = stats["adaptation"]
    e2e.check(a["level"] == a["floor"], "as coarse as memory asks for: %s" % a)

    def parameter():
        running = s.control.result("codec.get")["sessions"]
        return running[0]["parameter"] or 0 if running else 0
    e2e.check(e2e.wait_for(lambda: parameter() > .08, 30), "its rows are coarser: %s" % s.control.result("codec.get"))
    stats = s.end([asked], "coarser activations")
    e2e.check(stats["adaptation"]["floor"] == 0, "any quality again: %s" % stats["adaptation"])


def sessions(model, folder):
    """A cache that is promised: new sessions have a quarter of the context, then there are none."""
    s = Serving(model, folder, "--max-waiting", 1)
    asked = [Answer(s.http, SESSION - 8, "Story %d:" % i) for i in range(7)]
    s.await_step("shorter contexts")
    long = Answer(s.http, 8, "The river " * 200)
    long.join(e2e.TIMEOUT_S)
    e2e.check(long.status == 503, "a long prompt is for later: %s %s" % (long.status, long.body))
    asked.append(Answer(s.http, SESSION - 8, "Story 8:"))
    s.await_step("no new sessions")
    e2e.check(len(s.control.result("sessions.list")) == 8, "those that were taken go on")
    waits = Answer(s.http, 4, "One that waits:")
    e2e.check(e2e.wait_for(lambda: s.control.result("stats")["waiting"] == 1, 30), "it waits")
    none = Answer(s.http, 4, "One too many:")
    none.join(e2e.TIMEOUT_S)
    e2e.check(none.status == 429, "no more may wait: %s %s" % (none.status, none.body))
    s.end(asked + [waits], "shorter contexts", "no new sessions")
    e2e.check(waits.status == 200, "who waited was served: %s %s" % (waits.status, waits.body))


def main():
    model = e2e.model("smollm2")
    with tempfile.TemporaryDirectory() as folder:
        activations(model, folder)
        sessions(model, folder)
    halves.stop_all()
    e2e.finish()


main()
