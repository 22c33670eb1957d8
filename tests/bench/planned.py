#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What `isthmus plan` says beside what real edges and clouds do: resident memory of both, and over
emulated links the time to the first token and from token to token. A table for docs/planner.md, and
with --plot a picture.

    tests/bench/planned.py [--pair 10:sq3:DIR]     (an idle machine)
    tests/bench/planned.py --model qwen05
    tests/bench/planned.py --quick                 (a minute: that it works, and memory; times are not judged)

Prompts after a connection's first count: the first also waits until the link knows its path's rate. Exit code 1: a
time of one session was planned more than 15 % off what was measured, one from token to token of several came more than
15 % later than planned (a plan is for all of them in one step, and they may fall out of it), or memory is 5 % off.
"""
import argparse
import collections
import json
import os
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
import e2e  # noqa: E402  pylint: disable=wrong-import-position
import goals  # noqa: E402  pylint: disable=wrong-import-position
import planning  # noqa: E402  pylint: disable=wrong-import-position
import resident  # noqa: E402  pylint: disable=wrong-import-position

TSQ = "tsq:tau=4,delta=0.08,qmin=2,qmax=8"
WIDE = "tsq:tau=4,delta=0.2,qmin=2,qmax=8"
Case = collections.namedtuple("Case", "split front codec kv rate rtt_ms lost_percent chunk sessions")
CASES = {
    "smollm2": (
        Case(10, "keep", TSQ, "f16", "4mbit", 20, 0, 64, 1),
        Case(20, "keep", "f16", "f16", "4mbit", 20, 0, 64, 1),
        Case(10, "keep", "f16", "q8", "20mbit", 40, 0, 64, 1),
        Case(15, "keep", TSQ, "f16", "100mbit", 4, 0, 128, 1),
        Case(25, "keep", WIDE, "q8", "2mbit", 60, 0, 32, 1),
        Case(5, "keep", TSQ, "f16", "50mbit", 10, 0, 64, 1),
        Case(10, "keep", TSQ, "f16", "20mbit", 20, 0, 64, 4),
        Case(10, "keep", TSQ, "f16", "20mbit", 20, 1, 64, 1),
        Case(10, "sq3", TSQ, "f16", "4mbit", 20, 0, 64, 1),
    ),
    "qwen05": (
        Case(8, "keep", TSQ, "f16", "20mbit", 20, 0, 64, 1),
        Case(16, "keep", WIDE, "q8", "4mbit", 40, 0, 32, 1),
    ),
}
QUICK_CASES = (3, 7)
TIME_PERCENT, MEMORY_PERCENT = 15, 5
Pair = collections.namedtuple("Pair", "planned measured")


def plan(o, case, prompt):
    link = "rate=%s,rtt=%gms,loss=%g%%" % (case.rate, case.rtt_ms, case.lost_percent)
    done = e2e.isthmus("plan", "-m", o.path, "--edge", o.profile, "--cloud", o.profile, "--link", link, "--context",
                       prompt + o.answer, "--prompt", prompt, "--sessions", case.sessions, "--split", case.split,
                       "--codec", case.codec, "--kv", case.kv, "--front", case.front, "--back", "keep", "--chunk",
                       case.chunk, "--max-kl", 99, "--quality", o.quality, "--port", "memif:/x", "-o", o.folder, "--json")
    if done.returncode != 0:
        sys.exit("plan: exit code %d: %s%s" % (done.returncode, done.stdout, done.stderr))
    return json.loads(done.stdout)["plan"]


def real(o, case):
    """Median times of several prompts over one connection, and the most memory of both."""
    n, step = o.tokens * 2 // 3, len(o.words) // 12
    requests = [{"prompt": " ".join(o.words[i * step:i * step + n]), "n_predict": o.answer}
                for i in range(1 + (4 if case.sessions == 1 else case.sessions * 2))]
    where = ["-m", o.path, "--split", case.split] if case.front == "keep" else ["-m", o.pairs[case.split, case.front]]
    lossy = ",drop=%g%%" % case.lost_percent if case.lost_percent else ""
    answers, edge, cloud = resident.run_requests(
        requests, *where, "--codec", case.codec, "--kv", case.kv, "--chunk", case.chunk, "--threads", 1, "--ctx", 1024,
        "--parallel", case.sessions, "--ignore-eos", "--json", "--no-prefix-cache", "--netem",
        "rate=%s,delay=%gms%s" % (case.rate, case.rtt_ms / 2, lossy))
    warm = answers[1:]
    return {
        "prompt": round(statistics.median(len(a["prompt_ids"]) for a in warm)),
        "ttft_ms": statistics.median(a["ttft_ms"] for a in warm),
        "tpot_ms": statistics.median(1e3 / a["decode_tokens_per_s"] for a in warm),
        "first_ms": answers[0]["ttft_ms"],
        "edge_bytes": edge, "cloud_bytes": cloud,
    }


def compare(o, case):
    """Planned and measured of one case, and its line of the table. Prompts that wait for each other have no time to
    the first token of their own: measured None."""
    is_ = real(o, case)
    should = plan(o, case, is_["prompt"])
    pairs = {k: Pair(should[k + "_s"] * 1e3, is_[k + "_ms"]) for k in ("ttft", "tpot")}
    pairs.update((k, Pair(should[k + "_bytes"] / 1e6, is_[k + "_bytes"] / 1e6)) for k in ("edge", "cloud"))
    if case.sessions > 1:
        pairs["ttft"], pairs["step"] = Pair(pairs["ttft"].planned, None), pairs["tpot"]
    lossy = ", %g %% lost" % case.lost_percent if case.lost_percent else ""
    cells = [case.split, case.front, case.codec, case.kv, "%s, %g ms%s" % (case.rate, case.rtt_ms, lossy), case.chunk,
             case.sessions, *figures(pairs["ttft"], "%.0f"), "%.0f" % is_["first_ms"], *figures(pairs["tpot"], "%.2f"),
             *figures(pairs["edge"], "%.1f"), *figures(pairs["cloud"], "%.1f")]
    e2e.say("| " + " | ".join(map(str, cells)) + " |")
    if case.sessions > 1:
        del pairs["tpot"]
    return pairs


def figures(pair, form):
    if pair.measured is None:
        return [form % pair.planned, "-", "-"]
    return [form % pair.planned, form % pair.measured, "%.2f" % (pair.planned / pair.measured)]


def judge(points, quick):
    """The worst of each kind beside what it may be. 0, or 1."""
    g = goals.Goals("planned", "md")
    for what, keys, bound in (("time to the first token", ("ttft",), TIME_PERCENT),
                              ("time from token to token", ("tpot",), TIME_PERCENT),
                              ("memory of both halves", ("edge", "cloud"), MEMORY_PERCENT)):
        off = [100 * abs(p[k].planned / p[k].measured - 1) for p in points for k in keys if k in p and p[k].measured]
        if off and not (quick and bound == TIME_PERCENT):
            g.judge("%s, planned from measured, the worst" % what, max(off), "<=", bound, "%", of=len(off))
    beyond = [100 * (p["step"].measured / p["step"].planned - 1) for p in points if "step" in p]
    if beyond and not quick:
        g.judge("time from token to token of several sessions, beyond the plan, the worst", max(beyond), "<=",
                TIME_PERCENT, "%", of=len(beyond))
    return 1 if g.missed else 0


def draw(path, points):
    """Planned over measured, both axes logarithmic."""
    script = ["set terminal pngcairo size 640,560", "set output '%s'" % path, "set logscale xy", "set key left top",
              "set xlabel 'measured'", "set ylabel 'planned'", "set grid", "set xrange [5:3000]", "set yrange [5:3000]"]
    plots = ["x with lines lc 'gray' title 'equal'", "x*1.15 with lines dt 2 lc 'gray' title '15 %'",
             "x/1.15 with lines dt 2 lc 'gray' notitle"]
    data = []
    for keys, title in ((("ttft",), "TTFT, ms"), (("tpot", "step"), "TPOT, ms"), (("edge",), "edge, MB"),
                        (("cloud",), "cloud, MB")):
        plots.append("'-' using 2:1 with points pt 7 title '%s'" % title)
        data += ["%g %g" % p[k] for p in points for k in keys if k in p and p[k].measured] + ["e"]
    script.append("plot " + ", ".join(plots))
    subprocess.run(["gnuplot"], input="\n".join(script + data) + "\n", text=True, check=True)


def wanted(o):
    """The cases that can be run."""
    cases = CASES[o.model]
    if o.quick:
        cases = [cases[i] for i in QUICK_CASES]
    elif o.only:
        if not all(i.isdigit() and int(i) < len(cases) for i in o.only.split(",")):
            sys.exit("--only: numbers from 0 to %d" % (len(cases) - 1))
        cases = [cases[int(i)] for i in o.only.split(",")]
    for case in cases:
        if case.front == "keep" or (case.split, case.front) in o.pairs:
            yield case
        else:
            e2e.say("left out: a front of %d layers in %s; --pair %d:%s:DIR names its halves (docs/planner.md makes them)"
                    % (case.split, case.front, case.split, case.front))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", choices=CASES, default="smollm2")
    p.add_argument("--quality", help="its table (tools/quality-table); default: the one in docs/quality")
    p.add_argument("--profile", help="of this host; default: made now")
    p.add_argument("--pair", action="append", default=[], type=planning.pair, metavar="SPLIT:SCHEME:DIR",
                   help="halves of isthmus quantize with that front, the back kept")
    p.add_argument("--tokens", type=int, default=400, help="of a prompt, about")
    p.add_argument("--only", help="numbers of cases, from 0")
    p.add_argument("--plot", help="FILE.png, by gnuplot")
    p.add_argument("--quick", action="store_true")
    o = p.parse_args()
    if o.quick and (o.model != "smollm2" or o.only):
        p.error("--quick is of smollm2, and has its own cases")
    o.path, o.pairs, o.answer = e2e.model(o.model), dict(o.pair), 48
    o.quality = o.quality or planning.quality(o.model)
    with open(e2e.shared("eval/wikitext2-valid.txt"), encoding="utf-8") as f:
        o.words = f.read(300000).split()
    with tempfile.TemporaryDirectory(prefix="isthmus-planned-") as o.folder:
        if o.quick:
            o.tokens, o.answer = 120, 8
        if not o.profile:
            make = e2e.quick_profile if o.quick else planning.host_profile
            o.profile = make(o.path, os.path.join(o.folder, "host.json"))
        cases = list(wanted(o))
        if not cases:
            p.error("none of these cases can be run")
        e2e.say("| split | front | codec | KV | link | chunk | sessions | TTFT ms, planned | measured | ratio | first | "
                "TPOT ms, planned | measured | ratio | edge MB, planned | measured | ratio | cloud MB, planned | "
                "measured | ratio |\n|---:|" + "---|" * 4 + "---:|" * 15)
        points = [compare(o, case) for case in cases]
    e2e.say("")
    if o.plot:
        draw(o.plot, points)
    return judge(points, o.quick)


sys.exit(main())
