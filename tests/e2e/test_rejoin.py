#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The cloud is killed in mid-answer, restarted, or replaced by another, over every kind of port: the edge goes on by
itself, with the ids of --local, and says that there was a pause. Either half dies with packets in its rings. And when
nobody comes back the edge says that, too."""
import json
import signal
import tempfile
import time

import e2e
import halves
import ports

CORE = ("--first-core", "1", "--threads", "1")
SPLIT = ("--split", "10")
NETEM = "drop=20%,dup=20%,reorder=20%"
BEGUN = time.monotonic()
IDS = 60 if e2e.QUICK else 200


class Edge(halves.Edge):
    """An edge with requests of which the first is answered at once, so that one knows where it is."""

    def __init__(self, model, place, asked, *args, clouds=("cloud",)):
        first, *more = [place.towards(cloud) for cloud in clouds]
        super().__init__(model, first, *[x for p in more for x in ("--port", p)], *SPLIT, "--threads", "1",
                         "--ignore-eos", "--parallel", "4", "--json", "--requests", "-", *args,
                         prefix=place.inside("one"))
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
    e2e.say("%5.1f s %-34s %d of %d the same, %s reconnections, %s bytes replayed"
            % (time.monotonic() - BEGUN, what, sum(a == b for a, b in zip(ids, expected)), len(expected),
               totals and totals["reconnections"], totals and totals["replayed_bytes"]))
    e2e.check(code == 0 and ids == expected, "%s: exit %d: %s" % (what, code, edge.said()[-600:]))
    e2e.check(totals and totals["reconnections"] >= reconnections, "%s: %s" % (what, edge.said()[-600:]))
    return totals


def killed(model, place, asked, expected, *args, kills=1, codec="f32", sig=signal.SIGKILL, head=()):
    """At the same place, as often as wanted; every second time it had stopped, and dies with packets that it never
    read: what is not acknowledged the edge sends again within milliseconds."""
    def serve():
        return place.cloud(model, *SPLIT, "--codec", codec, *CORE, *head, "--drain-timeout", "1")

    cloud = serve()
    edge = Edge(model, place, asked, "--codec", codec, *head, *args)
    for i in range(kills):
        if sig == signal.SIGTERM: # it would drain; the second ends it at once, however fast the answers are
            cloud.process.send_signal(sig)
            e2e.wait_for(lambda: "draining" in cloud.said(), 10)
        if i % 2:
            cloud.process.send_signal(signal.SIGSTOP)
            time.sleep(.2)
        cloud.stop(sig)
        cloud = serve()  # which says by itself that it knows nothing: who waits for silence waits for 10 s
        for words in ("the cloud is lost", "connected again"):
            e2e.check(edge.hears(words, i + 1), "%s: it says %r: %s" % (place.kind, words, edge.said()[-600:]))
    totals = same("%s %s %s" % (place.kind, codec, " ".join((*head, *args))), edge, expected, kills)
    e2e.check(cloud.stop() == 0, "the cloud ends well")
    return totals


def dead_edge(model, place, asked, expected, control):
    """With packets that it never read: it had stopped, and the cloud sent more. The next one gets its own."""
    cloud = place.cloud(model, *SPLIT, "--codec", "f32", *CORE, "--control", control)
    edge = Edge(model, place, asked, "--codec", "f32")
    edge.process.send_signal(signal.SIGSTOP)
    before = ports.sent(control)
    e2e.check(e2e.wait_for(lambda: ports.sent(control) > before, halves.LIMIT_S), "packets wait for one that stopped")
    edge.stop(signal.SIGKILL)
    same(place.kind + " after a dead edge", Edge(model, place, asked[:1], "--codec", "f32"), expected[:1], 0)
    e2e.check(cloud.stop() == 0, "the cloud ends well: " + cloud.said()[-600:])


def replaced(model, place, asked, expected, *args):
    """Two clouds with a key each; the first is killed and stays away."""
    edge_key, edge_print = e2e.keygen("edge-of-two")
    keys = {name: e2e.keygen("cloud-" + name) for name in ports.CLOUDS}
    clouds = [place.cloud(model, *SPLIT, "--codec", "f32", *CORE, "--identity", key, "--peer", edge_print, name=name)
              for name, (key, _) in keys.items()]
    peers = ["--identity", edge_key] + [x for _, print_ in keys.values() for x in ("--peer", print_)]
    edge = Edge(model, place, asked, "--codec", "f32", *peers, *args, clouds=ports.CLOUDS)
    clouds[0].stop(signal.SIGKILL)
    same("%s another cloud %s" % (place.kind, " ".join(args)), edge, expected, 1)
    e2e.check(clouds[1].stop() == 0, "the other cloud ends well: " + clouds[1].said()[-600:])


def in_vain(model, place, asked):
    for seconds, words in ((0, "the cloud is lost"), (2, "none answered within 2 s")):
        cloud = place.cloud(model, *SPLIT, "--codec", "f32", *CORE)
        edge = Edge(model, place, asked, "--codec", "f32", "--reconnect", seconds)
        cloud.stop(signal.SIGKILL)
        start = time.monotonic()
        code = edge.results()[0]
        e2e.say("--reconnect %d: exit %d after %.1f s" % (seconds, code, time.monotonic() - start))
        e2e.check(code == 1 and words in edge.said(), "--reconnect %d: %d, %s" % (seconds, code, edge.said()))


def idle(model, place):
    """The cloud is restarted while the user thinks."""
    cloud = place.cloud(model, *SPLIT, *CORE)
    chat = halves.Edge(model, place.towards(), *SPLIT, "-n", "8", prefix=place.inside("one"))
    chat.write("Hello\n")
    e2e.check(chat.line() != "", "an answer")
    cloud.stop()
    cloud = place.cloud(model, *SPLIT, *CORE)
    chat.write("And now?\n")
    chat.process.stdin.close()
    code, answer = chat.end()
    e2e.check(answer.strip() != "" and code == 0, "the chat goes on: " + chat.said()[-500:])
    cloud.stop()


def at_length(model, place, asked, local):
    """What a port has no part in, over one of them."""
    killed(model, place, asked, local, sig=signal.SIGTERM)
    totals = killed(model, place, asked, local, "--history", "0")
    e2e.check(totals and totals["replayed_bytes"] == 0, "without a history nothing is replayed")
    killed(model, place, asked, local, "--netem", "drop=10%", head=("--head", "edge"))
    # A lossy codec too: what was lost the first time is lost the same way again.
    killed(model, place, *requests("tsq"), codec="tsq")
    in_vain(model, place, asked)


def main():
    model = e2e.model("smollm2")
    asked, local = requests()
    with tempfile.TemporaryDirectory(prefix="isthmus-test-") as folder:
        for place in ports.places():
            killed(model, place, asked, local, kills=4 if place.kind == "udp" and not e2e.QUICK else 2)
            dead_edge(model, place, asked, local, ports.control_socket(folder, place.kind))
            replaced(model, place, asked, local, "--netem", NETEM)
            if place.kind == "memif":  # which tells at once that its peer is gone
                at_length(model, place, asked, local)
            elif place.kind == "udp":
                idle(model, place)
    e2e.finish()


main()
