#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Adaptation with the real model on a link whose rate changes: answers stay whole and halves agree, what cannot be
held is said, and what does not fit together is refused; with a profile: test_profile.py. How well limits are kept is
measured, not tested: tests/sim/sim_adapt.c in virtual time, tests/bench/adaptation.py with the real model."""
import json
import subprocess

import e2e

PROMPT = ("-p", "The history of the railway began", "--ignore-eos", "--json", "--threads", "1")
# Both ways: fast, then so slow that a token of the finest takes 73 ms to send, of the coarsest 56, then fast again.
SLOW = "40kbit"
LINK = "delay=5ms,rate=1mbit,rate@3s=%s,rate@13s=1mbit" % SLOW
TOKENS = 330


def run(model, limit_ms, link=LINK, tokens=TOKENS):
    done = subprocess.run([e2e.BINARY, "run", "-m", model, *PROMPT, "-n", str(tokens), "--netem", link,
                           "--max-tpot", str(limit_ms)],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, timeout=e2e.TIMEOUT_S, check=False)
    e2e.check(done.returncode == 0, "exit code %d: %s" % (done.returncode, done.stderr[-500:]))
    return json.loads(done.stdout), done.stderr


def falls_and_rises(model):
    """The link's rate falls and comes back: coarser rows are sent and given up again, the answer is whole, and both
    halves agree. The limit is below what the slow link takes without adaptation."""
    slow, _ = run(model, 100000, "delay=5ms,rate=%s" % SLOW, 40)
    e2e.check(slow["adaptation"]["changes"] == 0, "nothing changes where the limit is far: %s" % slow["adaptation"])
    result, _ = run(model, .88 * slow["token_gap_ms_p50"])
    a, coarsest = result["adaptation"], result["parameter_max"] or 0
    e2e.check(len(result["ids"]) == TOKENS, "the answer is whole")
    e2e.check(TOKENS - 4 < a["tokens"] < TOKENS, "the tokens were timed: %d" % a["tokens"])
    e2e.say("limit %.1f ms; %d changes, delta up to %.3g, %.3g (level %d) in the end, %d of %d tokens late"
            % (a["max_tpot_ms"], a["changes"], coarsest, a["parameter"], a["level"], a["late_tokens"], a["tokens"]))
    e2e.check(a["changes"] >= 2, "it was changed, and back: %s" % a)
    e2e.check(coarsest > .1, "coarser rows than the usual .08 were sent: %s" % coarsest)
    e2e.check(a["parameter"] < .9 * coarsest, "and given up again: %s" % a)


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
