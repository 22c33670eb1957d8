#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Sessions that begin alike compute what they have in common once, unsplit and split, and give the very
ids of sessions that share nothing; a cache of few bytes makes sessions wait, and refuses what can't fit."""
import re

import e2e

COMMON, EACH = 300, 12


def family(n):
    """Prompts of n requests: 300 tokens of all of them, then some of each one's own."""
    return [{"prompt_ids": [1000 + 37 * k % 40000 for k in range(COMMON)]
                           + [2000 + 211 * (i + 1) * (k + 1) % 40000 for k in range(EACH)],
             "n_predict": 12, **({"temp": .9, "seed": i, "repeat_penalty": 1.1} if i % 2 else {})}
            for i in range(n)]


def same_ids(model):
    requests = family(8)
    for args in (["--local"], ["--codec", "f32"], ["--codec", "tsq"]):
        def run(*more):
            got = e2e.run_requests(requests, "-m", model, "--ignore-eos", "--json", *args, *more)
            return [g["ids"] for g in got[:-1]], got

        alone, plain = run("--no-prefix-cache", "--parallel", "8")
        e2e.check(plain[-1]["shared_tokens"] == 0, "nothing is shared with --no-prefix-cache")
        for parallel in ("8", "3", "1"):
            ids, got = run("--parallel", parallel)
            shared = got[-1]["shared_tokens"]
            e2e.say("%s --parallel %s: %d of %d prompt tokens known, %.1f s; alone %.1f s"
                    % (" ".join(args), parallel, shared, got[-1]["prompt_tokens"], got[-1]["seconds"],
                       plain[-1]["seconds"]))
            e2e.check(ids == alone, "other ids: %s --parallel %s" % (args, parallel))
            e2e.check(shared == sum(g["shared_tokens"] for g in got[:-1]), "the sum of shared tokens")
            e2e.check(7 * (COMMON - 15) <= shared <= 7 * COMMON, "%d tokens shared" % shared)
            e2e.check(got[0]["shared_tokens"] == 0, "the first has nobody to share with")
            if args != ["--local"]: # what is known is not sent
                e2e.check(got[-1]["wire_bytes_up"] < .4 * plain[-1]["wire_bytes_up"],
                          "%d bytes up, %d unshared" % (got[-1]["wire_bytes_up"], plain[-1]["wire_bytes_up"]))


def budget(model):
    requests = family(5)
    whole = [g["ids"] for g in e2e.run_requests(requests, "-m", model, "--ignore-eos", "--local")]
    for args in (["--local"], ["--codec", "f32"]):
        done = e2e.isthmus("run", "-m", model, "--kv-budget", "1kB", "-p", "Hello", *args)
        e2e.check(done.returncode == 2 and re.search(r"--kv-budget of 1000 bytes: even a session of 2 tokens "
                                                     r"needs \d+ here", done.stderr),
                  "a budget for nothing: exit %d, %s" % (done.returncode, done.stderr))
        done = e2e.isthmus("run", "-m", model, "--kv-budget", "16MB", "-p", "Hello", "-n", "4000", *args)
        said = re.search(r"needs (\d+) bytes of cache.*budget (?:has|is) (\d+)", done.stderr)
        e2e.check(done.returncode != 0 and said and int(said[1]) > int(said[2]) == 16000000,
                  "more than could ever fit: exit %d, %s" % (done.returncode, done.stderr))
        # Room for one or two at a time; the others wait.
        got = e2e.run_requests(requests, "-m", model, "--ignore-eos", "--parallel", "5", "--kv-budget", "16MB",
                               *args)
        e2e.check([g["ids"] for g in got] == whole, "other ids where sessions wait for room: %s" % args)
        # One that can't fit beside others that can.
        done = e2e.isthmus("run", "-m", model, "--ignore-eos", "--parallel", "3", "--kv-budget", "16MB",
                           "--requests", "-", *args,
                           text_in=e2e.lines_of([requests[0], {**requests[1], "n_predict": 4000}, requests[2]]))
        lines = done.stdout.splitlines()
        e2e.check(done.returncode == 1 and len(lines) == 3 and "bytes of cache" in lines[1]
                  and "bytes of cache" not in lines[0] + lines[2],
                  "one that can't fit: exit %d, %s" % (done.returncode, done.stdout[-600:]))
    for bad in ("0", "12XB", "-5MB", "MB", ""):
        done = e2e.isthmus("run", "-m", model, "--local", "--kv-budget", bad, "-p", "x")
        e2e.check(done.returncode == 2 and "must be a size" in done.stderr,
                  "--kv-budget %r: exit %d, %s" % (bad, done.returncode, done.stderr))


def chat(model):
    """A second turn computes what is new."""
    for args in (["--local"], []):
        def talk(*more):
            return e2e.isthmus("run", "-m", model, "-n", "20", *args, *more,
                               text_in="Tell me about the capital of France.\nAnd of Italy?\n")

        done, plain = talk(), talk("--no-prefix-cache")
        e2e.check(done.returncode == 0 and done.stdout == plain.stdout, "chat: %r, unshared %r"
                  % (done.stdout, plain.stdout))
        known = [int(n) for n in re.findall(r"prompt tokens \((\d+) of them known\)", done.stderr)]
        e2e.say("chat, %s: %s tokens known" % (args, known))
        e2e.check(len(known) == 1 and known[0] > 20, "a second turn: %s" % done.stderr)
        e2e.check("known" not in plain.stderr, "nothing is known with --no-prefix-cache")


def main():
    model = e2e.model("smollm2")
    same_ids(model)
    budget(model)
    chat(model)
    e2e.finish()


main()
