#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The cloud is killed in mid-answer, restarted, or replaced by another: the edge goes on by itself, with
the ids of --local, and says that there was a pause. And when nobody comes back it says that, too."""
import json
import signal
import time

import e2e
import halves

CORE = ("--first-core", "1", "--threads", "1")
SPLIT = ("--split", "10")
IDS = 60 if e2e.QUICK else 200


class Edge(halves.Edge):
    """An edge with requests of which the first is answered at once, so that one knows where it is."""

    def __init__(self, model, ports, asked, *args):
        more = [x for p in ports[1:] for x in ("--port", p)]
        super().__init__(model, ports[0], *more, *SPLIT, "--threads", "1", "--ignore-eos", "--parallel", "4",
                         "--json", "--requests", "-", *args)
        self.write(e2e.lines_of(asked))
        self.process.stdin.close()
        self.first = self.line()

    def hears(self, words, times=1):
        return e2e.wait_for(lambda: self.said().count(words) >= times or self.process.poll() is not None,
                            halves.LIMIT_S) and self.said().count(words) >= times

    def results(self):
        """Exit code, ids by request, totals."""
        code, rest = self.end(e2e.TIMEOUT_S)
        results = [json.loads(line) for line in (self.first + rest).splitlines() if line.strip()]
        totals = results.pop() if results and "requests" in results[-1] else None
        return code, [r.get("ids") for r in results], totals


def requests(codec="f32"):
    """The first is short, the others long; their ids, undisturbed."""
    model = e2e.model("smollm2")
    asked = [{"prompt": p, "n_predict": IDS} for p in e2e.PROMPTS[:4]]
    asked[0]["n_predict"] = 15
    asked[2].update(temp=.9, top_k=40, repeat_penalty=1.2, seed=5)
    how = ("--local",) if codec == "f32" else (*SPLIT, "--codec", codec)
    alone = e2e.run_requests(asked, "-m", model, *how, "--ignore-eos", "--parallel", "4")
    return asked, [r["ids"] for r in alone]


def same(what, edge, expected, reconnections):
    code, ids, totals = edge.results()
    e2e.say("%-34s %d of %d the same, %s reconnections, %s bytes replayed"
            % (what, sum(a == b for a, b in zip(ids, expected)), len(expected),
               totals and totals["reconnections"], totals and totals["replayed_bytes"]))
    e2e.check(code == 0 and ids == expected, "%s: exit %d: %s" % (what, code, edge.said()[-600:]))
    e2e.check(totals and totals["reconnections"] >= reconnections, "%s: %s" % (what, edge.said()[-600:]))
    return totals


def killed(model, port, asked, expected, *args, kills=1, codec="f32", sig=signal.SIGKILL, head=()):
    """At the same place, as often as wanted."""
    def serve():
        cloud = halves.Cloud(model, port, *SPLIT, "--codec", codec, *CORE, *head, "--drain-timeout", "1")
        e2e.check(cloud.ready(), "the cloud serves: " + cloud.said())
        return cloud

    cloud = serve()
    edge = Edge(model, [port], asked, "--codec", codec, *head, *args)
    for i in range(kills):
        if sig == signal.SIGTERM: # it would drain; the second ends it at once, however fast the answers are
            cloud.process.send_signal(sig)
            e2e.wait_for(lambda: "draining" in cloud.said(), 10)
        cloud.stop(sig)
        e2e.check(edge.hears("the cloud is lost", i + 1), "the loss is said: " + edge.said())
        cloud = serve()
        e2e.check(edge.hears("connected again", i + 1), "and the end of it: " + edge.said())
    totals = same("%s %s %s" % (port[:5], codec, " ".join((*head, *args))), edge, expected, kills)
    e2e.check(cloud.stop() == 0, "the cloud ends well")
    return totals


def replaced(model, asked, expected):
    """Two clouds with a key each; the first is killed and stays away."""
    ports = ["udp:127.0.0.1:%d" % halves.free_port() for _ in range(2)]
    edge_key, edge_print = e2e.keygen("edge-of-two")
    keys = [e2e.keygen("cloud-%d" % i) for i in range(2)]
    clouds = [halves.Cloud(model, p, *SPLIT, "--codec", "f32", *CORE, "--identity", key, "--peer", edge_print)
              for p, (key, _) in zip(ports, keys)]
    for c in clouds:
        e2e.check(c.ready(), "the clouds serve: " + c.said())
    peers = ["--identity", edge_key] + [x for _, print_ in keys for x in ("--peer", print_)]
    edge = Edge(model, ports, asked, "--codec", "f32", *peers)
    clouds[0].stop(signal.SIGKILL)
    same("another cloud", edge, expected, 1)
    clouds[1].stop()


def in_vain(model, asked):
    port = "udp:127.0.0.1:%d" % halves.free_port()
    for seconds, words in ((0, "the cloud is lost"), (2, "none answered within 2 s")):
        cloud = halves.Cloud(model, port, *SPLIT, "--codec", "f32", *CORE)
        e2e.check(cloud.ready(), "the cloud serves")
        edge = Edge(model, [port], asked, "--codec", "f32", "--reconnect", seconds)
        cloud.stop(signal.SIGKILL)
        start = time.monotonic()
        code = edge.results()[0]
        e2e.say("--reconnect %d: exit %d after %.1f s" % (seconds, code, time.monotonic() - start))
        e2e.check(code == 1 and words in edge.said(), "--reconnect %d: %d, %s" % (seconds, code, edge.said()))


def idle(model):
    """The cloud is restarted while the user thinks."""
    port = "udp:127.0.0.1:%d" % halves.free_port()
    cloud = halves.Cloud(model, port, *SPLIT, *CORE)
    e2e.check(cloud.ready(), "the cloud serves")
    chat = halves.Edge(model, port, *SPLIT, "-n", "8")
    chat.write("Hello\n")
    e2e.check(chat.line() != "", "an answer")
    cloud.stop()
    cloud = halves.Cloud(model, port, *SPLIT, *CORE)
    e2e.check(cloud.ready(), "the cloud serves again")
    chat.write("And now?\n")
    chat.process.stdin.close()
    code, answer = chat.end()
    e2e.check(answer.strip() != "" and code == 0, "the chat goes on: " + chat.said()[-500:])
    cloud.stop()


def main():
    model = e2e.model("smollm2")
    asked, local = requests()
    port = "udp:127.0.0.1:%d" % halves.free_port()
    killed(model, port, asked, local, kills=1 if e2e.QUICK else 4)
    killed(model, "memif:@isthmus-test-%d" % halves.free_port(), asked, local)
    killed(model, port, asked, local, sig=signal.SIGTERM)
    totals = killed(model, port, asked, local, "--history", "0")
    e2e.check(totals and totals["replayed_bytes"] == 0, "without a history nothing is replayed")
    killed(model, port, asked, local, "--netem", "drop=20%,dup=20%,reorder=20%")
    killed(model, port, asked, local, "--netem", "drop=10%", head=("--head", "edge"))
    # A lossy codec too: what was lost the first time is lost the same way again.
    killed(model, port, *requests("tsq"), codec="tsq")
    replaced(model, asked, local)
    in_vain(model, asked)
    idle(model)
    e2e.finish()


main()
