#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Three edges with keys of their own at one cloud at once, over every kind of port but memif, where one waits for the
other: the ids of --local for each; one killed while the others notice nothing; what the list of edges allows; a list
and a configuration that are read again; strangers; draining."""
import os
import signal
import tempfile
import threading
import time

import e2e
import halves
import ports

CORE = ("--first-core", "1", "--threads", "1")
SPLIT = ("--split", "10", "--codec", "f32")
PROMPT = "Once upon a time"
ASK = ("--ignore-eos", "-p", PROMPT, "-n")
EVERYBODY = {"one": "", "two": ""}


class Site:
    """A cloud and its list of edges."""

    def __init__(self, folder, model, place, limits, *args, listed=True):
        self.model, self.place = model, place
        self.cloud_key, self.cloud_print = e2e.keygen("edges-cloud")
        self.keys = {}
        self.list = os.path.join(folder, "edges")
        for name in (*ports.EDGES, "stranger"):
            self.keys[name] = e2e.keygen("edges-" + name)
        self.write(limits)
        self.cloud = place.cloud(model, *SPLIT, *CORE, "--identity", self.cloud_key,
                                 *(("--authorized", self.list) if listed else ()), *args)

    def write(self, limits):
        with open(self.list, "w", encoding="ascii") as f:
            for name, text in limits.items():
                f.write("%s %s %s\n" % (name, self.keys[name][1], text))

    def start(self, how, name, *args, **more):
        """An edge, at a host of its own."""
        host = name if name in ports.EDGES else "two"
        return how(self.model, self.place.towards(edge=host), *SPLIT, "--identity", self.keys[name][0],
                   "--peer", self.cloud_print, *args, prefix=self.place.inside(host), **more)

    def ask(self, name, *args, n=8):
        return self.start(halves.edge, name, *ASK, n, "--json", *args)

    def begun(self, name, *args):
        return self.start(halves.edge_started, name, *args)

    def says(self, words):
        e2e.check(e2e.wait_for(lambda: words in self.cloud.said(), 60),
                  "the cloud says %r: %s" % (words, self.cloud.said()[-1500:]))


def answers(site, names, asked):
    """What each of these gets, all at once."""
    results = {}

    def answer(name):
        done = site.start(halves.edge, name, "--ignore-eos", "--parallel", "4", "--threads", "1", "--requests", "-",
                          text_in=e2e.lines_of(asked))
        results[name] = [r["ids"] for r in e2e.json_lines(done, "edge " + name)]

    threads = [threading.Thread(target=answer, args=(name,)) for name in names]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return [results.get(name) for name in names]


def together(site, asked, local):
    """Three at once; then two, while the third is killed again and again."""
    e2e.check(answers(site, ports.EDGES, asked) == [local] * 3, "three edges at once: the ids of --local")
    busy = [site.begun(name, "--reconnect", "0") for name in ports.EDGES[1:]]
    e2e.check(answers(site, ("one",), asked) == [local], "the ids of --local beside two in mid-answer")
    site.says(": 3 edges")
    for edge in busy:
        edge.stop(signal.SIGKILL)
    stop, kills = threading.Event(), []

    def kill():
        while not stop.is_set():
            site.begun("three", "--reconnect", "0").stop(signal.SIGKILL)
            kills.append(time.monotonic())

    killer = threading.Thread(target=kill)
    killer.start()
    same = answers(site, ("one", "two"), asked) == [local] * 2
    stop.set()
    killer.join()
    e2e.check(same and kills, "the ids of --local beside one that is killed %d times" % len(kills))
    e2e.say("two edges beside one that was killed %d times" % len(kills))
    site.says("fell silent")


def in_turn(site, asked, local):
    """By memif the second waits until the first has gone, by whatever."""
    first = site.begun("one", "--reconnect", "0")
    second = site.start(halves.Edge, "two", *ASK, 8, "--connect", "60", stdin=halves.subprocess.DEVNULL)
    time.sleep(1)
    e2e.check(first.some() != b"" and second.process.poll() is None and ": 2 edges" not in site.cloud.said(),
              "one edge at a time: " + site.cloud.said()[-600:])
    first.stop(signal.SIGKILL)
    code, text = second.end()
    e2e.check(code == 0 and text != "", "the second is served then: %d, %s" % (code, second.said()[-600:]))
    e2e.check(answers(site, ("three",), asked) == [local], "and the next: the ids of --local")


def limits(folder, model, place):
    """sessions=1, kv= and rate= of one edge; the others have none of it."""
    site = Site(folder, model, place, {"one": "sessions=1 tokens=5000 kv=500MB", "two": "kv=2MB",
                                       "three": "rate=20rows/s"})
    first = site.begun("one")
    done = site.ask("one", "--connect", "3")
    e2e.check(done.returncode == 1 and "one may have 1 sessions at once" in done.stderr,
              "a second session of one: %d, %s" % (done.returncode, done.stderr[-300:]))
    first.stop(signal.SIGKILL)
    done = site.ask("one")  # its old self is not known to be dead yet
    e2e.check(done.returncode == 0, "one, started again: %d, %s" % (done.returncode, done.stderr[-300:]))
    done = site.ask("two", n=2000)
    e2e.check(done.returncode == 1 and "two may have 2000000 bytes of cache" in done.stderr,
              "more cache than two may have: %d, %s" % (done.returncode, done.stderr[-300:]))
    e2e.check(site.ask("two").returncode == 0, "less than that")
    start = time.monotonic()
    done = site.ask("three", n=60)  # 20 at once, then 20 a second
    took_s = time.monotonic() - start
    e2e.check(done.returncode == 0 and took_s > 1.5, "60 rows at 20 a second took %.1f s" % took_s)
    e2e.say("60 rows at 20 a second took %.1f s" % took_s)

    done = site.ask("stranger")
    e2e.check(done.returncode == 1 and "does not admit our identity" in done.stderr,
              "a stranger: %d, %s" % (done.returncode, done.stderr[-300:]))
    site.says(site.keys["stranger"][1])

    # The list is read again: one is cut off in mid-answer, the stranger is none any more.
    first = site.begun("one", "--reconnect", "0")
    other = site.begun("three", "--reconnect", "0")
    site.write({"three": "", "stranger": ""})
    site.cloud.process.send_signal(signal.SIGHUP)
    code = first.end()[0]
    e2e.check(code == 1 and "closed the connection" in first.said(),
              "who is taken off the list is cut off: %d, %s" % (code, first.said()[-300:]))
    site.says("2 edges are admitted")
    e2e.check(site.ask("stranger").returncode == 0, "who came onto it is served")
    e2e.check(other.process.poll() is None and other.some() != b"", "the others go on")
    with open(site.list, "w", encoding="ascii") as f:
        f.write("nonsense\n")
    site.cloud.process.send_signal(signal.SIGHUP)
    site.says("the old one stays")
    e2e.check(site.ask("stranger").returncode == 0, "a list that can't be read changes nothing")
    other.stop(signal.SIGINT) # SIGTERM would wait for its answer
    e2e.check(site.cloud.stop() == 0, "the cloud ends well: " + site.cloud.said()[-300:])


def configured(folder, model, place):
    """A configuration file that is read again: what changes, what needs a restart, what is wrong, and a
    list of edges that goes and comes back."""
    config, edges = os.path.join(folder, "cloud.ini"), os.path.join(folder, "edges")

    def write(*lines):
        with open(config, "w", encoding="ascii") as f:
            f.write("[cloud]\n" + "".join(line + "\n" for line in lines))

    def hang_up(words):
        site.cloud.process.send_signal(signal.SIGHUP)
        site.says(words)

    listed = "authorized = " + edges
    write(listed, "drain-timeout = 60")
    control = os.path.join(folder, "control.sock")
    site = Site(folder, model, place, {"one": ""}, "--config", config, "--control", control, listed=False)
    write(listed, "drain-timeout = 1", "log-level = debug", "max-edges = 3")
    hang_up("reload: max-edges: (default) -> 3 needs a restart")
    site.says("reload: drain-timeout: 60 -> 1")
    site.says("reload: log-level: (default) -> debug")
    site.says("1 edges are admitted")
    write(listed, "drain-timeout = soon")
    hang_up("reload: refused: all values stay")
    write("drain-timeout = 1")
    hang_up("reload: authorized: %s -> (default) needs a restart" % edges)
    done = e2e.isthmus("ctl", "--socket", control, "reload")
    e2e.check(done.returncode == 0 and "authorized: %s -> (default) needs a restart\n" % edges in done.stdout,
              "ctl reload: %d %s %s" % (done.returncode, done.stdout, done.stderr))
    os.rename(edges, edges + ".away")
    write(listed, "drain-timeout = 1")
    done = e2e.isthmus("ctl", "--socket", control, "reload")
    e2e.check(done.returncode == 1 and "authorized %s refused: " % edges in done.stdout
              and "; the old one stays\n" in done.stdout, "ctl reload, no list: %d %s" % (done.returncode, done.stdout))
    os.rename(edges + ".away", edges)
    site.write({"one": "", "two": ""})
    write(listed, "drain-timeout = 1")
    hang_up("2 edges are admitted")
    e2e.check(site.ask("two").returncode == 0, "who came onto the list is served")
    site.begun("one", "--reconnect", "0")
    start = time.monotonic()
    e2e.check(site.cloud.stop() == 0 and "cut off" in site.cloud.said() and time.monotonic() - start < 20,
              "the time to drain is the new one: " + site.cloud.said()[-300:])


def drained(folder, model, place):
    """What runs ends in peace, and nothing new begins."""
    site = Site(folder, model, place, EVERYBODY)
    n = 60
    local = e2e.isthmus("run", "-m", model, "--local", *ASK, str(n)).stdout
    edge = site.start(halves.Edge, "one", *ASK, n, stdin=halves.subprocess.DEVNULL)
    said = edge.some()
    e2e.check(said != b"", "an answer begins: " + edge.said()[-300:])
    site.cloud.process.send_signal(signal.SIGTERM)
    site.says("draining")
    done = site.ask("two", "--connect", "3", "--reconnect", "0")
    e2e.check(done.returncode == 1, "nothing new begins: %d, %s" % (done.returncode, done.stderr[-300:]))
    code, rest = edge.end()
    e2e.check(code == 0 and said.decode() + rest == local,
              "what ran is whole: %d, %r" % (code, said.decode() + rest))
    with halves.within("the cloud's end after draining"):
        e2e.check(site.cloud.process.wait() == 0, "and the cloud ends: " + site.cloud.said()[-300:])


def cut_off(folder, model, place):
    """A second signal, or the time, ends draining."""
    site = Site(folder, model, place, EVERYBODY)
    site.begun("one", "--reconnect", "0")
    site.cloud.process.send_signal(signal.SIGTERM)
    site.says("draining")
    e2e.check(site.cloud.stop() == 0 and "cut off" in site.cloud.said(),
              "a second signal ends it at once: " + site.cloud.said()[-300:])

    site = Site(folder, model, place, EVERYBODY, "--drain-timeout", "1")
    site.begun("one", "--reconnect", "0")
    start = time.monotonic()
    e2e.check(site.cloud.stop() == 0 and "cut off" in site.cloud.said(),
              "so does the time: " + site.cloud.said()[-300:])
    e2e.say("--drain-timeout 1: ended after %.1f s" % (time.monotonic() - start))


def main():
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # else what is started here has it ignored, too
    model = e2e.model("smollm2")
    asked, local = halves.requests()
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)  # one who gave up root reads the list again, and makes a control socket
        for place in ports.places():
            start = time.monotonic()
            site = Site(folder, model, place, dict.fromkeys(ports.EDGES, ""))
            (in_turn if place.alone else together)(site, asked, local)
            e2e.check(site.cloud.stop() == 0, "the cloud ends well: " + site.cloud.said()[-300:])
            drained(folder, model, place)
            e2e.say("%s: %.1f s" % (place.kind, time.monotonic() - start))
            if place.kind == "udp":
                limits(folder, model, place)
                configured(folder, model, place)
                cut_off(folder, model, place)
    e2e.finish()


main()
