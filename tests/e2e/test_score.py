#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Acceptance 3: log-probabilities of forced ids against the references.

smollm2: an f32 reference's top 20; the same argmax at >= 97.5 % of positions, mean |difference| over
the reference's top 3 <= .060. qwen05: against another engine's greedy run, argmax >= 95 %.
"""
import e2e


def score(model, cases):
    return e2e.json_lines(
        e2e.isthmus("score", "-m", e2e.model(model), "--local", *e2e.ONE_CORE, text_in=e2e.lines_of(
            {"prompt_ids": c["prompt_ids"], "forced_ids": c["forced_ids"]} for c in cases)), "score")


def compare(cases, got, reference):
    """(positions, share with the reference's argmax, mean |difference| over its top 3)."""
    positions = same = n = 0
    total = 0.0
    for case, line in zip(cases, got):
        if not e2e.check(len(line["top20"]) == len(case["forced_ids"]), "positions of a line"):
            continue
        for ours, theirs in zip(line["top20"], case[reference]):
            positions += 1
            same += ours[0][0] == theirs[0][0]
            logprobs = {i: p for i, p in ours}
            for i, p in theirs[:3]:
                # Outside our top 20 it is at most our 20th: the difference is at least that.
                total += abs(p - logprobs.get(i, ours[-1][1]))
                n += 1
    return positions, same / positions, total / n


def main():
    n = 4 if e2e.QUICK else None
    cases = e2e.golden("smollm2-logprobs-f32.jsonl")[:n]
    positions, same, difference = compare(cases, score("smollm2", cases), "top20")
    e2e.say("smollm2 against f32: same argmax at %.1f %% of %d positions, mean |difference| %.4f"
            % (100 * same, positions, difference))
    if not e2e.QUICK:  # the bounds are for the whole set
        e2e.check(same >= .975, "same argmax >= 97.5 %")
        e2e.check(difference <= .060, "mean |difference| <= .060")
    else:
        e2e.check(same >= .95 and difference <= .08, "argmax and difference of the short set")

    cases = [{**c, "forced_ids": c["ids"]} for c in e2e.golden("qwen05-greedy.jsonl")][:n]
    positions, same, difference = compare(cases, score("qwen05", cases), "top")
    e2e.say("qwen05: same argmax at %.1f %% of %d positions" % (100 * same, positions))
    e2e.check(same >= (.93 if e2e.QUICK else .95), "same argmax >= 95 %")
    e2e.finish()


main()
