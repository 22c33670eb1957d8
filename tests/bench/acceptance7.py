#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Acceptance 7: what splitting costs and gains in speed, measured alternately in one run.

  decode    --codec tsq over memif, one thread a stage, keeps >= 95 % of --local --threads 1
  prefill   512 tokens in chunks, split 15, reaches >= 1.6 x --local --threads 1
  --local   one core: prefill 512 >= 80 tokens/s, decode >= 45 tokens/s

Medians of the rounds. Exit code 1 when a figure falls short. Needs an idle machine with two cores.

usage: tests/bench/acceptance7.py [--rounds N] [--tokens N] [--try]   (--try: only see that it runs)
"""
import argparse
import json
import os
import statistics
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
import e2e  # noqa: E402

WORDS = ("the of and to in a is that for it as was with be by on not he this are or his from at "
         "which but have an had they you were their one all we can her has there been if more when "
         "will would who so no").split()


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--chunk", type=int, default=64)
    parser.add_argument("--try", dest="only_try", action="store_true")
    options = parser.parse_args()
    if options.only_try:
        options.rounds, options.tokens = 1, 8
    model = e2e.model("smollm2")

    text = " ".join(WORDS[(i * 7 + i // 11) % len(WORDS)] for i in range(600))
    ids = e2e.json_lines(e2e.isthmus("tokenize", "-m", model, text_in=json.dumps(
        {"text": text, "parse_special": False}) + "\n"), "tokenize")[0]["ids"]
    long_prompt, short_prompt = ids[:512], ids[:32]
    assert len(long_prompt) == 512

    def run(prompt, n, *args):
        return e2e.run_requests([{"prompt_ids": prompt, "n_predict": n}], "-m", model,
                                "--ignore-eos", "--threads", "1", "--chunk", str(options.chunk),
                                *args)[0]

    variants = {
        "local decode": (short_prompt, options.tokens, "decode_tokens_per_s", ["--local"]),
        "split decode": (short_prompt, options.tokens, "decode_tokens_per_s",
                         ["--codec", "tsq", "--split", "10"]),
        "local prefill": (long_prompt, 1, "prefill_tokens_per_s", ["--local"]),
        "split prefill": (long_prompt, 1, "prefill_tokens_per_s",
                          ["--codec", "tsq", "--split", "15"]),
    }
    seen = {name: [] for name in variants}
    for _ in range(options.rounds):
        for name, (prompt, n, field, args) in variants.items():
            seen[name].append(run(prompt, n, *args)[field])

    median = {name: statistics.median(v) for name, v in seen.items()}
    for name, values in seen.items():
        e2e.say("%-14s %7.1f tokens/s (%.1f to %.1f)"
                % (name, median[name], min(values), max(values)))
    # Ratios of neighbours in time, so that what else the machine does cancels out.
    ratio = {what: statistics.median(s / l for s, l in zip(seen["split " + what],
                                                           seen["local " + what]))
             for what in ("decode", "prefill")}
    e2e.say("split/local decode  %.3f (at least .95)" % ratio["decode"])
    e2e.say("split/local prefill %.3f (at least 1.60)" % ratio["prefill"])
    if options.only_try:
        return 0
    return not (ratio["decode"] >= .95 and ratio["prefill"] >= 1.6
                and median["local prefill"] >= 80 and median["local decode"] >= 45)


sys.exit(main())
