#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Adaptation with the real model on a link whose rate changes: fast, slow, fast. Without it the slow
part is over the limit; with it most tokens keep the limit, the quality falls and comes back, and both
halves agree all the time. And what does not fit together is refused."""
import json
import subprocess

import e2e

PROMPT = ("-p", "The history of the railway began", "--ignore-eos", "--json", "--threads", "1")
# Both ways: 1 Mbit/s, then 40 kbit/s, then 1 Mbit/s again.
SLOW, SLOW_MS = "40kbit", 8000
LINK = "delay=5ms,rate=1mbit,rate@3s=%s,rate@11s=1mbit" % SLOW
DELTA = .08  # of tsq, where nothing asks for another
TOKENS = 330


def run(model, limit_ms, link=LINK, tokens=TOKENS):
    done = subprocess.run([e2e.BINARY, "run", "-m", model, *PROMPT, "-n", str(tokens), "--netem", link,
                           "--max-tpot", str(limit_ms)],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, timeout=e2e.TIMEOUT_S, check=False)
    e2e.check(done.returncode == 0, "exit code %d: %s" % (done.returncode, done.stderr[-500:]))
    return json.loads(done.stdout), done.stderr


def holds_the_limit(model):
    """A limit between what the finest and what the coarsest takes on the slow link: 372 and 286 bytes of
    tsq, 74 and 57 ms there, beside all else, which runs that never adapt tell: the faster of two."""
    free = min((run(model, 100000, "delay=5ms,rate=%s" % SLOW, 40)[0] for _ in range(2)),
               key=lambda r: r["token_gap_ms_p50"])
    slow_ms = free["token_gap_ms_p50"]
    limit = slow_ms - 7
    adapted, said = run(model, limit)
    a = adapted["adaptation"]
    slow_tokens = SLOW_MS / slow_ms
    e2e.say("limit %.1f ms, the slow link without adaptation %.1f: %d of %d tokens late, of about %.0f on "
            "the slow link; %d changes, bytes a token %.0f instead of %.0f, parameter up to %.3g"
            % (limit, slow_ms, a["late_tokens"], a["tokens"], slow_tokens, a["changes"],
               adapted["bytes_per_token"], free["bytes_per_token"], adapted["parameter_max"] or 0))
    e2e.check(free["adaptation"]["changes"] == 0, "a limit far away changes nothing")
    e2e.check(TOKENS - 4 < a["tokens"] < TOKENS, "the tokens were timed: %d" % a["tokens"])
    e2e.check(a["late_tokens"] < .6 * slow_tokens, "most tokens keep the limit")
    e2e.check(a["changes"] >= 2 and "quality " in said, "it changed, and said so: %s" % said[-500:])
    # Few of all tokens are sent on the slow link, so that their bytes hardly show in the mean.
    e2e.check((adapted["parameter_max"] or 0) > 1.2 * DELTA, "coarser there: %s" % adapted["parameter_max"])
    e2e.check(a["level"] == 0, "and the best again when the link is back: %s" % a)


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
    holds_the_limit(model)
    cannot_be_held(model)
    e2e.finish()


main()
