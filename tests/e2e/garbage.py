#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Datagrams of nobody's, as fast as one process can send them until it is told to end: random ones and ones that begin
as Isthmus' own do, of all lengths. 64 to a call of the kernel, which cuts them apart (UDP_SEGMENT), or with --single
one by one. Prints how many they were.

  garbage.py [--single] HOST PORT        ends by SIGTERM, or after a minute"""
import argparse
import random
import signal
import socket
import sys
import time

UDP_SEGMENT = 103
LENGTHS = (1, 24, 60, 100, 400, 1000)
AT_ONCE = 64
LIMIT_S = 60


def datagram(draw, length):
    data = bytearray(draw.randbytes(length))
    if draw.random() < .5:
        data[0] = 0x30 | draw.randrange(8)
        data[1:2] = bytes([draw.randrange(8)])[:length - 1]
    return bytes(data)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--single", action="store_true")
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: setattr(options, "over", True))
    options.over = False
    draw = random.Random(1)
    ways = []
    for length in LENGTHS:
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.connect((options.host, options.port))
        if not options.single:
            s.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, length)
        one = [datagram(draw, length) for _ in range(4 * AT_ONCE)]
        ways.append((s, one if options.single else [b"".join(one[i:i + AT_ONCE]) for i in range(0, len(one), AT_ONCE)]))
    sent, begun = 0, time.monotonic()
    while not options.over and time.monotonic() - begun < LIMIT_S:
        for s, some in ways:
            for data in some:
                try:
                    s.send(data)
                    sent += 1 if options.single else AT_ONCE
                except OSError:
                    pass  # nobody listens, or the queue is full
    print("%d datagrams in %.1f s" % (sent, time.monotonic() - begun), flush=True)
    return 0 if sent else 1


sys.exit(main())
