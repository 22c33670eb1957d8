#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Acceptance 6: the edge at split 5 keeps resident less than 40 % of what --local keeps, EAL and
packet pools apart; those stay under 24 MB. A whole model keeps no more than its file, its cache and
40 MB, at its peak too; where the memory is not there it is refused before it is read."""
import json
import os
import re
import subprocess

import e2e

MB = 1e6
PROMPT = ("-p", "The capital of France is", "-n", "16", "--json", "--threads", "1")


def edge_beside_local():
    model = e2e.model("smollm2")

    def run(*args):
        return e2e.json_lines(e2e.isthmus("run", "-m", model, *PROMPT, *args), "run")[0]

    local = run("--local")
    split = run("--split", "5")
    edge = split["edge_rss_bytes"] - split["edge_eal_rss_bytes"]
    share = edge / local["edge_rss_bytes"]
    e2e.say("edge %.1f MB of %.1f MB of --local: %.1f %%; EAL and packet pools %.1f MB"
            % (edge / MB, local["edge_rss_bytes"] / MB, 100 * share,
               split["edge_eal_rss_bytes"] / MB))
    e2e.say(json.dumps({k: v for k, v in split.items() if k.endswith("rss_bytes")}))
    e2e.check(0 < share < .40, "the edge keeps less than 40 %")
    e2e.check(0 < split["edge_eal_rss_bytes"] < 24 * MB, "EAL and packet pools under 24 MB")
    e2e.check(split["cloud_rss_bytes"] > edge, "the cloud keeps the rest")


def whole_model(name):
    """Its peak, as the kernel counted it. 21 tokens of cache are less than a megabyte."""
    model = e2e.model(name)
    child = subprocess.Popen([e2e.BINARY, "run", "-m", model, *PROMPT, "--local"],
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    result = json.loads(child.stdout.read())
    child.stdout.close()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    bound = os.path.getsize(model) + 40 * MB
    now, peak = result["edge_rss_bytes"], usage.ru_maxrss * 1024
    e2e.say("%s: file %.1f MB, resident %.1f MB, at the peak %.1f MB"
            % (name, os.path.getsize(model) / MB, now / MB, peak / MB))
    e2e.check(child.returncode == 0, "%s: exit code %d" % (name, child.returncode))
    e2e.check(MB < now < bound, "%s: resident within file + 40 MB" % name)
    e2e.check(peak < bound, "%s: the peak too" % name)
    e2e.check(peak - now < 8 * MB, "%s: the peak is the end" % name)


def new_cgroup(limit_bytes):
    """A folder of a memory cgroup with this limit, of version 1 or 2; None: not ours to make."""
    for base, limit in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
                        ("/sys/fs/cgroup", "memory.max")):
        folder = os.path.join(base, "isthmus-test-%d" % os.getpid())
        try:
            os.mkdir(folder)
        except OSError:
            continue
        try:
            with open(os.path.join(folder, limit), "w", encoding="ascii") as f:
                f.write(str(limit_bytes))
            return folder
        except OSError:
            os.rmdir(folder)
    return None


def too_little_memory():
    model = e2e.model("smollm2")
    limit = 100 << 20
    folder = new_cgroup(limit)
    if not folder:
        e2e.say("no memory cgroup can be made here: refusals are not tried")
        return

    def enter():
        with open(os.path.join(folder, "cgroup.procs"), "w", encoding="ascii") as f:
            f.write(str(os.getpid()))

    def run(*args):
        return e2e.isthmus("run", "-m", model, *PROMPT, "--ctx", "256", *args, preexec_fn=enter)

    try:
        done = run("--local")
        e2e.say("under %d MB: exit %d: %s" % (limit / MB, done.returncode, done.stderr.strip()))
        e2e.check(done.returncode == 2 and done.stdout == "", "it is refused")
        said = re.search(r"layers 0 to 29 need ([0-9.]+) MB .* ([0-9.]+) MB are there: "
                         r".*--split (\d+) is the most", done.stderr)
        if e2e.check(said, "with what is needed, what is there and what would fit"):
            e2e.check(115 < float(said[1]) < 145, "what is needed")
            e2e.check(90 < float(said[2]) < limit / MB, "what is there")
            for term in ("program", "tokenizer", "weights", "keys and values", "scratch", "logits"):
                e2e.check(re.search(r"\b%s \d+\.\d" % term, done.stderr), "%s: by term" % term)
            # That edge runs here; its cloud is elsewhere, so that it only gets as far as looking for it.
            edge = e2e.isthmus("edge", "-m", model, "-p", "x", "--ctx", "256", "--split", said[3],
                               "--insecure", "--port", "udp:127.0.0.1:9", "--connect", "1", preexec_fn=enter)
            e2e.check("MB of memory" not in edge.stderr,
                      "the split that fits is not refused: " + edge.stderr)
        done = run("--split", "20")  # each half fits, both do not
        e2e.check(done.returncode == 2 and "both halves need" in done.stderr and "the edge: program" in done.stderr,
                  "two halves on one host are refused: exit %d, %s" % (done.returncode, done.stderr))
        done = run("--local", "--no-memory-check")
        e2e.check(done.returncode in (0, -9), "--no-memory-check tries it: %d" % done.returncode)
        e2e.check("MB of memory" not in done.stderr, "--no-memory-check refuses nothing")
    finally:
        e2e.wait_for(lambda: not open(os.path.join(folder, "cgroup.procs"), encoding="ascii").read(), 10)
        os.rmdir(folder)


def one_figure():
    """What a budget would have to be does not depend on what was given, nor on whether it is only looked at."""
    edge = ("edge", "-m", e2e.model("smollm2"), "-p", "x", "--split", "10", "--ctx", "512", "--history", "1",
            "--insecure", "--port", "udp:127.0.0.1:9", "--cpus", ",".join(map(str, sorted(os.sched_getaffinity(0)))))
    figures = set()
    for budget in ("30MB", "51MB"):
        for more in ((), ("--check-config",)):
            done = e2e.isthmus(*edge, "--memory-budget", budget, *more)
            said = re.search(r"needed are at least ([0-9.]+), .* program ([0-9.]+),", done.stderr)
            e2e.check(done.returncode == 2 and said, "%s %s: exit %d, %s"
                      % (budget, more, done.returncode, done.stderr))
            figures.add(said and said.groups())
    e2e.check(len(figures) == 1, "one figure: %s" % figures)


def main():
    edge_beside_local()
    whole_model("smollm2")
    whole_model("qwen05")
    too_little_memory()
    one_figure()
    e2e.finish()


main()
