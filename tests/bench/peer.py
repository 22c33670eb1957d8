#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Beside llama.cpp: the same models on the same cores, run alternately.

Every round runs each case with llama.cpp and with Isthmus, one after the other; of each the best round
counts, so that what else the machine does falls on both. Prints a Markdown table with both figures,
their ratio and the least ratio that is wanted. Exit code 1 when one falls short.

  prefill, decode      llama-bench and `isthmus bench compute`, pinned to as many cores as threads
  16 at once           llama-batched-bench -npl 16 and `isthmus bench compute --batch 16`; then as
                       services: llama-server -np 16 with 16 clients over loopback HTTP, the best of its
                       thread settings, and `isthmus run --local --parallel 16`, both with 16 prompts of a
                       few words
  memory               what `isthmus run --local` keeps resident, beside the file and its keys and values

llama.cpp comes inside the source package of llama-cpp-python:

    pip download --no-binary :all: --no-deps --no-build-isolation llama-cpp-python
    tar xf llama_cpp_python-*.tar.gz
    cmake -S llama_cpp_python-*/vendor/llama.cpp -B llama -G Ninja -DCMAKE_BUILD_TYPE=Release \\
        -DGGML_NATIVE=ON -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF \\
        -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_UI=OFF
    ninja -C llama llama-bench llama-batched-bench llama-server

usage: tests/bench/peer.py --llama llama/bin [--rounds N] [--only TEXT] [--try]
       (--only: cases whose name has TEXT; --try: short, only see that it runs)

Needs an idle machine with two cores.
"""
import argparse
import concurrent.futures
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
import e2e  # noqa: E402

SESSIONS = 16
MEMORY_BESIDES_MB = 40


def run(cores, *args, text_in=None):
    """Output of a program on so many cores."""
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    process = subprocess.Popen([str(a) for a in args], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               stdin=subprocess.PIPE, text=True,
                               preexec_fn=lambda: os.sched_setaffinity(0, allowed))
    out, err = process.communicate(text_in or "", timeout=e2e.TIMEOUT_S)
    if process.returncode != 0:
        sys.exit("%s: exit code %d\n%s" % (" ".join(map(str, args)), process.returncode, err[-4000:]))
    return out


# --- the two of them ---------------------------------------------------------------------------------


def llama_bench(o, model, threads, prefill, decode, depth):
    out = run(threads, os.path.join(o.llama, "llama-bench"), "-m", model, "-t", threads, "-p", prefill,
              "-n", decode, "-d", depth, "-r", o.repeat, "-o", "jsonl")
    return max(json.loads(out.splitlines()[-1])["samples_ts"])


def isthmus_bench(o, model, threads, prefill, decode, depth, batch=1):
    out = run(threads, e2e.BINARY, "bench", "compute", "-m", model, "--threads", threads, "--prefill",
              prefill, "--decode", decode, "--depth", depth, "--batch", batch, "--rounds", o.repeat,
              "--format", "jsonl")
    line = json.loads(out.splitlines()[-1])
    bounds.append((line["bound_gb_per_s"], line["bound_gop_per_s"], threads))
    return line["tokens_per_s"]


def llama_batch(o, model, threads):
    out = run(threads, os.path.join(o.llama, "llama-batched-bench"), "-m", model, "-t", threads, "-c",
              SESSIONS * 2 * o.tokens, "-npp", 1, "-ntg", o.tokens, "-npl", SESSIONS,
              "--output-format", "jsonl")
    return max(json.loads(l)["speed_tg"] for l in out.splitlines() if l.startswith("{"))


def prompt(i):
    return "Once upon a time, number %d," % i


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def ask(base, path, body=None):
    request = urllib.request.Request(base + path, headers={"Content-Type": "application/json"},
                                     data=None if body is None else json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=e2e.TIMEOUT_S) as answer:
        return json.load(answer)


def llama_server(o, model, threads, cores):
    """Tokens a second of all clients together, from the first request to the last answer."""
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    base = "http://127.0.0.1:%d" % free_port()
    server = subprocess.Popen(
        [os.path.join(o.llama, "llama-server"), "-m", model, "-np", str(SESSIONS), "-t", str(threads),
         "-c", str(SESSIONS * 256), "--host", "127.0.0.1", "--port", base.rsplit(":", 1)[1],
         "--log-disable", "--offline"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, allowed))

    def client(i):
        answer = ask(base, "/completion", {"prompt": prompt(i), "n_predict": o.tokens,
                                           "ignore_eos": True, "temperature": 0, "cache_prompt": False})
        return answer["tokens_predicted"]

    try:
        for _ in range(600):
            try:
                ask(base, "/health")
                break
            except (urllib.error.URLError, OSError):
                if server.poll() is not None:
                    sys.exit("llama-server ended with code %d" % server.returncode)
                time.sleep(.1)
        with concurrent.futures.ThreadPoolExecutor(SESSIONS) as clients:
            list(clients.map(client, range(2)))  # warm
            start = time.monotonic()
            tokens = sum(clients.map(client, range(SESSIONS)))
            return tokens / (time.monotonic() - start)
    finally:
        server.terminate()
        server.wait()


def best_llama_server(o, model, cores):
    return max(llama_server(o, model, t, cores) for t in range(1, cores + 1))


def isthmus_service(o, model, cores):
    requests = e2e.lines_of({"prompt": prompt(i), "n_predict": o.tokens} for i in range(SESSIONS))
    out = run(cores, e2e.BINARY, "run", "-m", model, "--local", "--requests", "-", "--parallel", SESSIONS,
              "--ignore-eos", "--threads", cores, "--json", text_in=requests)
    return json.loads(out.splitlines()[-1])["tokens_per_s"]


# --- the table ---------------------------------------------------------------------------------------

bounds = []  # as found beside each of ours: GB/s, GOP/s, threads


def cases(o):
    """name, least ratio, least tokens/s or None, llama.cpp's, ours."""
    smol, qwen = e2e.model("smollm2"), e2e.model("qwen05")
    short, depth = ((64, 256) if o.only_try else (512, 2048))

    def both(model, threads, prefill, decode, at):
        return (lambda: llama_bench(o, model, threads, prefill, decode, at),
                lambda: isthmus_bench(o, model, threads, prefill, decode, at))

    return [
        ("SmolLM2 prefill %d, 1 core" % short, 6, None, *both(smol, 1, short, 0, 0)),
        ("SmolLM2 prefill %d, 2 cores" % short, 6, None, *both(smol, 2, short, 0, 0)),
        ("SmolLM2 decode, 1 core", 2.5, None, *both(smol, 1, 0, o.tokens, 0)),
        ("SmolLM2 decode, 2 cores", 2.3, None, *both(smol, 2, 0, o.tokens, 0)),
        ("SmolLM2 decode at depth %d, 2 cores" % depth, 3, None, *both(smol, 2, 0, o.tokens, depth)),
        ("SmolLM2 %d decode together, 2 cores" % SESSIONS, None, 600,
         lambda: llama_batch(o, smol, 2), lambda: isthmus_bench(o, smol, 2, 0, o.tokens, 0, SESSIONS)),
        ("SmolLM2 %d sessions served, 2 cores" % SESSIONS, None, 600,
         lambda: best_llama_server(o, smol, 2), lambda: isthmus_service(o, smol, 2)),
        ("Qwen2.5-0.5B prefill %d, 2 cores" % short, 4, None, *both(qwen, 2, short, 0, 0)),
        ("Qwen2.5-0.5B decode, 2 cores", 1.7, None, *both(qwen, 2, 0, o.tokens, 0)),
    ]


def memory_rows(o):
    """(what, resident MB, allowed MB) of each model, whole."""
    for name in ("smollm2", "qwen05"):
        model = e2e.model(name)
        out = run(2, e2e.BINARY, "bench", "compute", "-m", model, "--prefill", 1, "--decode", 0, "--depth",
                  0, "--batch", 1, "--threads", 1, "--rounds", 1, "--format", "jsonl")
        kv = json.loads(out)["kv_bytes_per_token"]
        out = run(2, e2e.BINARY, "run", "-m", model, "--local", "-p", "Once upon a time", "-n", o.tokens,
                  "--ignore-eos", "--json")
        result = json.loads(out.splitlines()[-1])
        allowed = os.path.getsize(model) + kv * (o.tokens + 8) + MEMORY_BESIDES_MB * 1e6
        yield name, result["edge_rss_bytes"] / 1e6, allowed / 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama", required=True, metavar="DIR")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", metavar="TEXT")
    parser.add_argument("--try", dest="only_try", action="store_true")
    o = parser.parse_args()
    o.tokens, o.repeat = (8, 1) if o.only_try else (128, 2)
    if o.only_try:
        o.rounds = 1
    if not os.access(os.path.join(o.llama, "llama-bench"), os.X_OK):
        parser.error("--llama %s: there is no llama-bench in it" % o.llama)
    if len(os.sched_getaffinity(0)) < 2:
        sys.exit("two cores are needed")

    chosen = [c for c in cases(o) if o.only in c[0]]
    theirs, ours = ({c[0]: [] for c in chosen} for _ in range(2))
    for i in range(o.rounds):
        for name, _, _, llama, isthmus in chosen:
            theirs[name].append(llama())
            ours[name].append(isthmus())
            print("round %d: %-40s %8.1f %8.1f" % (i + 1, name, theirs[name][-1], ours[name][-1]),
                  file=sys.stderr, flush=True)

    met = True
    e2e.say("| what | llama.cpp t/s | Isthmus t/s | ratio | goal | |\n|---|---:|---:|---:|---:|---|")
    for name, least_ratio, least, _, _ in chosen:
        them, us = max(theirs[name]), max(ours[name])
        good = us / them >= least_ratio if least_ratio else us >= least
        met &= good
        e2e.say("| %s | %.1f | %.1f | %.2f | %s | %s |"
                % (name, them, us, us / them, ">= %g x" % least_ratio if least_ratio else
                   ">= %d t/s" % least, "met" if good else "not met"))
    for name, resident, allowed in memory_rows(o) if o.only in "memory" else ():
        met &= resident <= allowed
        e2e.say("| %s resident, whole, MB | | %.1f | | <= %.1f | %s |"
                % (name, resident, allowed, "met" if resident <= allowed else "not met"))
    for threads in sorted({b[2] for b in bounds}):
        e2e.say("\n%d thread%s: memory read at %.1f GB/s, int8 products at %.0f GOP/s at best"
                % (threads, "s" * (threads > 1), max(b[0] for b in bounds if b[2] == threads),
                   max(b[1] for b in bounds if b[2] == threads)))
    return 0 if met or o.only_try else 1


if __name__ == "__main__":
    sys.exit(main())
