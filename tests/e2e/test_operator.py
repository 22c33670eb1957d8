#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""An operator's day: install, configure, check, start, serve, reload, drain, kill, upgrade.

The build is installed into a folder that stands for a host's root, and the units' ExecStart lines are run as
systemd would (packaged.Unit), in network namespaces: the edge's host, one for each of two clouds, and one for
the programs that ask, by curl and by the official OpenAI client; a router between them.
"""
import json
import os
import re
import signal
import subprocess
import tempfile
import time

import e2e
import halves
import namespaces
import packaged

KEY = "sk-operators-own"
CLIENTS = 16
ASKED = [{"prompt": p, "max_tokens": 24, "temperature": 0} for p in e2e.PROMPTS[:4]] * (CLIENTS // 4)


class Site:
    """Two clouds and an edge, a host each, configured from the files that are installed."""

    def __init__(self, folder, net):
        self.net = net
        self.host = packaged.Host(os.path.join(folder, "host"))
        self.binary = self.host.path(self.host.prefix + "/bin/isthmus")
        self.model = e2e.model("smollm2")
        os.symlink(self.model, self.host.path("/var/lib/isthmus/model.gguf"))
        self.http = "%s:%d" % (net.address("edge"), packaged.free_tcp())
        self.ports = ["%s:%d" % (net.address(host), halves.free_port()) for host in ("cloud-1", "cloud-2")]
        keys = {name: self.keygen(name) for name in ("edge", "cloud")}
        with open(self.host.path("/etc/isthmus/authorized"), "w", encoding="utf-8") as f:
            f.write("edge-1 %s\n" % keys["edge"])
        with open(self.host.path("/etc/isthmus/api-keys"), "w", encoding="utf-8") as f:
            f.write("programs " + KEY + "\n")
        os.chmod(self.host.path("/etc/isthmus/api-keys"), 0o600)
        for instance, port in zip(("-1", "-2"), self.ports):
            self.host.shipped("cloud", "cloud" + instance, port="udp:" + port)
        self.edge_text = self.host.shipped(
            "edge", peer=keys["cloud"], listen=self.http, api_keys="/etc/isthmus/api-keys",
            port="udp:%s\nport = udp:%s" % tuple(self.ports))
        self.clouds = [packaged.Unit(self.host, "isthmus-cloud@", str(i), net.inside("cloud-%d" % i)) for i in (1, 2)]
        self.edge = packaged.Unit(self.host, "isthmus-edge", inside=net.inside("edge"))
        for u in (*self.clouds, self.edge):
            u.environment["WATCHDOG_USEC"] = "2000000"

    def keygen(self, name):
        path = self.host.path("/etc/isthmus/%s.key" % name)
        return packaged.must(self.binary, "keygen", "-o", path).strip().split("\n")[-1]

    def write(self, name, text):
        self.host.configure(name, text)

    def check_config(self, half, name):
        return packaged.run(self.binary, half, "--config", self.host.path("/etc/isthmus/%s.ini" % name),
                            "--check-config")

    def curl(self, path, *args):
        """Status and body."""
        done = packaged.run("curl", "-sS", "-m", "60", "-w", "\n%{http_code}", *args,
                            "http://%s%s" % (self.http, path))
        body, _, status = done.stdout.rpartition("\n")
        return status, body

    def ready(self):
        return self.curl("/readyz")[0] == "200"

    def client(self, questions):
        """A program beside us, that asks all of them at once."""
        process = subprocess.Popen([packaged.python(), os.path.join(e2e.ROOT, "tests/e2e/openai_client.py"),
                                    "http://%s/v1" % self.http, KEY], text=True,
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        halves.others.append(process)
        process.stdin.write(e2e.lines_of(questions))
        process.stdin.close()
        return process

    def metric(self, name):
        found = re.search(r"(?m)^%s (\S+)$" % re.escape(name), self.curl("/metrics")[1])
        return float(found[1]) if found else None

    def answering(self, process):
        """All that it asks are being answered."""
        e2e.check(e2e.wait_for(lambda: self.metric("isthmus_requests_running") == CLIENTS
                               or process.poll() is not None, 60) and process.poll() is None,
                  "%d answers run" % CLIENTS)

    def answers(self, process, what):
        said = process.stdout.read()
        process.wait()
        try:
            return [json.loads(line) for line in said.splitlines()]
        except ValueError:
            e2e.check(False, "%s: %s" % (what, said[-3000:]))
            return []

    def ctl(self, *args):
        sock = self.host.path("/run/isthmus/edge/control.sock")
        return packaged.run(self.binary, "ctl", "--socket", sock, *args)


def same(got, wanted, what):
    """Nobody's answer failed, and all have the text that an undisturbed run gave."""
    failed = [a for a in got if "error" in a]
    e2e.check(not failed, "%s: failed: %s" % (what, failed[:3]))
    texts = [a["text"] for a in got]
    e2e.check(texts == wanted, "%s: %d of %d texts differ: %r" % (
        what, sum(a != b for a, b in zip(texts, wanted)), len(wanted),
        next(((a, b) for a, b in zip(texts, wanted) if a != b), None)))
    e2e.say("%s: %d answers, none failed, the same texts" % (what, len(got)))


def configuration(site):
    for half, name in (("cloud", "cloud-1"), ("cloud", "cloud-2"), ("edge", "edge")):
        done = site.check_config(half, name)
        e2e.check(done.returncode == 0, "--check-config of %s: %d: %s" % (name, done.returncode, done.stdout))
    site.write("edge", site.edge_text + "nonsense = 1\n")
    line = site.edge_text.count("\n") + 1
    done = site.check_config("edge", "edge")
    e2e.check(done.returncode == 2 and "nonsense" in done.stdout and ":%d" % line in done.stdout,
              "an unknown key is named with its line %d: %d: %s" % (line, done.returncode, done.stdout))
    e2e.check(not site.edge.start() and site.edge.wait() == 2, "and the unit does not start with it: "
              + site.edge.said()[-500:])
    site.write("edge", site.edge_text)


def started(site):
    for u in (*site.clouds, site.edge):
        begun = time.monotonic()
        if not e2e.check(u.start(), "%s starts: %s" % (u.name, u.said()[-3000:])):
            e2e.finish()
        e2e.say("%s: ready after %.2f s" % (u.name, time.monotonic() - begun))
    # A unit has started when it serves; its cloud may be heard a moment later.
    e2e.check(e2e.wait_for(site.ready, 20), "/readyz: %s %s" % site.curl("/readyz"))
    e2e.check(site.curl("/healthz")[0] == "200", "/healthz")


def serving(site):
    key = ("-H", "Authorization: Bearer " + KEY)
    e2e.check(site.curl("/v1/models")[0] == "401", "no answer without a key")
    status, body = site.curl("/v1/models", *key)
    e2e.check(status == "200" and json.loads(body)["data"], "models: %s %s" % (status, body))
    status, body = site.curl("/v1/completions", *key, "-H", "Content-Type: application/json", "-d", json.dumps(
        {"model": json.loads(body)["data"][0]["id"], "prompt": e2e.PROMPTS[0], "max_tokens": 4, "temperature": 0}))
    e2e.check(status == "200" and json.loads(body)["choices"][0]["text"].startswith(" Paris"),
              "curl: %s %s" % (status, body))
    calm = site.answers(site.client(ASKED[:4]), "the OpenAI client")
    e2e.check(len(calm) == 4 and all(a.get("finish") and a["pieces"] > 1 for a in calm),
              "the OpenAI client streams: %s" % calm)
    chat = site.answers(site.client([{"messages": [{"role": "user", "content": "What is the capital of France?"}],
                                      "max_tokens": 24, "temperature": 0}]), "a chat")
    e2e.check(len(chat) == 1 and chat[0].get("finish") in ("stop", "length") and "France" in chat[0]["text"],
              "a chat: %s" % chat)


def metrics(site):
    """Prometheus finds nothing to complain about, and whatever dashboard and alerts name is there."""
    status, page = site.curl("/metrics")
    done = packaged.run("promtool", "check", "metrics", text_in=page + "\n")
    e2e.check(status == "200" and done.returncode == 0 and not done.stdout.strip(),
              "promtool check metrics: %s" % done.stdout[-1000:])
    there = set(re.findall(r"(?m)^(isthmus_\w+)", page))
    missing = packaged.metrics_named() - there
    e2e.check(not missing, "the dashboard or the alerts name what is not there: %s" % sorted(missing))
    e2e.say("%d metrics" % len(there))


def second_daemon(site):
    other = packaged.Unit(site.host, "isthmus-edge", inside=site.net.inside("edge"))
    e2e.check(not other.start() and other.wait() in (1, 2), "a second edge on one runtime folder is refused: "
              + other.said()[-500:])
    e2e.say("a second edge: %s" % other.said().strip().split("\n")[-1])
    e2e.check(site.ready(), "the first goes on")


def watchdog(site):
    """Started with a watchdog of 2 s, both reset it in time."""
    e2e.check(e2e.wait_for(lambda: site.edge.watchdogs >= 2 and site.clouds[0].watchdogs >= 2, 30),
              "both halves reset the watchdog: %d, %d" % (site.edge.watchdogs, site.clouds[0].watchdogs))


def reload(site):
    site.write("edge", re.sub(r"(?m)^(# ?)?max-waiting = .*$", "max-waiting = 77", site.edge_text))
    site.edge.reload()
    e2e.check(e2e.wait_for(lambda: "max-waiting" in site.edge.said() and "77" in site.edge.said(), 20),
              "a reload says what has changed: " + site.edge.said()[-1000:])
    site.write("edge", site.edge_text + "nonsense = 1\n")
    site.edge.reload()
    e2e.check(e2e.wait_for(lambda: "nonsense" in site.edge.said(), 20), "a reload of what is wrong is refused")
    e2e.check(site.ready(), "and the old one serves")
    site.write("edge", site.edge_text)


def control(site):
    done = site.ctl("version")
    e2e.check(done.returncode == 0 and "0.1.0" in done.stdout, "ctl version: %s" % done.stdout)
    done = site.ctl("sessions", "--json")
    e2e.check(done.returncode == 0, "ctl sessions: %s" % done.stdout)


def killed(site):
    """The cloud that serves is killed under all clients: the other one goes on."""
    asked = [dict(q, max_tokens=64 if e2e.QUICK else 160) for q in ASKED]
    wanted = [a["text"] for a in site.answers(site.client(asked), "undisturbed")]
    process = site.client(asked)
    site.answering(process)
    site.clouds[0].process.send_signal(signal.SIGKILL)
    site.clouds[0].wait()
    same(site.answers(process, "kill -9"), wanted, "kill -9 of a cloud under %d clients" % CLIENTS)
    e2e.check(site.clouds[0].start(), "systemd starts it again: " + site.clouds[0].said()[-500:])
    return asked, wanted


def cut_off(site, asked, wanted):
    """The network of the cloud that serves is gone: it goes on at the other."""
    if not site.net.real:
        return
    process = site.client(asked)
    site.answering(process)
    begun, before = time.monotonic(), len(site.edge.said())
    site.net.cut("cloud-2")
    same(site.answers(process, "cut off"), wanted, "a cloud cut off under %d clients" % CLIENTS)
    since = site.edge.said()[before:]
    e2e.check("going on with" in since, "it went on elsewhere: " + since[-1000:])
    e2e.say("all done %.1f s after the cut" % (time.monotonic() - begun))
    site.net.cut("cloud-2", False)


def upgraded(site, asked, wanted):
    """One cloud after the other is drained, replaced and started, under load."""
    for u in site.clouds:
        process = site.client(asked)
        site.answering(process)
        begun = time.monotonic()
        rc = u.stop()
        e2e.check(rc == 0, "%s drains: exit %s: %s" % (u.name, rc, u.said()[-500:]))
        e2e.say("%s: drained in %.1f s" % (u.name, time.monotonic() - begun))
        packaged.install(site.host.root)
        e2e.check(u.start(), u.name + " starts again: " + u.said()[-500:])
        same(site.answers(process, "upgrade"), wanted, "upgrade of %s" % u.name)


def drained(site, asked, wanted):
    """The edge's own: what runs ends, nothing new is taken, and it goes."""
    process = site.client(asked)
    site.answering(process)
    site.edge.process.send_signal(signal.SIGTERM)
    e2e.check(e2e.wait_for(lambda: site.curl("/readyz")[0] in ("503", "000"), 20), "/readyz while it drains")
    same(site.answers(process, "drain"), wanted, "the edge drains")
    rc = site.edge.wait()
    e2e.check(rc == 0, "the edge ends with 0: %s: %s" % (rc, site.edge.said()[-1000:]))
    e2e.check("STOPPING=1" in site.edge.notes, "and has said that it stops")
    for u in site.clouds:
        rc = u.stop()
        e2e.check(rc == 0, "%s ends: exit %s: %s" % (u.name, rc, u.said()[-500:]))


def main():
    packaged.python()
    net = namespaces.Network("edge", "cloud-1", "cloud-2", "programs")
    net.become("programs")
    with tempfile.TemporaryDirectory(prefix="isthmus-test-") as folder:
        site = Site(folder, net)
        configuration(site)
        started(site)
        serving(site)
        metrics(site)
        second_daemon(site)
        watchdog(site)
        reload(site)
        control(site)
        asked, wanted = killed(site)
        cut_off(site, asked, wanted)
        upgraded(site, asked, wanted)
        drained(site, asked, wanted)
        packaged.kill_all()
    e2e.finish()


main()
