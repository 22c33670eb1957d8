#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""An edge and its fleet of workers, each on a host of its own (namespaces.py): found by a file, by DNS SRV and by
etcd; killed, cut off, drained, upgraded one after the other under load; emptied by hand. Every answer ends,
with the ids of --local."""
import concurrent.futures
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

import e2e
import halves
import namespaces

SPLIT = ("--split", "10", "--codec", "f32")
ONE = ("--threads", "1", "--first-core", "-1")
CLIENTS = 16
IDS = 250 if e2e.QUICK else 600
MORE_IDS = 400 if e2e.QUICK else 800  # by a file, where more happens meanwhile
FOLDER = tempfile.mkdtemp(prefix="isthmus-fleet-")
NET = namespaces.Network("edge", "w1", "w2", "w3", "registry", "programs")  # this program is at the last


class Worker:
    """A cloud with a key and a place of its own, started again and again."""

    def __init__(self, model, name):
        self.model, self.name = model, name
        self.host = name if name in NET.hosts else "w1"
        self.address, self.number = NET.address(self.host), halves.free_port()
        self.port = "udp:%s:%d" % (self.address, self.number)
        self.key, self.print = e2e.keygen("worker-" + name)
        self.cloud = None

    def start(self, *args):
        self.cloud = halves.Cloud(self.model, self.port, *SPLIT, *ONE, "--identity", self.key, "--peer",
                                  e2e.keygen("edge")[1], "--max-sessions", str(CLIENTS), *args,
                                  prefix=NET.inside(self.host))
        e2e.check(self.cloud.ready(), self.name + " serves: " + self.cloud.said())
        return self

    def line(self, *more):
        return " ".join((self.name, self.port, self.print) + more) + "\n"

    def kill(self):
        self.cloud.stop(signal.SIGKILL)


class Edge(halves.Half):
    """An edge with CLIENTS requests at once; its first result tells that it is under way."""

    def __init__(self, model, where, asked, *args):
        super().__init__("edge", "-m", model, "--workers", where, "--identity", e2e.keygen("edge")[0], *SPLIT,
                         *ONE, "--ignore-eos", "--parallel", str(CLIENTS), "--json", "--requests", "-", *args,
                         stdin=subprocess.PIPE, prefix=NET.inside("edge"))
        self.write(e2e.lines_of(asked))
        self.process.stdin.close()
        self.first = self.line()

    def hears(self, words, times=1, seconds=halves.LIMIT_S):
        return e2e.wait_for(lambda: self.said().count(words) >= times or self.process.poll() is not None,
                            seconds) and self.said().count(words) >= times

    def expect(self, words, times=1):
        e2e.check(self.hears(words, times), "the edge says %r: %s" % (words, self.said()[-1500:]))

    def expect_lost(self, name):
        """By what its host says, or by silence."""
        def lost():
            return any("the cloud is lost:" in l and "port %s" % name in l for l in self.said().splitlines())
        e2e.wait_for(lambda: lost() or self.process.poll() is not None, halves.LIMIT_S)
        e2e.check(lost(), "%s is lost: %s" % (name, self.said()[-1500:]))

    def expect_joined(self, name, times):
        def joined():
            return sum("connected" in l and "port %s:" % name in l for l in self.said().splitlines())
        e2e.wait_for(lambda: joined() >= times or self.process.poll() is not None, halves.LIMIT_S)
        e2e.check(joined() >= times, "%s is joined %d times: %s" % (name, times, self.said()[-1500:]))

    def same(self, what, expected):
        code, rest = self.end(e2e.TIMEOUT_S)
        results = [json.loads(line) for line in (self.first + rest).splitlines() if line.strip()]
        totals = results.pop() if results and "requests" in results[-1] else {}
        same = sum(r.get("ids") == want for r, want in zip(results, expected))
        e2e.say("%-28s %d of %d the same, %s reconnections, %s bytes replayed"
                % (what, same, len(expected), totals.get("reconnections"), totals.get("replayed_bytes")))
        e2e.check(code == 0 and len(results) == len(expected) and same == len(expected),
                  "%s: exit %d: %s" % (what, code, self.said()[-2000:]))
        return totals


def requests(n=CLIENTS + 1):
    """The first is short, so that one knows when the others are on their way."""
    model = e2e.model("smollm2")
    asked = [{"prompt": "Number %d. %s" % (i, e2e.PROMPTS[i % 4]), "n_predict": MORE_IDS} for i in range(n)]
    asked[0]["n_predict"] = 3
    asked[5].update(temp=.9, top_k=40, repeat_penalty=1.2, seed=5)
    local = e2e.run_requests(asked, "-m", model, "--local", "--ignore-eos", "--parallel", "16")
    return asked, [r["ids"] for r in local]


def fewer(asked, expected):
    """The same, cut short: an id depends on those before it alone."""
    return [dict(a, n_predict=min(a["n_predict"], IDS)) for a in asked], [ids[:IDS] for ids in expected]


def path(name):
    return os.path.join(FOLDER, name)


def put(name, text):
    """As a file of workers should be replaced: by another."""
    with open(path(name + ".new"), "w", encoding="utf-8") as f:
        f.write(text)
    os.replace(path(name + ".new"), path(name))


def moved(edge, name):
    """How many answers went on elsewhere when the worker was lost, as the edge says it."""
    for line in edge.said().splitlines():
        if "port %s:" % name in line and "on the way go" in line:
            return int(line.split(" answer")[0].split()[-1])
    return 0


def by_file(model, asked, expected):
    """One is killed, one cut off, one drained by its line, one by SIGTERM, all while 16 answers are made."""
    workers = [Worker(model, "w%d" % i).start() for i in range(1, 4)]
    w1, w2, w3 = workers
    put("workers", "# the fleet\n" + "".join(w.line() for w in workers))
    edge = Edge(model, "file:" + path("workers"), asked)
    w1.kill()
    edge.expect_lost("w1")
    n = moved(edge, "w1")
    w1.start()
    edge.expect_joined("w1", 2)
    if NET.real:
        NET.cut("w3")
        edge.expect_lost("w3")
        NET.cut("w3", False)
        edge.expect_joined("w3", 2)
    put("workers", w1.line() + w2.line("drain") + w3.line())
    edge.expect("w2 drains")
    gone = e2e.wait_for(lambda: "is gone" in w2.cloud.said(), halves.LIMIT_S)
    e2e.check(gone and "0 sessions ended" in w2.cloud.said(), "w2 was emptied: " + w2.cloud.said()[-800:])
    put("workers", "".join(w.line() for w in workers))
    edge.expect_joined("w2", 2)
    code = w3.cloud.stop()
    e2e.check(code == 0, "w3 drains and ends: %d" % code)
    put("workers", "w1 udp:nonsense\n")
    edge.expect("the list before it stays")
    totals = edge.same("a file of three", expected)
    e2e.check(totals.get("replayed_bytes", 0) > 0, "sessions moved: %s" % totals)
    e2e.say("  the killed worker had %d of %d answers" % (n, CLIENTS))
    e2e.check(1 <= n <= CLIENTS // 2, "sessions are spread: %d of %d at the first: %s"
              % (n, CLIENTS, edge.said()[:1500]))
    for w in (w1, w2):
        w.cloud.stop()


class Etcd:
    def __init__(self):
        self.client, self.peer = halves.free_port(), halves.free_port()
        self.url = "http://%s:%d" % (NET.address("registry"), self.client)
        self.start()

    def start(self):
        peer = "http://127.0.0.1:%d" % self.peer
        self.process = subprocess.Popen(
            [*NET.inside("registry"), "etcd", "--data-dir", path("etcd"), "--listen-client-urls", self.url, "--advertise-client-urls",
             self.url, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
             "--initial-cluster", "default=" + peer],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        halves.others.append(self.process)
        e2e.check(e2e.wait_for(self.answers, 60), "etcd serves")

    def answers(self):
        try:
            with urllib.request.urlopen(self.url + "/health", timeout=1) as r:
                return b"true" in r.read()
        except OSError:
            return False

    def kill(self):
        self.process.kill()
        self.process.wait()


def by_etcd(model, asked, expected):
    """A killed worker's lease ends; all are upgraded one after the other; etcd itself goes and comes."""
    if not shutil.which("etcd"):
        e2e.not_tried("etcd, for it is not installed")
        return
    etcd = Etcd()
    where = "etcd:%s/isthmus/test" % etcd.url
    workers = [Worker(model, "w%d" % i) for i in range(1, 4)]

    def start(w):
        w.start("--register", where, "--register-as", w.name)
        e2e.check(e2e.wait_for(lambda: "registered as" in w.cloud.said(), 60),
                  w.name + " is registered: " + w.cloud.said())

    for w in workers:
        start(w)
    edge = Edge(model, where, asked)
    begin = time.monotonic()
    workers[0].kill()
    edge.expect("w1 is not in the list any more")
    took = time.monotonic() - begin
    e2e.say("  a killed worker is out of the list after %.1f s" % took)
    e2e.check(took < 6, "a lease of 2 s ends, and the edge hears of it: %.1f s" % took)
    start(workers[0])
    edge.expect_joined("w1", 2)
    etcd.kill()
    edge.expect("are kept")
    e2e.check(workers[1].cloud.process.poll() is None, "w2 serves without etcd")
    time.sleep(1)
    e2e.check(edge.said().count("are kept") == 1, "etcd's absence is said once: " + edge.said()[-1500:])
    etcd.start()
    edge.expect("answers again")
    edge.same("etcd, killed and back", expected)

    edge = Edge(model, where, asked)
    for i, w in enumerate(workers, 1):
        e2e.check(w.cloud.stop() == 0, "%s drains and ends: %s" % (w.name, w.cloud.said()[-800:]))
        start(w)
        edge.expect_joined(w.name, 2)
        e2e.check(edge.process.poll() is None or i == 3, "the edge has work to the last: more ids are needed")
    edge.same("all upgraded under load", expected)
    for w in workers:
        w.cloud.stop()
    keys = urllib.request.urlopen(urllib.request.Request(
        etcd.url + "/v3/kv/range", data=b'{"key":"AA==","range_end":"AA=="}'), timeout=10).read()
    e2e.check("kvs" not in json.loads(keys), "those that end take their keys with them: %s" % keys[:300])
    etcd.kill()


class Dns(threading.Thread):
    """A name server for one name: SRV, and the addresses of its targets along with them."""

    def __init__(self, workers):
        super().__init__(daemon=True)
        self.targets = workers
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((NET.address("programs"), 0))
        self.asked = 0
        self.start()

    @staticmethod
    def name(text):
        return b"".join(bytes([len(p)]) + p.encode() for p in text.split(".")) + b"\0"

    def run(self):
        while True:
            query, whom = self.socket.recvfrom(2048)
            end = query.index(b"\0", 12) + 5
            self.asked += 1
            records = b""
            for w in self.targets:
                target = self.name(w.name + ".workers.test")
                data = struct.pack(">3H", 0, 0, w.number) + target
                records += b"\xc0\x0c" + struct.pack(">2HIH", 33, 1, 1, len(data)) + data
            for w in self.targets:
                records += self.name(w.name + ".workers.test") + struct.pack(">2HIH", 1, 1, 1, 4)
                records += socket.inet_aton(w.address)
            n = len(self.targets)
            head = query[:2] + struct.pack(">5H", 0x8580, 1, n, 0, n)
            self.socket.sendto(head + query[12:end] + records, whom)


def by_srv(model, asked, expected):
    workers = [Worker(model, "w%d" % i).start() for i in range(1, 3)]
    dns = Dns(workers)
    where = "srv:_isthmus._udp.workers.test@%s:%d" % dns.socket.getsockname()
    peers = [x for w in workers for x in ("--peer", w.print)]
    edge = Edge(model, where, asked, *peers)
    dns.targets = workers[1:]
    edge.expect("w1 is not in the list any more")
    dns.targets = []
    edge.expect("are kept")
    edge.same("DNS SRV", expected)
    e2e.check(dns.asked > 2, "asked again by its TTL")
    for w in workers:
        w.cloud.stop()


def wrong(model):
    """What is refused, and what is left out."""
    base = ("edge", "-m", model, "--identity", e2e.keygen("edge")[0], "-p", "x", "-n", "4", *SPLIT, *ONE)
    put("bad", "w1 udp:127.0.0.1:1 splat\n")
    for args, words in ((("--workers", "file:" + path("bad")), "bad:1: splat is nothing that a worker has"),
                        (("--workers", "file:" + path("none")), "No such file"),
                        (("--workers", "nis:x"), "no registry of workers"),
                        (("--workers", "file:x", "--port", "udp:127.0.0.1:1"), "give one of them"),
                        (("--workers", "file:x", "--reconnect", "0"), "does not go with them")):
        done = e2e.isthmus(*base, *args)
        e2e.check(done.returncode == 2 and words in done.stderr, "%s: %d %s" % (args, done.returncode, done.stderr))
    good, other = Worker(model, "good").start(), Worker(model, "other")
    other.cloud = halves.Cloud(model, other.port, "--split", "12", "--codec", "f32", *ONE, "--identity", other.key,
                               "--peer", e2e.keygen("edge")[1], prefix=NET.inside(other.host))
    e2e.check(other.cloud.ready(), "the other serves")
    put("mixed", good.line() + other.line() + "stranger udp:127.0.0.1:9 %s\n" % e2e.keygen("nobody")[1] +
        "elsewhere udp:127.0.0.1:9 split=11\n")
    done = e2e.isthmus(*base, "--workers", "file:" + path("mixed"), "--peer", good.print, "--peer", other.print)
    e2e.check(done.returncode == 0 and done.stdout.strip(), "one that fits serves: " + done.stderr)
    e2e.check("a fingerprint that no --peer names" in done.stderr, "the stranger is left out: " + done.stderr)
    for w in (good, other):
        w.cloud.stop()
    done = e2e.isthmus(*base, "--workers", "file:" + path("mixed"), "--connect", "2", "--peer", good.print)
    e2e.check(done.returncode == 1 and "could be joined within 2 s" in done.stderr, "none is there: " + done.stderr)


class Texts:
    """n answers at once by HTTP, to the same prompt."""

    def __init__(self, at, n, tokens):
        self.tokens, self.texts, self.url = tokens, [], "http://%s/v1/" % at
        with urllib.request.urlopen(self.url + "models", timeout=60) as r:
            self.model = json.load(r)["data"][0]["id"]
        self.threads = [threading.Thread(target=self.ask, daemon=True) for _ in range(n)]
        for t in self.threads:
            t.start()

    def ask(self):
        body = {"model": self.model, "prompt": e2e.PROMPTS[1], "max_tokens": self.tokens, "ignore_eos": True,
                "temperature": 0}
        try:
            with urllib.request.urlopen(urllib.request.Request(
                    self.url + "completions", json.dumps(body).encode(), {"Content-Type": "application/json"}),
                    timeout=halves.LIMIT_S) as r:
                self.texts.append(json.load(r)["choices"][0]["text"])
        except OSError as error:
            self.texts.append(repr(error))

    def wait(self):
        for t in self.threads:
            t.join(halves.LIMIT_S)
        return self.texts


def by_hand(model):
    """An edge that serves: `isthmus ctl` shows its workers, empties one, and lets it work again."""
    workers = [Worker(model, "w%d" % i).start() for i in range(1, 3)]
    put("by-hand", "".join(w.line() for w in workers))
    at = path("control.sock")
    edge = halves.Half("edge", "-m", model, "--workers", "file:" + path("by-hand"), "--identity",
                       e2e.keygen("edge")[0], *SPLIT, *ONE, "--listen", NET.address("edge") + ":0", "--control", at,
                       prefix=NET.inside("edge"))

    def ctl(*args):
        return e2e.isthmus("ctl", "--socket", at, *args)

    def seen():
        done = ctl("--json", "workers")
        return {w["name"]: (w["state"], w["sessions"]) for w in json.loads(done.stdout)} if not done.returncode else {}

    def expect(what, right):
        e2e.check(e2e.wait_for(lambda: edge.process.poll() is not None or right(seen()), 60) and right(seen()),
                  "%s: %s %s" % (what, seen(), edge.said()[-1500:]))

    expect("both are joined", lambda w: w == {"w1": ("joined", 0), "w2": ("joined", 0)})
    e2e.check(e2e.wait_for(lambda: "listening at http" in edge.said(), 60), "it listens: " + edge.said())
    address = edge.said().split("listening at http://")[1].split("/")[0]
    expected = Texts(address, 1, 150).wait()
    answers = Texts(address, 4, 150)
    expect("the answers are spread", lambda w: w["w1"][1] and w["w2"][1])
    done = ctl("drain", "w1")
    e2e.check(done.returncode == 0, "drain w1: " + done.stderr)
    expect("w1 is emptied", lambda w: w["w1"] == ("drained", 0))
    put("by-hand", "# read again\n" + "".join(w.line() for w in workers))
    e2e.check(answers.wait() == 4 * expected, "the answers go on: %s, not %s" % (answers.texts, expected))
    answers = Texts(address, 4, 40)
    expect("all are at w2", lambda w: w["w2"][1] == 4 and w["w1"] == ("drained", 0))
    e2e.check(len(set(answers.wait())) == 1 and expected[0].startswith(answers.texts[0]),
              "w2 alone: %s" % answers.texts)
    e2e.check(ctl("undrain", "w1").returncode == 0, "undrain w1")
    expect("w1 is back", lambda w: w["w1"][0] == "joined")
    answers = Texts(address, 4, 100)
    expect("it works again", lambda w: w["w1"][1])
    e2e.check(len(set(answers.wait())) == 1 and expected[0].startswith(answers.texts[0]),
              "both again: %s" % answers.texts)
    table = ctl("workers")
    e2e.check("w1" in table.stdout and "joined" in table.stdout, "a table: " + table.stdout + table.stderr)
    nobody = ctl("drain", "w3")
    e2e.check(nobody.returncode == 1 and "there is no worker w3" in nobody.stderr, "w3: " + nobody.stderr)
    e2e.say("ctl workers, drain, undrain     an emptied worker's 4 answers went on with the same text")
    for half in (edge, *(w.cloud for w in workers)):
        e2e.check(half.stop() == 0, "%s ends: %s" % (half.what, half.said()[-800:]))


def fetch(url):
    """Status and text."""
    try:
        with urllib.request.urlopen(url, timeout=60) as r:
            return r.status, r.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def completion(address, limit_s=60):
    body = {"model": "m", "prompt": "Water", "max_tokens": 3}
    try:
        with urllib.request.urlopen(urllib.request.Request(
                "http://%s/v1/completions" % address, json.dumps(body).encode(),
                {"Content-Type": "application/json"}), timeout=limit_s) as r:
            return r.status, json.load(r)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def not_for_us(model):
    """Workers that don't fit, drain or die: ctl says why, metrics count them, and while none takes an answer it
    ends as where no cloud is there, and the edge goes on."""
    w1, w2 = Worker(model, "w1").start(), Worker(model, "w2")
    w2.cloud = halves.Cloud(model, w2.port, "--split", "12", "--codec", "f32", *ONE, "--identity", w2.key, "--peer",
                            e2e.keygen("edge")[1], prefix=NET.inside(w2.host))
    e2e.check(w2.cloud.ready(), "w2 serves")
    put("odd", w1.line() + w2.line() + "w3 udp:127.0.0.1:9 %s split=11\n" % e2e.keygen("nobody")[1])
    at = path("odd.sock")
    edge = halves.Half("edge", "-m", model, "--workers", "file:" + path("odd"), "--identity", e2e.keygen("edge")[0],
                       *SPLIT, *ONE, "--listen", NET.address("edge") + ":0", "--control", at, "--model-id", "m",
                       "--reconnect", "3", prefix=NET.inside("edge"))
    e2e.check(e2e.wait_for(lambda: "listening at http" in edge.said(), 60), "it listens: " + edge.said())
    address = edge.said().split("listening at http://")[1].split("/")[0]

    def workers():
        done = e2e.isthmus("ctl", "--socket", at, "--json", "workers")
        return {w["name"]: (w["state"], w["why"]) for w in json.loads(done.stdout)} if not done.returncode else {}

    def metrics():
        return dict(line.rsplit(" ", 1) for line in fetch("http://%s/metrics" % address)[1].splitlines()
                    if line and line[0] != "#")

    def count(**states):
        want = {**dict.fromkeys(("known", "joined", "draining", "unfit", "away"), 0), **states}

        def right():
            now = metrics()
            return all(now.get('isthmus_workers{state="%s"}' % s) == str(n) for s, n in want.items())
        e2e.check(e2e.wait_for(right, 30), "workers are %s: %s" % (want, {k: v for k, v in metrics().items()
                                                                          if "worker" in k}))

    e2e.check(workers()["w3"] == ("unfit", "split 11, not 10"), "w3: %s" % workers())
    # It says so itself, before an answer is asked for.
    e2e.check(e2e.wait_for(lambda: workers()["w2"][0] == "unfit", 10), "w2 is found unfit: %s" % workers())
    state, why = workers()["w2"]
    e2e.check(state == "unfit" and "split mismatch" in why, "w2: %s %s" % (state, why))
    count(joined=1, unfit=2)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        e2e.check({s for s, _ in pool.map(lambda _: completion(address), range(8))} == {200}, "answers, by w1")
    e2e.check("split mismatch" not in w2.cloud.said(), "no session was refused there: " + w2.cloud.said()[-800:])
    e2e.check(metrics().get('isthmus_worker_up{worker="w1"}') == "1"
              and metrics()["isthmus_sessions_moved_total"] == "0", "metrics: %s" % metrics())

    e2e.check(e2e.isthmus("ctl", "--socket", at, "drain", "w1").returncode == 0, "drain w1")
    count(draining=1, unfit=2)
    began = time.monotonic()
    status, said = completion(address)
    took = time.monotonic() - began
    e2e.check(status == 503 and "no cloud took the answer within 3 s" in said["error"]["message"] and 2 < took < 9,
              "none takes it: %s %s after %.1f s" % (status, said, took))
    e2e.check(fetch("http://%s/readyz" % address)[0] == 503, "it is not ready")
    e2e.check(e2e.isthmus("ctl", "--socket", at, "undrain", "w1").returncode == 0, "undrain w1")
    count(joined=1, unfit=2)
    e2e.check(completion(address)[0] == 200, "it goes on: " + edge.said()[-800:])

    w1.kill()
    count(away=1, unfit=2)
    e2e.check(metrics().get('isthmus_worker_up{worker="w1"}') == "0", "w1 is down")
    e2e.check(workers()["w1"][1], "why w1 is away: %s" % workers())
    e2e.say("workers that are not for us     named with their reasons, counted, and 503 after --reconnect")
    e2e.check(edge.stop() == 0, "the edge ends: " + edge.said()[-800:])
    w2.cloud.stop()


class SlowDns(threading.Thread):
    """A name server that says nothing until it is told to; then all names are one address."""

    def __init__(self, address):
        super().__init__(daemon=True)
        self.address, self.answers, self.asked = socket.inet_aton(address), False, 0
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((NET.address("programs"), 53))
        self.start()

    def run(self):
        while True:
            query, whom = self.socket.recvfrom(2048)
            self.asked += 1
            end = query.index(b"\0", 12) + 5
            n = int(query[end - 4:end - 2] == b"\0\1")  # an A; there is no AAAA
            answer = b"\xc0\x0c" + struct.pack(">2HIH", 1, 1, 1, 4) + self.address
            if self.answers:
                self.socket.sendto(query[:2] + struct.pack(">5H", 0x8580, 1, n, 0, 0) + query[12:end] + n * answer, whom)


def by_name(model):
    """A worker's host is a name whose server is silent: nobody waits for that, and it is joined once it is known."""
    if not NET.real:
        e2e.not_tried("a name server of our own, for want of network namespaces")
        return
    w1, w2 = Worker(model, "w1").start(), Worker(model, "w2").start()
    dns = SlowDns(w2.address)
    put("resolv.conf", "nameserver %s\noptions timeout:5 attempts:2\n" % NET.address("programs"))
    put("named", w1.line())
    at = path("named.sock")

    def named_edge(*where):
        return halves.Half("edge", "-m", model, *where, "--identity", e2e.keygen("edge")[0], *SPLIT, *ONE,
                           "--listen", NET.address("edge") + ":0", "--control", at, "--model-id", "m",
                           prefix=NET.inside("edge") + (
                               "unshare", "-m", "sh", "-c", 'mount --bind "$0" /etc/resolv.conf && exec "$@"',
                               path("resolv.conf")))

    edge = named_edge("--workers", "file:" + path("named"))
    e2e.check(e2e.wait_for(lambda: "listening at http" in edge.said(), 60), "it listens: " + edge.said())
    address = edge.said().split("listening at http://")[1].split("/")[0]

    def state():
        done = e2e.isthmus("ctl", "--socket", at, "--json", "workers")
        return {w["name"]: w["state"] for w in json.loads(done.stdout)}.get("w2") if not done.returncode else None

    e2e.check(completion(address)[0] == 200, "it answers: " + edge.said())
    put("named", w1.line() + w2.line().replace(w2.address, "w2.workers.test"))
    e2e.check(e2e.wait_for(lambda: dns.asked, 10), "the name server is asked")
    slowest, until = 0, time.monotonic() + 6
    while time.monotonic() < until:
        began = time.monotonic()
        e2e.check(completion(address)[0] == 200, "it answers meanwhile: " + edge.said())
        slowest = max(slowest, time.monotonic() - began)
    e2e.check(slowest < 4 and state() != "joined", "nobody waits for a name: %.1f s, w2 %s" % (slowest, state()))
    dns.answers = True
    e2e.check(e2e.wait_for(lambda: state() == "joined", 60), "w2 is joined by its name: " + edge.said()[-1500:])
    e2e.say("a name that nobody knows yet     answers of %.2f s at most beside it, and its worker joined later" % slowest)
    dns.answers = False
    w2.kill()  # it comes back where it was, though nobody says that it is there
    e2e.check(e2e.wait_for(lambda: state() == "away", 60), "w2 is lost: " + edge.said()[-800:])
    w2.start()
    e2e.check(e2e.wait_for(lambda: state() == "joined", 30), "w2 is joined where it was: " + edge.said()[-1500:])
    dns.answers = True
    w2.kill()  # it moves: the name is looked up again
    w2.host = "w3"
    w2.address = NET.address("w3")
    dns.address = socket.inet_aton(w2.address)
    asked = dns.asked
    w2.port = "udp:%s:%d" % (w2.address, w2.number)
    w2.start()
    e2e.check(e2e.wait_for(lambda: state() == "joined" and dns.asked > asked, 60),
              "w2 is found where it is now: " + edge.said()[-1500:])
    e2e.check(edge.stop() == 0, "the edge ends: " + edge.said()[-800:])

    # Without a registry, too: the address after the name's has its turn.
    dns.answers = False
    edge = named_edge("--port", w1.port, "--port", "udp:none.workers.test:7300", "--port", w2.port,
                      "--peer", w1.print, "--peer", w2.print)
    e2e.check(e2e.wait_for(lambda: "listening at http" in edge.said(), 60), "it listens: " + edge.said())
    address = edge.said().split("listening at http://")[1].split("/")[0]
    e2e.check(completion(address)[0] == 200, "it answers: " + edge.said())
    w1.kill()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        answer = pool.submit(completion, address)
        e2e.check(e2e.wait_for(lambda: "the cloud is lost" in edge.said(), 60), "w1 is lost: " + edge.said())
        began = time.monotonic()
        e2e.check(answer.result()[0] == 200, "it answers again: " + edge.said()[-800:])
    took = time.monotonic() - began
    e2e.check(took < 6,
              "nobody waits for the name of the second of three ports: %.1f s: %s" % (took, edge.said()[-800:]))
    e2e.say("  the second of three ports       a name that nobody knows: at the third after %.2f s" % took)
    for half in (edge, w2.cloud):
        e2e.check(half.stop() == 0, "%s ends: %s" % (half.what, half.said()[-800:]))


def main():
    model = e2e.model("smollm2")
    NET.become("programs")
    parts = sys.argv[1:] or ["wrong", "odd", "name", "ctl", "file", "srv", "etcd"]
    for part, run in (("wrong", wrong), ("odd", not_for_us), ("name", by_name), ("ctl", by_hand)):
        if part in parts:
            run(model)
    if set(parts) & {"file", "srv", "etcd"}:
        asked, expected = requests()
    for part, run in (("file", by_file), ("srv", by_srv), ("etcd", by_etcd)):
        if part in parts:
            run(model, *((asked, expected) if part == "file" else fewer(asked, expected)))
    halves.stop_all()
    shutil.rmtree(FOLDER, ignore_errors=True)
    e2e.finish()


if __name__ == "__main__":
    main()
