# SPDX-License-Identifier: Apache-2.0
"""Where the halves meet, so that one scenario runs over every kind of port. Clouds and edges have a host each (network
namespaces around a router, namespaces.py); memif's are processes of this one, with a socket for each cloud.

Where no namespaces may be made, memif and udp are tried on this host alone, and the rest is said to be untried."""
import json
import os
import subprocess

import e2e
import halves
import namespaces

KINDS = ("memif", "udp", "packet", "xdp")
CLOUDS = ("cloud", "spare")
EDGES = ("one", "two", "three")


class Place:
    """One kind of port: what each half calls its own, and what a command begins with to run where that is."""

    def __init__(self, kind, net):
        self.kind, self.net = kind, net
        self.alone = kind == "memif"  # one edge at a cloud, and nobody between them
        self.same_host = self.alone or not net.real
        self.numbers = {cloud: halves.free_port() for cloud in CLOUDS}

    def address(self, host):
        """A kernel's UDP port has the host's, an Ethernet one its own beside it."""
        at = self.net.address(host)
        return at if self.kind == "udp" else at[:-1] + "2"

    def ether(self, host, number):
        gateway = self.net.address(host)[:-1] + "254"
        return "%s:east,ip=%s/24,gw=%s,port=%d" % (self.kind, self.address(host), gateway, number)

    def port(self, cloud="cloud"):
        """Where this cloud serves."""
        number = self.numbers[cloud]
        if self.kind == "memif":
            return "memif:@isthmus-test-%d" % number
        return ("udp:%s:%d" % (self.address(cloud), number) if self.kind == "udp" else self.ether(cloud, number))

    def towards(self, cloud="cloud", edge="one"):
        """By which this edge comes to it."""
        return self.port(cloud) if self.kind == "memif" else self.by(edge, self.address(cloud), self.numbers[cloud])

    def by(self, edge, address, number):
        """By which this edge comes to any UDP port."""
        return ("udp:%s:%d" % (address, number) if self.kind == "udp"
                else "%s,peer=%s" % (self.ether(edge, number), address))

    def inside(self, host):
        return () if self.kind == "memif" else self.net.inside(host)

    def cloud(self, model, *args, name="cloud"):
        """One that serves."""
        cloud = halves.Cloud(model, self.port(name), *args, prefix=self.inside(name))
        e2e.check(cloud.ready(), "%s: the cloud serves: %s" % (self.kind, cloud.said()))
        return cloud


def doctor(kind, inside):
    """What `isthmus doctor` says there of this kind of port."""
    done = subprocess.run([*inside, e2e.BINARY, "doctor", "--json"], text=True, check=False,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return {c["name"]: c for c in json.loads(done.stdout)["checks"]}["port " + kind]


def places():
    """One of every kind that this host offers, one after the other."""
    net = namespaces.Network(*CLOUDS, *EDGES)
    for kind in KINDS:
        if kind in ("packet", "xdp"):
            if not net.real:
                e2e.not_tried("port %s, for want of network namespaces" % kind)
                continue
            said = doctor(kind, net.inside("one"))
            if said["status"] != "ok":
                e2e.not_tried("port %s: %s" % (kind, said["found"]))
                continue
        yield Place(kind, net)
        halves.stop_all()


def control_socket(folder, name):
    """Its path, in a folder where one who gave up root makes it."""
    os.chmod(folder, 0o777)
    return os.path.join(folder, name + ".sock")


def sent(control):
    """Packets that this cloud has put into its port."""
    done = e2e.isthmus("ctl", "--json", "--socket", control, "port.stats")
    return sum(p["tx_packets"] for p in e2e.json_lines(done, "ctl port.stats")[0])
