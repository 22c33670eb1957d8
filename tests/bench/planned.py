#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What `isthmus plan` says beside what real edges and clouds do: resident memory of both, and over
emulated links the time to the first token and from token to token. A table for docs/planner.md, and
with --plot a picture.

    tests/bench/planned.py --quality docs/quality/smollm2-135m.json        (an idle machine)

Prompts after a connection's first count: the first also waits until the link knows its path's rate.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
import e2e  # noqa: E402  pylint: disable=wrong-import-position
import resident  # noqa: E402  pylint: disable=wrong-import-position

TSQ = "tsq:tau=4,delta=0.08,qmin=2,qmax=8"
WIDE = "tsq:tau=4,delta=0.2,qmin=2,qmax=8"
# split, codec, KV, rate, RTT in ms, chunk, sessions
LINKS = (
    (10, TSQ, "f16", "4mbit", 20, 64, 1),
    (20, "f16", "f16", "4mbit", 20, 64, 1),
    (10, "f16", "q8", "20mbit", 40, 64, 1),
    (15, TSQ, "f16", "100mbit", 4, 128, 1),
    (25, WIDE, "q8", "2mbit", 60, 32, 1),
    (5, TSQ, "f16", "50mbit", 10, 64, 1),
    (10, TSQ, "f16", "20mbit", 20, 64, 4),
)
N_PREDICT = 48


def plan(o, profile, split, codec, kv, link, chunk, context, prompt, sessions=1):
    done = e2e.isthmus("plan", "-m", o.model, "--edge", profile, "--cloud", profile, "--link", link, "--context",
                       context, "--prompt", prompt, "--sessions", sessions, "--split", split, "--codec", codec,
                       "--kv", kv, "--front", "keep", "--back", "keep", "--chunk", chunk, "--max-kl", 99,
                       "--quality", o.quality, "--port", "memif:/x", "-o", o.folder, "--json")
    if done.returncode != 0:
        sys.exit("plan: exit code %d: %s%s" % (done.returncode, done.stdout, done.stderr))
    return json.loads(done.stdout)["plan"]


def real(o, split, codec, kv, rate, rtt, chunk, sessions, n_tokens):
    """Median times of several prompts over one connection, and the memory of both at the end."""
    words = o.words
    step = len(words) // 12
    requests = [{"prompt": " ".join(words[i * step:i * step + n_tokens * 2 // 3]), "n_predict": N_PREDICT}
                for i in range(1 + (4 if sessions == 1 else sessions * 2))]
    netem = ["--netem", "rate=%s,delay=%gms" % (rate, rtt / 2)] if rate else []
    answers, edge, cloud = resident.run_requests(requests, "-m", o.model, "--split", split, "--codec", codec, "--kv", kv, "--chunk",
                             chunk, "--threads", 1, "--ctx", 1024, "--parallel", sessions, "--ignore-eos",
                             "--json", "--no-prefix-cache", *netem)
    warm = answers[1:]
    return {
        "prompt": round(statistics.median(len(a["prompt_ids"]) for a in warm)),
        "ttft_ms": statistics.median(a["ttft_ms"] for a in warm),
        "tpot_ms": statistics.median(1e3 / a["decode_tokens_per_s"] for a in warm),
        "first_ms": answers[0]["ttft_ms"],
        "edge_bytes": edge, "cloud_bytes": cloud,
    }


def ratio(planned, measured):
    return "%.2f" % (planned / measured)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model")
    p.add_argument("--quality", required=True, help="the model's table (tools/quality-table)")
    p.add_argument("--profile", help="of this host; default: made now")
    p.add_argument("--tokens", type=int, default=400, help="of a prompt, about")
    p.add_argument("--only", help="numbers of cases, from 0")
    p.add_argument("--plot", help="FILE.png, by gnuplot")
    o = p.parse_args()
    o.model = o.model or e2e.model("smollm2")
    o.folder = tempfile.mkdtemp(prefix="isthmus-planned-")
    with open(e2e.shared("eval/wikitext2-valid.txt"), encoding="utf-8") as f:
        o.words = f.read(300000).split()
    profile = o.profile or os.path.join(o.folder, "host.json")
    if not o.profile:
        done = e2e.isthmus("profile", "-m", o.model, "-o", profile)
        if done.returncode != 0:
            sys.exit(done.stderr)
    cases = [LINKS[int(i)] for i in o.only.split(",")] if o.only else LINKS
    print("| split | codec | KV | link | chunk | sessions | TTFT ms, planned | measured | ratio | first | TPOT ms, "
          "planned | measured | ratio | edge MB, planned | measured | ratio | cloud MB, planned | measured | ratio |")
    print("|" + "---|" * 4 + "---:|" * 15, flush=True)
    points = []
    for split, codec, kv, rate, rtt, chunk, sessions in cases:
        is_ = real(o, split, codec, kv, rate, rtt, chunk, sessions, o.tokens)
        link = "rate=%s,rtt=%gms" % (rate, rtt)
        should = plan(o, profile, split, codec, kv, link, chunk, is_["prompt"] + N_PREDICT, is_["prompt"], sessions)
        times = [(should[k + "_s"] * 1e3, is_[k + "_ms"]) for k in ("ttft", "tpot")]
        sizes = [(should[k + "_bytes"] / 1e6, is_[k + "_bytes"] / 1e6) for k in ("edge", "cloud")]
        if sessions > 1:  # prompts that wait for each other have no time of their own
            times[0] = (times[0][0], float("nan"))
        points.append((times, sizes))
        cells = [split, codec, kv, "%s, %g ms" % (rate, rtt), chunk, sessions]
        cells += ["%.0f" % times[0][0], "%.0f" % times[0][1], ratio(*times[0]), "%.0f" % is_["first_ms"]]
        cells += ["%.2f" % times[1][0], "%.2f" % times[1][1], ratio(*times[1])]
        for pair in sizes:
            cells += ["%.1f" % pair[0], "%.1f" % pair[1], ratio(*pair)]
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    if o.plot:
        draw(o.plot, points)


def draw(path, points):
    """Planned over measured, both axes logarithmic."""
    series = (("TTFT, ms", [t[0] for t, _ in points]), ("TPOT, ms", [t[1] for t, _ in points]),
              ("edge, MB", [s[0] for _, s in points]), ("cloud, MB", [s[1] for _, s in points]))
    script = ["set terminal pngcairo size 640,560", "set output '%s'" % path, "set logscale xy", "set key left top",
              "set xlabel 'measured'", "set ylabel 'planned'", "set grid", "set xrange [5:3000]", "set yrange [5:3000]"]
    plots = ["x with lines lc 'gray' title 'equal'", "x*1.15 with lines dt 2 lc 'gray' title '15 %'",
             "x/1.15 with lines dt 2 lc 'gray' notitle"]
    data = []
    for title, pairs in series:
        plots.append("'-' using 2:1 with points pt 7 title '%s'" % title)
        data += ["%g %g" % pair for pair in pairs if pair[1] == pair[1]] + ["e"]
    script.append("plot " + ", ".join(plots))
    subprocess.run(["gnuplot"], input="\n".join(script + data) + "\n", text=True, check=True)


main()
