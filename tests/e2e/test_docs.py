#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The commands of README.md and of the guides, as they stand there: each is run, begun, or left out for a
reason that is said here.

Commands are the lines indented by four spaces (in a block with "$ " lines those alone, the rest being what
they print), run in order by bash, in a folder of the document's own in which the repository's folders and the
files that the text speaks of lie. What is neither in LEFT_OUT nor in BEGUN must end well within LIMIT_S. An
entry that fits no command is an error, too.
"""
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import e2e
import halves
import packaged

# Guides whose commands want a host with units and sockets of its own.
OPERATED = ("docs/operations.md", "docs/api.md", "docs/control.md", "docs/fleet.md")
DOCS = ("README.md", *OPERATED, "docs/adaptation.md", "docs/codec.md", "docs/performance.md", "docs/planner.md",
        "docs/quantize.md", "docs/security.md")
LIMIT_S = 420
BEGUN_S = 3 if e2e.QUICK else 10  # enough to refuse what is wrong

# (document or None for any, pattern, reason)
LEFT_OUT = [
    ("README.md", r"^sudo ", "root, and interfaces of a real host"),
    ("README.md", r"^tools/check\b", "it is what runs this test"),
    ("README.md", r"udp:cloud1:7300", "hosts of that name"),
    ("README.md", r"^tests/bench/peer.py", "another engine, built by hand"),
    ("docs/control.md", r"\| socat ", "socat is not among the packages of the tests"),
    ("docs/fleet.md", r"etcd:http://etcd:", "an etcd of that name; test_fleet.py has one"),
    ("docs/operations.md", r"^tools/build-deb", "test_package.py makes it"),
    ("docs/operations.md", r"apt-get install", "test_package.py installs it"),
    ("docs/operations.md", r"^(sudo )?meson ", "done for this test, into a folder"),
    ("docs/adaptation.md", r"^isthmus edge [.][.][.]", "a part of a command"),
    ("docs/adaptation.md", r"^sudo tests/e2e/test_soak.py ", "root; a test of its own"),
    ("docs/performance.md", r"^tests/bench/peer.py", "another engine, built by hand"),
    ("docs/planner.md", r"^isthmus plan ", "the profiles before it take minutes; test_plan.py runs both"),
    ("docs/planner.md", r"^(isthmus (calibrate|quantize)|tools/quality-table) ", "an hour; test_plan.py makes such halves"),
    ("docs/codec.md", r"^isthmus eval .*--plot docs/", "minutes, with a profile of the whole text; test_eval.py draws one"),
    ("docs/quantize.md", r"^isthmus (quantize|run -m pair|eval -m pair) ", "takes minutes; test_quantize.py and test_pair.py run them"),
    ("docs/security.md", r"^(echo|isthmus (cloud|edge)) ", "others' keys and hosts; test_secure.py has such"),
    ("docs/operations.md", r"^sudo (systemd-sysusers|systemd-tmpfiles|chown) ?", "changes this host"),
]

# (document, pattern, what is run instead, once): the same program, over little, where a command takes an hour.
SHORT = [
    ("docs/planner.md", r"^tests/bench/planned[.]py", "tests/bench/planned.py --quick"),
    ("docs/planner.md", r"^tests/bench/planned_grid", "tests/bench/planned_grid.py --quick"),
    ("docs/planner.md", r"^sudo tests/bench/small_edge", "tests/bench/small_edge.py --quick"),
    ("docs/quantize.md", r"^tests/bench/quality", "tests/bench/quality.py --quick"),
]

if e2e.QUICK:
    LEFT_OUT.append(("README.md", r"--(show|profile|calibration) smollm2-10\.profile|-m pair ", "quick: no profile is "
                     "calibrated"))
    LEFT_OUT.append(("README.md", r"^build/isthmus (profile|plan) ", "quick: the profile takes minutes; test_plan.py "
                     "runs both"))
    LEFT_OUT += [(*entry[:2], "quick: minutes") for entry in SHORT]
    SHORT = []
elif os.geteuid() != 0:
    LEFT_OUT.append((*SHORT.pop(2)[:2], "root"))

# What takes minutes, or runs until it is told to end: it must take its options and its files, and go on.
BEGUN = [
    ("README.md", r"^build/isthmus bench (machine|compute|kernels)"),
    ("README.md", r"^build/isthmus eval "),
    ("README.md", r"^build/isthmus calibrate -m"),
    ("docs/adaptation.md", r"^build/tests/sim/sim_adapt "),
    ("docs/codec.md", r"^isthmus (eval|bench codec) "),
    ("docs/performance.md", r"^build/isthmus bench (machine|compute|kernels)"),
    ("docs/planner.md", r"^isthmus profile "),
    ("docs/quantize.md", r"^isthmus calibrate "),
]

# (document, pattern, what it says when it serves). Left running for the commands behind, to the document's end.
SERVERS = [
    ("README.md", r"^build/isthmus cloud .*memif:", "up to "),
    ("README.md", r"^build/isthmus run .*--listen", "listening at "),
    ("docs/fleet.md", r"^isthmus edge .*--workers file:", "listening at "),
]

used = set()
done_short = set()


def listed(entries, name, doc, command):
    for i, entry in enumerate(entries):
        if entry[0] in (None, doc) and re.search(entry[1], command):
            used.add((name, i))
            return entry
    return None


def commands(text):
    """The command lines, continuations joined."""
    block, found, fenced = [], [], False

    def flush():
        shown = [l[2:] for l in block if l.startswith("$ ")]
        joined = None
        for line in shown or block:
            joined = line if joined is None else joined + line
            if joined.endswith("\\"):
                joined = joined[:-1].rstrip() + " "
                continue
            if joined.strip() and not joined.startswith("#"):
                found.append(re.sub(r"\s+", " ", joined.strip()) if "'" not in joined else joined.strip())
            joined = None
        block.clear()

    before = ""
    for line in text.split("\n") + [""]:
        if line.startswith("```"):
            fenced = not fenced
        if line.startswith("    ") and not fenced and (block or not before.strip()):
            block.append(line[4:].strip() if block and block[-1].endswith("\\") else line[4:].rstrip())
        elif line.strip() or not block:
            flush()
        before = line
    flush()
    return found


class Session:
    """One document's commands, one after the other; variables that one sets are there for the next."""

    def __init__(self, doc, folder, host=None):
        self.doc, self.folder, self.host = doc, folder, host
        self.http = host.http if host else packaged.free_tcp()
        self.state = os.path.join(folder, ".variables")
        open(self.state, "w", encoding="utf-8").close()
        self.servers = []

    def start(self, command, out, serves=False):
        names = re.findall(r"(?:^|[ ;])([a-z_0-9]+)=\$\(", command)
        keep = "".join("declare -p %s >>%s; " % (n, shlex.quote(self.state)) for n in names)
        folder = os.path.dirname(e2e.BINARY)
        if self.host:
            command, folder = self.host.here(command), self.host.bin
        # A port and a socket of its own: another program may have those of the text.
        command = command.replace("127.0.0.1:8080", "127.0.0.1:%d" % self.http)
        command = command.replace("memif:/tmp/", "memif:%s/" % self.folder)
        script = ". %s; %s\nrc=$?; %s exit $rc" % (shlex.quote(self.state), command, keep)
        env = {**os.environ, "PATH": folder + ":" + os.environ["PATH"], "ISTHMUS_SHARED": e2e.SHARED}
        if self.host and serves:  # as a unit would
            env["RUNTIME_DIRECTORY"] = self.host.host.path("/run/isthmus/edge")
        return subprocess.Popen(["bash", "-c", script], cwd=self.folder, stdin=subprocess.DEVNULL, stdout=out,
                                stderr=subprocess.STDOUT, env=env, start_new_session=True)

    def stop(self, process):
        """It, and what it started."""
        for sig, seconds in ((signal.SIGTERM, 20), (signal.SIGKILL, 20)):
            try:
                os.killpg(process.pid, sig)
            except ProcessLookupError:
                pass
            try:
                return process.wait(seconds)
            except subprocess.TimeoutExpired:
                pass
        return None

    def run(self, command, limit_s, must_end):
        done = self.host and self.host.command(command)
        if done is not None:
            e2e.check(done == "", "%s: `%s`: %s" % (self.doc, command, done))
            e2e.say("        as systemd would: " + command)
            return
        began = time.monotonic()
        with tempfile.TemporaryFile() as out:
            process = self.start(command, out)
            try:
                rc = process.wait(limit_s)
            except subprocess.TimeoutExpired:
                rc = None
                self.stop(process)
            out.seek(0)
            said = out.read().decode(errors="replace")
        good = rc == 0 or (rc is None and not must_end)
        e2e.check(good, "%s: `%s`: %s: %s" % (self.doc, command, "no end" if rc is None else "exit %d" % rc,
                                              said[-2000:]))
        e2e.say("%5.1f s %s %s" % (time.monotonic() - began, "ran  " if rc is not None else "begun", command))

    def serve(self, command, sign):
        out = tempfile.TemporaryFile()
        process = self.start(command, out, serves=True)
        self.servers.append((command, process, out))

        def said():
            return os.pread(out.fileno(), 1 << 20, 0).decode(errors="replace")

        e2e.check(e2e.wait_for(lambda: sign in said() or process.poll() is not None, 60) and sign in said(),
                  "%s: `%s` does not serve: %s" % (self.doc, command, said()[-2000:]))
        e2e.say("        serves %s" % command)

    def end(self):
        for command, process, out in self.servers:
            died = process.poll() is not None
            if not died:
                self.stop(process)
            out.seek(0)
            e2e.check(not died, "%s: `%s` ended: %s" % (self.doc, command, out.read().decode()[-2000:]))


class Operated:
    """The host of docs/operations.md: the build installed into a folder, where commands for /etc and /run
    work; units are started as systemd would."""

    def __init__(self, folder):
        self.host = packaged.Host(tempfile.mkdtemp(prefix="host-", dir=folder))
        self.bin = self.host.path(self.host.prefix + "/bin")
        self.http, self.link = packaged.free_tcp(), halves.free_port()
        os.symlink(e2e.model("smollm2"), self.host.path("/var/lib/isthmus/model.gguf"))
        self.units = {}
        self.edited = False

    def here(self, command):
        command = re.sub(r"\bsudo (-u isthmus )?", "", command).replace(
            "--socket edge", "--socket " + self.host.path("/run/isthmus/edge/control.sock"))
        return self.host.moved(command)

    def edit(self):
        """What the text tells its reader to put into the two files."""
        show = packaged.must(os.path.join(self.bin, "isthmus"), "keygen", "--show",
                             self.host.path("/etc/isthmus/cloud.key")).strip().split("\n")[-1]
        self.host.shipped("cloud", port="udp:127.0.0.1:%d" % self.link)
        self.host.shipped("edge", port="udp:127.0.0.1:%d" % self.link, peer=show,
                          listen="127.0.0.1:%d" % self.http)
        self.edited = True

    def serve(self, units):
        """What docs/operations.md comes to: a cloud, in a file of workers too, and an edge that serve."""
        isthmus = os.path.join(self.bin, "isthmus")
        for half, file, entry in (("cloud", "workers", "w1 udp:127.0.0.1:%d %%s\n" % self.link),
                                  ("edge", "authorized", "edge-1 %s\n")):
            said = packaged.must(isthmus, "keygen", "-o", self.host.path("/etc/isthmus/%s.key" % half))
            with open(self.host.path("/etc/isthmus/" + file), "w", encoding="utf-8") as f:
                f.write(entry % said.strip().split("\n")[-1])
        self.edit()
        for name in units:
            e2e.check(self.command("sudo systemctl start " + name) == "", name + " starts")

    def command(self, command):
        """None: for bash; else done here: "", or what went wrong."""
        if "--check-config" in command and not self.edited:
            self.edit()
        found = re.fullmatch(r"sudo systemctl (enable --now|start|stop|reload) (\S+)", command)
        if not found:
            return None
        verb, name = found.groups()
        unit = self.units.setdefault(name, packaged.Unit(self.host, name))
        if verb == "reload":
            unit.reload()
            return "" if e2e.wait_for(lambda: "RELOADING=1" in unit.notes, 30) else unit.said()
        if verb == "stop":
            rc = unit.stop()
            return "" if rc == 0 else "exit %s: %s" % (rc, unit.said()[-2000:])
        return "" if unit.start() else unit.said()[-2000:]

    def end(self):
        for name, unit in self.units.items():
            rc = unit.stop()
            e2e.check(rc == 0, "%s ends: exit %s: %s" % (name, rc, unit.said()[-2000:]))


def named(doc, command):
    """What a guide leaves to its reader: $model and MODEL are the small model. README.md says it itself."""
    return command if doc == "README.md" else re.sub(r"\$model\b|\bMODEL\b", shlex.quote(e2e.model("smollm2")), command)


def workplace(folder, doc):
    """What stands beside a reader of the document."""
    os.mkdir(folder)
    for name in os.listdir(e2e.ROOT):
        if not name.startswith(".") and name != "build":
            os.symlink(os.path.join(e2e.ROOT, name), os.path.join(folder, name))
    os.symlink(os.path.dirname(os.path.abspath(e2e.BINARY)), os.path.join(folder, "build"))
    with open(os.path.join(folder, "requests.jsonl"), "w", encoding="utf-8") as f:
        f.write(e2e.lines_of([{"prompt": p, "n_predict": 8} for p in e2e.PROMPTS[:4]]))
    if doc in OPERATED:
        return
    shutil.copy(e2e.shared("eval/wikitext2-valid.txt"), folder)
    shutil.copy(e2e.shared("eval/hellaswag-dev.jsonl"), folder)
    if e2e.QUICK or doc != "README.md":
        return
    # README's profile takes minutes; of less text, it is one all the same.
    done = e2e.isthmus("calibrate", "-m", e2e.model("smollm2"), "--split", "10", "--text",
                       os.path.join(folder, "wikitext2-valid.txt"), "--chunks", "60-67", "--samples", "1",
                       "-o", os.path.join(folder, "smollm2-10.profile"), timeout=1800)
    e2e.check(done.returncode == 0, "a profile: " + done.stderr[-2000:])


def document(doc, folder):
    path = os.path.join(e2e.ROOT, doc)
    if not os.path.exists(path):
        return 0
    with open(path, encoding="utf-8") as f:
        found = commands(f.read())
    host = Operated(folder) if found and doc in OPERATED else None
    if host and doc != "docs/operations.md":
        # docs/fleet.md has the command for the edge.
        host.serve(("isthmus-cloud",) if doc == "docs/fleet.md" else ("isthmus-cloud", "isthmus-edge"))
    session = Session(doc, folder, host)
    try:
        for command in found:
            left = listed(LEFT_OUT, "LEFT_OUT", doc, command)
            server = listed(SERVERS, "SERVERS", doc, command)
            short = None if left else listed(SHORT, "SHORT", doc, command)
            if left:
                e2e.say("        left out (%s): %s" % (left[2], command))
            elif short:
                if short[2] not in done_short:
                    session.run(short[2], LIMIT_S, True)
                done_short.add(short[2])
            elif server:
                session.serve(named(doc, command), server[2])
            elif listed(BEGUN, "BEGUN", doc, command):
                session.run(named(doc, command), BEGUN_S, False)
            else:
                session.run(named(doc, command), LIMIT_S, True)
    finally:
        session.end()
        if host:
            host.end()
    return len(found)


def main():
    if "--list" not in sys.argv:
        packaged.private_network()
    with tempfile.TemporaryDirectory(prefix="isthmus-test-") as folder:
        if "--list" in sys.argv:
            for doc in DOCS:
                if os.path.exists(os.path.join(e2e.ROOT, doc)):
                    with open(os.path.join(e2e.ROOT, doc), encoding="utf-8") as f:
                        print("\n".join("%s: %s" % (doc, c) for c in commands(f.read())))
            return
        chosen = [d for d in DOCS if d in (sys.argv[1:] or DOCS) and os.path.exists(os.path.join(e2e.ROOT, d))]
        for doc in chosen:
            own = os.path.join(folder, os.path.basename(doc))
            workplace(own, doc)
            n = document(doc, own)
            e2e.check(n or doc != "README.md", doc + " has commands")
            e2e.say("%s: %d commands" % (doc, n))
    for name, entries in (("LEFT_OUT", LEFT_OUT), ("BEGUN", BEGUN), ("SERVERS", SERVERS), ("SHORT", SHORT)):
        for i, entry in enumerate(entries):
            e2e.check((name, i) in used or entry[0] not in chosen, "%s: nothing fits %r" % (name, entry))
    e2e.finish()


main()
