#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""As services, beside llama-server: the same model on the same cores under the same load, alternately.

Every round runs each case with llama-server and with Isthmus, one after the other, each under `isthmus bench
serve`; of each the best round counts. Prints a Markdown table with both figures, their ratio and the one that
is wanted. Exit code 1 when one falls short.

  16 clients     tokens/s, prompts of 92 tokens, answers of 64: llama-server with its RPC worker (layers from
                 10 on there), a core each, and `isthmus edge --listen` with `isthmus cloud`, a core each; beside
                 them llama-server alone with both cores
  long prompts   p99 of the time from token to token of 8 that decode while a prompt of 2,000 tokens comes every
                 4 s: llama-server alone with both cores, the best of its settings of --ubatch-size, and ours
  start          from the start of `isthmus run --listen`, or of llama-server, to when it says that it is ready
  kill           ours alone: kill -9 of one of two clouds under 16 clients: no request may fail, and the texts
                 are those of an undisturbed run

llama.cpp is built as tests/bench/peer.py says, with -DGGML_RPC=ON and `ninja -C llama llama-server
ggml-rpc-server`.

usage: tests/bench/serve_peer.py --llama llama/bin [--rounds N] [--only TEXT] [--try]
       (--only: cases whose name has TEXT; --try: short, only see that it runs)

Needs an idle machine with two cores.
"""
import argparse
import concurrent.futures
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
import e2e  # noqa: E402
from peer import ask, free_port  # noqa: E402

CLIENTS = 16
LAYERS, SPLIT = 30, 10


def start(cores, *args):
    """A process bound to these of the allowed cores; what it says is kept in .said, an open file."""
    allowed = sorted(os.sched_getaffinity(0))
    said = tempfile.TemporaryFile("w+")
    process = subprocess.Popen([str(a) for a in args], stdout=said, stderr=said, stdin=subprocess.DEVNULL,
                               preexec_fn=lambda: os.sched_setaffinity(0, [allowed[c] for c in cores]))
    process.said = said
    return process


def stop(process):
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def await_ready(process, url, seconds=60):
    """Seconds since now until url answers 200."""
    begin = time.monotonic()
    while time.monotonic() - begin < seconds:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return time.monotonic() - begin
        except (urllib.error.URLError, OSError):
            pass
        if process.poll() is not None:
            process.said.seek(0)
            sys.exit("%s ended with code %d:\n%s"
                     % (process.args[:2], process.returncode, process.said.read()[-3000:]))
        time.sleep(.005)
    sys.exit("%s: not ready after %d s" % (url, seconds))


# --- the services ------------------------------------------------------------------------------------


@contextlib.contextmanager
def llama(o, threads, slots, context, *more, rpc=False):
    """llama-server's URL. With rpc it and its worker have a core each, else both cores are its own."""
    port, worker = free_port(), None
    args = [os.path.join(o.llama, "llama-server"), "-m", o.model, "--host", "127.0.0.1", "--port", port,
            "-t", threads, "-np", slots, "-c", slots * context, "--no-kv-unified", "--offline", "--log-disable", *more]
    try:
        if rpc:
            at = "127.0.0.1:%d" % free_port()
            worker = start([1], os.path.join(o.llama, "ggml-rpc-server"), "-H", "127.0.0.1", "-p",
                           at.rsplit(":", 1)[1], "-t", 1)
            time.sleep(.5)
            # The output layer counts as one more.
            args += ["--rpc", at, "-ngl", LAYERS - SPLIT + 1, "-fit", "off"]
        server = start([0] if rpc else [0, 1], *args)
        try:
            url = "http://127.0.0.1:%d" % port
            await_ready(server, url + "/health")
            yield url
        finally:
            stop(server)
    finally:
        if worker:
            stop(worker)


@contextlib.contextmanager
def isthmus(o, sessions, *more, clouds=1):
    """(URL, clouds) of an edge on one core that serves by clouds on the other."""
    with tempfile.TemporaryDirectory(prefix="isthmus-bench-") as folder:
        paths = [os.path.join(folder, "%d.sock" % i) for i in range(clouds)]
        others = [start([1], e2e.BINARY, "cloud", "-m", o.model, "--split", SPLIT, "--threads", 1, "--port",
                        "memif:" + path, *e2e.secured("cloud")) for path in paths]
        port = free_port()
        try:
            for path, cloud in zip(paths, others):
                if not e2e.wait_for(lambda p=path: os.path.exists(p), 60):
                    cloud.said.seek(0)
                    sys.exit("the cloud does not listen: " + cloud.said.read())
            ports = [a for path in paths for a in ("--port", "memif:" + path)]
            edge = start([0], e2e.BINARY, "edge", "-m", o.model, "--split", SPLIT, "--threads", 1, *ports,
                         *e2e.secured("edge"), "--listen", "127.0.0.1:%d" % port, "--max-sessions", sessions, *more)
            try:
                url = "http://127.0.0.1:%d" % port
                await_ready(edge, url + "/readyz")
                yield url, others
            finally:
                stop(edge)
        finally:
            for cloud in others:
                stop(cloud)


def load(url, *args):
    """Rows of `isthmus bench serve` by kind. All requests must go well."""
    done = e2e.isthmus("bench", "serve", "--url", url, "--ignore-eos", "--format", "jsonl", *args)
    rows = {}
    for line in done.stdout.splitlines():
        row = json.loads(line)
        rows[row["kind"]] = row
    if done.returncode != 0 or rows["load"]["ok"] != rows["load"]["requests"]:
        sys.exit("bench serve %s: exit code %d\n%s" % (url, done.returncode, done.stderr[-3000:]))
    return rows


# --- cases -------------------------------------------------------------------------------------------


def many(o, url):
    return load(url, "--concurrency", CLIENTS, "--requests", o.requests, "--warmup", 2, "--prompt-tokens", 92,
                "--max-tokens", o.tokens)["load"]["tokens_per_s"]


def clients_llama_rpc(o):
    with llama(o, 1, CLIENTS, 256, rpc=True) as url:
        return many(o, url)


def clients_llama(o):
    with llama(o, 2, CLIENTS, 256) as url:
        return many(o, url)


def clients_isthmus(o):
    with isthmus(o, CLIENTS, "--ctx", 256) as (url, _):
        return many(o, url)


def intruded(o, url):
    """p99 in ms of those that decode; said: what became of the long prompts."""
    rows = load(url, "--concurrency", 8, "--requests", 8, "--prompt-tokens", 32, "--max-tokens", o.long_tokens,
                "--intruder-tokens", 2000, "--intruder-every", 4)
    load_row, long_row = rows["load"], rows.get("intruder")
    e2e.say("  %s: ITL p50 %.1f p99 %.1f max %.0f ms, %.0f tokens/s; long prompts: %s"
            % (url, load_row["itl_p50_ms"], load_row["itl_p99_ms"], load_row["itl_max_ms"],
               load_row["tokens_per_s"],
               "%d, %d answered, first token p50 %s ms" % (long_row["requests"], long_row["ok"],
                                                           long_row["ttft_p50_ms"]) if long_row else "none"))
    return load_row["itl_p99_ms"]


def long_llama(o):
    best = None
    for ubatch in o.ubatches:
        with llama(o, 2, 9, 2560, "-ub", ubatch, "-b", max(ubatch, 64)) as url:
            p99 = intruded(o, url)
        best = min(best or p99, p99)
    return best


def long_isthmus(o):
    with isthmus(o, 9, "--ctx", 2560) as (url, _):
        return intruded(o, url)


def start_llama(o):
    begin = time.monotonic()
    with llama(o, 2, 4, 512):
        return time.monotonic() - begin


def start_isthmus(o):
    port = free_port()
    begin = time.monotonic()
    process = start([0, 1], e2e.BINARY, "run", "-m", o.model, "--split", SPLIT, "--listen", "127.0.0.1:%d" % port,
                    "--ctx", 512, "--max-sessions", 4)
    try:
        await_ready(process, "http://127.0.0.1:%d/readyz" % port)
        return time.monotonic() - begin
    finally:
        stop(process)


def texts(o, url, kill=None):
    """Answers of 16 clients; errors are None. kill: what to do when they are under way."""
    model = ask(url, "/v1/models")["data"][0]["id"]

    def one(i):
        try:
            answer = ask(url, "/v1/completions",
                         {"model": model, "prompt": "Once upon a time, number %d," % i, "max_tokens": 4 * o.tokens,
                          "temperature": 0, "ignore_eos": True})
            return answer["choices"][0]["text"]
        except (urllib.error.URLError, OSError, KeyError, ValueError) as error:
            e2e.say("  client %d: %s" % (i, error))
            return None

    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as clients:
        answers = [clients.submit(one, i) for i in range(CLIENTS)]
        if kill:
            time.sleep(1)
            kill()
        return [a.result() for a in answers]


def killed(o):
    """How many of 16 answers failed or are others when a cloud is killed."""
    with isthmus(o, CLIENTS, "--ctx", 512, clouds=2) as (url, clouds):
        calm = texts(o, url)
        after = texts(o, url, clouds[0].kill)
        gone = clouds[0].poll() is not None
    if not gone:
        sys.exit("the cloud was not killed")
    return sum(a is None or a != b for a, b in zip(after, calm))


def cases(o):
    """name, peer's, ours, what is better, ratio wanted (theirs over ours where less is better)."""
    return [
        ("16 clients, tokens/s, beside RPC", clients_llama_rpc, clients_isthmus, max, 6),
        ("16 clients, tokens/s, beside llama-server alone", clients_llama, clients_isthmus, max, None),
        ("long prompts: token to token p99, ms", long_llama, long_isthmus, min, 3),
        ("start to ready, s", start_llama, start_isthmus, min, 1),
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama", required=True, metavar="DIR")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=CLIENTS, metavar="N")
    parser.add_argument("--ubatch", default="512,64", metavar="N,...", help="llama-server's settings to try")
    parser.add_argument("--only", default="", metavar="TEXT")
    parser.add_argument("--try", dest="only_try", action="store_true")
    o = parser.parse_args()
    o.model = e2e.model("smollm2")
    o.ubatches = [int(n) for n in o.ubatch.split(",")]
    o.tokens, o.long_tokens = (8, 40) if o.only_try else (64, 160)
    met = True
    table = ["| what | llama.cpp | Isthmus | ratio | goal | |", "|---|---:|---:|---:|---:|---|"]
    for name, theirs, ours, better, want in cases(o):
        if o.only not in name:
            continue
        a, b = [], []
        for _ in range(1 if o.only_try else o.rounds):
            a.append(theirs(o))
            b.append(ours(o))
        e2e.say("  %s: llama.cpp %s, Isthmus %s" % (name, ["%.2f" % x for x in a], ["%.2f" % x for x in b]))
        ratio = better(b) / better(a) if better is max else better(a) / better(b)
        good = (want is None or ratio >= want) and (ours is not start_isthmus or better(b) <= 1)
        met &= good
        table.append("| %s | %.2f | %.2f | %.2f | %s | %s |" % (
            name, better(a), better(b), ratio, want or "", "" if want is None else "met" if good else "not met"))
    if o.only in "kill -9 of one of two clouds under 16 clients":
        wrong = killed(o)
        met &= wrong == 0
        table.append("| kill -9 of one of two clouds under 16 clients, answers failed or changed | | %d | | 0 | %s |"
                     % (wrong, "met" if not wrong else "not met"))
    e2e.say("\n".join(table))
    return 0 if met or o.only_try else 1


sys.exit(main())
