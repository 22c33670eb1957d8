#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Threads where they are told to be, fewer cores than threads, memory that cannot be locked: said once,
and the same text."""
import ctypes
import os
import resource
import sys

import e2e

PROMPT = ("-p", "The capital of France is", "-n", "8", "--json")
PR_CAPBSET_DROP, CAP_IPC_LOCK = 24, 14
PR_SET_THP_DISABLE = 41


def run(model, *args, **more):
    done = e2e.isthmus("run", "-m", model, *PROMPT, *args, **more)
    e2e.check(done.returncode == 0, "%s: exit %d: %s" % (args, done.returncode, done.stderr[-500:]))
    return e2e.json_lines(done, str(args))[0], done.stderr


def one_cpu():
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def no_locking():
    """As for a service without LimitMEMLOCK."""
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
    if os.geteuid() == 0:
        ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_IPC_LOCK, 0, 0, 0)


def no_huge_pages():
    ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)


def main():
    model = e2e.model("smollm2")
    cpus = sorted(os.sched_getaffinity(0))
    want, _ = run(model, "--local")
    e2e.check(want["threads"] >= 1 and want["cpus"], "no threads or CPUs told: %s" % want)

    last = str(cpus[-1])
    got, _ = run(model, "--local", "--cpus", last)
    e2e.check((got["cpus"], got["threads"], got["ids"]) == (last, 1, want["ids"]),
              "--cpus %s: %s" % (last, got))
    split, _ = run(model, "--cpus", "%d-%d" % (cpus[0], cpus[0]), "--codec", "f32")
    e2e.check((split["cpus"], split["ids"]) == (str(cpus[0]), want["ids"]),
              "both halves on one CPU: %s" % split)

    got, said = run(model, "--local", "--threads", "4", preexec_fn=one_cpu)
    e2e.check("--threads 4: only 1 cores are allowed here" in said, "a cpuset of one: %r" % said)
    e2e.check((got["threads"], got["ids"]) == (1, want["ids"]), "a cpuset of one: %s" % got)
    if len(cpus) > 1:
        split, _ = run(model, "--cpus", "%d,%d" % (cpus[0], cpus[1]), "--codec", "f32")
        e2e.check((split["cpus"], split["threads"]) == (str(cpus[0]), 1),
                  "two halves share two CPUs: %s" % split)
        done = e2e.isthmus("run", "-m", model, *PROMPT, "--cpus", last, preexec_fn=one_cpu)
        e2e.check(done.returncode == 2 and "CPU %s is not allowed" % last in done.stderr,
                  "a CPU outside the cpuset: exit %d: %s" % (done.returncode, done.stderr))

    got, said = run(model, "--local", "--mlock", preexec_fn=no_locking)
    lines = [l for l in said.splitlines() if "--mlock" in l]
    e2e.check(len(lines) == 1 and "LimitMEMLOCK" in lines[0], "memory that cannot be locked: %r" % said)
    e2e.check(got["ids"] == want["ids"], "memory that cannot be locked: another text")
    if os.geteuid() == 0:
        _, said = run(model, "--local", "--mlock")
        e2e.check("--mlock" not in said, "memory that can be locked: %r" % said)

    got, said = run(model, "--codec", "f32", preexec_fn=no_huge_pages)
    e2e.check(said.count("without huge pages") == 1, "no huge pages, said once by both halves: %r" % said)
    e2e.check(got["ids"] == want["ids"], "no huge pages: another text")
    e2e.finish()


sys.exit(main())
