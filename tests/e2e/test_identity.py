#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Acceptance 4: split with the lossless codec, the model gives the very ids of --local, whatever the
split, losses on the way, threads, prefill chunks, sessions at once, sampling, and where the head is."""
import json
import time

import e2e

NETEM = "drop=20%,dup=20%,reorder=20%"


def alternatives(model, prompt):
    """Log-probabilities and the likeliest ids are those of a head at the cloud, to the bit."""
    got = []
    for head in ("cloud", "edge"):
        done = e2e.isthmus("run", "-m", model, "-p", prompt, "-n", "12", "--ignore-eos", "--json", "--top-logprobs", "7",
                           "--head", head)
        got.append(json.loads(done.stdout) if done.returncode == 0 else {"said": done.stderr, "head": head})
    e2e.check(all("logprobs" in g for g in got) and [g["head"] for g in got] == ["cloud", "edge"], "both answer: %s" % got)
    for what in ("text", "ids", "logprobs"):
        e2e.check(got[0].get(what) == got[1].get(what), "the head at the edge: another %s" % what)
    e2e.say("the head at the edge: the same text, ids, log-probabilities and alternatives")


def main():
    model = e2e.model("smollm2")
    prompts = e2e.prompts("smollm2")
    if e2e.QUICK:
        prompts = [*prompts[:2], prompts[6]]
    n_predict = 8 if e2e.QUICK else 48
    greedy = [{"prompt": p, "n_predict": n_predict} for p in prompts]
    drawn = [{**r, "temp": .9, "top_p": .95, "top_k": 40, "repeat_penalty": 1.1, "seed": i}
             for i, r in enumerate(greedy)]

    def ids(requests, *args):  # of the model at hand
        return [r["ids"] for r in e2e.run_requests(requests, "-m", model, "--ignore-eos", *args)]

    local = {"greedy": ids(greedy, "--local", "--parallel", "4"),
             "drawn": ids(drawn, "--local", "--parallel", "4")}
    e2e.check(all(len(i) == n_predict for i in local["greedy"]), "every prompt was answered")
    e2e.check(local["greedy"] != local["drawn"], "sampling draws")

    one = ids(greedy[:3], "--local", "--threads", "1", "--chunk", "1")
    e2e.check(one == local["greedy"][:3], "--local is the same one at a time, chunk 1")

    def compare(which, requests, *args):
        start = time.monotonic()
        got = ids(requests, "--codec", "f32", *args)
        same = sum(a == b for a, b in zip(got, local[which]))
        e2e.say("%2d of %d the same (%.1f s): %s %s" % (same, len(requests),
                time.monotonic() - start, which, " ".join(args)))
        e2e.check(same == len(requests), " ".join(args))

    for split in ("1", "10", "29"):
        compare("greedy", greedy, "--split", split, "--parallel", "8")
    for split in ("10",) if e2e.QUICK else ("1", "10", "29"):
        compare("greedy", greedy, "--split", split, "--parallel", "8", "--netem", NETEM)
    compare("greedy", greedy, "--split", "10", "--parallel", "8", "--threads", "2")
    compare("greedy", greedy, "--split", "10", "--parallel", "3", "--chunk", "7")
    compare("greedy", greedy, "--split", "10", "--parallel", "8", "--chunk", "1", "--threads", "1")
    compare("drawn", drawn, "--split", "10", "--parallel", "8", "--netem", NETEM + ",seed=3")
    compare("greedy", greedy, "--split", "10", "--parallel", "8", "--head", "edge")
    compare("drawn", drawn, "--split", "10", "--parallel", "8", "--head", "edge", "--netem", NETEM + ",seed=4")
    compare("greedy", greedy, "--split", "29", "--parallel", "3", "--head", "edge", "--chunk", "7", "--threads", "1")
    alternatives(model, prompts[0])
    if not e2e.QUICK:
        compare("greedy", greedy, "--split", "10", "--cpu-mask", "avx2", "--parallel", "8")
    # Plain C is slow: one short prompt.
    local["short"] = [local["greedy"][0][:8]]
    compare("short", [{**greedy[0], "n_predict": 8}], "--split", "10", "--cpu-mask", "c")

    # Another architecture, other tensor types.
    model = e2e.model("qwen05")
    qwen = [{"prompt": p, "n_predict": 8} for p in e2e.prompts("qwen05")[:1 if e2e.QUICK else 4]]
    local["qwen05"] = ids(qwen, "--local", "--parallel", "4")
    for split in ("12",) if e2e.QUICK else ("1", "12", "23"):
        compare("qwen05", qwen, "--split", split, "--parallel", "4")
    compare("qwen05", qwen, "--split", "12", "--parallel", "4", "--head", "edge")
    e2e.finish()


main()
