#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Configuration files: every option a key, every key in isthmus.conf(5), mistakes with file and line."""
import json
import os
import re
import subprocess
import tempfile

import e2e

COMMANDS = ("edge", "cloud", "run")
folder = tempfile.TemporaryDirectory(prefix="isthmus-test-config-")


def write(name, text):
    path = os.path.join(folder.name, name)
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)
    return path


def refused(text, *what, command="run", options=()):
    path = write("wrong.conf", text)
    done = e2e.isthmus(command, "--config", path, "--check-config", *options)
    e2e.check(done.returncode == 2, "%r: exit %d, not 2" % (text, done.returncode))
    for part in what:
        part = part.replace("FILE", path)
        e2e.check(part in done.stderr, "%r: %r is not said: %s" % (text, part, done.stderr))


def options_of(command, *args):
    done = e2e.isthmus("config", "--show", "--json", command, *args)
    e2e.check(done.returncode == 0, "config --show %s: %s" % (command, done.stderr))
    return {o["key"]: o for o in json.loads(done.stdout)["options"]}


def man_keys():
    """key: the commands that it is said to be of."""
    with open(os.path.join(e2e.ROOT, "docs", "man", "isthmus.conf.5"), encoding="utf-8") as f:
        text = f.read()
    found = re.findall(r"^\.TP\n\.B (\S+) = .*\n\[([a-z, ]+)\]", text, re.MULTILINE)
    e2e.check(len(found) > 40, "isthmus.conf(5) is not what it was: %d keys" % len(found))
    e2e.check(len(found) == len({key for key, _ in found}), "a key twice in isthmus.conf(5)")
    return {key: set(commands.split(", ")) for key, commands in found}


def test_every_key_has_its_paragraph():
    keys = man_keys()
    for command in COMMANDS:
        there = {k for k in options_of(command) if k != "check-options"}
        said = {k for k, commands in keys.items() if command in commands}
        e2e.check(there == said, "isthmus.conf(5), %s: without a paragraph %s, and none has %s"
                  % (command, sorted(there - said), sorted(said - there)))


def test_mistakes():
    smollm2 = e2e.model("smollm2")
    head = "[run]\nmodel = %s\n" % smollm2
    refused(head + "threds = 2\n", "FILE:3: [run] has no key `threds`: did you mean `threads`?")
    refused(head + "threads = 0\n", "--threads 0: must be a whole number", "FILE:3: threads = 0")
    refused(head + "[clod]\nx = 1\n", "FILE:4: there is no section [clod]: did you mean [cloud]?")
    refused(head + "[cloud]\nmax_sessions = 1\n", "FILE:4: [cloud] has no key `max_sessions`",
            "`max-sessions`")
    refused(head + "no value\n", "FILE: line 3: neither KEY = VALUE nor [SECTION]")
    refused("[run]\nmodel = /nonexistent/m\nlocal = yes\n", "--model /nonexistent/m: No such file")
    refused(head + "local = yes\nsplit = 3\n", "--local does not split: leave out --split")
    refused(head + "control = /x\n", "--listen HOST:PORT is missing")
    refused(head + "listen = 127.0.0.1:0\nprompt = x\n", "leave out -p")
    refused("[edge]\nmodel = %s\nport = udp:127.0.0.1:7300\n" % smollm2, "--identity and --peer are missing",
            command="edge")
    done = e2e.isthmus("run", "--config", "/nonexistent/f", "--check-config")
    e2e.check(done.returncode == 2 and "/nonexistent/f: cannot be read" in done.stderr, done.stderr)


def test_mistakes_that_the_start_would_find():
    """All that is known without loading weights or opening ports is said, with the file's line."""
    model = "model = %s\n" % e2e.model("smollm2")
    plain = os.path.join(folder.name, "plain")
    write("plain", "x")
    ports = ("udp:127.0.0.1:99999", "udp:127.0.0.1", "udp:127.0.0.1:7300,mtu=1", "memif:" + 120 * "x",
             "memif:", "xdp:lo", "tcp:a:1")
    both = [
        ("split = 99", "--split 99: ", "it must be 1 to 29"),
        ("cpus = 5000", "--cpus 5000"),
        ("numa = 1000", "--numa 1000"),
        ("profile = /nonexistent", "/nonexistent: No such file"),
        ("kv-budget = 1kB", "--kv-budget of 1000 bytes: even a session of"),
        ("ctx = 100000", "a context of 100000 tokens: the model has "),
    ]
    serving = [
        ("runtime-dir = /nonexistent/a/b", "--runtime-dir /nonexistent/a/b: /nonexistent/a: No such"),
        ("runtime-dir = " + plain, "--runtime-dir %s: %s: Not a directory" % (plain, plain)),
        ("control = /nonexistent/sock", "--control /nonexistent/sock: /nonexistent: No such"),
        ("control = " + plain, "--control %s: that is no socket" % plain),
    ]
    front = [
        ("chat-template = foo", "--chat-template foo: must be one of chatml"),
        ("quality = kl=.01", "--quality: needs a profile of split 10"),
        ("listen = nonsense", "--listen nonsense: must be HOST:PORT"),
        ("listen = 127.0.0.1:99999", "--listen 127.0.0.1:99999: must be"),
        ("max-tpot = 50\nmax-kl = .01", "--max-kl: what a quality costs", "max-kl = .01"),
    ]
    for section, faults, rest in (
            ("run", both + front, ""),
            ("run", serving, "listen = 127.0.0.1:0\n"),
            ("edge", both + front, "port = memif:@x\ninsecure = yes\n"),
            ("edge", serving, "port = memif:@x\ninsecure = yes\nlisten = 127.0.0.1:0\n"),
            ("cloud", both + serving, "port = memif:@x\ninsecure = yes\n"),
            ("cloud", [("register = etcd:nothing", "--register"),
                       ("register = etcd:http://127.0.0.1:1/x", "--port (with --register"),
                       ("memory-budget = 1MB", "--memory-budget of 1.0 MB: needed are at least")],
             "port = udp:*:1\nidentity = IDENTITY\npeer = sha256:%s\n" % (64 * "0"))):
        if "IDENTITY" in rest:
            key = os.path.join(folder.name, "key")
            e2e.check(e2e.isthmus("keygen", "-o", key).returncode == 0, "keygen")
            rest = rest.replace("IDENTITY", key)
        for text, *said in faults:
            number = 3 + rest.count("\n")
            lines = ["FILE:%d: %s" % (number, text)] if "\n" not in text and "register" not in text else []
            refused("[%s]\n%s%s%s\n" % (section, model, rest, text), *said, *lines, command=section)
    for section in ("edge", "cloud"):
        for port in ports:
            if section == "cloud" and port == "xdp:lo":
                continue
            refused("[%s]\n%sinsecure = yes\nport = %s\n" % (section, model, port), "FILE:4: port = ",
                    command=section)
    refused("[edge]\n%sinsecure = yes\nport = udp:*:7300\n" % model, "the edge needs the cloud's host",
            command="edge")
    refused("[edge]\n%sinsecure = yes\nport = udp:10.0.0.1:7300\n" % model,
            "reaches beyond this host", "FILE:4: port", command="edge")
    # On the command line there is no line to say.
    done = e2e.isthmus("run", "-m", e2e.model("smollm2"), "--listen", "127.0.0.1:99999", "--check-config")
    e2e.check(done.returncode == 2 and "--listen 127.0.0.1:99999: must be" in done.stderr and not done.stdout,
              done.stderr)
    # What no check can know: whether a host has a name, and whether somebody serves there.
    path = write("unknown.conf", "[edge]\n%sport = udp:nowhere.invalid:7300\nlisten = nowhere.invalid:80\n"
                 "insecure = yes\n" % model)
    done = e2e.isthmus("edge", "--config", path, "--check-config")
    e2e.check(done.returncode == 0, done.stderr)


def test_the_folder_that_the_start_makes():
    """A control socket may be in the runtime folder, though only the start makes that; in another it may not."""
    serving = "[run]\nmodel = %s\nlocal = yes\nlisten = 127.0.0.1:0\n" % e2e.model("smollm2")
    ours, others = (os.path.join(folder.name, name) for name in ("runtime", "other"))
    sock = "control = %s/control.sock\n"

    def check(text, **environment):
        done = e2e.isthmus("run", "--config", write("folder.conf", serving + text), "--check-config",
                           env=environment)
        return done.returncode, done.stderr

    for dir in (ours, ours + "//"):
        rc, said = check("runtime-dir = %s\n" % dir + sock % ours)
        e2e.check(rc == 0, "%s: exit %d: %s" % (dir, rc, said))
    # The manager's is made by the manager.
    rc, said = check(sock % ours, RUNTIME_DIRECTORY=ours + ":" + others)
    e2e.check(rc == 0, "RUNTIME_DIRECTORY: exit %d: %s" % (rc, said))
    for text, environment in (("runtime-dir = %s\n" % ours, {}), ("", {"RUNTIME_DIRECTORY": ours}), ("", {})):
        rc, said = check(text + sock % others, **environment)
        e2e.check(rc == 2 and "--control %s/control.sock: %s: No such file" % (others, others) in said,
                  "%r: exit %d: %s" % (text, rc, said))
    # What was good starts.
    path = write("folder.conf", serving + "runtime-dir = %s\n" % ours + sock % ours)
    server = subprocess.Popen([e2e.BINARY, "run", "--config", path], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT)
    there = e2e.wait_for(lambda: os.path.exists(os.path.join(ours, "control.sock")), 60)
    said = e2e.end(server, "the run")
    e2e.check(there and server.returncode == 0, "no control socket, exit %d: %s" % (server.returncode, said))


def test_good():
    path = write("good.conf", "[isthmus]\nmodel = %s\n[run]\nlocal = yes\nseed = 7\n"
                 "[cloud]\nport = memif:@x\ninsecure = yes\n" % e2e.model("smollm2"))
    for command in ("run", "cloud"):
        done = e2e.isthmus(command, "--config", path, "--check-config")
        e2e.check(done.returncode == 0 and done.stdout == path + ": ok\n",
                  "%s: %d %s%s" % (command, done.returncode, done.stdout, done.stderr))
    # The file's options are options, and those of the command line win.
    a = e2e.isthmus("run", "--config", path, "-p", "Water", "-n", "3", "--json")
    b = e2e.isthmus("run", "--config", path, "-p", "Water", "-n", "3", "--json", "--no-such")
    e2e.check(a.returncode == 0 and len(json.loads(a.stdout)["ids"]) == 3, a.stderr)
    e2e.check(b.returncode == 2 and "unrecognized option" in b.stderr, b.stderr)


def test_show():
    path = write("show.conf", "[edge]\nport = udp:a:1\nport = udp:b:1\nthreads = 2\n")
    o = options_of("edge", "--config", path, "--threads", "3")
    e2e.check(o["port"]["set"] == [{"value": "udp:a:1", "from": path + ":2"},
                                   {"value": "udp:b:1", "from": path + ":3"}], o["port"])
    e2e.check(o["threads"]["set"] == [{"value": "3", "from": "command line"}], o["threads"])
    e2e.check(o["connect"]["default"] == "10" and not o["connect"]["set"], o["connect"])
    # A default is said, too; where there is none, that.
    shown = e2e.isthmus("config", "--show", "edge").stdout.splitlines()
    for line in (";codec = ; tsq, and with --profile xform", ";numa = ; any", ";temp = 0", ";top-k = 0", ";top-p = 1",
                 ";min-p = 0",
                 ";repeat-penalty = 1", ";seed = 0", ";chat-template = ; what the file says", ";threads = 1",
                 ";mlock = no", ";api-keys = ; none", ";kv = f16", ";reconnect = 60"):
        e2e.check(line in shown, "config --show edge: no %r in %s" % (line, shown))
    e2e.check(not [line for line in shown if line.endswith("=")], "a key without a value: %s" % shown)
    # What is printed is a file again.
    done = e2e.isthmus("config", "--show", "--config", path, "edge", "--insecure")
    again = write("again.conf", done.stdout)
    p = options_of("edge", "--config", again)
    e2e.check([v["value"] for v in p["port"]["set"]] == ["udp:a:1", "udp:b:1"], p["port"])
    e2e.check(p["insecure"]["set"][0]["value"] == "yes", p["insecure"])
    # So are defaults without their first ;.
    for command in ("edge", "cloud", "run"):
        shown = e2e.isthmus("config", "--show", command).stdout.splitlines()
        bare = "".join(line.lstrip(";") + "\n" for line in shown if "= ;" not in line)
        for key, o in options_of(command, "--config", write("bare.conf", bare)).items():
            for value in (v["value"] for v in o["set"]):
                e2e.check(" " not in value, "%s: %s = %s is no value" % (command, key, value))
    # What no line can say is none.
    for text in ("a ; b", "a\nthreads = 7", ";", " a", "a ", "x" * 1000, "a\n[edge", ""):
        done = e2e.isthmus("config", "--show", "run", "-p", text, "--chunk", "7")
        o = options_of("run", "--config", write("said.conf", done.stdout))
        e2e.check(not o["prompt"]["set"] and not o["threads"]["set"] and o["chunk"]["set"][0]["value"] == "7",
                  "%r: %s" % (text, done.stdout))
        e2e.check("; prompt can't be said in a file" in done.stdout, "%r: %s" % (text, done.stdout))
    for args in ((), ("--show",), ("--show", "bench"), ("edge",)):
        done = e2e.isthmus("config", *args)
        e2e.check(done.returncode == 2, "config %s: exit %d" % (args, done.returncode))


test_every_key_has_its_paragraph()
test_show()
test_mistakes()
test_mistakes_that_the_start_would_find()
test_the_folder_that_the_start_makes()
test_good()
e2e.finish()
