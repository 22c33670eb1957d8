#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Paths that take less than the port, and that become narrower in mid-answer: by netem on memif and kernel UDP, at a
router, and at the interface itself. The ids are those of --local, the path's MTU is found, and no connection is made anew.
Where there are no namespaces only netem is tried, which is said."""
import contextlib
import json
import signal
import subprocess
import time

import e2e
import halves
from namespaces import Network, ip

SPLIT = ("--split", "10", "--codec", "f32")
CORE = ("--first-core", "1", "--threads", "1")
IDS = 250 if e2e.QUICK else 400


def requests():
    """The first is short, so that its end says where the others are."""
    asked = [{"prompt": p, "n_predict": IDS} for p in e2e.PROMPTS[:4]]
    asked[0]["n_predict"] = 15
    alone = e2e.run_requests(asked, "-m", e2e.model("smollm2"), "--local", "--ignore-eos", "--parallel", "4")
    return asked, [r["ids"] for r in alone]


class Edge(halves.Edge):
    """Of whose answers the first has come."""

    def __init__(self, model, port, asked, *args, prefix=()):
        super().__init__(model, port, *SPLIT, "--threads", "1", "--ignore-eos", "--parallel", "4", "--json",
                         "--requests", "-", *args, prefix=prefix)
        self.write(e2e.lines_of(asked))
        self.process.stdin.close()
        self.first = self.line()

    def totals(self, what, expected):
        code, rest = self.end(e2e.TIMEOUT_S)
        rows = [json.loads(line) for line in (self.first + rest).splitlines() if line.strip()]
        t = rows.pop() if rows and "requests" in rows[-1] else {}
        ids = [r.get("ids") for r in rows]
        e2e.say("%-44s %d of %d the same, MTU %s, %s falls, %s packets cut, %s connections more"
                % (what, sum(a == b for a, b in zip(ids, expected)), len(expected), t.get("link_mtu_bytes"),
                   t.get("mtu_falls"), t.get("cut_packets"), t.get("reconnections")))
        e2e.check(code == 0 and ids == expected and t.get("reconnections") == 0,
                  "%s: exit %d: %s" % (what, code, self.said()[-600:]))
        return t


def expect(t, what, mtu, falls):
    e2e.check(t.get("link_mtu_bytes") == mtu and t.get("mtu_falls") == falls and (t.get("cut_packets", 0) > 0) == (falls > 0),
              "%s: MTU %d, %d falls: %s" % (what, mtu, falls, t))


def either(t, what, mtu):
    """At 1,500 a row of f32 is two packets of some 1,250 bytes: only a probe or an acknowledged group is longer, so that
    a fall may go unnoticed. test_mtu of the link, and netem above with its 9,000, have it noticed."""
    found = t.get("link_mtu_bytes", 0)  # after a fall on its way up again
    e2e.check(found == 1500 if t.get("mtu_falls") == 0 else 1280 <= found <= mtu, "%s: %s" % (what, t))


def by_netem(model, asked, local):
    done = e2e.isthmus("run", "-m", model, *SPLIT, "--ignore-eos", "--parallel", "4", "--requests", "-", "--json",
                       "--netem", "mtu=1400", text_in=e2e.lines_of(asked))
    rows = e2e.json_lines(done, "run --netem mtu=1400")
    t = rows.pop()
    e2e.check([r["ids"] for r in rows] == local, "the ids of --local by run --netem mtu=1400")
    expect(t, "run --netem mtu=1400", 1400, 0)
    e2e.say("%-44s MTU %d" % ("run --netem mtu=1400", t["link_mtu_bytes"]))

    port = "udp:127.0.0.1:%d,mtu=9000" % halves.free_port()
    cloud = halves.Cloud(model, port, *SPLIT, *CORE, "--netem", "mtu@1s=1300")
    e2e.check(cloud.ready(), "the cloud serves: " + cloud.said())
    for spec, mtu, falls in (("mtu=1500", 1500, 0), ("mtu@1s=1400", 1400, 1), ("drop=5%,reorder=5%,mtu@1s=1280", None, None)):
        edge = Edge(model, port, asked, "--netem", spec)
        t = edge.totals("udp, " + spec, local)
        if mtu:
            expect(t, spec, mtu, falls)
            e2e.check("takes packets of %d bytes" % mtu in edge.said(), "it is said: " + edge.said())
    cloud.stop()


@contextlib.contextmanager
def limited(net, host, mtu):
    """The router's interface to that host takes less."""
    ip("-n", net.namespace("router"), "link", "set", host, "mtu", str(mtu))
    try:
        yield
    finally:
        ip("-n", net.namespace("router"), "link", "set", host, "mtu", "1500")
        for h in net.hosts: # what the router said by ICMP, a new port would begin with
            ip("-n", net.namespace(h), "route", "flush", "cache", check=False)


def by_kernel(model, asked, local, net):
    port = "udp:%s:7300" % net.address("cloud")
    cloud = halves.Cloud(model, "udp:*:7300", *SPLIT, *CORE, prefix=net.inside("cloud"))
    e2e.check(cloud.ready() and "where the path takes it" in cloud.said(), "the cloud serves: " + cloud.said())
    t = Edge(model, port, asked, prefix=net.inside("edge")).totals("the whole MTU", local)
    expect(t, "the whole MTU", 1500, 0)
    with limited(net, "cloud", 1400):
        t = Edge(model, port, asked, prefix=net.inside("edge")).totals("a router that takes 1400", local)
        expect(t, "a router that takes 1400", 1400, 0)
    edge = Edge(model, port, asked, prefix=net.inside("edge"))
    with limited(net, "cloud", 1400), limited(net, "edge", 1300):
        t = edge.totals("a router that comes to take 1400", local)
        either(t, "a router that comes to take 1400", 1400)
    for io in ("io_uring", "syscalls"):
        edge = Edge(model, port + ",io=" + io, asked, prefix=net.inside("edge"))
        ip("-n", net.namespace("edge"), "link", "set", "east", "mtu", "1420")
        t = edge.totals("its own interface that comes to take 1420, " + io, local)
        either(t, "its own interface", 1420)
        e2e.check("UDP_SEGMENT: packets go one by one" not in edge.said(), edge.said())
        ip("-n", net.namespace("edge"), "link", "set", "east", "mtu", "1500")
    e2e.check(cloud.stop() == 0, "the cloud ends well")


def by_bridge(model, asked, local):
    """`isthmus netem` between two hosts: the only thing there is between them."""
    from namespaces import bridged # needs the right to make namespaces
    names = ["isthmus-test-mtu-%s" % n for n in ("edge", "netem", "cloud")]
    inside = [("ip", "netns", "exec", n) for n in names]
    with bridged(names):
        bridge = subprocess.Popen([*inside[1], e2e.BINARY, "netem", "west", "east", "mtu@1s=1350", "--json"],
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        halves.others.append(bridge)
        time.sleep(.5)
        cloud = halves.Cloud(model, "udp:*:7300", *SPLIT, *CORE, prefix=inside[2])
        e2e.check(cloud.ready(), "the cloud serves: " + cloud.said())
        edge = Edge(model, "udp:10.9.0.2:7300", asked, prefix=inside[0])
        t = edge.totals("isthmus netem mtu@1s=1350", local)
        e2e.check(t.get("link_mtu_bytes") in (1280, 1500), "found through the bridge: %s" % t)
        bridge.send_signal(signal.SIGTERM)
        way = json.loads(bridge.communicate(timeout=60)[0])["ways"][0]
        e2e.check(way["too_long"] > 0 or t["link_mtu_bytes"] == 1500, "it counts them: %s" % way)
        halves.stop_all()


def main():
    model = e2e.model("smollm2")
    asked, local = requests()
    by_netem(model, asked, local)
    net = Network("edge", "cloud")
    if net.real:
        by_kernel(model, asked, local, net)
        by_bridge(model, asked, local)
    e2e.finish()


main()
