#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""As services, beside llama-server: the same model on the same cores under the same load, alternately.

Every round runs each case with llama-server and with Isthmus, one after the other, each under `isthmus bench
serve`; of each the best round counts. Ours keeps the head at the edge (--head edge at both halves), as llama-server
keeps its sampler, unless --head cloud asks for the other setting: the texts are the same, the load is shared
otherwise. Prints a Markdown table with both figures, their ratio and the one that is wanted. Exit code 1 when one
falls short.

  16 clients     tokens/s, prompts of 92 tokens, answers of 64: llama-server with its RPC worker (layers from
                 10 on there), a core each, and `isthmus edge --listen` with `isthmus cloud`, a core each; beside
                 them llama-server alone with both cores
  long prompts   p99 of the time from token to token of 8 that decode (prompts of 32 tokens, answers of 128) for
                 20 s while a prompt of 2,000 tokens comes every 4 s: llama-server alone with both cores, the best
                 of its settings of --batch-size and --ubatch-size (--batch: both alike), and ours. What is
                 under way when the time is over is cut off: neither may read its prompts as fast as they come
  start          from the start of `isthmus run --listen`, or of llama-server, to when it says that it is ready
  kill           ours alone: kill -9 of one of two clouds under 16 clients: no request may fail, and the texts
                 are those of an undisturbed run

llama.cpp is built as tests/bench/peer.py says, with -DGGML_RPC=ON and `ninja -C llama llama-server
ggml-rpc-server`.

usage: tests/bench/serve_peer.py --llama llama/bin [--rounds N] [--only TEXT] [--system NAME] [--head cloud|edge]
       [--try] (--only: cases whose name has TEXT; --system llama.cpp or isthmus: that one alone; --try: short, only see
       that it runs)

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
LONG_SLOTS = 12  # 8 that decode, and the prompts, which may come faster than they are read
LAYERS, SPLIT = 30, 10


def start(cores, *args):
    """A process bound to these of the allowed cores; what it says is kept in .said, an open file."""
    allowed = sorted(os.sched_getaffinity(0))
    said = tempfile.TemporaryFile("w+")
    process = subprocess.Popen([str(a) for a in args], stdout=said, stderr=said, stdin=subprocess.DEVNULL,
                               preexec_fn=lambda: os.sched_setaffinity(0, [allowed[c] for c in cores]))
    process.said = said
    return process


def said(process):
    # At a place of its own: to seek would move the writer's, too.
    return os.pread(process.said.fileno(), 1 << 24, 0).decode(errors="replace")


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
            sys.exit("%s ended with code %d:\n%s" % (process.args[:2], process.returncode, said(process)[-3000:]))
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
def cloud(o, port, key, *more):
    process = start([1], e2e.BINARY, "cloud", "-m", o.model, "--split", SPLIT, "--head", o.head, "--threads", 1,
                    "--port", port, "--identity", e2e.keygen(key)[0], "--peer", e2e.keygen("edge")[1], *more)
    try:
        if not e2e.wait_for(lambda: "up to" in said(process) or process.poll() is not None, 60) \
                or process.poll() is not None:
            sys.exit("the cloud does not listen: " + said(process))
        yield process
    finally:
        stop(process)


@contextlib.contextmanager
def edge(o, sessions, *args):
    """(URL, process) of an edge that serves."""
    port = free_port()
    process = start([0], e2e.BINARY, "edge", "-m", o.model, "--split", SPLIT, "--head", o.head, "--threads", 1,
                    "--identity", e2e.keygen("edge")[0], "--listen", "127.0.0.1:%d" % port, "--max-sessions", sessions, *args)
    try:
        url = "http://127.0.0.1:%d" % port
        await_ready(process, url + "/readyz")
        yield url, process
    finally:
        stop(process)


@contextlib.contextmanager
def isthmus(o, sessions, *more):
    """URL of an edge on one core that serves by a cloud on the other."""
    with tempfile.TemporaryDirectory(prefix="isthmus-bench-") as folder:
        port = "memif:" + os.path.join(folder, "0.sock")
        with cloud(o, port, "cloud", "--max-sessions", sessions, *more), \
                edge(o, sessions, "--port", port, "--peer", e2e.keygen("cloud")[1], *more) as (url, _):
            yield url


def load(url, *args):
    """Rows of `isthmus bench serve` by kind. All requests must go well, or be cut off at the end of --duration."""
    done = e2e.isthmus("bench", "serve", "--url", url, "--ignore-eos", "--format", "jsonl", *args)
    rows = {}
    for line in done.stdout.splitlines():
        row = json.loads(line)
        rows[row["kind"]] = row
    if done.returncode != 0 or any(row["ok"] + row["unfinished"] != row["requests"] for row in rows.values()) \
            or ("--duration" not in args and rows["load"]["unfinished"]):
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
    with isthmus(o, CLIENTS, "--ctx", 256) as url:
        return many(o, url)


def intruded(o, url, what):
    """p99 in ms of those that decode; said: all of it, and what became of the long prompts."""
    rows = load(url, "--concurrency", 8, "--duration", o.long_s, "--prompt-tokens", 32, "--max-tokens", 128,
                "--intruder-tokens", 2000, "--intruder-every", 4)
    row, long_row = rows["load"], rows.get("intruder")
    e2e.say("  %s: token to token p50 %.1f p90 %.1f p99 %.1f max %.0f ms, %.1f tokens/s; long prompts: %s"
            % (what, row["itl_p50_ms"], row["itl_p90_ms"], row["itl_p99_ms"], row["itl_max_ms"],
               row["tokens_per_s"],
               "%d, %d read (first token p50 %s ms), %d answered" % (
                   long_row["requests"], long_row["begun"], long_row["ttft_p50_ms"],
                   long_row["ok"]) if long_row else "none"))
    return row["itl_p99_ms"]


def long_llama(o):
    best = None
    for batch in o.batches:
        with llama(o, 2, LONG_SLOTS, 2560, "-ub", batch, "-b", batch) as url:
            p99 = intruded(o, url, "llama-server --batch-size %d --ubatch-size %d" % (batch, batch))
        best = min(best or p99, p99)
    return best


def long_isthmus(o):
    with isthmus(o, LONG_SLOTS, "--ctx", 2560) as url:
        return intruded(o, url, "Isthmus")


def start_llama(o):
    begin = time.monotonic()
    with llama(o, 2, 4, 512):
        return time.monotonic() - begin


def start_isthmus(o):
    port = free_port()
    begin = time.monotonic()
    process = start([0, 1], e2e.BINARY, "run", "-m", o.model, "--split", SPLIT, "--head", o.head,
                    "--listen", "127.0.0.1:%d" % port,
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
                         {"model": model, "prompt": "Once upon a time, number %d," % i, "max_tokens": 2 * o.tokens,
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
    """How many of 16 answers failed or are others when one of the two clouds of a registry is killed."""
    with tempfile.TemporaryDirectory(prefix="isthmus-bench-") as folder, contextlib.ExitStack() as stack:
        clouds, registry = [], os.path.join(folder, "workers")
        with open(registry, "w", encoding="utf-8") as lines:
            for name in ("w1", "w2"):
                port = "memif:" + os.path.join(folder, name + ".sock")
                clouds.append(stack.enter_context(cloud(o, port, name, "--ctx", 512, "--max-sessions", CLIENTS)))
                lines.write("%s %s %s\n" % (name, port, e2e.keygen(name)[1]))
        url, front = stack.enter_context(edge(o, CLIENTS, "--workers", "file:" + registry, "--ctx", 512))
        if not e2e.wait_for(lambda: said(front).count("connected") >= 2, 30):
            sys.exit("both clouds are not joined: " + said(front)[-3000:])
        calm = texts(o, url)
        after = texts(o, url, clouds[0].kill)
        if clouds[0].poll() is None:
            sys.exit("the cloud was not killed")
        moved = [line for line in said(front).splitlines() if "on the way go" in line]
        e2e.say("  " + ("; ".join(moved) or said(front)[-3000:]))
        if not moved:
            sys.exit("the cloud had no answers when it was killed: this says nothing")
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
    parser.add_argument("--llama", metavar="DIR", help="where llama.cpp's programs are: for its figures")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=CLIENTS, metavar="N")
    parser.add_argument("--batch", default="512,64,32,16", metavar="N,...",
                        help="llama-server's settings of --batch-size and --ubatch-size to try")
    parser.add_argument("--only", default="", metavar="TEXT")
    parser.add_argument("--system", choices=("both", "llama.cpp", "isthmus"), default="both",
                        help="one alone: its figures, without a table")
    parser.add_argument("--head", choices=("cloud", "edge"), default="edge", help="where ours has the head")
    parser.add_argument("--try", dest="only_try", action="store_true")
    o = parser.parse_args()
    o.model = e2e.model("smollm2")
    o.batches = [int(n) for n in o.batch.split(",")]
    o.tokens, o.long_s = (8, 6) if o.only_try else (64, 20)
    met = True
    table = ["| what | llama.cpp | Isthmus | ratio | goal | |", "|---|---:|---:|---:|---:|---|"]
    for name, theirs, ours, better, want in cases(o):
        if o.only not in name:
            continue
        if not o.llama and o.system != "isthmus":
            parser.error("--llama DIR is needed for the figures of llama.cpp (or --system isthmus)")
        a, b = [], []
        for _ in range(1 if o.only_try else o.rounds):
            if o.system != "isthmus":
                a.append(theirs(o))
            if o.system != "llama.cpp":
                b.append(ours(o))
        e2e.say("  %s: llama.cpp %s, Isthmus %s" % (name, ["%.2f" % x for x in a], ["%.2f" % x for x in b]))
        if not a or not b:
            continue
        ratio = better(b) / better(a) if better is max else better(a) / better(b)
        good = (want is None or ratio >= want) and (ours is not start_isthmus or better(b) <= 1)
        met &= good
        table.append("| %s | %.2f | %.2f | %.2f | %s | %s |" % (
            name, better(a), better(b), ratio, want or "", "" if want is None else "met" if good else "not met"))
    if o.only in "kill -9 of one of two clouds under 16 clients" and o.system != "llama.cpp":
        wrong = killed(o)
        met &= wrong == 0
        table.append("| kill -9 of one of two clouds under 16 clients, answers failed or changed | | %d | | 0 | %s |"
                     % (wrong, "met" if not wrong else "not met"))
    e2e.say("\n".join(table))
    return 0 if met or o.only_try else 1


sys.exit(main())
