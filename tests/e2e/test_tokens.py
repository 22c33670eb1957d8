#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Acceptance 2: `isthmus tokenize` gives the golden ids, and back."""
import e2e


def main():
    for name in ("smollm2", "qwen05"):
        cases = e2e.golden(name + "-tokens.jsonl")
        path = e2e.model(name)
        got = e2e.json_lines(
            e2e.isthmus("tokenize", "-m", path, text_in=e2e.lines_of(
                {"text": c["text"], "parse_special": c["parse_special"]} for c in cases)), "tokenize")
        e2e.check(len(got) == len(cases), "%d lines out of %d" % (len(got), len(cases)))
        same = 0
        for case, line in zip(cases, got):
            same += e2e.check(line["ids"] == case["ids"], "%s: %r: %r, expected %r"
                              % (name, case["text"][:60], line["ids"][:20], case["ids"][:20]))

        back = e2e.json_lines(
            e2e.isthmus("tokenize", "-m", path, "--decode", text_in=e2e.lines_of(
                {"ids": line["ids"]} for line in got)), "tokenize --decode")
        round_trips = 0
        for case, line in zip(cases, back):
            round_trips += e2e.check(line["text"] == case["text"], "%s: decoded %r, expected %r"
                                     % (name, line["text"][:60], case["text"][:60]))
        e2e.say("%s: %d of %d golden token lines the same, %d round trips"
                % (name, same, len(cases), round_trips))
        e2e.check(round_trips == len(cases), "round trips")
    e2e.finish()


main()
