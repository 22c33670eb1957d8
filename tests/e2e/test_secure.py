#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Who is let in and who isn't, over every kind of port; what is said; garbage, damaged and repeated packets; that
nothing readable is sent and no secret shown."""
import os
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import threading
import time

import e2e
import halves
import ports

PROMPT = "The capital of France is"
CORE = ("--first-core", "1", "--threads", "1")
NOBODY = 65534


def keygen(folder, name):
    path = os.path.join(folder, name)
    done = e2e.isthmus("keygen", "-o", path)
    print_ = done.stdout.strip()
    e2e.check(done.returncode == 0 and len(print_) == 71 and print_.startswith("sha256:"),
              "keygen: %d, %r" % (done.returncode, done.stdout + done.stderr))
    return path, print_


def keys(folder):
    path, print_ = keygen(folder, "a.key")
    e2e.check(stat.S_IMODE(os.stat(path).st_mode) == 0o600, "a key is its owner's alone")
    e2e.check(e2e.isthmus("keygen", "--show", path).stdout.strip() == print_, "keygen --show")
    with open(path, encoding="ascii") as f:
        before = f.read()
    done = e2e.isthmus("keygen", "-o", path)
    with open(path, encoding="ascii") as f:
        e2e.check(done.returncode == 2 and "never overwritten" in done.stderr and f.read() == before,
                  "keygen never overwrites: %d, %s" % (done.returncode, done.stderr))
    for args in ([], ["-o", path, "--show", path], ["-o", os.path.join(folder, "none", "x")],
                 ["--show", os.path.join(folder, "none")]):
        done = e2e.isthmus("keygen", *args)
        e2e.check(done.returncode == 2 and done.stdout == "", "keygen %s: exit %d" % (args, done.returncode))


def refusals(folder, model):
    a, print_a = keygen(folder, "r1.key")
    _, print_b = keygen(folder, "r2.key")
    text = os.path.join(folder, "text")
    with open(text, "w", encoding="ascii") as f:
        f.write("one %s\ntwo sha256:12\n" % print_a)
    os.chmod(text, 0o600)
    wide = os.path.join(folder, "wide.key")
    with open(a, "rb") as f, open(wide, "wb") as g:
        g.write(f.read())
    os.chmod(wide, 0o644)
    for half, args, words in (
            ("edge", [], ("--identity", "--peer", "--insecure")),
            ("edge", ["--identity", a], ("--peer",)),
            ("edge", ["--peer", print_b], ("--identity",)),
            ("cloud", [], ("--identity", "--authorized")),
            ("edge", ["--identity", a, "--peer", "sha256:12"], ("64 hex digits",)),
            ("edge", ["--identity", a, "--peer", print_a], ("our own identity",)),
            ("edge", ["--identity", folder + "/none", "--peer", print_b], ("isthmus keygen",)),
            ("edge", ["--identity", text, "--peer", print_b], ("P-256",)),
            ("edge", ["--identity", wide, "--peer", print_b], ("chmod 600",)),
            ("edge", ["--identity", a, "--peer", print_b, "--insecure"], ("--insecure",)),
            ("cloud", ["--identity", a, "--authorized", text], ("text:2:", "sha256:12")),
            ("cloud", ["--identity", a, "--authorized", folder + "/none"], ("none",)),
            ("cloud", ["--identity", a, "--authorized", text, "--peer", print_b], ("--authorized",))):
        prompt = ["-p", "x"] if half == "edge" else []
        done = e2e.isthmus(half, "-m", model, "--port", "udp:127.0.0.1:9", *args, *prompt)
        last = (done.stderr.strip().splitlines() or [""])[-1]
        e2e.say("%-5s exit %d: %s" % (half, done.returncode, last[:130]))
        e2e.check(done.returncode == 2 and all(w in done.stderr for w in words),
                  "%s %s: %d, %s" % (half, args, done.returncode, done.stderr))


class Ear:
    """A forwarder between the halves that keeps what it hears: at the router, where hosts are their own."""

    def __init__(self, place):
        here = place.net.address("router")
        self.edge_side, self.cloud_side = (place.net.socket("router", socket.AF_INET, socket.SOCK_DGRAM) for _ in "ec")
        self.edge_side.bind((here, 0))
        self.cloud_side.connect((place.address("cloud"), place.numbers["cloud"]))
        self.port = place.by("one", here, self.edge_side.getsockname()[1])
        self.edge = None
        self.heard = []
        self.spoil = False
        for f in (self.up, self.down):
            threading.Thread(target=f, daemon=True).start()

    def up(self):
        while True:
            packet, self.edge = self.edge_side.recvfrom(65536)
            self.heard.append(packet)
            if self.spoil:  # damaged, repeated and reflected copies beside every packet
                bad = bytearray(packet)
                bad[len(self.heard) * 7 % len(bad)] ^= 1 << len(self.heard) % 8
                for more in (bytes(bad), packet, self.heard[len(self.heard) // 2]):
                    self.cloud_side.send(more)
                self.edge_side.sendto(packet, self.edge)
            self.cloud_side.send(packet)

    def down(self):
        while True:
            try:
                packet = self.cloud_side.recv(65536)
            except ConnectionRefusedError:
                continue
            self.heard.append(packet)
            if self.edge:
                self.edge_side.sendto(packet, self.edge)


def strangers(place):
    """Others of this user at memif's socket: nonsense instead of a READY, too many, and gone without a word."""
    name = "\0" + place.port()[len("memif:@"):]
    for said in (b"nonsense", b"R" * 70000, b"", None):
        several = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(3)]
        for s in several:
            try:
                s.settimeout(5)
                s.connect(name)
                if said is not None:
                    s.send(said)
            except OSError:
                pass  # turned away at once
        for s in several:
            s.close()


def meet(folder, model, place):
    edge, edge_print = e2e.keygen("secure-edge")
    cloud, cloud_print = e2e.keygen("secure-cloud")
    stranger, stranger_print = e2e.keygen("secure-stranger")
    authorized = os.path.join(folder, "edges")
    with open(authorized, "w", encoding="ascii") as f:
        f.write("# edges\ngateway-1 %s sessions=2 tokens=200\n" % edge_print)
    served = place.cloud(model, "--split", "10", "--codec", "f16", *CORE, "--identity", cloud,
                         "--authorized", authorized)
    e2e.check(cloud_print in served.said() and "AES-128-GCM by" in served.said(),
              "the cloud says who it is: " + served.said())

    def ask(what, code, words, *args, at=None, n="4"):
        start = time.monotonic()
        done = halves.edge(model, at or place.towards(), "--split", "10", "--codec", "f16", "-p", PROMPT, "-n", n,
                           "--json", *args, prefix=place.inside("one"))
        e2e.check(done.returncode == code and all(w in done.stdout + done.stderr for w in words),
                  "%s: %s: %d, %s" % (place.kind, what, done.returncode, done.stdout[-300:] + done.stderr[-500:]))
        e2e.say("%-6s %-24s exit %d in %.1f s" % (place.kind, what, done.returncode, time.monotonic() - start))

    good = ("--identity", edge, "--peer", cloud_print)
    ask("the right edge", 0, ("Paris", '"cipher":"AES-128-GCM"'), *good)
    ask("an edge unknown there", 1, ("does not admit our identity", stranger_print),
        "--identity", stranger, "--peer", cloud_print)
    e2e.check(e2e.wait_for(lambda: stranger_print in served.said(), 60),
              "the cloud says whom it refused: " + served.said())
    ask("another cloud expected", 1, ("not the one asked for", cloud_print),
        "--identity", edge, "--peer", stranger_print)
    if place.same_host:
        ask("an edge in the clear", 1, ("no cloud answered",), "--insecure", "--connect", "2")
    else:
        ask("an edge in the clear", 2, ("beyond this host",), "--insecure")
    ask("a session too long", 1, ("gateway-1", "200 tokens"), *good, n="300")
    ask("damaged on the way", 0, ("Paris",), *good, "--netem", "corrupt=20%,dup=20%")
    if place.alone:
        strangers(place)
        ask("after strangers", 0, ("Paris",), *good)
    else:
        overheard(place, ask, good)

    # No secret in a log.
    with open(cloud, encoding="ascii") as f:
        secret = f.read().splitlines()[1]
    e2e.check(secret not in served.said(), "no key in the log")
    e2e.check(served.stop() == 0, "the cloud ends well: " + served.said())


def overheard(place, ask, good):
    """By one between the halves. Between memif's there is only the memory that they share."""
    ear = Ear(place)
    ear.spoil = True
    ask("a forger on the way", 0, ("Paris",), *good, at=ear.port)
    secrets = (b"Paris", b"capital")
    e2e.check(len(ear.heard) > 10 and not any(s in p for s in secrets for p in ear.heard),
              "nothing readable")
    # All that was recorded, once more: nothing happens.
    for packet in ear.heard:
        ear.cloud_side.send(packet)
    ask("after a replay of it all", 0, ("Paris",), *good)


def owner_in_proc(pid):
    """Of what shows a process's memory: its user's, or root's, if no core may be dumped and no other process
    of that user may look into it."""
    return os.stat("/proc/%d/environ" % pid).st_uid


def not_dumped(folder, model):
    """No secret in a core, or within reach of its user's other processes. As nobody: root's own are root's anyhow."""
    key, _ = keygen(folder, "dumped.key")
    _, edge_print = keygen(folder, "dumped-edge.key")
    nobody = ()
    binary = e2e.BINARY
    if os.getuid() == 0:
        os.chmod(folder, 0o755)
        # Nobody may not be able to reach the checkout: give it its own copies.
        model = shutil.copy(model, os.path.join(folder, "model.gguf"))
        e2e.BINARY = shutil.copy(binary, os.path.join(folder, "isthmus"))
        os.chmod(model, 0o644)
        os.chmod(e2e.BINARY, 0o755)
        os.chown(key, NOBODY, NOBODY)
        nobody = ("setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups")
    cloud = halves.Cloud(model, "udp:127.0.0.1:%d" % halves.free_port(), "--split", "10", *CORE, "--identity", key,
                         "--peer", edge_print, prefix=nobody, env={"HOME": "/nonexistent", "XDG_RUNTIME_DIR": ""})
    e2e.BINARY = binary
    e2e.check(cloud.ready(), "a cloud of an ordinary user serves: " + cloud.said())
    other = subprocess.Popen([*nobody, "sleep", "60"])
    halves.others.append(other)
    user = NOBODY if nobody else os.getuid()
    e2e.check(e2e.wait_for(lambda: owner_in_proc(other.pid) == user, 20), "another process's files are its user's")
    e2e.check(owner_in_proc(cloud.process.pid) == 0, "the cloud can't be dumped: its files there are root's")
    other.kill()
    e2e.check(cloud.stop() == 0, "it ends well: " + cloud.said())


def run_shows_no_key(model):
    edge = halves.Half("run", "-m", model, "-p", "Once upon a time", "-n", "400", "--ignore-eos")
    e2e.check(edge.some() != b"", "an answer begins: " + edge.said())
    with open("/proc/%d/task/%d/children" % (edge.process.pid, edge.process.pid), encoding="ascii") as f:
        child = f.read().split()[0]
    with open("/proc/%s/cmdline" % child, "rb") as f:
        line = f.read().split(b"\0")
    e2e.check(b"fd:4" in line and not any(b"PRIVATE" in a for a in line), "the child's line: %r" % line)
    edge.stop(signal.SIGINT)


def without_ipsec_mb(model):
    """OpenSSL alone gives the same ids, and that is said. The library is hidden by a path where it is not."""
    with tempfile.TemporaryDirectory(prefix="isthmus-test-") as folder:
        os.chmod(folder, 0o755)  # root is given up before the library is looked for
        with open(os.path.join(folder, "libIPSec_MB.so.1"), "wb") as f:
            f.write(b"not a library")
        done = e2e.isthmus("run", "-m", model, "-p", PROMPT, "-n", "4",
                           env={"LD_LIBRARY_PATH": folder})
    e2e.check(done.returncode == 0 and done.stdout.startswith(" Paris") and
              "by OpenSSL EVP" in done.stderr, "without intel-ipsec-mb: %d, %s"
              % (done.returncode, done.stderr))


def main():
    model = e2e.model("smollm2")
    with tempfile.TemporaryDirectory(prefix="isthmus-test-") as folder:
        keys(folder)
        refusals(folder, model)
        os.chmod(folder, 0o755)  # one who gave up root reads the list again
        for place in ports.places():
            meet(folder, model, place)
        if "ASAN_OPTIONS" not in os.environ:  # which must be able to look
            not_dumped(folder, model)
    run_shows_no_key(model)
    without_ipsec_mb(model)
    e2e.finish()


main()
