#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`isthmus netem` between two namespaces: pings take their time, TCP's bytes are the same through losses
and duplicates, super-frames are cut, an edge and a cloud beyond it give the ids of --local; the counts;
what is refused. Without namespaces only the refusals can be tried, and the test counts as skipped."""
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile

import e2e
import halves
from namespaces import bridged, ip

PID = os.getpid()
TCP = r"""
import hashlib, random, socket, sys
data = random.Random(1).randbytes(int(sys.argv[2]))
if sys.argv[1] == "serve":
    with socket.create_server(("10.9.0.2", 7301)) as s:
        print("ready", flush=True)
        with s.accept()[0] as c:
            digest = hashlib.sha256()
            while part := c.recv(65536):
                digest.update(part)
            c.sendall(digest.digest())
else:
    with socket.create_connection(("10.9.0.2", 7301), timeout=60) as c:
        c.sendall(data)
        c.shutdown(socket.SHUT_WR)
        print(c.recv(32, socket.MSG_WAITALL).hex(), hashlib.sha256(data).hexdigest())
"""


class Path:
    """edge - netem - cloud, a namespace each; the outer ones have addresses."""

    def __init__(self):
        self.names = ["isthmus-test-%d-%s" % (PID, n) for n in ("edge", "netem", "cloud")]

    def inside(self, i):
        return ("ip", "netns", "exec", self.names[i])

    def run(self, i, *args, timeout=120):
        return subprocess.run([*self.inside(i), *args], text=True, check=False, timeout=timeout,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    @contextlib.contextmanager
    def impaired(self, spec, counts):
        """The bridge; `counts` gets what it counted, a way each."""
        with tempfile.TemporaryFile(mode="w+", encoding="utf-8") as log:
            p = subprocess.Popen([*self.inside(1), e2e.BINARY, "netem", "west", "east", spec, "--json"],
                                 stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True)
            halves.others.append(p)

            def said():
                log.seek(0)
                return log.read()

            e2e.check(e2e.wait_for(lambda: "bridging" in said(), 20), "the bridge starts: " + said())
            yield p
            p.send_signal(signal.SIGTERM)
            out = p.communicate(timeout=20)[0]
            e2e.check(p.returncode == 0, "the bridge ends well: %d, %s" % (p.returncode, said()))
            counted = json.loads(out)
            e2e.check(counted["netem"] == spec and counted["elapsed_s"] > 0, out)
            for way in counted["ways"]:
                e2e.check(way["kernel_dropped"] == way["unreadable"] == way["send_failed"] == 0,
                          "the bridge loses nothing of itself: %s" % way)
            counts.extend(counted["ways"])


def pings(path, count):
    """Round-trip times in ms."""
    done = path.run(0, "ping", "-c", str(count), "-i", ".1", "-W", "5", "10.9.0.2")
    return [float(t) for t in re.findall(r"time=([0-9.]+) ms", done.stdout)]


def transfer(path, nbytes, what):
    """A TCP transfer from the edge's side to the cloud's arrives as it was sent."""
    server = subprocess.Popen([*path.inside(2), sys.executable, "-c", TCP, "serve", str(nbytes)],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    halves.others.append(server)
    server.stdout.readline()
    done = path.run(0, sys.executable, "-c", TCP, "send", str(nbytes))
    digests = done.stdout.split()
    e2e.check(len(digests) == 2 and digests[0] == digests[1],
              "%s: the same %d bytes: %s" % (what, nbytes, done.stdout + done.stderr))
    server.wait(timeout=60)


def delay(path):
    counts = []
    with path.impaired("delay=20ms,jitter=2ms,seed=3", counts):
        times = pings(path, 5)
        e2e.check(len(times) == 5 and min(times) >= 36, "pings take twice the delay: %s" % times)
    e2e.check(all(w["packets"] >= w["out_packets"] >= 5 for w in counts), "all of them: %s" % counts)
    e2e.say("pings through delay=20ms,jitter=2ms: %s ms" % times)


def tcp(path):
    counts = []
    with path.impaired("delay=1ms,drop=1%,burst=2,dup=5%,reorder=2%,corrupt=.5%,seed=3", counts):
        transfer(path, 2000000, "losses and duplicates")
    up = counts[0]
    e2e.check(up["from"] == "west" and up["to"] == "east", "the way up first: %s" % up)
    e2e.check(min(up[k] for k in ("dropped", "duplicated", "reordered", "corrupted")) > 0,
              "TCP met all of it: %s" % up)
    e2e.check(up["bytes"] / up["packets"] <= 1514, "nothing longer than the MTU: %s" % up)

    # 2 MB at 50 Mbit/s take 320 ms or more; a queue of 30 kB overflows.
    counts = []
    with path.impaired("delay=5ms,rate=50mbit,queue=30kB", counts) as bridge:
        transfer(path, 2000000, "a rate with a queue")
        e2e.check(bridge.poll() is None, "the bridge lives on")
    up = counts[0]
    e2e.check(up["overflowed"] > 0 and 1000 < up["queue_max_bytes"] <= 30000,
              "the queue was full, and no longer than it may be: %s" % up)
    e2e.say("TCP through both: the same bytes; %d super-frames cut" % up["super_frames"])


def halves_beyond(path, model):
    asked, local = halves.requests(quick=2, full=4)
    counts = []
    with path.impaired("delay=2ms,drop=5%,dup=5%,reorder=10%,seed=5", counts):
        port = "udp:10.9.0.2:7300"
        cloud = halves.Cloud(model, port, "--split", "10", "--codec", "f32", "--first-core", "1",
                             "--threads", "1", prefix=path.inside(2))
        e2e.check(cloud.ready(), "the cloud serves: " + cloud.said())
        halves.same_as_local(model, port, asked, local, "--threads", "1", prefix=path.inside(0))
        e2e.check(cloud.stop() == 0, "the cloud ends well")
    e2e.check(all(sum(w[k] for w in counts) > 0 for k in ("dropped", "reordered")), "losses: %s" % counts)


def ends(path):
    done = path.run(1, e2e.BINARY, "netem", "west", "east", "", "--time", "1")
    e2e.check(done.returncode == 0 and "west to east: " in done.stdout and "east to west: " in done.stdout,
              "--time: %d, %s" % (done.returncode, done.stdout + done.stderr))
    done = path.run(1, "sh", "-c", "exec %s netem west east '' --time 1 --json > /dev/full" % e2e.BINARY)
    e2e.check(done.returncode == 1 and "cannot write" in done.stderr,
              "a full disk: %d, %s" % (done.returncode, done.stderr))
    done = path.run(1, "setpriv", "--bounding-set", "-all", "--inh-caps", "-all", e2e.BINARY, "netem",
                    "west", "east", "delay=1ms")
    e2e.check(done.returncode == 1 and "CAP_NET_RAW" in done.stderr,
              "without rights: %d, %s" % (done.returncode, done.stderr))
    p = subprocess.Popen([*path.inside(1), e2e.BINARY, "netem", "west", "east", "delay=1ms"],
                         stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    halves.others.append(p)
    e2e.check("bridging" in p.stderr.readline(), "the bridge starts")
    ip("-n", path.names[1], "link", "set", "west", "down")
    ip("-n", path.names[1], "link", "set", "west", "up")
    e2e.check(e2e.wait_for(lambda: len(pings(path, 3)) == 3, 20), "down and up again: it goes on")
    ip("-n", path.names[1], "link", "del", "west")
    err = p.communicate(timeout=20)[1]
    e2e.check(p.returncode == 1 and "gone" in err, "a deleted interface: %d, %s" % (p.returncode, err))


def refusals():
    for args, word in ((("lo",), "two interfaces"), (("lo", "lo", "delay=1ms"), "twice"),
                       (("no-such-if", "lo", ""), "no-such-if"), (("lo", "no-such-if", ""), "lo"),
                       (("a", "b", "delay=1"), "delay takes"), (("a", "b", "loss=1%"), "keys are"),
                       (("a", "b", "", "c"), "arguments"), (("a", "b", "", "--time", "0"), "--time")):
        done = e2e.isthmus("netem", *args)
        e2e.check(done.returncode == 2 and word in done.stderr and not done.stdout,
                  "netem %s: %d, %s" % (" ".join(args), done.returncode, done.stderr))


def can_make_namespaces():
    name = "isthmus-test-%d-try" % PID
    made = subprocess.run(["ip", "netns", "add", name], stdin=subprocess.DEVNULL, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if made.returncode != 0:
        e2e.not_tried("all but refusals, for want of network namespaces: " + made.stdout.strip())
        return False
    subprocess.run(["ip", "netns", "del", name], stdin=subprocess.DEVNULL, check=False)
    return True


def main():
    refusals()
    if can_make_namespaces():
        path = Path()
        with bridged(path.names):
            try:
                delay(path)
                tcp(path)
                halves_beyond(path, e2e.model("smollm2"))
                ends(path)
            finally:
                halves.stop_all()
    e2e.finish()


main()
