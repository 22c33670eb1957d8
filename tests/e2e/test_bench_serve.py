#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`isthmus bench serve` against a server whose answers are scripted: the figures are the script's, and every
way to fail is counted as what it is. A busy machine makes times longer, never shorter."""
import csv
import io
import json
import os
import tempfile
import threading
import time

import e2e
import fake_openai
from fake_openai import answer, delta, text

ERRORS = ("connect", "busy", "http", "server", "cut", "malformed", "timeout")
SLACK_MS = 500  # what a busy machine may add


def serve(fake, *args, code=0):
    done = e2e.isthmus("bench", "serve", "--url", fake if isinstance(fake, str) else fake.url,
                       "--format", "jsonl", *args, timeout=120)
    e2e.check(done.returncode == code, "%s: exit %d, not %d: %s"
              % (args, done.returncode, code, done.stderr[-600:]))
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def near(row, name, ms):
    e2e.check(row[name] is not None and ms * .99 <= row[name] <= ms + SLACK_MS,
              "%s is %s, must be %g and no more than %g above" % (name, row[name], ms, SLACK_MS))


def figures():
    fake = fake_openai.Fake(lambda n, body: answer(4, .2, .1))
    rows, _ = serve(fake, "--requests", 6, "--concurrency", 3, "--max-tokens", 4, "--warmup", 2,
                    "--slo", "ttft=%d,tpot=%d" % (200 + SLACK_MS, 100 + SLACK_MS))
    e2e.check(len(rows) == 1, "one row: %s" % rows)
    row = rows[0]
    for name in ("ttft_p50_ms", "ttft_p90_ms", "ttft_p99_ms"):
        near(row, name, 200)
    for name in ("itl_p50_ms", "tpot_p50_ms", "tpot_p99_ms"):
        near(row, name, 100)
    near(row, "e2e_p50_ms", 500)
    e2e.check(row["kind"] == "load" and row["loop"] == "closed" and row["concurrency"] == 3, "what it was")
    e2e.check(row["requests"] == 6 and row["ok"] == 6 and row["tokens"] == 24, "6 answers of 4 tokens: %s" % row)
    e2e.check(row["prompt_tokens_mean"] == 5, "prompt tokens of usage")
    e2e.check(row["model"] == "fake" and row["url"] == fake.url and row["commit"], "environment")
    e2e.check(not any(row["errors_" + k] for k in ERRORS) and row["unfinished"] == 0, "no errors")
    e2e.check(row["slo_share"] == 1 and abs(row["goodput_per_s"] - row["requests_per_s"]) < 1e-6, "goodput")
    e2e.check(1 <= row["duration_s"] <= 1 + 4 * SLACK_MS / 1e3, "two rounds of .5 s: %s" % row["duration_s"])
    e2e.check(abs(row["tokens_per_s"] - 24 / row["duration_s"]) < .01, "tokens per second")
    e2e.check(len(fake.asked) == 8, "two more to warm up")
    body = fake.asked[-1][3]
    e2e.check(body["stream"] is True and body["stream_options"] == {"include_usage": True}
              and body["max_tokens"] == 4 and body["temperature"] == 0 and body["model"] == "fake"
              and "ignore_eos" not in body and len(body["prompt"].split()) == 64, "the request: %s" % body)
    e2e.check(len({b["prompt"] for _, _, _, b in fake.asked}) == 8, "no two prompts alike")
    rows, _ = serve(fake, "--requests", 2, "--slo", "ttft=100")
    e2e.check(rows[0]["slo_share"] == 0 and rows[0]["goodput_per_s"] == 0, "none within 100 ms")


def open_loop():
    """Arrivals do not wait for answers, and what a server that is stuck makes wait is counted."""
    lock = threading.Lock()

    def one_by_one(_, __):
        with lock:  # a server of one slot, .1 s each
            time.sleep(.1)
        return answer(1, 0, 0)

    def arrivals(seed):
        fake = fake_openai.Fake(one_by_one)
        rows, _ = serve(fake, "--requests", 20, "--rate", 40, "--seed", seed)
        return rows[0], [b["prompt"] for _, _, _, b in fake.asked]

    row, prompts = arrivals(7)
    e2e.say("open loop: %s" % {k: row[k] for k in ("loop", "ttft_p50_ms", "ttft_max_ms", "duration_s")})
    e2e.check(row["loop"] == "open" and row["rate_per_s"] == 40 and row["ok"] == 20, "an open loop")
    # 20 in about .5 s, served in 2 s: the last waits for about 1.5 s, the median for .75 s.
    e2e.check(row["ttft_max_ms"] >= 900 and row["ttft_p50_ms"] >= 400, "waiting counts: %s" % row)
    again, prompts_again = arrivals(7)
    other, prompts_other = arrivals(8)
    e2e.check(sorted(prompts) == sorted(prompts_again), "a seed gives the same prompts")
    e2e.check(sorted(prompts) != sorted(prompts_other), "another seed gives others")
    e2e.check(again["ok"] == 20 and other["ok"] == 20, "all of them answered")


def failures():
    """One of each kind among good ones."""
    big = b"data: {\"choices\": [" + b" " * (1 << 20) + b"\n\n"
    scripts = [
        ("ok", answer(2, 0, 0)),
        ("connect", [("drop",)]),
        ("busy", [("head", 429)]),
        ("busy", [("head", 503)]),
        ("http", [("bytes", b"HTTP/1.1 400 Bad\r\nContent-Length: 39\r\n\r\n"
                   b"{\"error\": {\"message\": \"no such thing\"}}")]),
        ("server", [("head", 200), text(" a"), ("event", {"error": {"message": "the cloud is lost"}}), ("end",)]),
        ("cut", [("head", 200), text(" a"), ("drop",)]),
        ("cut", [("head", 200), text(" a"), ("end",)]),
        ("malformed", [("head", 200), ("event", b"{\"choices\": ["), ("end",)]),
        ("malformed", [("head", 200), ("event", b"[1, 2]"), ("end",)]),
        ("malformed", [("head", 200), ("event", {"choices": 7}), ("end",)]),
        ("malformed", [("head", 200), ("event", {"choices": [], "usage": {"completion_tokens": -1}}), ("end",)]),
        ("malformed", [("bytes", b"HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n<html></html>\n")]),
        ("malformed", [("head", 200), ("bytes", b"%x\r\n%s\r\n" % (len(big), big)), ("end",)]),
        ("timeout", [("head", 200), ("wait", 3), ("end",)]),
        ("ok", answer(2, 0, 0, piece=delta)),
    ]
    fake = fake_openai.Fake(lambda n, body: scripts[n][1])
    rows, said = serve(fake, "--requests", len(scripts), "--timeout", 2, "--ignore-eos")
    row = rows[0]
    for kind in ERRORS:
        want = sum(k == kind for k, _ in scripts)
        e2e.check(row["errors_" + kind] == want, "errors_%s is %d, must be %d"
                  % (kind, row["errors_" + kind], want))
    e2e.check(row["requests"] == len(scripts) and row["ok"] == 2 and row["tokens"] == 4, "the good ones: %s" % row)
    e2e.check("no such thing" in said and "the cloud is lost" in said and "errors_server" in said, "the server's words: %s" % said)
    e2e.check(all(b["ignore_eos"] is True for _, _, _, b in fake.asked), "ignore_eos is asked for")
    e2e.check(len(fake.asked) == len(scripts), "nothing is asked twice: %d" % len(fake.asked))

    _, said = serve(fake_openai.Fake(lambda n, body: [("head", 500)]), "--requests", 2, code=1)
    e2e.check("no request went well" in said, "all failed: %s" % said)
    _, said = serve("http://127.0.0.1:1", code=1)
    e2e.check("/v1/models" in said and "--model" in said, "nobody there: %s" % said)
    rows, said = serve("http://127.0.0.1:1", "--model", "x", "--requests", 3, code=1)
    e2e.check(rows[0]["errors_connect"] == 3 and rows[0]["tokens_per_s"] == 0, "nobody there: %s" % rows)


def prompts(folder):
    path = os.path.join(folder, "prompts.jsonl")
    with open(path, "w", encoding="utf-8") as f:
        f.write('{"prompt": "Wie geht\'s? \\u00fc"}\n\n{"messages": [{"role": "user", "content": "Hi"}], '
                '"max_tokens": 3}\n')
    key = os.path.join(folder, "key")
    with open(key, "w", encoding="utf-8") as f:
        f.write("sk-secret\nsecond line\n")
    fake = fake_openai.Fake(lambda n, body: answer(2, 0, 0, piece=delta))
    rows, said = serve(fake, "--prompts", path, "--requests", 3, "--max-tokens", 9, "--api-key-file", key)
    asked = fake.asked
    e2e.check([a[1] for a in asked] == ["/v1/completions", "/v1/chat/completions", "/v1/completions"],
              "paths: %s" % [a[1] for a in asked])
    e2e.check(asked[0][3]["prompt"] == "Wie geht's? \u00fc" and asked[2][3] ["prompt"] == asked[0][3]["prompt"],
              "from the beginning again")
    e2e.check(asked[1][3]["messages"] == [{"role": "user", "content": "Hi"}]
              and [a[3]["max_tokens"] for a in asked] == [9, 3, 9], "messages and max_tokens")
    e2e.check(all(a[2]["authorization"] == "Bearer sk-secret" for a in asked), "the key")
    e2e.check("sk-secret" not in said and "sk-secret" not in json.dumps(rows), "the key is not said")
    fake = fake_openai.Fake(lambda n, body: answer(2, 0, 0, piece=delta))
    serve(fake, "--prompt-tokens", 7, "--requests", 1, "--chat")
    e2e.check(fake.asked[0][1] == "/v1/chat/completions"
              and len(fake.asked[0][3]["messages"][0]["content"].split()) == 7, "--chat: %s" % fake.asked)


def intruders(folder):
    def script(_, body):
        long = len(body["prompt"].split()) == 500
        return answer(2, .4, .0, prompt_tokens=500) if long else answer(12, .0, .1)

    fake = fake_openai.Fake(script)
    picture = os.path.join(folder, "times.png")
    rows, _ = serve(fake, "--requests", 2, "--concurrency", 2, "--intruder-tokens", 500, "--intruder-every", .5,
                    "--plot", picture)
    e2e.check([r["kind"] for r in rows] == ["load", "intruder"], "two rows: %s" % rows)
    load, intruder = rows
    e2e.check(load["ok"] == 2 and load["tokens"] == 24, "the load: %s" % load)
    e2e.check(2 <= intruder["requests"] <= 2 + 6 * SLACK_MS / 500
              and intruder["ok"] + intruder["unfinished"] == intruder["requests"] and intruder["ok"] >= 1,
              "intruders at .5 and 1 s: %s" % intruder)
    near(intruder, "ttft_p50_ms", 400)
    near(load, "itl_p50_ms", 100)
    e2e.check(intruder["prompt_tokens_mean"] == 500 and intruder["every_s"] == .5, "their prompts")
    with open(picture, "rb") as f:
        e2e.check(f.read(8) == b"\x89PNG\r\n\x1a\n", "a picture")


def cut_off():
    """At --duration's end all is over: what came counts, and so does how long the next text is overdue."""
    def stalled(n, body):
        return answer(3, .1, .1)[:-4] + [("wait", 6), ("end",)]

    begin = time.monotonic()
    rows, said = serve(fake_openai.Fake(stalled), "--duration", 2, "--concurrency", 2)
    took, row = time.monotonic() - begin, rows[0]
    e2e.check(took < 5, "it ends at its time: %.1f s" % took)
    near(row, "ttft_p50_ms", 100)
    near(row, "itl_p50_ms", 100)
    e2e.check(2 <= row["duration_s"] < 2 + SLACK_MS / 1e3, "its time: %s" % row["duration_s"])
    e2e.check(row["requests"] == 2 and row["unfinished"] == 2 and row["ok"] == 0 and row["tokens"] == 6
              and not any(row["errors_" + k] for k in ERRORS) and "failed" not in said, "two cut off: %s" % row)
    # Three pieces each at .1, .2 and .3 s; the fourth has been awaited ever since.
    e2e.check(row["itl_open"] == 2 and row["itl_max_ms"] >= 1700 - SLACK_MS, "what stands still shows: %s" % row)
    e2e.check(row["begun"] == 2 and row["ttft_open"] == 0 and row["e2e_p50_ms"] is None and row["tpot_p50_ms"] is None,
              "nothing of whole answers: %s" % row)
    e2e.check(abs(row["tokens_per_s"] - 6 / row["duration_s"]) < .01, "tokens that came: %s" % row)

    rows, said = serve(fake_openai.Fake(lambda n, body: [("head", 200), ("wait", 5), ("end",)]), "--duration", 1,
                       "--concurrency", 2, code=1)
    e2e.check(rows[0]["begun"] == 0 and rows[0]["ttft_open"] == 2 and rows[0]["ttft_p50_ms"] >= 990 and "no request went well" in said,
              "no text at all: %s" % rows)

    # Of a server that answers steadily, what is open is younger than what it does, and does not count.
    rows, _ = serve(fake_openai.Fake(lambda n, body: answer(100, .0, .6)), "--duration", 1.5)
    row = rows[0]
    near(row, "itl_p50_ms", 600)
    e2e.check(row["unfinished"] == 1 and row["tokens"] == 3 and row["itl_open"] == 0, "steady: %s" % row)

    fake = fake_openai.Fake(lambda n, body: answer(2, .1, .1) if n % 2 else stalled(n, body))
    rows, _ = serve(fake, "--duration", 1, "--rate", 20, "--intruder-tokens", 500, "--intruder-every", .4)
    load, intruder = rows
    for row in rows:
        e2e.check(row["ok"] + row["unfinished"] == row["requests"], "each is one or the other: %s" % row)
    e2e.check(load["unfinished"] >= 1 and intruder["requests"] == 2 and max(a[0] for a in fake.asked) < 2,
              "arrivals end, too: %s" % rows)


def formats():
    fake = fake_openai.Fake(lambda n, body: answer(2, 0, 0))
    done = e2e.isthmus("bench", "serve", "--url", fake.url + "/v1/", "--requests", 2)
    lines = done.stdout.splitlines()
    e2e.check(done.returncode == 0 and fake.url in lines[0] and lines[-1].startswith("| load | 2 | 2 |"),
              "Markdown: %s %s" % (lines, done.stderr))
    # What failed is in the table.
    done = e2e.isthmus("bench", "serve", "--url", "http://127.0.0.1:1", "--model", "m", "--requests", 3)
    table = [[c.strip() for c in line.strip("|").split("|")] for line in done.stdout.splitlines()[2:]]
    e2e.check("failed" in table[0] and table[-1][table[0].index("failed")] == "3", "failed: %s" % table)
    done = e2e.isthmus("bench", "serve", "--url", fake.url, "--requests", 2, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    e2e.check(done.returncode == 0 and len(rows) == 1 and rows[0]["ok"] == "2", "CSV: %s" % rows)
    e2e.to_full_disk("bench", "serve", "--url", fake.url, "--requests", 1)
    rows, _ = serve(fake_openai.Fake(lambda n, body: answer(2, .1, 0)), "--duration", 1)
    e2e.check(2 <= rows[0]["ok"] <= 11 and rows[0]["duration_s"] >= .9, "by time: %s" % rows)


def usage(folder):
    def refused(what, args, *words):
        done = e2e.isthmus("bench", "serve", *args)
        e2e.check(done.returncode == 2 and all(w in done.stderr for w in words) and not done.stdout,
                  "%s: exit %d: %s" % (what, done.returncode, done.stderr))

    url = ["--url", "http://127.0.0.1:1"]
    bad = os.path.join(folder, "bad.jsonl")
    refused("no server", [], "--url")
    refused("no http", ["--url", "ftp://x"], "--url ftp://x")
    refused("two loops", [*url, "--rate", 1, "--concurrency", 2], "open loop")
    refused("chat or not", [*url, "--chat", "--completions"], "--chat")
    refused("an SLO of nothing", [*url, "--slo", "x=1"], "--slo x=1", "ttft=MS")
    refused("intruders of no length", [*url, "--intruder-every", 1], "--intruder-tokens")
    refused("no such key file", [*url, "--api-key-file", "/none"], "/none")
    refused("no such prompts", [*url, "--prompts", "/none"], "/none")
    for line, words in (("{", ()), ("[]", ("object",)), ("{}", ("\"prompt\"",)), ('{"prompt": 1}', ("text",)),
                        ('{"messages": []}', ("messages",)), ('{"messages": [{"role": "user"}]}', ("content",)),
                        ('{"prompt": "a", "max_tokens": 0}', ("max_tokens",)), ("", ("no prompts",))):
        with open(bad, "w", encoding="utf-8") as f:
            f.write(line + "\n")
        refused("prompts %r" % line, [*url, "--prompts", bad], bad, *words)
    with open(bad, "w", encoding="utf-8") as f:
        f.write("a key\n")
    refused("a key with a space", [*url, "--api-key-file", bad], bad, "without spaces")


def main():
    with tempfile.TemporaryDirectory(prefix="isthmus-test-") as folder:
        figures()
        open_loop()
        failures()
        prompts(folder)
        intruders(folder)
        cut_off()
        formats()
        usage(folder)
    e2e.finish()


main()
