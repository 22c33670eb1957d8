#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Kernel UDP on loopback: the ids of --local by both ways into the kernel and both families, with
losses and behind a NAT that forgets; --insecure is refused beyond this host; either half killed; the
edge before the cloud; a user who thinks for long."""
import os
import select
import signal
import socket
import tempfile
import threading
import time

import e2e
import flood
import halves

NETEM = "drop=20%,dup=20%,reorder=20%"
CORE = ("--first-core", "1", "--threads", "1")
# A label may have 63 letters: no resolver is asked for one of 64, so none can be slow or make up an answer.
NO_SUCH_HOST = "no-such-host-" + "x" * 51


def identity(model):
    asked, local = halves.requests()
    kinds = (("127.0.0.1", ",io=syscalls", "sendmmsg"), (halves.loopback_v6(), "", "io_uring"),
             ("localhost", ",mtu=9000", "MTU"), ("127.0.0.1", "", "io_uring"))
    for host, options, cloud_says in kinds[:2] if e2e.QUICK else kinds:
        port = "udp:%s:%d%s" % (host, halves.free_port(), options)
        cloud = halves.Cloud(model, port, "--split", "10", "--codec", "f32", *CORE)
        e2e.check(cloud.ready(), "the cloud serves at %s: %s" % (port, cloud.said()))
        done = halves.same_as_local(model, port, asked, local, "--threads", "1")
        e2e.check("kernel UDP at" in done.stderr, "the edge says its port: " + done.stderr[-300:])
        if not options:
            halves.same_as_local(model, port, asked, local, "--threads", "1", "--netem", NETEM)
        e2e.check(cloud_says in cloud.said(), "%s: the cloud says %r" % (port, cloud.said()))
        e2e.check(cloud.stop() == 0, "the cloud ends well")


def refusals(model):
    number = halves.free_port()
    for port in ("udp:*:%d" % number, "udp:0.0.0.0:%d" % number):
        cloud = halves.Cloud(model, port, "--split", "10", "--insecure")
        e2e.check(not cloud.ready() and cloud.process.returncode == 2 and
                  "beyond this host" in cloud.said(), "%s is refused: %s" % (port, cloud.said()))
    cloud = halves.Cloud(model, "udp:*:%d" % number, "--split", "10")
    e2e.check(cloud.ready(), "encrypted it is not: " + cloud.said())
    done = halves.edge(model, "udp:127.0.0.1:%d" % number, "--split", "10", "-p", "Hello", "-n", "4",
                       "--json")
    e2e.check(done.returncode == 0 and '"port":"udp"' in done.stdout, done.stdout + done.stderr)
    second = halves.Cloud(model, "udp:127.0.0.1:%d" % number, "--split", "10")
    e2e.check(not second.ready() and second.process.returncode == 1 and
              "another program" in second.said(), "a port in use: " + second.said())
    cloud.stop()
    for bad, word in (("udp:127.0.0.1", "HOST:PORT"), ("tcp:1.2.3.4:5", "no port"),
                      ("udp:%s:7300" % NO_SUCH_HOST, NO_SUCH_HOST)):
        done = halves.edge(model, bad, "-p", "x")
        e2e.check(done.returncode in (1, 2) and word in done.stderr,
                  "%s: %d, %s" % (bad, done.returncode, done.stderr))
    start = time.monotonic()
    done = halves.edge(model, "udp:127.0.0.1:%d" % number, "-p", "x", "--connect", "1")
    took_s = time.monotonic() - start
    e2e.check(done.returncode == 1 and "no cloud answered" in done.stderr and took_s < 60,
              "no cloud: %d after %.1f s, %s" % (done.returncode, took_s, done.stderr))
    e2e.say("no cloud: the edge ended after %.1f s" % took_s)


def kills(model):
    port = "udp:127.0.0.1:%d" % halves.free_port()
    cloud = halves.Cloud(model, port, "--split", "10", "--codec", "f16", *CORE)
    e2e.check(cloud.ready(), "the cloud serves")
    slowest = {"cloud": 0.0, "edge": 0.0}
    for i in range(2 if e2e.QUICK else 6):
        edge = halves.edge_started(model, port, "--codec", "f16", "--split", "10", "--reconnect", "0")
        time.sleep(.01 * i)
        start = time.monotonic()
        if i % 2:
            cloud.stop(signal.SIGKILL)
            code = edge.end()[0]
            e2e.check(code == 1 and "the cloud is lost" in edge.said(),
                      "cloud killed: %d, %s" % (code, edge.said()[-300:]))
            slowest["cloud"] = max(slowest["cloud"], time.monotonic() - start)
            cloud = halves.Cloud(model, port, "--split", "10", "--codec", "f16", *CORE)
            e2e.check(cloud.ready(), "a new cloud serves at the same port")
        else:
            edge.stop(signal.SIGKILL)
            done = halves.edge(model, port, "--codec", "f16", "--split", "10", "-p", "Hello", "-n", "4")
            e2e.check(done.returncode == 0, "the next edge is served: " + done.stderr[-300:])
            slowest["edge"] = max(slowest["edge"], time.monotonic() - start)
        e2e.check(cloud.process.poll() is None, "the cloud lives: " + cloud.said()[-300:])
    e2e.check(slowest["cloud"] < 60, "a killed cloud is noticed")
    e2e.check(slowest["edge"] < 60, "a killed edge makes room")
    e2e.say("killed: the edge ended within %.2f s, the next edge was answered within %.2f s"
            % (slowest["cloud"], slowest["edge"]))
    cloud.stop()


def edge_first(model):
    port = "udp:127.0.0.1:%d" % halves.free_port()
    edge = halves.Edge(model, port, "--split", "10", "-p", "The capital of France is", "-n", "4", "--connect",
                       "60")
    time.sleep(2)
    cloud = halves.Cloud(model, port, "--split", "10", *CORE)
    code, out = edge.end()
    e2e.check(code == 0 and "Paris" in out, "the edge waited: %s %s" % (out, edge.said()))
    cloud.stop()


def idle_chat(model):
    """A user who thinks for longer than the cloud's lease still has a cloud; others are served meanwhile."""
    port = "udp:127.0.0.1:%d" % halves.free_port()
    cloud = halves.Cloud(model, port, "--split", "10", *CORE)
    e2e.check(cloud.ready(), "the cloud serves")
    chat = halves.Edge(model, port, "--split", "10", "-n", "8")
    chat.write("Hello\n")
    e2e.check(chat.line() != "", "an answer: " + chat.said()[-300:])
    other = halves.edge(model, port, "--split", "10", "-p", "Hello", "-n", "4")
    e2e.check(other.returncode == 0, "another edge beside: %d, %s" % (other.returncode, other.stderr))
    time.sleep(2 if e2e.QUICK else 20)
    chat.write("And now?\n")
    chat.process.stdin.close()
    code, answer = chat.end()
    e2e.check(answer.strip() != "" and code == 0, "the chat goes on: " + chat.said()[-300:])
    cloud.stop()


def relay(front, back_port, stop, swaps):
    """A NAT between edge and cloud that forgets: every 20 packets it sends from another port."""
    olds, back, edge, n = [], socket.socket(socket.AF_INET, socket.SOCK_DGRAM), None, 0
    while not stop.is_set():
        for s in select.select([front, back], [], [], .1)[0]:
            data, sender = s.recvfrom(65536)
            if s is front:
                edge = sender
                n += 1
                if n % 20 == 0:
                    olds.append(back)  # what comes there is lost
                    back = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                    swaps.append(n)
                back.sendto(data, ("127.0.0.1", back_port))
            elif edge:
                front.sendto(data, edge)


def nat(model):
    """The edge's address changes on the way, again and again: the cloud follows."""
    asked, local = halves.requests()
    number = halves.free_port()
    cloud = halves.Cloud(model, "udp:127.0.0.1:%d" % number, "--split", "10", "--codec", "f32", *CORE)
    e2e.check(cloud.ready(), "the cloud serves")
    front = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    front.bind(("127.0.0.1", 0))
    stop, swaps = threading.Event(), []
    thread = threading.Thread(target=relay, args=(front, number, stop, swaps))
    thread.start()
    halves.same_as_local(model, "udp:127.0.0.1:%d" % front.getsockname()[1], asked, local,
                         "--threads", "1")
    stop.set()
    thread.join()
    # It says so once a second.
    e2e.check(len(swaps) >= 2 and e2e.wait_for(lambda: "another address" in cloud.said(), 10),
              "%d changes of address; the cloud says %r" % (len(swaps), cloud.said()))
    e2e.say("%d changes of the edge's address were followed" % len(swaps))
    cloud.stop()


def garbage(model):
    """Service to the honest goes on under all the garbage that the kernel can carry, and memory stays as it is."""
    asked, local = halves.requests()
    with tempfile.TemporaryDirectory(prefix="isthmus-test-") as folder:
        for options in ("", ",io=syscalls"):
            number, control = halves.free_port(), os.path.join(folder, "control.sock")
            port = "udp:127.0.0.1:%d%s" % (number, options)
            cloud = halves.Cloud(model, port, "--split", "10", "--codec", "f32", "--control", control, *CORE)
            e2e.check(cloud.ready(), "the cloud serves")
            flood.withstand(model, port, asked, local, cloud, control, ("127.0.0.1", number))
            e2e.check(cloud.stop() == 0, "the cloud ends well: " + cloud.said()[-300:])


def main():
    model = e2e.model("smollm2")
    refusals(model)
    identity(model)
    nat(model)
    garbage(model)
    kills(model)
    edge_first(model)
    idle_chat(model)
    e2e.finish()


main()
