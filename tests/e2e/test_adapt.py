#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Adaptation with the real model on a link whose rate changes: answers stay whole and halves agree, what cannot be
held is said, and what does not fit together is refused. How well limits are kept is measured, not tested:
tests/sim/sim_adapt.c in virtual time, tests/bench/adaptation.py with the real model."""
import json
import subprocess

import e2e

PROMPT = ("-p", "The history of the railway began", "--ignore-eos", "--json", "--threads", "1")
# Both ways: 1 Mbit/s, then 60 kbit/s, then 1 Mbit/s again.
LINK = "delay=5ms,rate=1mbit,rate@3s=60kbit,rate@9s=1mbit"
TOKENS = 330


def run(model, limit_ms, link=LINK, tokens=TOKENS):
    done = subprocess.run([e2e.BINARY, "run", "-m", model, *PROMPT, "-n", str(tokens), "--netem", link,
                           "--max-tpot", str(limit_ms)],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, timeout=e2e.TIMEOUT_S, check=False)
    e2e.check(done.returncode == 0, "exit code %d: %s" % (done.returncode, done.stderr[-500:]))
    return json.loads(done.stdout), done.stderr


def falls_and_rises(model):
    """The link's rate falls and comes back: the answer is whole, and both halves agree."""
    result, _ = run(model, 60)
    a = result["adaptation"]
    e2e.check(len(result["ids"]) == TOKENS, "the answer is whole")
    e2e.check(TOKENS - 4 < a["tokens"] < TOKENS, "the tokens were timed: %d" % a["tokens"])
    e2e.say("%d changes, level %d in the end, %d of %d tokens late" % (a["changes"], a["level"], a["late_tokens"],
                                                                       a["tokens"]))


def cannot_be_held(model):
    result, said = run(model, 1)
    e2e.check(not result["adaptation"]["holds"], "1 ms a token can't be held")
    e2e.check(said.count("no quality holds the limits") == 1, "which is said once: %s" % said[-500:])
    e2e.check(len(result["ids"]) == TOKENS, "and the answer is whole")


def refusals(model):
    for args, word in ((("--max-kl", ".01"), "--max-kl"),
                       (("--max-tpot", "50", "--max-kl", ".01"), "--profile"),
                       (("--max-tpot", "50", "--codec", "f16"), "quality"),
                       (("--max-tpot", "0"), "--max-tpot"),
                       (("--max-tpot", "50", "--local"), "--local")):
        done = e2e.isthmus("run", "-m", model, *PROMPT[:2], *args)
        e2e.check(done.returncode == 2 and word in done.stderr,
                  "%s: exit code %d: %s" % (args, done.returncode, done.stderr[-300:]))


def main():
    model = e2e.model("smollm2")
    refusals(model)
    falls_and_rises(model)
    cannot_be_held(model)
    e2e.finish()


main()
