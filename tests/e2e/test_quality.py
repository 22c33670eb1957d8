#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Acceptance 5: `--codec tsq` at split 10: at most a third of f16's bytes, mean KL <= .0065 on the
first 4,096 tokens of wikitext2-valid.txt with exact arithmetic; the production kernels beside it."""
import e2e

F16_BYTES = 1152.0


def evaluate(tokens, *args):
    lines = e2e.json_lines(
        e2e.isthmus("eval", "-m", e2e.model("smollm2"), "--text",
                    e2e.shared("eval/wikitext2-valid.txt"), "--split", "10", "--codec", "tsq",
                    "--tokens", tokens, "--format", "jsonl", *args, timeout=1800), "eval")
    return [l for l in lines if l["codec"].startswith("tsq")][0]


def main():
    tokens = 512 if e2e.QUICK else 4096
    for name, args in (("exact", ["--exact"]), ("production", [])):
        r = evaluate(tokens, *args)
        e2e.say("%s: %s tokens, %.1f bytes/token (f16 %.0f), mean KL %.5f, p99 %.4f, top-1 %.3f"
                % (name, tokens, r["bytes_per_token"], F16_BYTES, r["kl_mean"], r["kl_p99"],
                   r["top1_agreement"]))
        e2e.check(r["bytes_per_token"] <= F16_BYTES / 3, "bytes per token <= 1/3 of f16's")
        # The bound is for the 4,096 tokens with exact arithmetic.
        e2e.check(r["kl_mean"] <= (.0065 if name == "exact" and not e2e.QUICK else .02), "mean KL")
    e2e.finish()


main()
