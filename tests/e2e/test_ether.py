#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Ethernet ports between two network namespaces joined by veth, AF_PACKET and AF_XDP: the ids of
--local, with losses, through a router and under a flood of garbage; an interface that goes down and
up; either half killed; the address answers pings; AF_XDP by all receive queues; what is refused.
Where the host allows no namespaces, or no such sockets, that they are refused with the mend is all
that can be tried, and the test counts as skipped."""
import os
import signal
import subprocess
import tempfile
import time

import e2e
import flood
import halves
import ports

NETEM = "drop=20%,dup=20%,reorder=20%"
CLOUD = ("--split", "10", "--codec", "f32", "--first-core", "1", "--threads", "1")
EDGE = ("--threads", "1")
PID = os.getpid()
QUEUES, QUEUES_MAX = 4, 8


def ip(*args):
    subprocess.run(["ip", *args], check=True, stdin=subprocess.DEVNULL, timeout=halves.LIMIT_S)


class Network:
    """Namespaces with a veth in a row: the first's interface is "east", the last's "west"."""

    def __init__(self, count, **options):
        self.names = ["isthmus-test-%d-%d" % (PID, i) for i in range(count)]
        try:
            self.build(count, options.get("mtu", 1500), str(options.get("queues", 1)))
        except subprocess.CalledProcessError:
            self.remove()
            raise

    def build(self, count, mtu, queues):
        for name in self.names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        for i in range(count - 1):
            left, right = self.names[i], self.names[i + 1]
            many = ("numrxqueues", queues, "numtxqueues", queues)
            ip("link", "add", "east", "netns", left, *many, "type", "veth", "peer", "name", "west", "netns",
               right, *many)
            for name, interface in ((left, "east"), (right, "west")):
                ip("-n", name, "link", "set", interface, "mtu", str(mtu), "up")

    def inside(self, i):
        return ("ip", "netns", "exec", self.names[i])

    def run(self, i, *args):
        return subprocess.run([*self.inside(i), *args], text=True, check=False, timeout=halves.LIMIT_S,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        halves.stop_all()
        self.remove()

    def remove(self):
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], check=False, stdin=subprocess.DEVNULL)


def ping(kind, net, mtu):
    """The kernel of the other side finds our address and is answered, the longest frames too."""
    ip("-n", net.names[1], "addr", "add", "10.9.0.9/24", "dev", "west")
    for n in (0, 56, mtu - 29, mtu - 28):
        pinged = net.run(1, "ping", "-c", "3", "-i", ".1", "-W", "2", "-M", "do", "-s", str(n),
                         "10.9.0.1")
        e2e.check(pinged.returncode == 0 and " 0% packet loss" in pinged.stdout,
                  "%s: pings of %d bytes: %s" % (kind, n, pinged.stdout))


def as_whom(kind, model, net):
    """--user, and who called sudo; root and strangers are refused."""
    port = kind + ":east,ip=10.9.0.1/24"
    for args, env, word, uid in ((("--user", "daemon"), {}, "daemon (uid 1)", 1),
                                 ((), {"SUDO_UID": "1234", "SUDO_GID": "1234", "SUDO_USER": "ann"},
                                  "ann (uid 1234)", 1234)):
        with tempfile.TemporaryDirectory(prefix="isthmus-test-ether-") as folder:
            os.chmod(folder, 0o755)
            runtime = os.path.join(folder, "runtime")
            cloud = halves.Cloud(model, port, *args, "--runtime-dir", runtime, *CLOUD, prefix=net.inside(0), env=env)
            e2e.check(cloud.ready() and word in cloud.said(), "as %s: %s" % (word, cloud.said()))
            socket = os.path.join(runtime, "control.sock")
            e2e.check(e2e.wait_for(lambda: os.path.exists(socket), halves.LIMIT_S)
                      and os.stat(socket).st_uid == uid == os.stat(runtime).st_uid,
                      "its runtime folder as %s: %s" % (word, cloud.said()))
            asked = e2e.isthmus("ctl", "--socket", socket, "version")
            e2e.check(asked.returncode == 0, "ctl as root: %s" % asked.stderr)
            cloud.stop()
    for user, word in (("root", "root"), ("no-such-user", "no such user")):
        done = halves.edge(model, kind + ":west,ip=10.9.0.2/24,peer=10.9.0.1", "--user", user, "-p", "x",
                           "-n", "2", prefix=net.inside(1))
        e2e.check(done.returncode == 2 and word in done.stderr, "--user %s: %s" % (user, done.stderr))


def identity(kind, model, asked, local):
    with Network(2) as net:
        cloud = halves.Cloud(model, kind + ":east,ip=10.9.0.1/24", *CLOUD, prefix=net.inside(0))
        e2e.check(cloud.ready(), "%s: the cloud serves: %s" % (kind, cloud.said()))
        e2e.check("AES-128-GCM" in cloud.said() and "sockets" in cloud.said(), cloud.said())
        port = kind + ":west,ip=10.9.0.2/24,peer=10.9.0.1"
        halves.same_as_local(model, port, asked, local, *EDGE, prefix=net.inside(1))
        halves.same_as_local(model, port, asked, local, *EDGE, "--netem", NETEM, prefix=net.inside(1))

        # NET_ADMIN 12, NET_RAW 13, BPF 39: what it takes to detach a program.
        halves.gave_up_root(cloud, allowed=1 << 12 | 1 << 13 | 1 << 39 if kind == "xdp" else 0)
        ping(kind, net, 1500)

        edge = halves.edge_started(model, port, "--split", "10", "--codec", "f32", *EDGE,
                                   prefix=net.inside(1))
        for i in range(2):
            ip("-n", net.names[i], "link", "set", ("east", "west")[i], "down")
            time.sleep(.5)
            ip("-n", net.names[i], "link", "set", ("east", "west")[i], "up")
            # The first may have waited in the pipe, the second is new; and b"" is an end.
            went_on = edge.some() and edge.some()
            e2e.check(went_on and edge.process.poll() is None and cloud.process.poll() is None,
                      "%s: the answer goes on after the interface came back: %s\n%s"
                      % (kind, edge.said()[-600:], cloud.said()[-600:]))

        # Killed as it is: nobody says goodbye.
        edge.stop(signal.SIGKILL)
        start = time.monotonic()
        done = halves.edge(model, port, *EDGE, "--split", "10", "--codec", "f32", "-p", "Hello", "-n",
                           "4", prefix=net.inside(1))
        e2e.check(done.returncode == 0, "%s: the next edge is served: %s" % (kind, done.stderr[-300:]))
        e2e.say("%s: after a killed edge the next one was answered within %.1f s"
                % (kind, time.monotonic() - start))
        cloud.stop(signal.SIGKILL)
        cloud = halves.Cloud(model, kind + ":east,ip=10.9.0.1/24", *CLOUD, prefix=net.inside(0))
        e2e.check(cloud.ready(), "%s: a cloud after a killed one: %s" % (kind, cloud.said()))
        halves.same_as_local(model, port, asked[:1], local[:1], *EDGE, prefix=net.inside(1))
        e2e.check(cloud.stop() == 0, "%s: the cloud ends well" % kind)
        left = net.run(0, "ip", "link", "show", "east").stdout
        e2e.check("prog/xdp" not in left, "%s: nothing is left at the interface: %s" % (kind, left))
        as_whom(kind, model, net)


def routed(kind, model, asked, local):
    """Two networks and a router between them: gw=, other addresses, a time to live counted down."""
    with Network(3) as net:
        router = net.names[1]
        ip("-n", router, "addr", "add", "10.9.1.254/24", "dev", "west")
        ip("-n", router, "addr", "add", "10.9.2.254/24", "dev", "east")
        forwards = net.run(1, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        if forwards.returncode != 0:
            e2e.not_tried("a router, for none may be made: " + forwards.stdout.strip())
            return
        cloud = halves.Cloud(model, kind + ":east,ip=10.9.1.1/24,gw=10.9.1.254", *CLOUD,
                             prefix=net.inside(0))
        e2e.check(cloud.ready(), "%s: the cloud serves: %s" % (kind, cloud.said()))
        port = kind + ":west,ip=10.9.2.1/24,peer=10.9.1.1,gw=10.9.2.254"
        halves.same_as_local(model, port, asked, local, *EDGE, prefix=net.inside(2))
        cloud.stop()


def garbage(kind, model, asked, local):
    """A flood at the cloud, through the other host's kernel."""
    with Network(2) as net, tempfile.TemporaryDirectory(prefix="isthmus-test-") as folder:
        ip("-n", net.names[1], "addr", "add", "10.9.0.9/24", "dev", "west")
        # The edge's XDP program takes what answers the kernel's ARP.
        address = net.run(0, "cat", "/sys/class/net/east/address").stdout.strip()
        ip("-n", net.names[1], "neigh", "replace", "10.9.0.1", "lladdr", address, "nud", "permanent", "dev", "west")
        control = os.path.join(folder, "control.sock")
        os.chmod(folder, 0o777)  # where one who gave up root makes it
        port = kind + ":east,ip=10.9.0.1/24"
        cloud = halves.Cloud(model, port, *CLOUD, "--control", control, prefix=net.inside(0))
        e2e.check(cloud.ready(), "%s: the cloud serves: %s" % (kind, cloud.said()))
        flood.withstand(model, port, asked, local, cloud, control, ("10.9.0.1", 7300), single=True,
                        inside=net.inside(1), client_port=kind + ":west,ip=10.9.0.2/24,peer=10.9.0.1")
        e2e.check(cloud.stop() == 0, "%s: the cloud ends well: %s" % (kind, cloud.said()[-300:]))


def wide(kind, model, asked, local, mtu):
    with Network(2, mtu=mtu) as net:
        cloud = halves.Cloud(model, kind + ":east,ip=10.9.0.1/24", *CLOUD, prefix=net.inside(0))
        e2e.check(cloud.ready() and "MTU %d" % mtu in cloud.said(), cloud.said())
        halves.same_as_local(model, kind + ":west,ip=10.9.0.2/24,peer=10.9.0.1", asked, local, *EDGE,
                             prefix=net.inside(1))
        ping(kind, net, mtu)
        cloud.stop()


def send_by(net, i, interface, queue):
    """What goes out there takes this queue, whichever CPU sends it; it comes in by the other end's of that number."""
    cpus = os.cpu_count()  # 32 of them a word, the highest first
    words = ["%x" % ((1 << cpus % 32) - 1)] * (cpus % 32 > 0) + ["ffffffff"] * (cpus // 32)
    for q in range(QUEUES):
        done = net.run(i, "sh", "-c", "echo %s >/sys/class/net/%s/queues/tx-%d/xps_cpus"
                       % (",".join(words) if q == queue else 0, interface, q))
        e2e.check(done.returncode == 0, "packets are sent by queue %d: %s" % (queue, done.stdout))


def many_queues(model, asked, local):
    """AF_XDP sockets get what comes in by their own receive queue only: all are read, and slept on."""
    with Network(2, queues=QUEUES) as net:
        if "xps_cpus" not in net.run(1, "ls", "/sys/class/net/west/queues/tx-0").stdout:
            e2e.not_tried("receive queues, for this kernel can't steer packets to one (CONFIG_XPS)")
            return
        cloud = halves.Cloud(model, "xdp:east,ip=10.9.0.1/24", *CLOUD, prefix=net.inside(0))
        e2e.check(cloud.ready() and "%d receive queues, sleeping" % QUEUES in cloud.said(), cloud.said())
        ip("-n", net.names[1], "addr", "add", "10.9.0.9/24", "dev", "west")
        for q in range(QUEUES):
            send_by(net, 1, "west", q)
            ip("-n", net.names[1], "neigh", "flush", "dev", "west")
            pinged = net.run(1, "ping", "-c", "3", "-i", ".3", "-W", "2", "10.9.0.1")
            e2e.check(pinged.returncode == 0 and " 0% packet loss" in pinged.stdout,
                      "queue %d: pings: %s" % (q, pinged.stdout))
            halves.same_as_local(model, "packet:west,ip=10.9.0.2/24,peer=10.9.0.1", asked[:1], local[:1], *EDGE,
                                 prefix=net.inside(1))
        halves.same_as_local(model, "xdp:west,ip=10.9.0.2/24,peer=10.9.0.1", asked[:1], local[:1], *EDGE,
                             prefix=net.inside(1))
        # Nobody is at the first: the same queues are opened a second time.
        done = halves.edge(model, "xdp:west,ip=10.9.0.2/24,peer=10.9.0.7", "--port",
                           "xdp:west,ip=10.9.0.2/24,peer=10.9.0.1", *EDGE, "--split", "10", "--codec", "f32",
                           "--connect", "20", "-p", "Hello", "-n", "2", prefix=net.inside(1))
        e2e.check(done.returncode == 0, "the next port, on the same interface: %s" % done.stderr[-600:])
        e2e.check(cloud.stop() == 0, "the cloud ends well")
        left = net.run(0, "ip", "link", "show", "east").stdout
        e2e.check("prog/xdp" not in left, "nothing is left at the interface: %s" % left)
    with Network(2, queues=QUEUES_MAX + 1) as net:
        done = halves.edge(model, "xdp:west,ip=10.9.0.2/24,peer=10.9.0.1", "-p", "x", "-n", "2", prefix=net.inside(1))
        e2e.check(done.returncode in (1, 2) and "ethtool -L west combined %d" % QUEUES_MAX in done.stderr,
                  "%d queues are too many: %s" % (QUEUES_MAX + 1, done.stderr))


def refusals(model):
    with Network(2) as net:
        ip("-n", net.names[0], "addr", "add", "10.9.0.9/24", "dev", "east")
        ip("-n", net.names[1], "link", "set", "west", "mtu", "4000")

        def refused(i, port, word, *more, prefix=()):
            done = halves.edge(model, port, "-p", "x", "-n", "2", *more,
                               prefix=(*net.inside(i), *prefix))
            e2e.check(done.returncode in (1, 2) and word in done.stderr,
                      "%s: %d, %s" % (port, done.returncode, done.stderr))

        good = "packet:east,ip=10.9.0.1/24,peer=10.9.0.2"
        refused(0, good, "beyond this host", "--insecure")
        refused(0, "packet:north,ip=10.9.0.1/24,peer=10.9.0.2", "east")
        refused(0, "packet:lo,ip=10.9.0.1/24,peer=10.9.0.2", "east")
        refused(0, "packet:east,ip=10.9.0.9/24,peer=10.9.0.2", "kernel's own")
        refused(0, "packet:east,ip=10.9.0.1/24", "peer=")
        refused(0, good + ",mtu=9000", "1500")
        refused(0, good, "no cloud at", "--connect", "1")
        refused(1, "xdp:west,ip=10.9.0.2/24,peer=10.9.0.1", "mtu 1500")
        refused(0, good.replace("packet", "xdp"), "ulimit -l", prefix=(
            "prlimit", "--memlock=8388608", "setpriv", "--bounding-set", "-ipc_lock", "--inh-caps", "-ipc_lock"))
        ip("-n", net.names[0], "link", "set", "east", "down")
        refused(0, good, "east up")
        bare = ("setpriv", "--bounding-set", "-all", "--inh-caps", "-all")
        refused(0, good, "cap_net_raw", prefix=bare)
        refused(0, good.replace("packet", "xdp"), "cap_sys_admin", prefix=bare)


def unchanged(model, asked, local):
    """packet: changes nothing at the interface, and needs no CAP_NET_ADMIN: the package's units have none."""
    bare = ("setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin")
    with Network(2) as net:
        for name, interface in zip(net.names, ("east", "west")):
            ip("-n", name, "link", "set", interface, "promisc", "on")
        cloud = halves.Cloud(model, "packet:east,ip=10.9.0.1/24", *CLOUD, prefix=(*net.inside(0), *bare))
        e2e.check(cloud.ready(), "without CAP_NET_ADMIN: " + cloud.said())
        halves.same_as_local(model, "packet:west,ip=10.9.0.2/24,peer=10.9.0.1", asked[:1], local[:1], *EDGE,
                             prefix=(*net.inside(1), *bare))
        e2e.check(cloud.stop() == 0, "the cloud ends well: " + cloud.said()[-300:])
        for i, interface in enumerate(("east", "west")):
            e2e.check("PROMISC" in net.run(i, "ip", "link", "show", interface).stdout, "flags stay as they were")


def bench(kind):
    """`isthmus bench transport`, an end in each namespace."""
    def command(half, i, address, *args):
        return [*net.inside(i), e2e.BINARY, "bench", "transport", "--port", kind + ":" + address,
                *e2e.secured(half), *args]

    with Network(2) as net:
        halves.others.append(subprocess.Popen(
            command("cloud", 0, "east,ip=10.9.0.1/24", "--listen"), stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        done = subprocess.run(
            command("edge", 1, "west,ip=10.9.0.2/24,peer=10.9.0.1", "--connect", "--time", ".2",
                    "--size", "300", "--sessions", "1,8", "--format", "jsonl"),
            text=True, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, timeout=120)
        rows = e2e.json_lines(done, "bench transport over " + kind)
        e2e.check([(r["port"], r["kind"], r["sessions"]) for r in rows]
                  == [(kind, k, n) for n in (1, 8) for k in ("link", "raw")], "rows: %s" % rows)
        for r in rows:
            e2e.check(0 < r["rtt_ns_min"] <= r["rtt_ns_max"] and r["messages_per_s"] > 0, "row: %s" % r)


def without_namespaces(model):
    """What any user of any host may try, and is refused."""
    for kind in ("packet", "xdp"):
        for interface, options, word in (("lo", "ip=10.9.0.1/24,peer=10.9.0.2", "lo"),
                                         ("no-such-if", "ip=10.9.0.1/24,peer=10.9.0.2", "no-such-if"),
                                         ("lo", "ip=10.9.0.1/24", "peer=")):
            done = halves.edge(model, "%s:%s,%s" % (kind, interface, options), "-p", "x", "-n", "2")
            e2e.check(done.returncode in (1, 2) and word in done.stderr,
                      "%s:%s: %d, %s" % (kind, interface, done.returncode, done.stderr))


def offered():
    """The kinds of ports that this host lets us open on an interface; None: no namespaces."""
    try:
        with Network(2):
            pass
    except (OSError, subprocess.CalledProcessError) as why:  # what `ip` said stands above
        e2e.not_tried("all but refusals, for want of network namespaces joined by veth: %s" % why)
        return None
    kinds = []
    with Network(2) as net:
        for kind in ("packet", "xdp"):
            said = ports.doctor(kind, net.inside(0))
            if said["status"] == "ok":
                kinds.append(kind)
                continue
            e2e.not_tried("port %s: %s" % (kind, said["found"]))
            e2e.check(said["mend"], "doctor names the mend for port " + kind)
            done = halves.edge(e2e.model("smollm2"), kind + ":east,ip=10.9.0.1/24,peer=10.9.0.2",
                               "-p", "x", "-n", "2", prefix=net.inside(0))
            e2e.check(done.returncode in (1, 2) and kind in done.stderr,
                      "port %s is refused: %d, %s" % (kind, done.returncode, done.stderr))
    return kinds


def main():
    model = e2e.model("smollm2")
    without_namespaces(model)
    kinds = offered()
    if kinds:
        asked, local = halves.requests(quick=2, full=4)
    if kinds == ["packet", "xdp"]:
        refusals(model)
        unchanged(model, asked, local)
        many_queues(model, asked, local)
    for kind in kinds or ():
        identity(kind, model, asked, local)
        bench(kind)
        routed(kind, model, asked[:2], local[:2])
        garbage(kind, model, asked[:2], local[:2])
        wide(kind, model, asked[:2], local[:2], {"packet": 9000, "xdp": 3462}[kind])
    e2e.finish()


main()
