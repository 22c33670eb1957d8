#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Profiles: one is calibrated, carries rows in run, edge and cloud, score and eval, and gives the same
ids whatever the chunks, losses and sessions; one that is damaged or for something else is refused."""
import json
import os
import random
import signal
import subprocess
import tempfile
import time

import e2e

SPLIT = "10"
NETEM = "drop=20%,dup=20%,reorder=20%"


def calibrate(model, path):
    start = time.monotonic()
    done = e2e.isthmus("calibrate", "-m", model, "--split", SPLIT, "--chunks", "60-63", "--samples", "1",
                       "--classes", "8", "--text", e2e.shared("eval/wikitext2-valid.txt"), "-o", path,
                       timeout=1500)
    if not e2e.check(done.returncode == 0, "calibrate: exit %d, %s" % (done.returncode, done.stderr)):
        e2e.finish()
    e2e.say("calibrated in %.0f s: %d bytes" % (time.monotonic() - start, os.path.getsize(path)))


def generation(model, profile):
    """The codec decides the ids, and nothing else does."""
    prompts = [c["prompt_ids"] for c in e2e.golden("smollm2-greedy.jsonl")][:2 if e2e.QUICK else 6]
    requests = [{"prompt_ids": p, "n_predict": 8 if e2e.QUICK else 32} for p in prompts]

    def answers(*args):
        return e2e.run_requests(requests, "-m", model, "--ignore-eos", *args)

    def bytes_of(lines):
        return sum(l["bytes_per_token"] for l in lines) / len(lines)

    tsq = bytes_of(answers("--split", SPLIT, "--parallel", "4"))
    for codec in ("xform", "rans"):
        args = ("--profile", profile, "--codec", codec)
        first = answers(*args)
        ids = [l["ids"] for l in first]
        e2e.say("%s: %.0f bytes a token, tsq %.0f" % (codec, bytes_of(first), tsq))
        e2e.check(bytes_of(first) < tsq, "%s takes fewer bytes than tsq" % codec)
        for other in (("--chunk", "64"), ("--chunk", "7", "--parallel", "3"), ("--chunk", "1"),
                      ("--parallel", "4", "--netem", NETEM), ("--threads", "2", "--cpu-mask", "avx2")):
            e2e.check([l["ids"] for l in answers(*args, *other)] == ids,
                      "%s %s: the same ids" % (codec, " ".join(other)))


def one_run(model, profile):
    """What a run says of its codec."""
    def run(*args):
        done = e2e.isthmus("run", "-m", model, "-p", "The capital of France is", "-n", "4", "--json", *args)
        return e2e.json_lines(done, "run " + " ".join(args))[0], done.stderr

    shown = e2e.json_lines(e2e.isthmus("calibrate", "--show", profile, "--json"), "--show")[0]
    r, said = run("--profile", profile)
    e2e.check(r["codec"].startswith("xform:step=") and r["split"] == int(SPLIT) and "tsq" not in said,
              "a profile alone means xform at its split: %s" % r)
    e2e.check(r["profile"] == shown["hash"], "the profile's hash: %s, %s" % (r["profile"], shown["hash"]))
    r, said = run("--codec", "xform")
    e2e.check(r["codec"].startswith("tsq:") and r["profile"] is None and said.count("tsq is used") == 1,
              "xform without a profile is tsq, said once: %s %s" % (r["codec"], said))
    r, said = run("--codec", "rans:step=.02")
    e2e.check(r["codec"] == "rans:step=0.02" and r["profile"] is None and "warning" not in said,
              "rans needs no profile: %s %s" % (r["codec"], said))


def score(model, profile):
    case = e2e.lines_of([{"prompt_ids": [504, 3575, 282, 4649, 314], "forced_ids": [7042, 30]}])

    def best(*args):
        done = e2e.isthmus("score", "-m", model, *args, text_in=case)
        return e2e.json_lines(done, "score")[0]["top20"][0][0]

    local, coded = best("--local"), best("--profile", profile)
    e2e.check(local[0] == coded[0] == 7042 and abs(local[1] - coded[1]) < .5,
              "score by a profile: %s, %s" % (local, coded))


def evaluation(model, profile):
    text = e2e.shared("eval/wikitext2-valid.txt")
    done = e2e.isthmus("eval", "-m", model, "--text", text, "--chunks", "0-0", "--split", SPLIT, "--split",
                       "11", "--profile", profile, "--codec", "xform", "--codec", "rans", "--codec", "tsq")
    lines = {(l["split"], i % 3): l for i, l in enumerate(e2e.json_lines(done, "eval"))}
    for l in lines.values():
        e2e.say("split %d %-36s %5.1f bytes a token, mean KL %.4f"
                % (l["split"], l["codec"], l["bytes_per_token"], l["kl_mean"]))
        e2e.check(0 < l["kl_mean"] < .1, "mean KL: %s" % l)
    e2e.check([lines[10, i]["codec"].split(":")[0] for i in range(3)] == ["xform", "rans", "tsq"],
              "eval at the profile's split")
    e2e.check([lines[11, i]["codec"].split(":")[0] for i in range(3)] == ["tsq", "rans", "tsq"]
              and done.stderr.count("tsq is used") == 1, "eval at another: %s" % done.stderr)
    e2e.check(lines[10, 0]["bytes_per_token"] < lines[10, 1]["bytes_per_token"]
              < lines[10, 2]["bytes_per_token"], "xform < rans < tsq")


def refusals(model, profile, folder):
    def refused(what, command, path, *words):
        args = ["-p", "x", "-n", "1"] if command == "run" else []
        if command == "cloud":
            args = ["--port", "memif:" + os.path.join(folder, "none.sock"), "--insecure"]
        if command == "eval":
            args = ["--text", e2e.shared("eval/wikitext2-valid.txt"), "--chunks", "0-0"]
        done = e2e.isthmus(command, "-m", what[1], "--profile", path, *args, *what[2:], text_in="",
                           timeout=120)
        last = (done.stderr.strip().splitlines() or [""])[-1]
        e2e.say("%-28s %-5s exit %d: %s" % (what[0], command, done.returncode, last[:150]))
        e2e.check(done.returncode == 2 and done.stdout == "" and all(w in done.stderr for w in words),
                  "%s: exit %d, %s" % (what[0], done.returncode, done.stderr))

    def damaged(name, data):
        path = os.path.join(folder, name)
        with open(path, "wb") as f:
            f.write(data)
        return path

    with open(profile, "rb") as f:
        whole = f.read()
    seed = random.randrange(1 << 32)
    e2e.say("seed %d" % seed)
    rnd = random.Random(seed)
    for command in ("run", "cloud", "score", "eval"):
        refused(("another split", model, "--split", "11"), command, profile, "is for split 10")
        refused(("truncated", model), command, damaged("cut.prof", whole[:len(whole) // 2]), "cut.prof")
        at = rnd.randrange(len(whole))
        flipped = bytearray(whole)
        flipped[at] ^= 1 << rnd.randrange(8)
        refused(("a bit of byte %d" % at, model), command, damaged("bit.prof", flipped), "bit.prof")
    refused(("empty", model), "run", damaged("empty.prof", b""), "empty.prof")
    refused(("for a codec without", model, "--codec", "tsq"), "run", profile, "tsq uses none")
    other = os.environ.get("ISTHMUS_QWEN05") or (None if e2e.QUICK else e2e.model("qwen05"))
    if other:
        refused(("another model", other), "run", profile, "another model", "isthmus calibrate")


def halves(model, profile, folder):
    """Edge and cloud agree on mode and profile, or say which they have."""
    tag = json.loads(e2e.isthmus("calibrate", "--show", profile, "--json").stdout)["hash"][:16]
    path = os.path.join(folder, "p.sock")
    port = ("-m", model, "--port", "memif:" + path, "--split", SPLIT)
    cloud = subprocess.Popen([e2e.BINARY, "cloud", *port, *e2e.secured("cloud"), "--profile", profile], stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        prompt = ("-p", "The capital of France is", "-n", "4")
        for args, has in ((("--codec", "rans"), "rans"), (("--codec", "rans", "--profile", profile),
                          "rans " + tag), ((), "tsq")):
            done = e2e.isthmus("edge", *port, *e2e.secured("edge"), *prompt, *args, timeout=60)
            e2e.check(done.returncode == 1 and "codec mismatch" in done.stderr
                      and "xform " + tag in done.stderr and "this edge has " + has in done.stderr,
                      "edge with %s: exit %d, %s" % (has, done.returncode, done.stderr))
        done = e2e.isthmus("edge", *port, *e2e.secured("edge"), *prompt, "--profile", profile, timeout=60)
        e2e.check(done.returncode == 0 and done.stdout.startswith(" Paris"),
                  "edge with the profile: exit %d, %s" % (done.returncode, done.stderr))
    finally:
        cloud.send_signal(signal.SIGTERM)
        cloud.communicate(timeout=10)


def main():
    model = e2e.model("smollm2")
    before = e2e.leftovers()
    with tempfile.TemporaryDirectory(prefix="isthmus-test-") as folder:
        profile = os.environ.get("ISTHMUS_TEST_PROFILE")  # one made before, to save the time
        if not profile:
            profile = os.path.join(folder, "small.prof")
            calibrate(model, profile)
        one_run(model, profile)
        generation(model, profile)
        score(model, profile)
        evaluation(model, profile)
        refusals(model, profile, folder)
        halves(model, profile, folder)
    e2e.check_nothing_left(before)
    e2e.finish()


main()
