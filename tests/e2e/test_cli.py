#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The commands as a user meets them: help, one prompt, JSON fields, chat, requests, two terminals."""
import json
import math
import os
import re
import subprocess
import tempfile

import e2e

COMMANDS = ("run", "edge", "cloud", "ctl", "top", "netem", "keygen", "tokenize", "score", "eval", "calibrate", "quantize",
            "plan", "profile", "bench", "config", "doctor")
# Of commands that are groups; they share a man page.
MEMBERS = {"bench": ("codec", "machine", "compute", "kernels", "transport", "serve")}
FIELDS = ("text", "prompt_ids", "ids", "ttft_ms", "prefill_tokens_per_s", "decode_tokens_per_s",
          "wire_bytes_up", "wire_bytes_down", "copied_bytes", "port_copied_bytes", "driver_copied_bytes",
          "history_copied_bytes", "bytes_per_token", "wire_bytes_per_token", "bits_per_value",
          "link_rtt_us_p50", "port", "cipher", "split", "codec", "edge_rss_bytes", "cloud_rss_bytes")
PROMPT = "The capital of France is"


def helps():
    top = e2e.isthmus("--help")
    for name in COMMANDS:
        done = e2e.isthmus(name, "--help")
        e2e.check(done.returncode == 0 and "Usage: isthmus " + name in done.stdout,
                  "%s --help: exit %d, %r" % (name, done.returncode, done.stdout[:80]))
        e2e.check("  %s " % name in top.stdout, "isthmus --help lists " + name)
        with open(os.path.join(e2e.ROOT, "docs", "man", "isthmus-%s.1" % name), encoding="utf-8") as f:
            page = f.read().replace("\\-", "-")
        text = done.stdout
        for member in MEMBERS.get(name, ()):
            done = e2e.isthmus(name, member, "--help")
            e2e.check(done.returncode == 0 and "Usage: isthmus %s %s" % (name, member) in done.stdout,
                      "%s %s --help: exit %d, %r" % (name, member, done.returncode, done.stdout[:80]))
            e2e.check("  %s " % member in text, "isthmus %s --help lists %s" % (name, member))
            text += done.stdout
        for option in re.findall(r"(?<=[ ,])--[a-z][a-z-]+", text):
            e2e.check(option in page, "isthmus-%s(1) does not explain %s" % (name, option))
        for option in re.findall(r"^\.TP\n\.B .*?(--[a-z][a-z-]+)", page, re.M):
            e2e.check(option in text, "%s has no %s of isthmus-%s(1)" % (name, option, name))
        done = e2e.isthmus(name, "--version")
        e2e.check(done.stdout.startswith("isthmus 0."), name + " --version")
    e2e.say("%d commands explain themselves" % len(COMMANDS))


def one_prompt(model):
    done = e2e.isthmus("run", "-m", model, "-p", PROMPT, "-n", "12")
    e2e.say(done.stderr.strip())
    e2e.check(done.returncode == 0 and done.stdout.startswith(" Paris."), "run: %r" % done.stdout)
    e2e.check("bytes/token" in done.stderr, "the summary line")
    from_stdin = e2e.isthmus("run", "-m", model, "-p", "-", "-n", "12", text_in=PROMPT)
    e2e.check(from_stdin.stdout == done.stdout, "-p - reads stdin: %r" % from_stdin.stdout)

    r = e2e.json_lines(e2e.isthmus("run", "-m", model, "-p", PROMPT, "-n", "12", "--json"), "--json")
    e2e.check(len(r) == 1 and all(f in r[0] for f in FIELDS), "the fields of --json")
    r = r[0]
    e2e.check(r["text"] + "\n" == done.stdout, "--json has the same text: %r" % r["text"])
    e2e.check(r["port"] == "memif" and r["cipher"] == "AES-128-GCM" and r["split"] == 10, "port, cipher, split")
    e2e.check(len(r["ids"]) == 12 and len(r["prompt_ids"]) == 5, "ids")
    # The last id needs no row: 5 + 11 rows went up, each in its packet or several to one.
    e2e.check(r["copied_bytes"] == 0 and r["port_copied_bytes"] == 0,
              "from the codec into the port's memory nothing is copied: %s" % r)
    e2e.check(r["driver_copied_bytes"] == r["wire_bytes_up"] + r["wire_bytes_down"], "memif's driver copies all: %s" % r)
    e2e.check(r["wire_bytes_up"] > 16 * r["bytes_per_token"] * .95, "bytes on the wire")
    e2e.check(abs(r["bits_per_value"] - r["bytes_per_token"] * 8 / 576) < .01, "bits per value")
    e2e.check(0 < r["link_rtt_us_p50"] < 1e6 and r["ttft_ms"] > 0, "times")
    f16 = e2e.json_lines(e2e.isthmus("run", "-m", model, "-p", PROMPT, "-n", "12", "--json",
                                     "--codec", "f16"), "--json")[0]
    e2e.check(1152 <= f16["bytes_per_token"] < 1200, "f16: %.1f bytes" % f16["bytes_per_token"])


def top_logprobs(model):
    """Alternatives: the same whether the model is split or not, whatever else is answered, best first."""
    asked = [{"prompt": PROMPT, "n_predict": 9}, {"prompt": "Water boils at", "n_predict": 7, "temp": 1, "seed": 3},
             {"prompt": "The cat", "n_predict": 5, "temp": .8, "repeat_penalty": 1.3}]

    def ask(*args):
        return [r["logprobs"] for r in e2e.run_requests(asked, "-m", model, "--ignore-eos", *args)]

    whole = ask("--local", "--top-logprobs", "20")
    e2e.check(ask("--codec", "f32", "--parallel", "3", "--top-logprobs", "20") == whole, "alternatives of a split model")
    fewer = ask("--codec", "f32", "--top-logprobs", "3")
    e2e.check(fewer == [[{**t, "top": t["top"][:3]} for t in answer] for answer in whole], "fewer alternatives")
    for answer, request in zip(whole, asked):
        e2e.check(len(answer) == request["n_predict"], "alternatives of every id")
        for token in answer:
            ids, logprobs = zip(*token["top"])
            e2e.check(len(set(ids)) == 20 and sorted(logprobs, reverse=True) == list(logprobs), str(token))
            e2e.check(sum(math.exp(p) for p in logprobs) < 1.0001, "more than certain: %s" % token)
            e2e.check(dict(token["top"]).get(token["id"], token["logprob"]) == token["logprob"], str(token))
            e2e.check("temp" in request or token["id"] == ids[0], "greedy: %s" % token)
    e2e.check(any(t["id"] != t["top"][0][0] for t in whole[1]), "nothing was sampled")
    forced = {"prompt_ids": e2e.run_requests(asked[:1], "-m", model, "--local")[0]["prompt_ids"],
              "forced_ids": [t["id"] for t in whole[0]]}
    scored = json.loads(e2e.isthmus("score", "-m", model, "--local", text_in=json.dumps(forced) + "\n").stdout)["top20"]
    for token, top in zip(whole[0], scored):
        e2e.check([i for i, _ in token["top"]] == [i for i, _ in top]
                  and all(abs(a[1] - b[1]) < 1e-5 for a, b in zip(token["top"], top)), "score: %s, %s" % (token, top))
    done = e2e.isthmus("run", "-m", model, "-p", PROMPT, "-n", "2", "--local", "--json")
    e2e.check("logprobs" not in json.loads(done.stdout), "alternatives that nobody asked for")


def utf8(model):
    """Text streams in whole characters: what comes is valid UTF-8 even if the last one is cut."""
    done = e2e.isthmus("run", "-m", model, "-p", "Emoji: 😀 😃 😄", "-n", "24", "--ignore-eos", "--json")
    e2e.check(done.returncode == 0 and json.loads(done.stdout)["text"], "emoji")


def chat(model):
    def talk(*args):
        return e2e.isthmus("run", "-m", model, "-n", "24", *args,
                           text_in="What is the capital of France?\nAnd of Italy?\n/clear\nHello\n")

    done, local = talk("--codec", "f32"), talk("--local")
    e2e.say("chat: %r" % done.stdout[:200])
    e2e.check(done.returncode == 0 and done.stdout == local.stdout and done.stdout.count("\n") >= 3,
              "chat: exit %d, %r, %s; unsplit: %r"
              % (done.returncode, done.stdout, done.stderr, local.stdout))
    e2e.check(done.stderr.count("prompt tokens") == 3, "three answers")


def unwritable(model):
    """Nobody reads the answer any more, or the disk is full: said, and no more is computed."""
    for text_in, args in (("", ["-p", PROMPT, "-n", "4000", "--ignore-eos"]),
                          ("", ["-p", PROMPT, "-n", "4", "--json"]), ("Hello\n", [])):
        e2e.to_full_disk("run", "-m", model, "--local", *args, text_in=text_in, timeout=180)


def requests(model):
    lines = [{"prompt": PROMPT, "n_predict": 6}, {"prompt": "Water boils at", "n_predict": 3},
             {"prompt": PROMPT, "temp": 1.0, "seed": 1, "n_predict": 9}]
    got = e2e.run_requests(lines, "-m", model, "--parallel", "3", "--json", "--ignore-eos")
    e2e.check([len(g["ids"]) for g in got[:3]] == [6, 3, 9], "a result for every line, in order")
    e2e.check([g["line"] for g in got[:3]] == [1, 2, 3], "lines are numbered")
    e2e.check(got[3]["requests"] == 3 and got[3]["tokens"] == 18, "the final summary")
    alone = e2e.run_requests(lines[2:], "-m", model, "--ignore-eos")
    e2e.check(alone[0]["ids"] == got[2]["ids"], "the same seed gives the same text")


def two_terminals(model):
    with tempfile.TemporaryDirectory(prefix="isthmus-test-") as folder:
        socket = os.path.join(folder, "isthmus.sock")
        cloud = subprocess.Popen([e2e.BINARY, "cloud", "-m", model, "--split", "10", "--port",
                                  "memif:" + socket, *e2e.secured("cloud")], stdin=subprocess.DEVNULL,
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            for i in range(2):  # one edge after the other
                done = e2e.isthmus("edge", "-m", model, "--split", "10", "--port",
                                   "memif:" + socket, *e2e.secured("edge"), "-p", PROMPT, "-n", "6")
                e2e.check(done.returncode == 0 and done.stdout.startswith(" Paris."),
                          "edge %d: exit %d, %r, %s" % (i, done.returncode, done.stdout, done.stderr))
        finally:
            said = e2e.end(cloud, "the cloud")
        e2e.check(cloud.returncode == 0, "the cloud ends by SIGTERM with %d: %s"
                  % (cloud.returncode, said))
        e2e.check(not os.path.exists(socket), "the socket is gone")
        e2e.say("two edges, one after the other, at one cloud")


def main():
    model = e2e.model("smollm2")
    helps()
    one_prompt(model)
    top_logprobs(model)
    utf8(model)
    chat(model)
    unwritable(model)
    requests(model)
    two_terminals(model)
    e2e.finish()


main()
