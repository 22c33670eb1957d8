# SPDX-License-Identifier: Apache-2.0
"""A cloud under a flood of garbage (garbage.py), and an edge that it serves meanwhile."""
import json
import os
import signal
import subprocess
import sys
import threading
import time

import e2e
import halves

LEAST_S = 2 if e2e.QUICK else 6
MOST_S = 40  # then it ends, so that the edge can
GROWS_BYTES = 24e6  # a UDP port's 8,191 buffers, touched one after the other, are 13 MB, and a session's cache
SENDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "garbage.py")


def rss_bytes(pid):
    with open("/proc/%d/statm" % pid, encoding="ascii") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGESIZE")


class Garbage:
    """Senders, from wherever `inside` is."""

    def __init__(self, target, single, inside):
        self.process = subprocess.Popen(
            [*inside, sys.executable, SENDER, *(["--single"] if single else []), target[0], str(target[1])],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        halves.others.append(self.process)

    def end(self):
        """How many it sent."""
        self.process.send_signal(signal.SIGTERM)
        with halves.within("the end of what floods"):
            said = self.process.communicate()[0]
        return int(said.split()[0]) if said.strip() else 0


def counts(control):
    """What the cloud has had: (packets that came, tokens); None while it has no time to say it."""
    found = []
    for method in ("port.stats", "stats"):
        done = e2e.isthmus("ctl", "--json", "--socket", control, method)
        if done.returncode != 0:
            return None
        found.append(json.loads(done.stdout))
    ports, stats = found
    return sum(p["rx_packets"] + p["foreign"] for p in ports), stats["generated_tokens"]


def counts_at_last(control):
    last = []
    e2e.wait_for(lambda: last.append(counts(control)) or last[-1], halves.LIMIT_S)
    return last[-1] or (0, 0)


def withstand(model, port, asked, local, cloud, control, target, *args, single=False, inside=(), client_port=None):
    """The ids of --local before the flood, and within it: tokens come while it lasts, and the cloud does not grow."""
    def answer():
        halves.same_as_local(model, client_port or port, asked, local, "--threads", "1", *args, prefix=inside)

    answer()
    rss, before = [rss_bytes(cloud.process.pid)], counts_at_last(control)
    garbage, begun = Garbage(target, single, inside), time.monotonic()
    answers = 0
    while time.monotonic() - begun < LEAST_S:
        edge = threading.Thread(target=answer)
        edge.start()
        while edge.is_alive():
            edge.join(.25)
            rss.append(rss_bytes(cloud.process.pid))
            if garbage.process.poll() is None and time.monotonic() - begun > MOST_S:
                break
        if edge.is_alive():
            break
        answers += 1
    during, took_s = counts_at_last(control), time.monotonic() - begun
    sent = garbage.end()
    edge.join()
    came, tokens = (b - a for a, b in zip(before, during))
    e2e.say("%s: %d datagrams of garbage in %.1f s, %d packets came; meanwhile %d tokens, %d times all ids; resident "
            "%.1f MB before, %.1f at most" % (port.split(",")[0], sent, took_s, came, tokens, answers, rss[0] / 1e6,
                                               max(rss) / 1e6))
    e2e.check(sent > 1000 and came > 1000, "it was a flood: %d sent, %d came" % (sent, came))
    e2e.check(tokens > 0, "tokens come in the flood: %d" % tokens)
    # A sanitizer keeps what was freed.
    e2e.check("ASAN_OPTIONS" in os.environ or max(rss) <= rss[0] + GROWS_BYTES,
              "memory is flat: %s" % ["%.1f" % (n / 1e6) for n in rss])
