#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Acceptance 8: kill -9 of either half in mid-answer, 50 times each. The other half never crashes or
hangs: the edge says within 2 s what happened and exits with 1, the cloud is gone within 2 s; no
process, socket, shared memory or folder is left behind."""
import os
import signal
import subprocess
import sys
import time

import e2e


def start(model):
    """A run that has begun to answer, and the pid of its cloud half."""
    edge = subprocess.Popen([e2e.BINARY, "run", "-m", model, "-p", "Once upon a time", "-n", "1500",
                             "--ignore-eos", "--codec", "f16"], stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    first = os.read(edge.stdout.fileno(), 1)
    if not first:
        say = edge.communicate()[1].decode()
        e2e.say("FAILED: no answer: " + say)
        sys.exit(1)
    with open("/proc/%d/task/%d/children" % (edge.pid, edge.pid), encoding="ascii") as f:
        children = [int(p) for p in f.read().split()]
    return edge, children


def gone(pid):
    try:
        with open("/proc/%d/stat" % pid, "rb") as f:
            return f.read().rsplit(b")", 1)[1].split()[0] == b"Z"
    except OSError:
        return True


def main():
    model = e2e.model("smollm2")
    before = e2e.leftovers()
    rounds = 6 if e2e.QUICK else 100  # of one half and the other in turn
    slowest = {"cloud": 0.0, "edge": 0.0}
    for i in range(rounds):
        edge, children = start(model)
        if not e2e.check(len(children) == 1, "round %d: %d children" % (i, len(children))):
            edge.kill()
            break
        # Anywhere in the answer, so that the packets stand anywhere.
        time.sleep(.003 * (i % 17))
        killed = ("cloud", "edge")[i % 2]
        start_s = time.monotonic()
        if killed == "cloud":
            os.kill(children[0], signal.SIGKILL)
            try:
                err = edge.communicate(timeout=10)[1].decode()
            except subprocess.TimeoutExpired:
                e2e.check(False, "round %d: the edge hangs" % i)
                edge.kill()
                os.kill(children[0], signal.SIGKILL)
                break
            e2e.check(edge.returncode == 1, "round %d: the edge exited with %d: %s"
                      % (i, edge.returncode, err[-300:]))
            e2e.check("cloud half was killed by signal 9" in err,
                      "round %d: the edge says %r" % (i, err[-300:]))
        else:
            edge.kill()
            edge.wait()
            if not e2e.check(e2e.wait_for(lambda: gone(children[0]), 10),
                             "round %d: the cloud stays" % i):
                os.kill(children[0], signal.SIGKILL)
            edge.stdout.close()
            err = edge.stderr.read().decode()
            e2e.check("ERROR" not in err, "round %d: the cloud says %r" % (i, err[-2000:]))
        took = time.monotonic() - start_s
        slowest[killed] = max(slowest[killed], took)
        e2e.check(took < 2, "round %d: %s killed: %.2f s" % (i, killed, took))
    e2e.check_nothing_left(before)
    e2e.say("%d kills in mid-answer: slowest end of the edge %.2f s (cloud killed), of the cloud "
            "%.2f s (edge killed)" % (rounds, slowest["cloud"], slowest["edge"]))
    e2e.finish()


main()
