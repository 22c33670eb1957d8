#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The format of keys and values is a session's own: edges of all formats at one cloud have the ids that `run --local`
has in theirs; and where an edge's cache gets full, or that of its cloud, which asks it to, its new sessions take coarser
ones, then finer ones again, while those that run keep what they had. Each answer is the one of its format."""
import http.client
import json
import os
import tempfile
import threading
import time

import e2e
import halves

FORMATS = ("f16", "q8", "k8v4", "q4")
TOKENS = 4 * 64  # of a session: whole pages
# Of 10 layers: five sessions in f16 are .61 of it, two more in q8 make .74, one in k8v4 .79.
KV_BUDGET = 16000000
WORDS = ("river", "market", "winter", "engine", "garden", "teacher", "island", "window")


def edges(model):
    """One cloud, whatever is its own format, for edges of all."""
    asked, local = {}, {}
    for kv in FORMATS:
        asked[kv] = [{"prompt": p, "n_predict": 24} for p in e2e.PROMPTS[:3]]
        local[kv] = [r["ids"] for r in e2e.run_requests(asked[kv], "-m", model, "--local", "--ignore-eos", "--kv", kv,
                                                        "--parallel", "3")]
    e2e.check(len({json.dumps(ids) for ids in local.values()}) > 1, "formats make a difference in these answers")
    for own in ("f16", "q8"):
        port = "udp:127.0.0.1:%d" % halves.free_port()
        cloud = halves.Cloud(model, port, "--split", 10, "--codec", "f32", "--kv", own)
        e2e.check(cloud.ready(), "a cloud of %s serves: %s" % (own, cloud.said()[-500:]))
        for kv in FORMATS:
            halves.same_as_local(model, port, asked[kv], local[kv], "--kv", kv)
        cloud.stop()


def prompt(i):
    """Each has a length of its own, by which its session is known."""
    return "A short story about a %s:%s" % (WORDS[i], " and then" * i)


class Asked(threading.Thread):
    """A request under way."""

    def __init__(self, port, model, i, n_prompt):
        super().__init__(daemon=True)
        self.port, self.i, self.n_prompt, self.text, self.kv, self.why = port, i, n_prompt, None, None, ""
        self.body = {"model": model, "prompt": prompt(i), "max_tokens": TOKENS - n_prompt, "temperature": 0,
                     "ignore_eos": True}
        self.start()

    def run(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=e2e.TIMEOUT_S)
        try:
            connection.request("POST", "/v1/completions", json.dumps(self.body), {"Content-Type": "application/json"})
            said = connection.getresponse().read().decode()
            self.text = json.loads(said)["choices"][0]["text"] if '"choices"' in said else None
            self.why = said
        except (OSError, http.client.HTTPException) as e:
            self.why = str(e)
        finally:
            connection.close()


class Edge:
    """An edge that serves, with its cloud; one of them is short of memory."""

    def __init__(self, model, folder, tight):
        port = "udp:127.0.0.1:%d" % halves.free_port()
        self.http = halves.free_port()
        self.tight = tight
        self.sockets = {half: os.path.join(folder, "%s-%s.sock" % (tight, half)) for half in ("edge", "cloud")}
        budget = {half: () for half in self.sockets}
        budget[tight] = ("--memory-budget", "400MB", "--kv-budget", KV_BUDGET * {"edge": 1, "cloud": 2}[tight])
        self.name = os.path.basename(model)[:-len(".gguf")]
        self.cloud = halves.Cloud(model, port, "--split", 10, "--codec", "f32", "--max-sessions", 8,
                                  "--control", self.sockets["cloud"], *budget["cloud"])
        e2e.check(self.cloud.ready(), "the cloud serves: " + self.cloud.said()[-500:])
        self.edge = halves.Edge(model, port, "--split", 10, "--codec", "f32", "--max-sessions", 8, "--listen",
                                "127.0.0.1:%d" % self.http, "--control", self.sockets["edge"], *budget["edge"],
                                stdin=None)
        e2e.check(e2e.wait_for(lambda: "listening at" in self.edge.said(), 60),
                  "the edge serves: " + self.edge.said()[-800:])

    def ctl(self, half, *method):
        done = e2e.isthmus("ctl", "--json", "--socket", self.sockets[half], *method)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def ask(self, i, n_prompt):
        return Asked(self.http, self.name, i, n_prompt)

    def note(self, asked):
        """The format of each that runs."""
        of = {s["prompt_tokens"]: s["kv"] for s in self.ctl("edge", "sessions.list") or []}
        for a in asked:
            a.kv = of.get(a.n_prompt) or a.kv
        return all(a.kv for a in asked)

    def said(self):
        return {"edge": self.edge, "cloud": self.cloud}[self.tight].said()

    def await_step(self, step, kv):
        asked = None if kv == "f16" else kv

        def there():
            stats, workers = self.ctl(self.tight, "stats"), self.ctl("edge", "workers.list")
            if not stats or not workers or stats["memory_step"] != step:
                return False
            if self.tight == "edge":
                return stats["kv_format"] == kv and workers[0]["kv_asked"] is None
            return stats["kv_asked"] == workers[0]["kv_asked"] == asked
        return e2e.check(e2e.wait_for(there, 60), "new sessions have %s, the step is %s: %s"
                         % (kv, step, self.said()[-600:]))


def ladder(model, folder, tight):
    known = [{"prompt": prompt(i), "n_predict": 1} for i in range(len(WORDS))]
    lengths = [len(r["prompt_ids"]) for r in e2e.run_requests(known, "-m", model, "--local")]
    e2e.check(len(set(lengths)) == len(lengths), "each prompt has a length of its own: %s" % lengths)
    e = Edge(model, folder, tight)
    asked = [e.ask(i, lengths[i]) for i in range(5)]
    e.await_step("coarser keys and values", "q8")
    e.note(asked)
    asked += [e.ask(i, lengths[i]) for i in (5, 6)]
    e.await_step("coarser keys and values", "k8v4")
    asked.append(e.ask(7, lengths[7]))
    e2e.check(e2e.wait_for(lambda: e.note(asked), 30), "all run: %s" % [a.kv for a in asked])
    e2e.check([a.kv for a in asked] == 5 * ["f16"] + 2 * ["q8"] + ["k8v4"], "formats: %s" % [a.kv for a in asked])
    stats = e.ctl(tight, "stats")
    e2e.check(stats["memory_step"] == "coarser keys and values", "contexts are what they were: %s" % stats["memory_step"])
    for a in asked:
        a.join(e2e.TIMEOUT_S)
    began = time.monotonic()
    e.await_step("easy", "f16")
    e2e.say("easy again after %.1f s" % (time.monotonic() - began))
    stats = e.ctl(tight, "stats")
    e2e.check(stats["memory_steps"] == 4, "two steps up, two down: %s" % stats["memory_steps"])
    if tight == "cloud":
        last = e.ask(0, lengths[0])
        e2e.check(e2e.wait_for(lambda: e.note([last]), 30) and last.kv == "f16", "the next has f16: %s" % last.kv)
        last.join(e2e.TIMEOUT_S)
        asked.append(last)
    e2e.check(e.edge.stop() == 0, "the edge ends: " + e.edge.said()[-500:])
    e.cloud.stop()
    for kv in ("q8", "k8v4"):
        e2e.check("coarser keys and values (step 2 of 4), new keys and values %s" % kv in e.said(),
                  "the step to %s is logged: %s" % (kv, e.said()[-800:]))
        told = "the cloud asks for keys and values in %s" % kv
        e2e.check((told in e.edge.said()) == (tight == "cloud"), "by the edge, too: %s" % e.edge.said()[-800:])

    texts, differ = {}, 0
    for kv in ("f16", "q8", "k8v4"):
        mine = [a for a in asked if a.kv == kv or kv == "f16"]
        got = e2e.run_requests([{"prompt": prompt(a.i), "n_predict": TOKENS - a.n_prompt} for a in mine], "-m", model,
                               "--local", "--ignore-eos", "--parallel", "8", "--threads", "1", "--kv", kv)
        differ += sum(texts.get(a.i, r["text"]) != r["text"] for a, r in zip(mine, got))
        texts.update({a.i: r["text"] for a, r in zip(mine, got)})
    for a in asked:
        e2e.check(a.text == texts[a.i], "answer %d is that of --local in %s: %r, not %r"
                  % (a.i, a.kv, a.text or a.why[:200], texts[a.i]))
    e2e.say("%d of 3 coarser answers are other ones than in f16" % differ)
    e2e.check(differ > 0, "the format makes a difference in these answers")


def refusals(model):
    edge = ("edge", "-m", model, "--port", "udp:127.0.0.1:9", "--insecure", "-p", "x")
    for args, word in ((("--kv-least", "q8"), "--kv-least is for a process that serves"),
                       (("--kv-least", "f16", "--kv", "q8", "--memory-budget", "400MB"), "--kv q8 is coarser"),
                       (("--kv-least", "q9", "--memory-budget", "400MB"), "must be f16, q8, k8v4 or q4")):
        done = e2e.isthmus(*edge, *args)
        e2e.check(done.returncode == 2 and word in done.stderr,
                  "%s: exit code %d: %s" % (args, done.returncode, done.stderr[-300:]))
    cloud = ("cloud", "-m", model, "--port", "udp:127.0.0.1:9", "--insecure", "--kv-least", "f16")
    for args, word in (((), "--kv-least is for --memory-budget"),
                       (("--memory-budget", "400MB", "--kv", "q8"), "--kv q8 is coarser")):
        done = e2e.isthmus(*cloud, *args)
        e2e.check(done.returncode == 2 and word in done.stderr,
                  "a cloud, %s: exit code %d: %s" % (args, done.returncode, done.stderr[-300:]))
    done = e2e.isthmus(*edge, "--memory-budget", "110MB", "--history", "0", "--ctx", "8192")
    e2e.check(done.returncode == 2 and ("--kv q8 would fit" in done.stderr or "--kv k8v4 would fit" in done.stderr),
              "a coarser cache would fit: exit code %d: %s" % (done.returncode, done.stderr[-600:]))


def main():
    model = e2e.model("smollm2")
    refusals(model)
    edges(model)
    with tempfile.TemporaryDirectory() as folder:
        for tight in ("edge", "cloud"):
            ladder(model, folder, tight)
    e2e.finish()


main()
