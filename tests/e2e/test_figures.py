#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Figures of `isthmus eval` beside another engine's: perplexity over 40 windows, and HellaSwag with
what the default codec changes in its answers."""
import e2e


def evaluate(*args):
    return e2e.json_lines(e2e.isthmus("eval", "-m", e2e.model("smollm2"), *e2e.ONE_CORE, *args,
                                      timeout=3600), "eval " + " ".join(map(str, args)))[0]


def main():
    if e2e.QUICK:
        e2e.skip("its bounds are for whole texts")
    r = evaluate("--text", e2e.shared("eval/wikitext2-valid.txt"), "--chunks", "0-39", "--split", 29,
                 "--codec", "f16")
    e2e.say("perplexity, 40 windows: %.2f (another engine: 20.86)" % r["ppl_ref"])
    e2e.check(abs(r["ppl_ref"] / 20.86 - 1) < .01, "perplexity within 1 %")
    r = evaluate("--suite", "hellaswag", e2e.shared("eval/hellaswag-dev.jsonl"), "--split", 10)
    e2e.say("HellaSwag, %d items: acc_norm %.2f %% (reference %.2f %%), %d lost, %d gained; acc %.2f %% "
            "(%.2f %%), %d lost, %d gained"
            % (r["items"], 100 * r["acc_norm"], 100 * r["acc_norm_ref"], r["acc_norm_lost"],
               r["acc_norm_gained"], 100 * r["acc"], 100 * r["acc_ref"], r["acc_lost"], r["acc_gained"]))
    e2e.check(r["acc_norm_net"] >= -2, "net loss of the default codec <= 2 items")
    e2e.check(abs(r["acc_norm_ref"] - .405) <= .02, "near another engine's 40.5 %")
    e2e.finish()


main()
