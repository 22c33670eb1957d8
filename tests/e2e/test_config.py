#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Configuration files: every option a key, every key in isthmus.conf(5), mistakes with file and line."""
import json
import os
import re
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
    # What is printed is a file again.
    done = e2e.isthmus("config", "--show", "--config", path, "edge", "--insecure")
    again = write("again.conf", done.stdout)
    p = options_of("edge", "--config", again)
    e2e.check([v["value"] for v in p["port"]["set"]] == ["udp:a:1", "udp:b:1"], p["port"])
    e2e.check(p["insecure"]["set"][0]["value"] == "yes", p["insecure"])
    for args in ((), ("--show",), ("--show", "bench"), ("edge",)):
        done = e2e.isthmus("config", *args)
        e2e.check(done.returncode == 2, "config %s: exit %d" % (args, done.returncode))


test_every_key_has_its_paragraph()
test_show()
test_mistakes()
test_good()
e2e.finish()
