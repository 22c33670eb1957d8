#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Processes that serve, as a service manager has them: configuration files, readiness, reload, drain, a
runtime folder each; an edge that outlives its cloud."""
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading

import e2e
import halves

FIRST, SECOND = "first-key-of-this-test", "second-key-of-this-test"
PROMPT = "The capital of France is"
folder = tempfile.TemporaryDirectory(prefix="isthmus-test-service-")


def path_of(name):
    return os.path.join(folder.name, name)


def write(name, text):
    with open(path_of(name), "w", encoding="utf-8") as f:
        f.write(text)
    os.chmod(path_of(name), 0o600) # keys must be
    return path_of(name)


MANAGERS = tuple("notify%d" % i for i in range(20)) + ("deaf",)


class Manager(threading.Thread):
    """What is told to NOTIFY_SOCKET."""

    def __init__(self, name):
        super().__init__(daemon=True)
        self.path = path_of(name)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.told = []
        self.start()

    def run(self):
        while True:
            self.told += self.socket.recv(4096).decode().split("\n")

    def hears(self, line, since=0, process=None):
        """Until a line came that is not one of the first `since`, or the process has ended."""
        e2e.wait_for(lambda: line in self.told[since:] or (process and process.poll() is not None),
                     halves.LIMIT_S)
        return line in self.told[since:]


class DeafManager:
    """One that does not read."""

    def __init__(self, name):
        self.path = path_of(name)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)


class Daemon(halves.Half):
    """A command that serves, by its configuration file; up when it said so to its manager."""

    def __init__(self, command, config, *options, manager=None, watchdog_us=400000, **env):
        self.manager = manager or Manager("notify%d" % len(halves.started))
        super().__init__(command, "--config", config, *options, stdout=subprocess.DEVNULL,
                         env={"NOTIFY_SOCKET": self.manager.path, "WATCHDOG_USEC": str(watchdog_us), **env})
        if not manager and not self.manager.hears("READY=1", process=self.process):
            halves.hung(self.what + ": READY=1")

    def port(self):
        def listens():
            return re.search(r"listening at http://[^:]+:(\d+)", self.said())
        e2e.wait_for(listens, halves.LIMIT_S)
        return int(listens().group(1))

    def says(self, text, times=1):
        if not e2e.wait_for(lambda: self.said().count(text) >= times, halves.LIMIT_S):
            halves.hung("%s: to say %r" % (self.what, text), self.said())

    def ask(self, method, path, body=None, key=None):
        """(status, JSON or text)"""
        c = http.client.HTTPConnection("127.0.0.1", self.port(), timeout=halves.LIMIT_S)
        headers = {"Content-Type": "application/json"}
        if key:
            headers["Authorization"] = "Bearer " + key
        c.request(method, path, json.dumps(body) if body else None, headers)
        answer = c.getresponse()
        text = answer.read().decode()
        c.close()
        return answer.status, json.loads(text) if text.startswith("{") else text

    def complete(self, n, key=None, **more):
        return self.ask("POST", "/v1/completions",
                        {"model": self.models(key), "prompt": PROMPT, "max_tokens": n,
                         "temperature": 0, **more}, key)

    def models(self, key=None):
        if not hasattr(self, "model"):
            self.model = self.ask("GET", "/v1/models", key=key)[1]["data"][0]["id"]
        return self.model


class Stream(threading.Thread):
    """An answer that comes token by token."""

    def __init__(self, daemon, n, key=None):
        super().__init__()
        self.model, self.port, self.n, self.key = daemon.models(key), daemon.port(), n, key
        self.begun = threading.Event()
        self.pieces, self.finish, self.broken = [], None, None
        self.start()

    def run(self):
        try:
            c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=halves.LIMIT_S)
            c.request("POST", "/v1/completions",
                      json.dumps({"model": self.model, "prompt": PROMPT, "max_tokens": self.n,
                                  "temperature": 0, "stream": True, "ignore_eos": True}),
                      {"Content-Type": "application/json", "Authorization": "Bearer %s" % self.key})
            for line in c.getresponse():
                text = line.decode().strip()
                if not text.startswith("data: {"):
                    continue
                event = json.loads(text[6:])
                if event.get("choices"):
                    self.pieces.append(event["choices"][0].get("text", ""))
                    self.finish = event["choices"][0].get("finish_reason") or self.finish
                self.begun.set()
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.broken = error
        self.begun.set()


def test_one_process(model):
    """run --local: everything that takes no second one."""
    keys = write("keys", "alice " + FIRST + "\n")
    config = write("run.conf", "[run]\nmodel = %s\nlocal = yes\nlisten = 127.0.0.1:0\n"
                   "api-keys = %s\nmax-sessions = 2\nruntime-dir = %s\nlog-level = debug\n"
                   % (model, keys, path_of("runtime")))
    done = e2e.isthmus("run", "--config", config, "--check-config")
    e2e.check(done.returncode == 0, "check-config: " + done.stderr)
    d = Daemon("run", config)
    e2e.check(d.manager.hears("STATUS=ready"), "no STATUS=ready")
    e2e.check(d.manager.hears("WATCHDOG=1"), "the watchdog is told nothing")
    status, ready = d.ask("GET", "/readyz")
    e2e.check(status == 200, "readyz: %d %s" % (status, ready))

    status, answer = d.complete(24, FIRST)
    alone = e2e.isthmus("run", "--local", "-m", model, "-p", PROMPT, "-n", 24, "--json")
    e2e.check(status == 200 and answer["choices"][0]["text"] == json.loads(alone.stdout)["text"],
              "the service's answer is not that of run -p: %s" % answer)
    d.says("tokens, ") # debug: its line
    e2e.check(d.complete(1, SECOND)[0] == 401, "a key that is none is taken")

    # Another on the same runtime folder.
    other = e2e.isthmus("run", "--config", config)
    e2e.check(other.returncode == 1 and "is the runtime folder of another process, %d"
              % d.process.pid in other.stderr, "a second daemon: %d %s"
              % (other.returncode, other.stderr))

    reload(d, config, model, keys)
    drain(d)
    # The folder is free again.
    again = Daemon("run", config)
    e2e.check(again.stop() == 0, "stopped while idle: " + again.said())


def change(config, old, new):
    with open(config, encoding="utf-8") as f:
        text = f.read()
    e2e.check(old in text, "%r is not in %r" % (old, text))
    write(os.path.basename(config), text.replace(old, new))


def reload(d, config, model, keys):
    told = len(d.manager.told)
    write("keys", "alice " + SECOND + "\n")
    change(config, "max-sessions = 2\n", "max-sessions = 3\nmax-waiting = 0\ndrain-timeout = 100\n")
    d.process.send_signal(signal.SIGHUP)
    d.says("reload: max-waiting: (default) -> 0")
    d.says("reload: drain-timeout: (default) -> 100")
    d.says("reload: max-sessions: 2 -> 3 needs a restart")
    d.says("reload: api-keys %s read again" % keys)
    e2e.check(d.manager.hears("RELOADING=1", told), "RELOADING=1 is not told")
    e2e.check(d.manager.hears("READY=1", told), "READY=1 is not told after a reload")
    e2e.check(d.complete(1, FIRST)[0] == 401, "an old key is taken after a reload")
    e2e.check(d.complete(1, SECOND)[0] == 200, "a new key is not taken after a reload")

    # One mistake, and all stays.
    change(config, "max-waiting = 0\n", "max-waiting = 7\nthreds = 1\n")
    d.process.send_signal(signal.SIGHUP)
    d.says("has no key `threds`: did you mean `threads`?")
    d.says("reload: refused: all values stay")
    e2e.check("max-waiting: 0 -> 7" not in d.said(), "a wrong file is taken in part")
    change(config, "threds = 1\n", "")
    d.process.send_signal(signal.SIGHUP)
    d.says("reload: max-waiting: 0 -> 7")
    d.process.send_signal(signal.SIGHUP)
    d.says("max-sessions: 2 -> 3 needs a restart", 3) # it still does
    # A file that a value names is wrong: the old keys stay.
    os.rename(keys, keys + ".away")
    d.process.send_signal(signal.SIGHUP)
    d.says("reload: api-keys %s refused" % keys)
    e2e.check(d.complete(1, SECOND)[0] == 200, "the old keys did not stay")
    reload_by_control(d, config, keys)
    os.rename(keys + ".away", keys)


def reload_by_control(d, config, keys):
    """The same, asked for by somebody who is told what came of it; the file of keys is not there."""
    def asked(*options):
        return e2e.isthmus("ctl", "--socket", path_of("runtime") + "/control.sock", *options, "reload")

    restart = "max-sessions: 2 -> 3 needs a restart"
    refused = "api-keys %s refused: No such file or directory; the old one stays" % keys
    told = len(d.manager.told)
    change(config, "max-waiting = 7\n", "max-waiting = 8\n")
    done = asked()
    e2e.check(done.returncode == 1 and sorted(done.stdout.splitlines()) == sorted(
        [refused, restart, "max-waiting: 7 -> 8"]), "ctl reload, no keys: %d %s" % (done.returncode, done.stdout))
    for line in done.stdout.splitlines():
        d.says("reload: " + line)
    e2e.check(d.manager.hears("RELOADING=1", told) and d.manager.hears("READY=1", told), "the manager is told")
    os.rename(keys + ".away", keys)
    done = asked("--json")
    result = json.loads(done.stdout)
    e2e.check(done.returncode == 0 and result["refused"] is False
              and sorted(result["lines"]) == sorted(["api-keys %s read again" % keys, restart]),
              "ctl --json reload: %d %s" % (done.returncode, result))
    change(config, "max-waiting = 8\n", "max-waiting = 9\nthreds = 1\n")
    done = asked()
    e2e.check(done.returncode == 1 and "has no key `threds`: did you mean `threads`?\n" in done.stdout
              and done.stdout.endswith("\nrefused: all values stay\n"), "ctl reload: %s" % done.stdout)
    change(config, "threds = 1\n", "log-level = nonsense\n")
    done = asked("--json")
    lines = json.loads(done.stdout)["lines"]
    e2e.check(done.returncode == 1 and any("nonsense" in line for line in lines[:-1])
              and lines[-1] == "refused: all values stay", "a value that is none: %s" % lines)
    change(config, "max-waiting = 9\nlog-level = nonsense\n", "max-waiting = 7\n")
    os.rename(keys, keys + ".away")


def drain(d):
    """SIGTERM: what is on the way ends, nothing new begins."""
    n = 400
    stream = Stream(d, n, SECOND)
    stream.begun.wait(halves.LIMIT_S)
    e2e.check(stream.finish is None, "the answer was over before it could be drained")
    d.process.send_signal(signal.SIGTERM)
    d.says("stopping: 1 answer")
    try:
        status = d.complete(1, SECOND)[0]
    except OSError:
        status = 503 # it had ended
    e2e.check(status == 503, "while draining: status %d" % status)
    stream.join()
    e2e.check(stream.finish == "length" and not stream.broken,
              "a drained answer ends by %s, %s" % (stream.finish, stream.broken))
    code, _ = d.end()
    e2e.check(code == 0, "after draining: exit code %d: %s" % (code, d.said()[-2000:]))
    e2e.check(d.manager.hears("STOPPING=1"), "STOPPING=1 is not told")


def test_second_signal(model):
    config = write("second.conf", "[run]\nmodel = %s\nlocal = yes\nlisten = 127.0.0.1:0\n" % model)
    d = Daemon("run", config)
    stream = Stream(d, 4000)
    stream.begun.wait(halves.LIMIT_S)
    d.process.send_signal(signal.SIGTERM)
    d.says("stopping: 1 answer")
    d.process.send_signal(signal.SIGTERM)
    code, _ = d.end()
    e2e.check(code == 0 and "a second signal: 1 answer is cut short" in d.said(),
              "a second signal: %d %s" % (code, d.said()))
    stream.join()
    e2e.check(stream.finish != "length", "a second signal waits for the answer")


def test_deaf_manager(model):
    """The engine does not wait for a manager that is slow to read what it is told."""
    config = write("deaf.conf", "[run]\nmodel = %s\nlocal = yes\nlisten = 127.0.0.1:0\n" % model)
    deaf = DeafManager("deaf")
    d = Daemon("run", config, manager=deaf, watchdog_us=2000)
    status, answer = d.complete(64)
    e2e.check(status == 200 and answer["usage"]["completion_tokens"] == 64, "deaf: %s" % answer)
    e2e.check(d.stop() == 0, d.said())


def test_journal(model):
    """Lines have their priority where stderr is the journal's stream, and nowhere else."""
    config = write("journal.conf", "[run]\nmodel = %s\nlocal = yes\nlisten = 127.0.0.1:0\n" % model)
    with open(path_of("journal"), "wb") as journal:
        st = os.fstat(journal.fileno())
        d = subprocess.Popen([e2e.BINARY, "run", "--config", config], stderr=journal,
                                 env={**os.environ,
                                      "JOURNAL_STREAM": "%d:%d" % (st.st_dev, st.st_ino)})
        halves.others.append(d)

        def said():
            with open(path_of("journal"), encoding="utf-8") as f:
                return f.read()
        e2e.wait_for(lambda: "listening at" in said(), halves.LIMIT_S)
        lines = said().splitlines()
        e2e.check("<6>isthmus: listening at" in said() and all(l.startswith("<6>") for l in lines
                                                               if "root is kept" not in l), "the journal: " + said())
        d.terminate()
        e2e.check(d.wait(halves.LIMIT_S) == 0, said())


def test_both_halves(model):
    """run, split, in a folder that its manager gave it: the cloud half does not want it, too."""
    folder = path_of("given")
    d = Daemon("run", write("halves.conf", "[run]\nmodel = %s\nlisten = 127.0.0.1:0\n" % model),
               RUNTIME_DIRECTORY=folder)
    e2e.check(d.complete(4)[0] == 200, "run in $RUNTIME_DIRECTORY: " + d.said())
    e2e.check(sorted(os.listdir(folder)) == ["control.sock", "lock"], "what is in its folder: %s"
              % os.listdir(folder))
    e2e.check(d.stop() == 0, "stopped while idle: " + d.said())


def test_edge_and_cloud(model):
    """Two daemons of one file; the edge says when its cloud is gone, and that it is back."""
    edge, cloud = e2e.keygen("edge"), e2e.keygen("cloud")
    config = write("both.conf", "[isthmus]\nmodel = %s\nsplit = 10\nport = memif:%s\ncodec = f32\n"
                   "[edge]\nlisten = 127.0.0.1:0\nidentity = %s\npeer = %s\nruntime-dir = %s\n"
                   "[cloud]\nidentity = %s\npeer = %s\n"
                   % (model, path_of("port"), edge[0], cloud[1], path_of("edge"), cloud[0], edge[1]))
    for command in ("edge", "cloud"):
        done = e2e.isthmus(command, "--config", config, "--check-config")
        e2e.check(done.returncode == 0, "%s: check-config: %s" % (command, done.stderr))
    back = halves.Half("cloud", "--config", config)
    front = Daemon("edge", config)
    e2e.check(front.manager.hears("STATUS=ready"), "the edge is not ready")
    alone = e2e.isthmus("run", "--local", "-m", model, "-p", PROMPT, "-n", 24, "--json")
    text = json.loads(alone.stdout)["text"]
    status, answer = front.complete(24)
    e2e.check(status == 200 and answer["choices"][0]["text"] == text, "edge: %s" % answer)

    told = len(front.manager.told)
    back.stop(signal.SIGKILL)
    e2e.check(front.manager.hears("STATUS=the cloud is lost: waiting for it or another", told),
              "the loss is not told: %s" % front.manager.told[told:])
    e2e.check(front.ask("GET", "/readyz")[0] == 503, "ready without a cloud")
    e2e.check(front.ask("GET", "/healthz")[0] == 200, "an edge without a cloud is alive")
    back = halves.Half("cloud", "--config", config)
    e2e.check(front.manager.hears("STATUS=ready", told + 1), "its return is not told")
    status, answer = front.complete(24)
    e2e.check(status == 200 and answer["choices"][0]["text"] == text, "after a loss: %s" % answer)
    e2e.check(front.stop() == 0 and back.stop() == 0, front.said() + back.said())


def test_stopped_while_joining(model):
    """SIGTERM before a cloud was there: what its port left is cleaned up, and a service ends as one that served."""
    for options, code in ((("--listen", "127.0.0.1:0"), 0), (("-p", PROMPT), 128 + signal.SIGTERM)):
        lonely = halves.Half("edge", "-m", model, "--split", 10, "--port", "memif:" + path_of("nobody"), "--insecure",
                             *options)

        def catches():
            with open("/proc/%d/status" % lonely.process.pid, encoding="ascii") as f:
                return int(re.search(r"^SigCgt:\s*(\w+)", f.read(), re.M).group(1), 16) >> signal.SIGTERM - 1 & 1
        e2e.check(e2e.wait_for(catches, halves.LIMIT_S), "it does not mind SIGTERM: " + lonely.said())
        e2e.check(lonely.stop() == code and "stopped while joining" in lonely.said(),
                  "stopped while joining: %s %s" % (lonely.process.returncode, lonely.said()))


def drained(model, port, *options, stdin=subprocess.DEVNULL, begun=lambda edge: edge.some(), twice=False):
    """An edge that does not serve, told to end in mid-answer: its exit code, and its whole answer."""
    edge = halves.Edge(model, port, "--split", 10, "--codec", "f32", *options, stdin=stdin)
    answer = begun(edge) or b""
    for _ in range(1 + twice):
        edge.process.send_signal(signal.SIGTERM)
        e2e.check(e2e.wait_for(lambda: "stopping when" in edge.said(), halves.LIMIT_S), "it is said: " + edge.said())
    code, rest = edge.end()
    return edge, code, answer.decode() + rest


def test_drained_by_hand(model):
    """SIGTERM to -p, --requests and a chat, and to `run`, whose halves both get it: what was begun ends as it
    would have, a second signal cuts it short."""
    port = "udp:127.0.0.1:%d" % halves.free_port()
    cloud = halves.Cloud(model, port, "--split", 10, "--codec", "f32")
    e2e.check(cloud.ready(), cloud.said())
    asked = ("-p", PROMPT, "-n", 200, "--ignore-eos")
    whole = e2e.isthmus("run", "-m", model, "--local", *asked).stdout
    _, code, answer = drained(model, port, *asked)
    e2e.check(code == 0 and answer == whole, "-p: exit %d, %r" % (code, answer[-200:]))
    edge, code, answer = drained(model, port, "-p", PROMPT, "-n", 4000, "--ignore-eos", twice=True)
    e2e.check(code == 128 + signal.SIGTERM and 0 < len(answer) < 4000, "twice: exit %d, %s" % (code, edge.said()))

    def generating(edge):
        e2e.check(e2e.wait_for(lambda: cloud_busy(cloud), halves.LIMIT_S), "the requests begin: " + edge.said())
    path = write("asked.jsonl", e2e.lines_of([{"prompt": PROMPT, "n_predict": 200}] * 4))
    edge, code, answer = drained(model, port, "--requests", path, "--ignore-eos", "--parallel", 2, begun=generating)
    texts = [json.loads(line)["text"] for line in answer.splitlines()]
    e2e.check(code == 128 + signal.SIGTERM and texts == [whole.removesuffix("\n")] * 2
              and "2 requests were not begun" in edge.said(), "--requests: exit %d, %s" % (code, edge.said()))

    def chatting(edge):
        edge.write("Tell me a very long story.\n")
        return edge.some()
    edge, code, answer = drained(model, port, "-n", 60, stdin=subprocess.PIPE, begun=chatting)
    e2e.check(code == 128 + signal.SIGTERM and "tokens at" in edge.said() and "lost" not in edge.said(),
              "a chat: exit %d, %s" % (code, edge.said()))
    e2e.check(cloud.stop() == 0, cloud.said())

    both = subprocess.Popen([e2e.BINARY, "run", "-m", model, "--split", "10", "--codec", "f32", *map(str, asked)],
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            start_new_session=True)
    halves.others.append(both)
    answer = os.read(both.stdout.fileno(), 65536)
    os.killpg(both.pid, signal.SIGTERM)
    with halves.within("run: its end"):
        rest, said = both.communicate()
    e2e.check(both.returncode == 0 and (answer + rest).decode() == whole,
              "run, both halves told: exit %d, %s" % (both.returncode, said.decode()))


def cloud_busy(cloud):
    """Whether it computes: its CPU time grows."""
    def ticks():
        with open("/proc/%d/stat" % cloud.process.pid, encoding="ascii") as f:
            return sum(map(int, f.read().rsplit(")", 1)[1].split()[11:13]))
    before = ticks()
    return e2e.wait_for(lambda: ticks() > before + 5, 5)


def main():
    signal.signal(signal.SIGHUP, signal.SIG_DFL) # children would inherit that it is ignored
    model = e2e.model("smollm2")
    before = e2e.leftovers()
    test_one_process(model)
    test_second_signal(model)
    test_deaf_manager(model)
    test_journal(model)
    test_both_halves(model)
    test_edge_and_cloud(model)
    test_stopped_while_joining(model)
    test_drained_by_hand(model)
    # The managers are this process's own, and end with it.
    e2e.check_nothing_left(before | {s for s in e2e.leftovers() if s.startswith("socket " + path_of(""))
                                     and s.endswith(MANAGERS)})
    e2e.finish()


if __name__ == "__main__":
    sys.exit(main())
