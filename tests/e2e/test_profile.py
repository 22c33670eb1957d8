#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Profiles: one is calibrated, carries rows in run, edge and cloud, score and eval, and gives the same
ids whatever the chunks, losses and sessions; one that is damaged or for something else is refused."""
import json
import os
import random
import subprocess
import tempfile
import time

import e2e

SPLIT, OTHER = "20", "21"
NETEM = "drop=20%,dup=20%,reorder=20%"


def calibrate(model, path):
    start = time.monotonic()
    done = e2e.isthmus("calibrate", "-m", model, "--split", SPLIT, "--chunks", "60-63", "--samples", "1",
                       "--classes", "8", "--text", e2e.shared("eval/wikitext2-valid.txt"), "-o", path,
                       *e2e.ONE_CORE, timeout=1500)
    if not e2e.check(done.returncode == 0, "calibrate: exit %d, %s" % (done.returncode, done.stderr)):
        e2e.finish()
    e2e.say("calibrated in %.0f s: %d bytes" % (time.monotonic() - start, os.path.getsize(path)))


def generation(model, profile):
    """The codec decides the ids, and nothing else does."""
    prompts = [c["prompt_ids"] for c in e2e.golden("smollm2-greedy.jsonl")][:2 if e2e.QUICK else 4]
    requests = [{"prompt_ids": p, "n_predict": 8 if e2e.QUICK else 16} for p in prompts]

    def answers(*args):
        return e2e.run_requests(requests, "-m", model, "--ignore-eos", *args)

    for codec in ("xform", "rans"):
        args = ("--profile", profile, "--codec", codec)
        first = answers(*args)
        ids = [l["ids"] for l in first]
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


def targets(model, profile):
    """A rate is kept over a prompt and its answer, one out of reach is said; a quality comes out near."""
    shown = e2e.json_lines(e2e.isthmus("calibrate", "--show", profile, "--json"), "--show")[0]
    text = e2e.shared("eval/wikitext2-valid.txt")
    with open(text, encoding="utf-8") as f:
        prompt = f.read(1500)[300:]

    def run(codec, rate, prompt, n):
        done = e2e.isthmus("run", "-m", model, "--profile", profile, "--codec", codec, "--rate",
                           "%gB/token" % rate, "-p", prompt, "-n", n, "--ignore-eos", "--json")
        r = e2e.json_lines(done, "run --rate %g" % rate)[0]
        e2e.say("%s at %g bytes a token: %.1f over %d and %d tokens" % (
            codec, rate, r["bytes_per_token"], len(r["prompt_ids"]), len(r["ids"])))
        name, last = r["codec"].split("=")
        e2e.check(name == codec + ":step" and r["target_bytes_per_token"] == rate
                  and r["parameter_min"] - 1e-6 <= float(last) <= r["parameter_max"] + 1e-6
                  and r["parameter_min"] < r["parameter_max"], "what a rate came to: %s" % r)
        return r, done.stderr

    for codec, rate in (("xform", 150), ("xform", 180), ("rans", 180)):
        r, said = run(codec, rate, prompt, 100)
        e2e.check(abs(r["bytes_per_token"] / rate - 1) < .1 and r["target_kept"] and "warning" not in said,
                  "%s kept a rate of %d: %s, %s" % (codec, rate, r["bytes_per_token"], said))
    # The first row of a text is dear, and no message of one row as cheap as one of 64.
    rate = shown["curves"]["xform"][-1]["bytes_per_token"] + 1
    r, said = run("xform", rate, "Hello there", 20)
    e2e.check(r["bytes_per_token"] > 1.1 * rate and r["target_kept"] is False
              and "was not kept" in said and "the coarsest" in said, "out of reach: %s, %s" % (r, said))
    done = e2e.isthmus("run", "-m", model, "--profile", profile, "--rate", "9B/token", "-p", "x")
    e2e.check(done.returncode == 2 and "was calibrated from" in done.stderr, "beyond: " + done.stderr)

    if e2e.QUICK:
        return
    # Curves are measured in f32 arithmetic, here on one window. A mean KL over 512 tokens is good for
    # a tenth, and so it is twice: from other windows came .87 to 1.10 of what was asked for.
    kl = .012
    lines = e2e.json_lines(e2e.isthmus(
        "eval", "-m", model, "--text", text, "--chunks", "0-0", "--profile", profile, "--codec", "xform",
        "--codec", "rans", "--quality", "kl=%g" % kl, "--exact", *e2e.ONE_CORE), "eval --quality")
    for l in lines:
        e2e.say("kl=%g: %s %s, mean KL %.4f" % (kl, "exact" if l["exact"] else "production", l["codec"],
                                                l["kl_mean"]))
        e2e.check(l["target_kl"] == kl and l["target_bytes_per_token"] is None
                  and l["parameter_min"] == l["parameter_max"] and l["profile"] == shown["hash"][:16],
                  "a quality's line: %s" % l)
        # The production kernels' own rounding falls out differently, and that comes on top.
        e2e.check(-.35 < l["kl_mean"] / kl - 1 < (.35 if l["exact"] else .7), "quality: %s" % l)
    done = e2e.isthmus("eval", "-m", model, "--text", text, "--tokens", "128", "--profile", profile,
                       "--codec", "xform", "--rate", "%gB/token" % rate, "--rows", "1", *e2e.ONE_CORE)
    l = e2e.json_lines(done, "eval --rate")[0]
    e2e.check(l["target_bytes_per_token"] == rate and "was not kept: xform at split " + SPLIT in done.stderr,
              "eval says so too: %s %s" % (l, done.stderr))


def adapts(model, profile):
    """With a profile --max-tpot knows what a coarser quality costs, and --max-kl is the end of it: on a link that is
    too slow for the limit rows become coarser, up to there."""
    curve = e2e.json_lines(e2e.isthmus("calibrate", "--show", profile, "--json"), "--show")[0]["curves"]["xform"]
    most = curve[len(curve) // 2]
    args = ("run", "-m", model, "--profile", profile, "-p", "The history of the railway began", "-n", 80, "--ignore-eos",
            "--json", "--netem", "delay=5ms,rate=16kbit", "--max-kl", most["kl_mean"], *e2e.ONE_CORE)

    def run(limit_ms):
        return e2e.json_lines(e2e.isthmus(*args, "--max-tpot", limit_ms), "run --max-tpot --max-kl")[0]

    first = run(100000)
    finest, limit_ms = float(first["codec"].split("=")[1]), .9 * first["token_gap_ms_p50"]
    r = run(limit_ms)
    a, coarsest = r["adaptation"], r["parameter_max"] or 0
    e2e.say("limit %.1f ms: %d changes, step %.4f to %.4f, KL %.4f of %.4f, %d of %d tokens late"
            % (limit_ms, a["changes"], finest, coarsest, a["quality_kl"], most["kl_mean"], a["late_tokens"], a["tokens"]))
    e2e.check(a["changes"] > 0 and coarsest > 1.1 * finest, "coarser rows were sent: %s" % a)
    e2e.check(coarsest <= most["step"] * 1.001 and a["quality_kl"] <= most["kl_mean"] * 1.001,
              "no coarser than --max-kl: %s, %s" % (coarsest, most))
    done = e2e.isthmus(*args[:-len(e2e.ONE_CORE) - 1], curve[0]["kl_mean"] / 2, "--max-tpot", limit_ms)
    e2e.check(done.returncode == 2 and "costs" in done.stderr, "a KL below the best: exit %d, %s"
              % (done.returncode, done.stderr))


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
    args = ("eval", "-m", model, "--text", text, "--profile", profile, "--codec", "xform", "--codec",
            "rans", "--codec", "tsq", *e2e.ONE_CORE)
    done = e2e.isthmus(*args, "--chunks", "0-0", "--split", SPLIT, "--split", OTHER)
    lines = {(l["split"], i % 3): l for i, l in enumerate(e2e.json_lines(done, "eval"))}
    for l in lines.values():
        e2e.say("split %d %-36s %5.1f bytes a token, mean KL %.4f"
                % (l["split"], l["codec"], l["bytes_per_token"], l["kl_mean"]))
        e2e.check(0 < l["kl_mean"] < .1, "mean KL: %s" % l)
    e2e.check([lines[int(SPLIT), i]["codec"].split(":")[0] for i in range(3)] == ["xform", "rans", "tsq"],
              "eval at the profile's split")
    e2e.check([lines[int(OTHER), i]["codec"].split(":")[0] for i in range(3)] == ["tsq", "rans", "tsq"]
              and done.stderr.count("tsq is used") == 1, "eval at another: %s" % done.stderr)
    e2e.check([lines[int(s), i]["profile"] is None for s in (SPLIT, OTHER) for i in range(3)]
              == [False, False, True, True, True, True], "whose profile: %s" % lines)
    by_codec = [lines[int(SPLIT), i]["bytes_per_token"] for i in range(3)]
    e2e.check(by_codec == sorted(by_codec), "xform < rans < tsq: %s" % by_codec)

    # Rows that travel alone arrive the same, and cost more.
    many, one = (e2e.json_lines(e2e.isthmus(*args, "--tokens", "64", "--rows", n), "eval --rows")
                 for n in (64, 1))
    for m, o in zip(many, one):
        e2e.check(m["rows"] == 64 and o["rows"] == 1 and m["kl_mean"] == o["kl_mean"]
                  and m["rel_l2"] == o["rel_l2"] and m["bytes_per_token"] < o["bytes_per_token"]
                  and abs(o["wire_bytes_per_token"] - o["bytes_per_token"] - 106) < .01,
                  "--rows 1: %s, %s" % (m, o))


def refusals(model, profile, folder):
    def refused(what, command, path, *words):
        args = ["-p", "x", "-n", "1"] if command == "run" else []
        if command == "cloud":
            args = ["--port", "memif:" + os.path.join(folder, "none.sock"), "--insecure"]
        if command == "eval":
            args = ["--text", e2e.shared("eval/wikitext2-valid.txt"), "--chunks", "0-0"]
        done = e2e.isthmus(command, "-m", what[1], "--profile", path, *args, *what[2:], text_in="",
                           timeout=180)
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
        refused(("another split", model, "--split", OTHER), command, profile, "is for split %s, not %s" % (SPLIT, OTHER))
        refused(("truncated", model), command, damaged("cut.prof", whole[:len(whole) // 2]), "cut.prof")
        at = rnd.randrange(len(whole))
        flipped = bytearray(whole)
        flipped[at] ^= 1 << rnd.randrange(8)
        refused(("a bit of byte %d" % at, model), command, damaged("bit.prof", flipped), "bit.prof")
    refused(("empty", model), "run", damaged("empty.prof", b""), "empty.prof")
    refused(("for a codec without", model, "--codec", "tsq"), "run", profile, "tsq uses none")
    other = os.environ.get("ISTHMUS_QWEN05") or (None if e2e.QUICK else e2e.model("qwen05"))
    if other:
        refused(("another model", other), "run", profile, "another model", other, "isthmus calibrate")


def halves(model, profile, folder):
    """Edge and cloud agree on mode and profile, or say which they have."""
    tag = json.loads(e2e.isthmus("calibrate", "--show", profile, "--json").stdout)["hash"]
    path = os.path.join(folder, "p.sock")
    port = ("-m", model, "--port", "memif:" + path, "--split", SPLIT)
    cloud = subprocess.Popen([e2e.BINARY, "cloud", *port, *e2e.secured("cloud"), "--profile", profile], stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        e2e.check(e2e.wait_for(lambda: os.path.exists(path), 180), "the cloud listens")
        prompt = ("-p", "The capital of France is", "-n", "4")
        for args, has in ((("--codec", "rans"), "rans"), (("--codec", "rans", "--profile", profile),
                          "rans " + tag), ((), "tsq")):
            done = e2e.isthmus("edge", *port, *e2e.secured("edge"), *prompt, *args)
            e2e.check(done.returncode == 1 and
                      "codec mismatch: edge %s, cloud xform %s:" % (has, tag) in done.stderr,
                      "edge with %s: exit %d, %s" % (has, done.returncode, done.stderr))
        done = e2e.isthmus("edge", *port, *e2e.secured("edge"), *prompt, "--profile", profile)
        e2e.check(done.returncode == 0 and done.stdout.startswith(" Paris"),
                  "edge with the profile: exit %d, %s" % (done.returncode, done.stderr))
    finally:
        e2e.end(cloud, "the cloud")


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
        targets(model, profile)
        adapts(model, profile)
        score(model, profile)
        evaluation(model, profile)
        refusals(model, profile, folder)
        halves(model, profile, folder)
    e2e.check_nothing_left(before)
    e2e.finish()


main()
