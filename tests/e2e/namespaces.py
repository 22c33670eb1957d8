# SPDX-License-Identifier: Apache-2.0
"""Hosts of their own: network namespaces around a router, one of which this program may become.

    10.9.1.1 east - router        10.9.2.1 east - router        ...

Where none may be made - not root, or a container that forbids it - every host is this one's loopback, and the
test ends as skipped. They go when the program ends, by whatever but SIGKILL; those of one that was killed,
when the next begins.
"""
import atexit
import contextlib
import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import threading

import e2e

LIMIT_S = 60
PREFIX = "isthmus-test-"
CLONE_NEWNET = 0x40000000


def ip(*args, check=True):
    return subprocess.run(["ip", *args], check=check, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=LIMIT_S)


@contextlib.contextmanager
def bridged(names):
    """Three namespaces of these names, 10.9.0.1 in the first and 10.9.0.2 in the last. Between them there is only what
    runs in the middle one, over "west" and "east"."""
    try:
        for name in names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        for i, interface, address in ((0, "west", "10.9.0.1/24"), (2, "east", "10.9.0.2/24")):
            ip("link", "add", "out", "netns", names[i], "type", "veth", "peer", "name", interface, "netns", names[1])
            ip("-n", names[1], "link", "set", interface, "up")
            ip("-n", names[i], "addr", "add", address, "dev", "out")
            ip("-n", names[i], "link", "set", "out", "up")
        yield
    finally:
        for name in names:
            ip("netns", "del", name, check=False)


@contextlib.contextmanager
def joined(names):
    """Two namespaces of these names, joined by veth: "east" in the first and "west" in the second, for ports with
    addresses of their own, and beside them "floor" in both, the kernel's, 10.9.1.1 and 10.9.1.2. Gives what a command
    begins with to run in each."""
    try:
        for name in names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        for one, other in (("east", "west"), ("floor", "floor")):
            ip("link", "add", one, "netns", names[0], "type", "veth", "peer", "name", other, "netns", names[1])
        for i, interface in enumerate(("east", "west")):
            ip("-n", names[i], "addr", "add", "10.9.1.%d/24" % (i + 1), "dev", "floor")
            for link in (interface, "floor"):
                ip("-n", names[i], "link", "set", link, "up")
        yield [("ip", "netns", "exec", name) for name in names]
    finally:
        for name in names:
            ip("netns", "del", name, check=False)


def end_by(number, _):
    """So that what is to be done at the end is done."""
    sys.exit(128 + number)


class Network:
    """Hosts by name, each with one interface, "east"."""

    def __init__(self, *hosts):
        self.hosts = hosts
        self.real = False
        self.prefix = "%s%d-" % (PREFIX, os.getpid())
        atexit.register(self.remove)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, end_by)
        try:
            self.remove_stale()
            self.build()
            self.real = True
        except (OSError, subprocess.CalledProcessError) as why:
            self.remove()
            e2e.not_tried("hosts of their own, for want of network namespaces (%s); on this host's loopback instead"
                          % (getattr(why, "output", None) or why))

    def namespace(self, host):
        return self.prefix + host

    def build(self):
        if os.geteuid() != 0:
            raise PermissionError("only root makes them")
        router = self.namespace("router")
        for name in ("router", *self.hosts):
            ip("netns", "add", self.namespace(name))
            ip("-n", self.namespace(name), "link", "set", "lo", "up")
        ip("netns", "exec", router, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        for i, host in enumerate(self.hosts, 1):
            name = self.namespace(host)
            ip("link", "add", "east", "netns", name, "type", "veth", "peer", "name", host, "netns", router)
            ip("-n", router, "addr", "add", "10.9.%d.254/24" % i, "dev", host)
            ip("-n", router, "link", "set", host, "up")
            ip("-n", name, "addr", "add", "10.9.%d.1/24" % i, "dev", "east")
            ip("-n", name, "link", "set", "east", "up")
            ip("-n", name, "route", "add", "default", "via", "10.9.%d.254" % i)

    def address(self, host):
        """The router's is that towards the first host."""
        if not self.real:
            return "127.0.0.1"
        return "10.9.1.254" if host == "router" else "10.9.%d.1" % (1 + self.hosts.index(host))

    def inside(self, host):
        """What a command begins with to run there."""
        return ("ip", "netns", "exec", self.namespace(host)) if self.real else ()

    def become(self, host):
        """This program, and all that it starts from now on, is that host."""
        if not self.real:
            return
        libc = ctypes.CDLL(None, use_errno=True)
        with open("/run/netns/" + self.namespace(host), "rb") as f:
            if libc.setns(f.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")

    def socket(self, host, family, kind):
        """A socket of that host's, for this program."""
        made = []

        def there():
            self.become(host)  # this thread alone
            made.append(socket.socket(family, kind))

        thread = threading.Thread(target=there)
        thread.start()
        thread.join()
        return made[0]

    def cut(self, host, is_cut=True):
        """Its cable is pulled, at the router's end: the host itself sees that, too. Or it is plugged in."""
        ip("-n", self.namespace("router"), "link", "set", host, "down" if is_cut else "up")

    def remove(self):
        for name in (*self.hosts, "router"):
            if os.path.exists("/run/netns/" + self.namespace(name)):
                ip("netns", "del", self.namespace(name), check=False)

    @staticmethod
    def remove_stale():
        """Of programs that were killed."""
        there = os.listdir("/run/netns") if os.path.isdir("/run/netns") else ()
        for name in there:
            found = re.match(PREFIX + r"(\d+)-", name)
            if found and not os.path.exists("/proc/" + found[1]):
                ip("netns", "del", name, check=False)


@contextlib.contextmanager
def started(args, word):
    """A process that has said this."""
    p = subprocess.Popen(args, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        while word not in (line := p.stdout.readline()):
            if not line:
                raise SystemExit("%s ended early" % args)
        yield p
    finally:
        if p.poll() is None:
            p.send_signal(signal.SIGTERM)
        p.wait(timeout=30)
        p.stdout.close()
