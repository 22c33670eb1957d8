#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Kernel UDP on loopback: the ids of --local by both ways into the kernel and both families, with
losses and behind a NAT that forgets; --insecure is refused beyond this host; either half killed; the
edge before the cloud; a user who thinks for long."""
import random
import select
import signal
import socket
import subprocess
import threading
import time

import e2e
import halves

NETEM = "drop=20%,dup=20%,reorder=20%"
CORE = ("--first-core", "1", "--threads", "1")


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
                      ("udp:no-such-host.invalid:7300", "no-such-host.invalid")):
        done = halves.edge(model, bad, "-p", "x")
        e2e.check(done.returncode in (1, 2) and word in done.stderr and done.returncode != 0,
                  "%s: %d, %s" % (bad, done.returncode, done.stderr))
    start = time.monotonic()
    done = halves.edge(model, "udp:127.0.0.1:%d" % number, "-p", "x", "--connect", "1")
    e2e.check(done.returncode == 1 and "no cloud answered" in done.stderr and
              time.monotonic() - start < 20, "no cloud: %d, %s" % (done.returncode, done.stderr))


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
            try:
                err = edge.communicate(timeout=20)[1].decode()
            except subprocess.TimeoutExpired:
                e2e.check(False, "the edge hangs")
                return
            e2e.check(edge.returncode == 1 and "the cloud is lost" in err,
                      "cloud killed: %d, %s" % (edge.returncode, err[-300:]))
            slowest["cloud"] = max(slowest["cloud"], time.monotonic() - start)
            cloud = halves.Cloud(model, port, "--split", "10", "--codec", "f16", *CORE)
            e2e.check(cloud.ready(), "a new cloud serves at the same port")
        else:
            edge.kill()
            edge.wait()
            done = halves.edge(model, port, "--codec", "f16", "--split", "10", "-p", "Hello", "-n",
                               "4", timeout=60)
            e2e.check(done.returncode == 0, "the next edge is served: " + done.stderr[-300:])
            slowest["edge"] = max(slowest["edge"], time.monotonic() - start)
        e2e.check(cloud.process.poll() is None, "the cloud lives: " + cloud.said()[-300:])
    e2e.check(slowest["cloud"] < 5, "a killed cloud is noticed")
    e2e.check(slowest["edge"] < 10, "a killed edge makes room")
    e2e.say("killed: the edge ended within %.2f s, the next edge was answered within %.2f s"
            % (slowest["cloud"], slowest["edge"]))
    cloud.stop()


def edge_first(model):
    port = "udp:127.0.0.1:%d" % halves.free_port()
    edge = subprocess.Popen([e2e.BINARY, "edge", "-m", model, "--port", port, "--split", "10", "-p",
                             "The capital of France is", "-n", "4", "--connect", "60",
                             *e2e.secured("edge")],
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)
    halves.started.append(edge)
    time.sleep(2)
    cloud = halves.Cloud(model, port, "--split", "10", *CORE)
    out, err = edge.communicate(timeout=90)
    e2e.check(edge.returncode == 0 and "Paris" in out, "the edge waited: %s %s" % (out, err))
    cloud.stop()


def idle_chat(model):
    """A user who thinks for longer than the cloud's lease still has a cloud, to himself."""
    port = "udp:127.0.0.1:%d" % halves.free_port()
    cloud = halves.Cloud(model, port, "--split", "10", *CORE)
    e2e.check(cloud.ready(), "the cloud serves")
    chat = subprocess.Popen([e2e.BINARY, "edge", "-m", model, "--port", port, "--split", "10", "-n",
                             "8", *e2e.secured("edge")], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)
    halves.started.append(chat)
    chat.stdin.write("Hello\n")
    chat.stdin.flush()
    e2e.check(chat.stdout.readline() != "", "an answer")
    other = halves.edge(model, port, "--split", "10", "-p", "Hello", "-n", "4")
    e2e.check(other.returncode == 1 and "closed the connection" in other.stderr,
              "one edge at a time: %d, %s" % (other.returncode, other.stderr))
    time.sleep(2 if e2e.QUICK else 20)
    chat.stdin.write("And now?\n")
    chat.stdin.close()
    e2e.check(chat.stdout.read().strip() != "" and chat.wait(timeout=60) == 0,
              "the chat goes on: " + chat.stderr.read()[-300:])
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
    e2e.check(len(swaps) >= 2 and "another address" in cloud.said(),
              "%d changes of address; the cloud says %r" % (len(swaps), cloud.said()))
    e2e.say("%d changes of the edge's address were followed" % len(swaps))
    cloud.stop()


def noise(targets, stop):
    """Datagrams of every kind at both halves: random, and ones that begin as ours do."""
    draw = random.Random(1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        while not stop.is_set():
            for target in targets:
                for _ in range(10):
                    data = draw.randbytes(draw.choice((0, 1, 24, 40, 100, 1472, 9000)))
                    if draw.random() < .5:
                        data = bytes([0x10 | draw.randrange(8), draw.randrange(8)]) + data
                    s.sendto(data, target)
            time.sleep(.005)


def garbage(model):
    """Service to the honest goes on under thousands of foreign datagrams a second."""
    asked, local = halves.requests()
    number = halves.free_port()
    cloud = halves.Cloud(model, "udp:127.0.0.1:%d" % number, "--split", "10", "--codec", "f32", *CORE)
    e2e.check(cloud.ready(), "the cloud serves")
    stop = threading.Event()
    thread = threading.Thread(target=noise, args=([("127.0.0.1", number)], stop))
    thread.start()
    halves.same_as_local(model, "udp:127.0.0.1:%d" % number, asked, local, "--threads", "1")
    stop.set()
    thread.join()
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
