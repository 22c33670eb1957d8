#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`isthmus bench`: it runs, says what it measured, and refuses what it cannot. No figure is judged."""
import csv
import io
import itertools
import json

import e2e

FIELDS = ("bench", "codec", "cols", "rows", "isa", "bits_per_value", "read_gb_per_s",
          "copy_gb_per_s", "dram_read_gb_per_s", "dram_copy_gb_per_s", "working_set_bytes", "turns",
          "seed", "cpu", "version", "commit")
OF_LAYER = ("encode_ratio_to_layer", "analysis_ratio_to_layer", "decode_ratio_to_layer",
            "synthesis_ratio_to_layer")
MEASURED = tuple("%s_%s" % d for d in itertools.product(
    ("encode", "decode"), ("ns_per_row", "ns_per_row_median", "ns_per_row_sd", "gvalues_per_s",
                           "ratio_to_c"))) + ("encode_ratio_to_reading", "decode_ratio_to_copying")


def codec(*args):
    done = e2e.isthmus("bench", "codec", "--time", ".01", *args)
    e2e.check(done.returncode == 0, "bench codec %s: exit %d, %s"
              % (" ".join(args), done.returncode, done.stderr))
    return done


def dispatch():
    e2e.check(e2e.isthmus("bench").returncode == 2, "bench alone says what there is")
    done = e2e.isthmus("bench", "nothing")
    e2e.check(done.returncode == 2 and "no benchmark `nothing`" in done.stderr, done.stderr)
    for args in (["--cols", "0"], ["--cols", "16385"], ["--cols", ","], ["--rows", "1,2000"],
                 ["--codec", "zip"], ["--codec", "rans:lanes=7"], ["--format", "xml"], ["--time", "0"], ["--cpu-mask", "mmx"]):
        done = e2e.isthmus("bench", "codec", *args)
        e2e.check(done.returncode == 2 and args[0] in done.stderr.replace("codec `", "--codec `"),
                  "bench codec %s: exit %d, %s" % (args, done.returncode, done.stderr))


def json_lines():
    lines = e2e.json_lines(codec("--format", "jsonl", "--cols", "33,576", "--rows", "1,9"), "jsonl")
    isas = {l["isa"] for l in lines}
    isas_best = max(isas, key=("c", "avx2", "avx512").index)
    e2e.check("c" in isas and len(lines) == 8 * 2 * 2 * len(isas), "%d lines" % len(lines))
    for l in lines:
        e2e.check(list(l) and all(f in l for f in FIELDS + MEASURED + OF_LAYER), "fields: %s" % l)
        for f in MEASURED:
            e2e.check(l[f] > 0 or (f.endswith("_sd") and l[f] == 0), "%s: %s" % (f, l))
        for d in ("encode_", "decode_"):
            e2e.check(l[d + "ns_per_row"] <= l[d + "ns_per_row_median"], "best and median: %s" % l)
            e2e.check(abs(l[d + "gvalues_per_s"] * l[d + "ns_per_row"] / l["cols"] - 1) < 1e-4,
                      "two ways to say one speed: %s" % l)
        e2e.check(l["isa"] != "c" or l["encode_ratio_to_c"] == 1, "C beside itself: %s" % l)
        e2e.check(l["turns"] >= 5 and l["bench"] == "codec", "turns: %s" % l)
        layer = l["codec"].startswith("xform") and l["cols"] % 32 == 0 and l["isa"] == isas_best
        e2e.check(all((l[f] or 0) > 0 if layer else l[f] is None for f in OF_LAYER),
                  "beside a layer: %s" % l)
    by_codec = {l["codec"].split(",")[0]: l["bits_per_value"] for l in lines
                if l["cols"] == 576 and l["rows"] == 9}
    e2e.check(by_codec["f32"] > by_codec["f16"] > by_codec["tsq:tau=4"] > by_codec["rans:lanes=16"], "bits: %s" % by_codec)
    e2e.say("%d lines, instruction sets: %s" % (len(lines), ", ".join(sorted(isas))))


def other_formats():
    narrow = ("--cols", "64", "--rows", "2", "--cpu-mask", "c", "--codec", "tsq:tau=3", "--codec", "f16")
    rows = list(csv.DictReader(io.StringIO(codec("--format", "csv", *narrow).stdout)))
    e2e.check([r["codec"].split(",")[0] for r in rows] == ["tsq:tau=3", "f16"], "csv: %s" % rows)
    e2e.check(all(r["isa"] == "c" and set(FIELDS + MEASURED) <= set(r) for r in rows), "csv: %s" % rows)
    text = codec(*narrow).stdout
    table = [l for l in text.splitlines() if l.startswith("|")]
    e2e.check(len(table) == 4 and len({l.count("|") for l in table}) == 1, "md:\n" + text)
    e2e.to_full_disk("bench", "codec", *narrow)
    e2e.check("isthmus 0." in text.splitlines()[0] and "GB/s" in text.splitlines()[0], "md:\n" + text)


def same_rows():
    sizes = [json.loads(codec("--format", "jsonl", "--cols", "999", "--rows", "1", "--codec", "tsq",
                              "--cpu-mask", "c", "--seed", seed).stdout)["bits_per_value"]
             for seed in ("1", "1", "2")]
    e2e.check(sizes[0] == sizes[1] != sizes[2], "a seed's rows: %s bits" % sizes)


def main():
    dispatch()
    json_lines()
    other_formats()
    same_rows()
    e2e.finish()


main()
