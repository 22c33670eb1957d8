#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`isthmus calibrate`: the same bytes for any number of threads, what --show says of them, and bad
input, which leaves no file."""
import json
import os
import tempfile

import e2e

WINDOWS = "0-3"
SPLIT = 28  # of 30 layers: little to take gradients through


def run(*args, **kwargs):
    return e2e.isthmus("calibrate", *map(str, args), timeout=800, **kwargs)


def more_than_there_is(model, text):
    """The most that can be asked for: 78 GB of gradients."""
    with open("/proc/meminfo", encoding="ascii") as f:
        available = next(int(line.split()[1]) for line in f if line.startswith("MemAvailable"))
    if available > 70 << 20:
        return
    with tempfile.TemporaryDirectory() as folder:
        long = os.path.join(folder, "long.txt")
        with open(text, encoding="utf-8") as f, open(long, "w", encoding="utf-8") as to:
            some = f.read()
            to.write(some * (1 + 3000000 // len(some)))
        done = run("-m", model, "--text", long, "--chunks", "0-1023", "--samples", 64, "--split", SPLIT,
                   "-o", os.path.join(folder, "profile"))
        e2e.check(done.returncode == 1 and "GB are available" in done.stderr and
                  os.listdir(folder) == ["long.txt"], "memory: %d, %s" % (done.returncode, done.stderr))


def main():
    model = e2e.model("smollm2")
    text = os.path.join(e2e.SHARED, "eval", "wikitext2-valid.txt")
    if not os.path.exists(text):
        e2e.skip("no text: %s" % text)
    with tempfile.TemporaryDirectory() as folder:
        usual = ["-m", model, "--text", text, "--chunks", WINDOWS, "--samples", 1, "--classes", 16]
        profiles = []
        for threads in (2,) if e2e.QUICK else (1, 2):
            path = os.path.join(folder, "profile%d" % threads)
            done = run(*usual, "--split", SPLIT, "--threads", threads, "--first-core", -1,
                       "-o", path)
            e2e.check(done.returncode == 0, "calibrate: " + done.stderr)
            with open(path, "rb") as f:
                profiles.append(f.read())
        if len(profiles) > 1:
            e2e.check(profiles[0] == profiles[1], "the same bytes for any --threads")

        done = run("--show", path, "--json")
        shown = json.loads(done.stdout)
        e2e.check(shown["split"] == SPLIT and shown["cols"] == 576 and shown["classes"] == 16,
                  "what it is for: %s" % shown)
        e2e.check(len(shown["hash"]) == len(shown["model"]) == 32, "hash and fingerprint")
        for mode in ("tsq", "rans", "xform"):
            curve = shown["curves"][mode]
            e2e.check(len(curve) >= 4, "points of " + mode)
            e2e.check(curve[0]["bytes_per_token"] > curve[-1]["bytes_per_token"] and
                      curve[0]["kl_mean"] < curve[-1]["kl_mean"], "%s: %s" % (mode, curve))
        e2e.check(shown["hash"] in run("--show", path).stdout, "--show without --json")
        for args in ((), ("--json",)):
            e2e.to_full_disk("calibrate", "--show", path, *args)

        out = os.path.join(folder, "none")

        there = sorted(os.listdir(folder))

        def refused(code, says, *args, **kwargs):
            done = run(*args, **kwargs)
            e2e.check(done.returncode == code and says in done.stderr,
                      "%s: %d, %s" % (args, done.returncode, done.stderr))
            e2e.check(sorted(os.listdir(folder)) == there,
                      "files left behind: %s" % os.listdir(folder))

        refused(2, "-o FILE is missing", *usual)
        refused(2, "--text FILE is missing", "-m", model, "-o", out)
        refused(2, "split", *usual, "--split", 30, "-o", out)
        refused(2, "takes 4 to 1024", "-m", model, "--text", text, "--chunks", "1-3", "-o", out)
        refused(2, "has the windows", "-m", model, "--text", text, "--chunks", "1-99999", "-o", out)
        # An option of eval's would not help here.
        refused(2, "at least 4 are needed: give a longer text", "-m", model, "--text", __file__, "-o", out)
        refused(2, "at least 4 are needed", "-m", model, "--text", __file__, "--chunks", "0-0", "-o", out)
        more_than_there_is(model, text)
        refused(2, "cannot be written", *usual, "-o", os.path.join(folder, "no", "folder"))
        refused(2, "not a regular file", *usual, "-o", folder)
        refused(2, "No such file", "--show", out)
        refused(2, "not a codec profile", "--show", text)
        for beside in (["-m", model], ["--text", text], ["-o", out], ["--split", 3], ["--samples", 4],
                       ["--threads", 2], ["--cpu-mask", "c"]):
            refused(2, "only --json goes with it", "--show", path, *beside)
            refused(2, "only --json goes with it", *beside, "--show", path)
        fifo = os.path.join(folder, "fifo")
        os.mkfifo(fifo)
        done = e2e.isthmus("calibrate", "--show", fifo, timeout=180)
        e2e.check(done.returncode == 2 and "not a codec profile" in done.stderr, "FIFO: " + done.stderr)
    e2e.finish()


main()
