#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What `isthmus plan` chooses beside the best of a grid of configurations that all really run: splits, codecs, formats
of the cache, chunks and, with --pair, a front of fewer bits; both halves on this host, a core each, over one emulated
link. For each wish (an objective and its limits) it prints the choice's measured time over the best measured one.

    tests/bench/planned_grid.py --pair 10:sq3:pair     (an idle machine, for half an hour: all of it)
    tests/bench/planned_grid.py --pair 10:sq3:pair --results grid.jsonl --seconds 80   (in parts, until all ran)
    tests/bench/planned_grid.py --pair 10:sq3:pair --results grid.jsonl --summarize [--plot FILE.png]
    tests/bench/planned_grid.py --quick      (a minute: that it works, with few configurations; nothing is judged)

Every configuration runs --rounds times, in an order that is drawn anew for each round; a run is a short prompt, by
which the link learns its path's rate, and then two that count. Then the finalists, which are for each wish the best
three of the grid and the plan's choice, run --finals times more, in turns. A time is that which a quarter of a
configuration's prompts kept below: others on the machine only ever make one slower, as `isthmus profile` has it.
Memory is the most that the kernel counted. KL is not measured here: it is the table's, of the grid's configurations
and of the plan alike. What --results keeps is gone on with, its profile of this host (FILE.host.json) too. Exit code 1
of what summarizes: a choice is more than 10 % off the best, or needed more memory than it may.
"""
import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
import e2e  # noqa: E402  pylint: disable=wrong-import-position
import planning  # noqa: E402  pylint: disable=wrong-import-position
import resident  # noqa: E402  pylint: disable=wrong-import-position

TSQ = "tsq:tau=4,delta=0.08,qmin=2,qmax=8"
WIDE = "tsq:tau=4,delta=0.2,qmin=2,qmax=8"
SPLITS, CODECS, CACHES, CHUNKS = (5, 10, 15, 20), ("f16", TSQ, WIDE), ("f16", "q8"), (32, 128)
RATE, RTT_MS = "4mbit", 8
LINK = "rate=%s,rtt=%gms" % (RATE, RTT_MS)
PROMPT, PREDICT = 256, 16  # tokens; those of a prompt about
FINALISTS = 3  # of the grid, for each wish
KEYS = ("split", "front", "codec", "kv", "chunk")
# name, objective, limits as plan has them
WISHES = (
    ("TTFT, KL .02", "ttft", {"kl": .02}),
    ("TTFT, KL .02, edge 60 MB", "ttft", {"kl": .02, "edge": 60e6}),
    ("TPOT, KL .02", "tpot", {"kl": .02}),
    ("TPOT, KL .002, edge 90 MB", "tpot", {"kl": .002, "edge": 90e6}),
)


# What a pair may cost: those of a few bits are beyond the limits above.
PAIR_WISHES = (("TTFT, KL .2, edge 54 MB", "ttft", {"kl": .2, "edge": 54e6}),)


def wishes(o):
    return WISHES + (PAIR_WISHES if o.pairs else ())


def plan(o, *args):
    """The plan as JSON; None: nothing fits."""
    done = e2e.isthmus("plan", "-m", o.model, "--edge", o.profile, "--cloud", o.profile, "--link", LINK, "--context",
                       o.prompt + PREDICT, "--prompt", o.prompt, "--back", "keep", "--quality", o.quality, "--port",
                       "memif:/x", "-o", os.path.join(o.folder, "plan"), "--json", *args)
    if done.returncode not in (0, 3):
        sys.exit("plan %s: exit code %d: %s" % (" ".join(map(str, args)), done.returncode, done.stderr))
    return json.loads(done.stdout)["plan"]


def fixed(o, case):
    return plan(o, "--split", case["split"], "--front", case["front"], "--codec", case["codec"], "--kv", case["kv"],
                "--chunk", case["chunk"], "--max-kl", 99)


def choices(o):
    """What plan chooses for each wish. A front of fewer bits is one of the pairs that are there, at its split."""
    chosen = []
    for name, least, limits in wishes(o):
        limit_args = ["--least", least, "--max-kl", limits["kl"]]
        limit_args += ["--edge-memory", int(limits["edge"])] if "edge" in limits else []
        found = [p for p in [plan(o, "--front", "keep", *limit_args)] if p]
        for split, scheme in o.pairs:
            p = plan(o, "--front", scheme, "--split", split, *limit_args)
            found += [p] if p else []
        if not found:
            sys.exit("%s: plan finds nothing" % name)
        best = min(found, key=lambda p: (p[least + "_s"], p["kl"]))
        chosen.append({k: best[k] for k in KEYS})
    return chosen


def grid(o):
    cases = [dict(zip(KEYS, (split, "keep", codec, kv, chunk))) for split in SPLITS for codec in CODECS
             for kv in CACHES for chunk in CHUNKS]
    for split, scheme in o.pairs:
        cases += [dict(zip(KEYS, (split, scheme, codec, kv, chunk))) for codec in CODECS[1:] for kv in CACHES
                  for chunk in CHUNKS]
    return cases


def run(o, case):
    """Times of the prompts that count, and the most memory of the edge."""
    n = o.prompt * 2 // 3  # words
    starts = random.Random(o.round).sample(range(0, len(o.words) - 2 * n, n), 3)
    requests = [{"prompt": " ".join(o.words[at:at + (n if i else 40)]), "n_predict": PREDICT if i else 2}
                for i, at in enumerate(starts)]
    pair = o.pairs.get((case["split"], case["front"]))
    where = ["-m", pair] if pair else ["-m", o.model, "--split", case["split"]]
    answers, edge, _ = resident.run_requests(
        requests, *where, "--codec", case["codec"], "--kv", case["kv"], "--chunk", case["chunk"], "--threads", 1,
        "--ctx", 1024, "--parallel", 1, "--ignore-eos", "--json", "--no-prefix-cache", "--netem",
        "rate=%s,delay=%gms" % (RATE, RTT_MS / 2))
    # Prompts are not of quite the same length: as if each token took the same.
    return {**case, "round": o.round, "edge_bytes": edge,
            "ttft_ms": [a["ttft_ms"] * o.prompt / len(a["prompt_ids"]) for a in answers[1:]],
            "tpot_ms": [1e3 / a["decode_tokens_per_s"] for a in answers[1:]],
            "gap_ms": [a["token_gap_ms_p50"] for a in answers[1:]]}


def key(case):
    return tuple(case[k] for k in KEYS)


def read(path):
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def measure(o):
    """All of the grid, then the finalists, as far as the time goes."""
    cases = {key(c): c for c in grid(o) + choices(o)}
    end = time.monotonic() + o.seconds
    done = {(r["round"], key(r)) for r in read(o.results)}
    with open(o.results, "a", encoding="utf-8") as out:
        for o.round in range(o.rounds + o.finals):
            order = sorted(cases) if o.round < o.rounds else finalists(o)
            random.Random(1000 + o.round).shuffle(order)
            for k in order:
                if (o.round, k) in done:
                    continue
                if time.monotonic() > end:
                    e2e.say("%d ran, in round %d of %d" % (len(done), o.round + 1, o.rounds + o.finals))
                    return
                out.write(json.dumps(run(o, cases[k])) + "\n")
                out.flush()
                done.add((o.round, k))
    e2e.say("all %d ran: --summarize" % len(done))


def finalists(o):
    """By what the rounds of all say; the same in every call, for it is of them alone."""
    found, chosen = gather(o, o.rounds), choices(o)
    best = {key(c) for c in chosen}
    for _, least, limits in wishes(o):
        best |= set(sorted(keeping(o, found, limits), key=lambda k: found[k][least])[:FINALISTS])
    return sorted(best)


# --- what came of it ---------------------------------------------------------------------------------------------


def quarter(times):
    return sorted(times)[len(times) // 4]


def keeping(o, found, limits):
    """Those of the grid that keep the limits."""
    return [k for k in {key(c) for c in grid(o)} if found[k]["kl"] <= limits["kl"]
            and found[k]["edge"] <= limits.get("edge", float("inf"))]


def gather(o, rounds):
    """Each configuration: times of its prompts, memory, and what plan says of it."""
    runs = {}
    for r in read(o.results):
        if r["round"] < rounds:
            runs.setdefault(key(r), []).append(r)
    found = {}
    for k, rs in runs.items():
        should = fixed(o, dict(zip(KEYS, k)))
        found[k] = {"n": len(rs), "edge": statistics.median(r["edge_bytes"] for r in rs), "kl": should["kl"],
                    "ttft": quarter([t for r in rs for t in r["ttft_ms"]]),
                    "tpot": quarter([t for r in rs for t in r["tpot_ms"]]),
                    "planned_ttft": should["ttft_s"] * 1e3, "planned_tpot": should["tpot_s"] * 1e3,
                    "planned_edge": should["edge_bytes"]}
    return found


def name(k):
    codec = {TSQ: "tsq", WIDE: "tsq:delta=.2"}.get(k[2], k[2])
    return "%d %s, %s, %s, %d" % (k[0], k[1], codec, k[3], k[4])


def summarize(o):
    found, grid_keys, worst, beyond = gather(o, o.rounds + o.finals), {key(c) for c in grid(o)}, 0, 0
    missing = [k for k in grid_keys if k not in found or found[k]["n"] < o.rounds]
    if missing:
        sys.exit("%d of %d configurations did not run %d times yet" % (len(missing), len(grid_keys), o.rounds))
    e2e.say("%d configurations of the grid, %d runs each, %d finalists %d more, over %s"
            % (len(grid_keys), o.rounds, len(finalists(o)), o.finals, LINK))
    e2e.say("| least, limits | that keep them | the best of them | its ms | worst of them, ms | plan's choice | its ms, "
            "planned | measured | its edge MB | choice / best |\n|---|---:|---|---:|---:|---|---:|---:|---:|---:|")
    for (title, least, limits), chosen in zip(wishes(o), choices(o)):
        fits = keeping(o, found, limits)
        ordered = sorted(fits, key=lambda k: found[k][least])
        mine, best = found[key(chosen)], found[ordered[0]]
        over = " (over)" if mine["edge"] > limits.get("edge", float("inf")) else ""
        ratio = mine[least] / best[least]
        worst, beyond = max(worst, ratio), beyond + bool(over)
        e2e.say("| %s | %d | %s | %.1f | %.1f | %s | %.1f | %.1f | %.1f%s | %.3f |"
                % (title, len(fits), name(ordered[0]), best[least], found[ordered[-1]][least], name(key(chosen)),
                   mine["planned_" + least], mine[least], mine["edge"] * 1e-6, over, ratio))
    for what, unit in (("ttft", 1), ("tpot", 1), ("edge", 1e-6)):
        off = sorted(f["planned_" + what] / f[what] for f in found.values())
        e2e.say("%s, planned over measured of all %d: %.2f to %.2f, median %.2f"
                % (what, len(off), off[0], off[-1], statistics.median(off)))
    e2e.say("the worst choice is %.1f %% off the best; %d over their limit of memory" % (100 * (worst - 1), beyond))
    if o.plot:
        draw(o, found)
    return 0 if worst <= 1.1 and not beyond else 1


def draw(o, found):
    """Planned over measured times of all; the plans' own choices filled."""
    chosen = {key(c) for c in choices(o)}
    script = ["set terminal pngcairo size 900,440", "set output '%s'" % o.plot, "set multiplot layout 1,2",
              "set xlabel 'measured'", "set ylabel 'planned'", "set key left top", "set grid"]
    for what, title in (("ttft", "TTFT, ms"), ("tpot", "TPOT, ms")):
        most = 1.1 * max(max(f[what], f["planned_" + what]) for f in found.values())
        least = .9 * min(min(f[what], f["planned_" + what]) for f in found.values())
        script += ["set title '%s'" % title, "set xrange [%g:%g]" % (least, most), "set yrange [%g:%g]" % (least, most),
                   "plot x with lines lc 'gray' title 'equal', x*1.1 with lines dt 2 lc 'gray' title '10 %', x/1.1 with "
                   "lines dt 2 lc 'gray' notitle, '-' using 1:2 with points pt 6 lc 'steelblue' title 'the grid', '-' using 1:2 with "
                   "points pt 7 lc 'red' title 'chosen'"]
        for keys in (found.keys() - chosen, chosen):
            script += ["%g %g" % (found[k][what], found[k]["planned_" + what]) for k in sorted(keys)] + ["e"]
    subprocess.run(["gnuplot"], input="\n".join(script + ["unset multiplot"]) + "\n", text=True, check=True)


def quick(o):
    global SPLITS, CODECS, CACHES, CHUNKS
    SPLITS, CODECS, CACHES, CHUNKS = (10,), ("f16", TSQ), ("f16",), (32,)
    o.rounds, o.finals, o.seconds, o.prompt = 1, 1, float("inf"), 48
    with tempfile.TemporaryDirectory(prefix="isthmus-grid-") as o.folder:
        o.results = os.path.join(o.folder, "grid.jsonl")
        o.profile = e2e.quick_profile(o.model, os.path.join(o.folder, "host.json"))
        measure(o)
        summarize(o)
    return 0


def at_once(o):
    """All of it, of which nothing is kept."""
    with tempfile.TemporaryDirectory(prefix="isthmus-grid-") as o.folder:
        o.results, o.seconds = os.path.join(o.folder, "grid.jsonl"), float("inf")
        o.profile = o.profile or planning.host_profile(o.model, os.path.join(o.folder, "host.json"))
        measure(o)
        return summarize(o)


def in_parts(o):
    o.folder = os.path.dirname(os.path.abspath(o.results))
    if not o.profile:
        o.profile = o.results + ".host.json"
        if not os.path.exists(o.profile):
            planning.host_profile(o.model, o.profile)
    return summarize(o) if o.summarize else measure(o)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model")
    p.add_argument("--quality", default=planning.QUALITY, help="the model's table (default: %(default)s)")
    p.add_argument("--profile", help="of this host (isthmus profile; default: made now)")
    p.add_argument("--pair", action="append", default=[], type=planning.pair, metavar="SPLIT:SCHEME:DIR",
                   help="halves of isthmus quantize with that front, the back kept; may be given again")
    p.add_argument("--results", help="JSON lines, appended to; default: all is run at once, and none kept")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--finals", type=int, default=4, help="rounds of the finalists")
    p.add_argument("--seconds", type=float, default=80, help="then it stops, to go on when it is called again")
    p.add_argument("--summarize", action="store_true")
    p.add_argument("--plot", help="FILE.png, by gnuplot")
    p.add_argument("--quick", action="store_true")
    o = p.parse_args()
    if o.summarize and not o.results:
        p.error("--summarize needs --results, of which it is to be")
    o.model = o.model or e2e.model("smollm2")
    o.prompt, o.round = PROMPT, 0
    o.pairs = dict(o.pair)
    with open(e2e.shared("eval/wikitext2-valid.txt"), encoding="utf-8") as f:
        o.words = f.read(300000).split()
    if o.quick:
        return quick(o)
    return in_parts(o) if o.results else at_once(o)


sys.exit(main())
