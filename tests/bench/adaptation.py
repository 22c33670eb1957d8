#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How well adaptation keeps a limit, with the real model on a link whose rate falls and comes back: 1 Mbit/s, then
60 kbit/s from 3 to 9 s, then 1 Mbit/s. On the slow link a token of tsq takes 50 ms at its finest and 38 at its
coarsest, beside all else, which a run that never adapts tells; the limit lies 4 ms below that.

usage: tests/bench/adaptation.py [--rounds N]

Prints a line a round. Exit code 1 where in none of them more than 40 % of the tokens on the slow link kept the limit.
Needs an idle machine.
"""
import argparse
import json
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
import e2e  # noqa: E402

SLOW, SLOW_MS, TOKENS = "60kbit", 6000, 330
LINK = "delay=5ms,rate=1mbit,rate@3s=%s,rate@9s=1mbit" % SLOW


def run(model, limit_ms, link, tokens):
    done = subprocess.run([e2e.BINARY, "run", "-m", model, "-p", "The history of the railway began", "--ignore-eos",
                           "--json", "--threads", "1", "-n", str(tokens), "--netem", link, "--max-tpot",
                           str(limit_ms)],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          timeout=e2e.TIMEOUT_S, check=False)
    if done.returncode != 0:
        sys.exit("exit code %d: %s" % (done.returncode, done.stderr[-500:]))
    return json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    o = parser.parse_args()
    model, kept = e2e.model("smollm2"), 0
    for _ in range(o.rounds):
        slow_ms = run(model, 100000, "delay=5ms,rate=%s" % SLOW, 60)["token_gap_ms_p50"]
        limit = slow_ms - 4
        adapted = run(model, limit, LINK, TOKENS)
        a, slow_tokens = adapted["adaptation"], SLOW_MS / slow_ms
        kept = max(kept, 1 - a["late_tokens"] / slow_tokens)
        e2e.say("limit %.1f ms, the slow link without adaptation %.1f: %d of %d tokens late, of about %.0f on the slow "
                "link; %d changes, parameter up to %.3g, level %d in the end"
                % (limit, slow_ms, a["late_tokens"], a["tokens"], slow_tokens, a["changes"],
                   adapted["parameter_max"] or 0, a["level"]))
    return 0 if kept > .4 else 1


sys.exit(main())
