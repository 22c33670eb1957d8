#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Root is given up whatever the port: all threads are somebody else, and what comes later - files read again,
the control socket, a memif: socket to be removed or connected to, a lost cloud - works as before; where it could
not, root is kept and said to be. As root only (test_ether has the ports that need it)."""
import json
import os
import signal
import subprocess
import tempfile
import urllib.request

import e2e
import halves

SPLIT = ("--split", "10", "--codec", "f32", "--threads", "1")
NOBODY = 65534
BIND = 1 << 10  # CAP_NET_BIND_SERVICE
ASK = ("-p", "The capital of France is", "-n", "8")


def udp():
    return "udp:127.0.0.1:%d" % halves.free_port()


def is_root(half):
    return os.stat("/proc/%d/task" % half.process.pid).st_uid == 0 and halves.uids(half.process.pid) == {0}


def listed(folder):
    """A list of those admitted, for anybody to read."""
    path = os.path.join(folder, "authorized")
    with open(path, "w", encoding="ascii") as f:
        f.write("edge %s\n" % e2e.keygen("edge")[1])
    os.chmod(path, 0o644)
    return path


def cloud_of(model, port, *args):
    cloud = halves.Cloud(model, port, *SPLIT, *args)
    e2e.check(cloud.ready(), "the cloud serves: " + cloud.said())
    return cloud


def served(model, port, what):
    done = halves.edge(model, port, *SPLIT, *ASK)
    e2e.check(done.returncode == 0 and done.stdout.startswith(" Paris"),
              "%s: exit %d, %r: %s" % (what, done.returncode, done.stdout, done.stderr))
    return done


def over_udp(model, folder):
    """As nobody: an edge with two ports, a list read again, the control socket."""
    port, runtime = udp(), os.path.join(folder, "runtime")
    cloud = cloud_of(model, port, "--identity", e2e.keygen("cloud")[0], "--authorized", listed(folder),
                     "--runtime-dir", runtime)
    halves.gave_up_root(cloud)
    done = halves.edge(model, udp(), "--port", port, "--connect", "30", *SPLIT, *ASK)
    e2e.check(done.returncode == 0 and "root is given up, nobody (uid 65534)" in done.stderr,
              "an edge with two ports: " + done.stderr)
    cloud.process.send_signal(signal.SIGHUP)
    e2e.check(e2e.wait_for(lambda: "1 edges are admitted" in cloud.said(), halves.LIMIT_S),
              "the list is read again: " + cloud.said())
    asked = e2e.isthmus("ctl", "--socket", os.path.join(runtime, "control.sock"), "version")
    e2e.check(asked.returncode == 0, "the control socket: " + asked.stderr)
    e2e.check(cloud.stop() == 0 and os.listdir(runtime) == ["lock"], "it ends well: " + cloud.said())


def kept(model, folder):
    """A list that only root may read: root is kept, or --user is told what will fail."""
    closed = os.path.join(folder, "closed")
    os.mkdir(closed, 0o700)
    args = ("--identity", e2e.keygen("cloud")[0], "--authorized", listed(closed))
    cloud = cloud_of(model, udp(), *args)
    e2e.check("root is kept: nobody (uid 65534) could not read " + closed in cloud.said() and is_root(cloud),
              "root is kept: " + cloud.said())
    cloud.process.send_signal(signal.SIGHUP)
    e2e.check(e2e.wait_for(lambda: "1 edges are admitted" in cloud.said(), halves.LIMIT_S),
              "the list is read again: " + cloud.said())
    cloud.stop()
    cloud = cloud_of(model, udp(), "--user", "daemon", *args)
    e2e.check("daemon (uid 1) can't read " + closed in cloud.said(), "what will fail is said: " + cloud.said())
    halves.gave_up_root(cloud, 1, name="daemon")
    cloud.process.send_signal(signal.SIGHUP)
    e2e.check(e2e.wait_for(lambda: "the old one stays" in cloud.said(), halves.LIMIT_S), "and fails: " + cloud.said())
    cloud.stop()
    for user, word in (("root", "root"), ("no-such-user", "no such user")):
        done = halves.edge(model, udp(), "--user", user, *SPLIT, *ASK)
        e2e.check(done.returncode in (1, 2) and (word in done.stderr or "no cloud" in done.stderr),
                  "--user %s: %s" % (user, done.stderr))
        checked = e2e.isthmus("edge", "-m", model, "--port", udp(), "--user", user, "--check-config", *SPLIT, *ASK,
                              *e2e.secured("edge"))
        e2e.check(checked.returncode == 2 and word in checked.stderr, "--user %s: %s" % (user, checked.stderr))


def over_memif(model, folder):
    """Where anybody may make sockets: both as nobody, also after the cloud was killed; elsewhere both as root."""
    for name, mode, uid in (("shared", 0o1777, NOBODY), ("private", 0o700, 0)):
        path = os.path.join(folder, name)
        os.mkdir(path)
        os.chmod(path, mode)
        port = "memif:" + os.path.join(path, "isthmus.sock")
        cloud = cloud_of(model, port)
        edge = halves.edge_started(model, port, *SPLIT)
        e2e.check({halves.uids(h.process.pid) == {uid} for h in (cloud, edge)} == {True},
                  "%s: %s %s" % (name, cloud.said(), edge.said()))
        cloud.stop(signal.SIGKILL)
        cloud = cloud_of(model, port)
        e2e.check(e2e.wait_for(lambda: "connected again" in edge.said(), halves.LIMIT_S),
                  "%s: the edge goes on: %s" % (name, edge.said()))
        edge.stop(signal.SIGINT)
        e2e.check(cloud.stop() == 0 and not os.listdir(path), "%s: nothing stays: %s" % (name, os.listdir(path)))


def serving(model):
    """A port below 1024 is opened as nobody; both halves of `run` are, and the second one dies with the first."""
    cloud = cloud_of(model, "udp:127.0.0.1:%d" % halves.free_port())
    edge = halves.Edge(model, "udp:" + cloud.process.args[cloud.process.args.index("--port") + 1][4:], *SPLIT,
                       "--listen", "127.0.0.1:943")
    e2e.check(e2e.wait_for(lambda: "listening" in edge.said(), halves.LIMIT_S), "it listens: " + edge.said())
    halves.gave_up_root(edge, allowed=BIND)
    with urllib.request.urlopen("http://127.0.0.1:943/v1/models", timeout=halves.LIMIT_S) as answer:
        e2e.check(json.load(answer)["data"], "it answers")
    e2e.check(edge.stop() == 0 and cloud.stop() == 0, edge.said())

    both = halves.Half("run", "-m", model, *SPLIT[:4], "-p", "Once upon a time", "-n", "4000", "--ignore-eos")
    e2e.check(both.some() != b"", "run answers: " + both.said())
    halves.gave_up_root(both)
    children = subprocess.run(["pgrep", "-P", str(both.process.pid)], text=True, stdout=subprocess.PIPE, check=False)
    pid = int(children.stdout)
    e2e.check(halves.uids(pid) == {NOBODY}, "the second half of run: %s" % halves.uids(pid))
    both.stop(signal.SIGKILL)
    e2e.check(e2e.wait_for(lambda: not os.path.exists("/proc/%d" % pid), halves.LIMIT_S), "it dies with the first")


def main():
    if os.getuid() != 0:
        e2e.skip("only root can give root up")
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # else what is started here has it ignored, too
    model = e2e.model("smollm2")
    before = e2e.leftovers()
    with tempfile.TemporaryDirectory(prefix="isthmus-test-root-") as folder:
        os.chmod(folder, 0o755)
        over_udp(model, folder)
        kept(model, folder)
        over_memif(model, folder)
        serving(model)
    e2e.check_nothing_left(before)
    e2e.finish()


main()
