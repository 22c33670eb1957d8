#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What `isthmus quantize` costs in quality, as a table: the front of a model in a scheme and its back as it
is, at several splits, against the whole model at one width, whose layers at the edge take as many bytes.
Perplexity and mean KL divergence by `isthmus eval --reference`, multiple choice by `--suite`.

    tests/bench/quality.py -m MODEL --text wikitext2-valid.txt --calibration PROFILE --results FILE.jsonl \\
        --front sq3 --front Q4_0 --splits 5,10,15,20,25 --uniform sq3 --uniform Q4_0
    tests/bench/quality.py --calibrate 60-91 --chunks 0-7 --exact --front sq3 --splits 10 --most-kl .10
    tests/bench/quality.py --quick            (minutes of one core: that it works, with few tokens)

Minutes a scheme, and more for the suites (--suites FOLDER: hellaswag-dev.jsonl, arc-easy-dev.jsonl,
piqa-dev.jsonl, for the cells that --suite-cells names and the model as it is). What was measured is in
--results and is not measured again, whatever ended the run before; --work keeps the quantized halves.
Intervals are of 95 % (Wilson's). "bits": of the edge's matrices, tables and exact weights counted in.
Exit code 1: a row's mean KL is above --most-kl, or its bits above --most-bits, as the table shows them.
"""
import argparse
import math
import os
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "..", "tools"), os.path.join(HERE, "..", "e2e")]
import e2e  # noqa: E402  pylint: disable=wrong-import-position
import pair  # noqa: E402  pylint: disable=wrong-import-position
import pairs  # noqa: E402  pylint: disable=wrong-import-position

SUITES = (("hellaswag", "hellaswag-dev.jsonl", "acc_norm", "HellaSwag"),
          ("arc", "arc-easy-dev.jsonl", "acc", "ARC-easy"), ("piqa", "piqa-dev.jsonl", "acc", "PIQA"))


def wilson(share, n):
    """95 % interval of a share, in percent."""
    z2 = 1.96 ** 2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    reach = 1.96 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return 100 * (middle - reach), 100 * (middle + reach)


def rows_of(o, n_layers):
    """What is asked for: (front, back, split, options) of each row."""
    rows = []
    for front in o.front:
        scheme, *options = front.split()
        rows += [(scheme, "keep", split, tuple(options)) for split in o.splits]
    for uniform in o.uniform:
        scheme, *options = uniform.split()
        rows.append((scheme, scheme, n_layers - 1, tuple(options)))
    return rows


def suite_text(o, made, results, row, deepest):
    cells = []
    for suite, name, which, _ in SUITES:
        path = os.path.join(o.suites, name)
        r = made.measure_suite(results, *row[:3], deepest, suite, path, o.items, row[3])
        low, high = wilson(r[which], r["n"])
        cells.append("%.1f (%.1f-%.1f)" % (100 * r[which], low, high))
    return cells


def named(row, n_layers):
    front, back, split, options = row
    if back == "keep":
        return "front %d %s" % (split, " ".join([front, *options]))
    return "all %d %s" % (n_layers, " ".join([front, *options]))


def table(o, made, results, n_layers, weights):
    """0; 1 where a row is beyond what was asked."""
    beyond = 0
    deepest = n_layers - 1
    wanted = set(o.suite_cells)
    head = ["layers, scheme", "edge MB", "bits", "perplexity", "mean KL", "top-1"]
    head += [s[3] for s in SUITES] if o.suites else []
    print("| " + " | ".join(head) + " |\n|---" + "|---:" * (len(head) - 1) + "|")
    if o.suites:
        print("| as it is | | | | | | " + " | ".join(
            suite_text(o, made, results, ("keep", "keep", 0, ()), deepest)) + " |", flush=True)
    for row in rows_of(o, n_layers):
        front, back, split, options = row
        deep = max(o.splits) if back == "keep" else deepest
        r = made.measure(results, front, back, split, deep, o.text, o.chunks, options, o.exact)
        layers = split if back == "keep" else n_layers
        size = r["edge_bytes"] if back == "keep" else r["all_bytes"]
        bits, kl = round(8 * size / weights / layers * n_layers, 3), round(r["half_kl_mean"], 3)
        cells = [named(row, n_layers), "%.1f" % (size / 1e6), "%.3f" % bits,
                 "%.2f (%.2f)" % (r["half_ppl"], r["half_ppl_ref"]), "%.3f" % kl, "%.3f" % r["half_top1"]]
        if o.suites:
            asked = "%s:%d" % (front, split) in wanted or (back != "keep" and front in wanted)
            cells += suite_text(o, made, results, row, deep) if asked else ["-"] * len(SUITES)
        print("| " + " | ".join(cells) + " |", flush=True)
        for what, is_, most in (("mean KL", kl, o.most_kl), ("bits", bits, o.most_bits)):
            if most is not None and is_ > most:
                beyond = 1
                print("%s: %s of %.3f, at most %g wanted" % (cells[0], what, is_, most), file=sys.stderr)
    return beyond


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-m", "--model")
    p.add_argument("--text")
    p.add_argument("--chunks", default="0-3", help="windows of 512 tokens; second halves count (default 0-3)")
    p.add_argument("--exact", action="store_true", help="f32 arithmetic, not that of production")
    p.add_argument("--calibration")
    p.add_argument("--calibrate", metavar="CHUNKS", help="instead: make one first, of these windows of the text")
    p.add_argument("--front", action="append", default=[],
                   help="a scheme, with options of isthmus quantize behind it ('sq3 --sparse 0')")
    p.add_argument("--splits", default="5,10,15,20,25")
    p.add_argument("--uniform", action="append", default=[],
                   help="a scheme of all layers, likewise")
    p.add_argument("--suites", metavar="FOLDER")
    p.add_argument("--suite-cells", default="", help="sq3:10,sq3: front sq3 at split 10, and all layers sq3")
    p.add_argument("--items", type=int, default=0, help="only the first of a suite (default: all)")
    p.add_argument("--most-kl", type=float, help="mean KL that no row may pass")
    p.add_argument("--most-bits", type=float, help="bits a weight that no row may pass")
    p.add_argument("--results", help="JSON lines")
    p.add_argument("--work", help="folder")
    p.add_argument("--threads", default=1)
    p.add_argument("--quick", action="store_true")
    o = p.parse_args()
    if o.quick:
        o.front, o.splits, o.uniform, o.chunks = ["Q4_0"], "10,20", ["Q4_0"], "0-0"
        o.suites, o.suite_cells, o.items = e2e.shared("eval"), "Q4_0:10,Q4_0", 5
    o.model = o.model or e2e.model("smollm2")
    o.text = o.text or e2e.shared("eval/wikitext2-valid.txt")
    if not o.front + o.uniform:
        p.error("no rows: --front or --uniform names a scheme")
    o.splits = sorted(int(s) for s in o.splits.split(","))
    o.suite_cells = o.suite_cells.split(",")
    whole = pair.Model(o.model)
    weights = sum(math.prod(t.ne) for t in whole.tensors.values()
                  if t.name.startswith("blk.") and t.name.split(".")[2] in pair.LINEAR and t.name.endswith(".weight"))
    n_layers = whole.n_layers
    del whole
    with tempfile.TemporaryDirectory(prefix="isthmus-quality-") as folder:
        made = pairs.Pairs(o.model, o.work or folder, o.calibration, o.threads)
        if o.calibrate:
            made.calibration = os.path.join(made.folder, "calibration-" + o.calibrate)
            pairs.run("calibrate", "-m", o.model, "--text", o.text, "--chunks", o.calibrate, "--split", n_layers - 1,
                      "--samples", 1, "--classes", 0, "--threads", o.threads, "-o", made.calibration)
        return table(o, made, pairs.Results(o.results), n_layers, weights)


sys.exit(main())
