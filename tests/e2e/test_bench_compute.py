#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`isthmus bench machine`, `compute` and `kernels`: they run, say what they measured beside which
bounds, and refuse what they cannot. No figure is judged but by others of the same run."""
import csv
import io
import os
import signal
import subprocess

import e2e

ENVIRONMENT = ("bench", "cpu", "kernel", "version", "commit")
MACHINE = ENVIRONMENT + ("bound", "isa", "threads", "rate", "sd", "unit", "loop", "bytes", "turns",
                         "dram_bytes", "huge_page_bytes", "cores")
COMPUTE = ENVIRONMENT + ("model", "layers", "kind", "tokens", "depth", "batch", "threads", "tokens_per_s",
                         "sd", "bound_ratio", "bound", "bound_gb_per_s", "bound_gop_per_s",
                         "weights_bytes", "kv", "kv_bytes_per_token", "chunk", "rounds", "huge_page_bytes",
                         "cores")
KERNELS = ENVIRONMENT + ("operation", "type", "rows", "cols", "tokens", "isa", "ns", "ns_sd", "gop_per_s",
                         "gb_per_s", "ratio_to_c", "bound_ratio", "bound", "bound_gb_per_s",
                         "bound_gop_per_s", "bytes", "turns")
UNITS = {"DRAM read": "GB/s", "DRAM copy": "GB/s", "L2 read": "GB/s", "L3 read": "GB/s",
         "int8 dot": "GOP/s", "f32 fma": "GFLOP/s"}
CORES = len(os.sched_getaffinity(0))


def bench(*args):
    done = e2e.isthmus("bench", *args)
    e2e.check(done.returncode == 0, "bench %s: exit %d, %s"
              % (" ".join(map(str, args)), done.returncode, done.stderr))
    return done


def lines(fields, *args):
    found = e2e.json_lines(bench(*args, "--format", "jsonl"), " ".join(map(str, args)))
    for l in found:
        e2e.check(set(l) >= set(fields), "%s lacks %s" % (l, set(fields) - set(l)))
    return found


def refused(*args, says):
    done = e2e.isthmus("bench", *args)
    e2e.check(done.returncode == 2 and says in done.stderr and not done.stdout,
              "bench %s: exit %d, %s" % (" ".join(map(str, args)), done.returncode, done.stderr))


def other_formats(fields, *args):
    """The same as csv and as a table for people."""
    rows = list(csv.DictReader(io.StringIO(bench(*args, "--format", "csv").stdout)))
    e2e.check(rows and all(set(r) >= set(fields) for r in rows), "csv: %s" % rows[:1])
    text = bench(*args).stdout
    table = [l for l in text.splitlines() if l.startswith("|")]
    e2e.check(len(table) == len(rows) + 2 and len({l.count("|") for l in table}) == 1, "md:\n" + text)
    e2e.check("isthmus 0." in text.splitlines()[0], "md:\n" + text)
    e2e.to_full_disk("bench", *args)


# --- machine -----------------------------------------------------------------------------------------


def machine():
    tiny = ("machine", "--time", ".05")
    found = lines(MACHINE, *tiny)
    threads = sorted({l["threads"] for l in found})
    e2e.check(threads == ([1, CORES] if CORES > 1 else [1]), "threads: %s" % threads)
    for l in found:
        e2e.check(l["unit"] == UNITS[l["bound"]] and l["rate"] > 0 and l["sd"] >= 0 and l["turns"] >= 5,
                  "rate: %s" % l)
        e2e.check((l["bytes"] or 0) <= l["dram_bytes"], "bytes: %s" % l)
        e2e.check((l["bytes"] is None) == (l["bound"] in ("int8 dot", "f32 fma")), "bytes: %s" % l)
    for n in threads:
        of = [l for l in found if l["threads"] == n]
        e2e.check({l["bound"] for l in of} >= set(UNITS) - {"L3 read"}, "bounds: %s" % of)
        e2e.check(len({(l["bound"], l["isa"]) for l in of}) == len(of), "each once: %s" % of)
    other_formats(MACHINE, *tiny, "--threads", 1)
    done = bench(*tiny, "--threads", 1000, "--format", "jsonl")
    e2e.check("only %d cores are allowed" % CORES in done.stderr, "clamped: " + done.stderr)
    for args in (["--threads", "0"], ["--time", "0"], ["--format", "xml"]):
        refused("machine", *args, says=args[0])
    e2e.say("machine: %d bounds" % len(found))


# --- compute -----------------------------------------------------------------------------------------


def check_compute(l):
    e2e.check(l["kind"] in ("prefill", "decode") and l["tokens_per_s"] > 0 and l["bound_ratio"] > 0
              and l["bound"] in ("memory", "products"), "result: %s" % l)
    e2e.check(l["bound_gb_per_s"] > 0 and l["bound_gop_per_s"] > 0 and l["weights_bytes"] > 0
              and l["kv_bytes_per_token"] > 0, "bound: %s" % l)
    if l["kind"] == "decode" and l["bound"] == "memory":
        read = l["weights_bytes"] + l["batch"] * l["kv_bytes_per_token"] * (
            l["depth"] + (l["tokens"] + 1) / 2)
        ratio = read * l["tokens_per_s"] / l["batch"] / l["bound_gb_per_s"] / 1e9
        e2e.check(abs(l["bound_ratio"] / ratio - 1) < 1e-3, "bytes over time over rate: %s" % l)


def compute():
    model = e2e.model("smollm2")
    tiny = ("compute", "-m", model, "--rounds", 2, "--chunk", 16)
    some = (*tiny, "--prefill", "1,33", "--decode", 3, "--threads", 1)
    found = lines(COMPUTE, *some, "--depth", "0,20", "--batch", "1,3")
    kinds = [(l["kind"], l["tokens"], l["depth"], l["batch"]) for l in found]
    e2e.check(kinds == [(k, t, d, b) for d in (0, 20) for k, t, b in (
        ("prefill", 1, 1), ("prefill", 33, 1), ("decode", 3, 1), ("decode", 3, 3))], "cases: %s" % kinds)
    for l in found:
        check_compute(l)
        e2e.check(l["threads"] == 1 and l["rounds"] == 2 and l["sd"] is not None
                  and l["layers"] == "0-30" and l["chunk"] == 16, "as asked: %s" % l)
    whole = found[0]

    # A stage, by default with one thread and with all; more sequences than one only without depth.
    found = lines(COMPUTE, *tiny, "--layers", "3-5", "--prefill", 2, "--decode", 1)
    e2e.check([(l["kind"], l["depth"], l["batch"], l["threads"]) for l in found] ==
              [(*c, t) for t in sorted({1, CORES}) for c in (
                  ("prefill", 0, 1), ("decode", 0, 1), ("decode", 0, 16), ("prefill", 2048, 1),
                  ("decode", 2048, 1))], "defaults: %s" % found)
    for l in found:
        check_compute(l)
        e2e.check(l["layers"] == "3-5" and l["weights_bytes"] < whole["weights_bytes"] / 5
                  and abs(l["kv_bytes_per_token"] * 15 / whole["kv_bytes_per_token"] - 1) < .01,
                  "two layers of 30: %s, %s" % (l, whole))
    one = (*tiny, "--layers", "28-30", "--prefill", 4, "--decode", 0, "--depth", 0, "--threads", 1)
    other_formats(COMPUTE, *one)
    done = bench(*one[:-1], 999, "--format", "jsonl")
    e2e.check("only %d cores are allowed" % CORES in done.stderr, "clamped: " + done.stderr)

    refused("compute", says="-m FILE")
    refused("compute", "-m", "/nothing", says="/nothing")
    for args in (["--threads", "0"], ["--batch", "0"], ["--rounds", "0"], ["--chunk", "x"],
                 ["--layers", "5"], ["--layers", "5-5"], ["--layers", "0-3x"], ["--depth", "-1"],
                 ["--format", "xml"]):
        refused("compute", "-m", model, *args, says=args[0])
    refused("compute", "-m", model, "--depth", 8100, says="--depth 8100 and 512 tokens more are 8612")
    refused("compute", "-m", model, "--prefill", 0, "--decode", 0, says="nothing is left")
    done = e2e.isthmus("bench", "compute", "-m", model, "--layers", "0-31")
    e2e.check(done.returncode == 2 and "the model has 30" in done.stderr, "layers: " + done.stderr)
    e2e.say("compute: %d cases" % len(kinds))


def interrupted():
    process = subprocess.Popen([e2e.BINARY, "bench", "compute", "-m", e2e.model("smollm2"), "--rounds",
                                "1000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    head = process.stdout.readline()  # by then signals are caught
    process.send_signal(signal.SIGINT)
    try:
        out, err = process.communicate(timeout=120)
        e2e.check(process.returncode == 130 and head, "^C: exit %d, %s" % (process.returncode, err[-500:]))
    except subprocess.TimeoutExpired:
        process.kill()
        e2e.check(False, "^C: no end")


# --- kernels -----------------------------------------------------------------------------------------


def kernels():
    tiny = ("kernels", "--time", ".005")
    found = lines(KERNELS, *tiny, "--type", "q4_1,Q6_K,f16", "--shape", "48x256", "--tokens", "1,5")
    isas = sorted({l["isa"] for l in found})
    products = [l for l in found if l["operation"] == "product"]
    e2e.check("c" in isas and len(products) == 3 * 2 * len(isas), "%d products" % len(products))
    e2e.check({(l["type"], l["tokens"]) for l in products} ==
              {(t, n) for t in ("Q4_1", "Q6_K", "F16") for n in (1, 5)}, "cases: %s" % products)
    for l in found:
        e2e.check(l["ns"] > 0 and l["gb_per_s"] > 0 and l["bound_ratio"] > 0, "result: %s" % l)
        e2e.check(abs(l["gb_per_s"] * l["ns"] / l["bytes"] - 1) < 1e-4, "two ways to say it: %s" % l)
        e2e.check(l["isa"] != "c" or l["ratio_to_c"] == 1, "C beside itself: %s" % l)
        e2e.check(l["turns"] >= (3 if l["isa"] == "c" else 5), "turns: %s" % l)
    for l in products:
        e2e.check((l["rows"], l["cols"]) == (48, 256), "shape: %s" % l)
        e2e.check(abs(l["gop_per_s"] * l["ns"] / (2 * 48 * 256 * l["tokens"]) - 1) < 1e-4,
                  "two for a multiply-add: %s" % l)
        least = max(l["bytes"] / l["bound_gb_per_s"], 2 * 48 * 256 * l["tokens"] / l["bound_gop_per_s"])
        e2e.check(abs(l["bound_ratio"] * l["ns"] / least - 1) < 1e-3, "bound: %s" % l)
    rows = {l["operation"] for l in found} - {"product"}
    e2e.check(rows >= {"rmsnorm", "silu_mul", "quantize"} and any("attend" in r for r in rows),
              "row operations: %s" % rows)
    other_formats(KERNELS, *tiny, "--type", "q8_0", "--shape", "16x32", "--tokens", 1, "--cpu-mask", "c")
    for args in (["--type", "q3_x"], ["--type", ","], ["--shape", "16"], ["--shape", "16x33"],
                 ["--shape", "0x32"], ["--shape", "16x32y"], ["--tokens", "0"], ["--time", "0"],
                 ["--cpu-mask", "mmx"], ["--format", "xml"]):
        refused("kernels", *args, says=args[0])
    refused("kernels", "--type", "q4_k", "--shape", "16x32", says="multiples of 256")
    e2e.say("kernels: %d lines, instruction sets: %s" % (len(found), ", ".join(isas)))


def main():
    machine()
    kernels()
    compute()
    interrupted()
    e2e.finish()


main()
