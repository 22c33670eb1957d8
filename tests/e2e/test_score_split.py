#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`score` split at f32 writes the same bytes as --local, whatever the threads; bad lines and bad
arguments of `score` and `eval` are refused by name."""
import os

import e2e


def score(text, *args):
    return e2e.isthmus("score", "-m", e2e.model("smollm2"), *args, text_in=text)


def check_refused(done, *words):
    e2e.check(done.returncode == 2 and all(w in done.stderr for w in words),
              "exit code 2 naming %s, got %d: %s" % (words, done.returncode, done.stderr))


def check_identity():
    texts = e2e.lines_of({"text": p} for p in (e2e.PROMPTS[0], e2e.PROMPTS[1], e2e.PROMPTS[6]))
    ids = [r["ids"] for r in e2e.json_lines(e2e.isthmus("tokenize", "-m", e2e.model("smollm2"), text_in=texts),
                                            "tokenize")]
    cases = e2e.lines_of({"prompt_ids": i[:len(i) // 2], "forced_ids": i[len(i) // 2:]} for i in ids)
    local = score(cases, "--local", "--threads", 1)
    e2e.check(local.returncode == 0 and local.stdout.count("\n") == 3, "score --local")
    for split in (1, 10, 29):
        e2e.check(score(cases, "--split", split, "--codec", "f32").stdout == local.stdout,
                  "the same bytes at split %d" % split)
    e2e.check(score(cases, "--split", 10, "--codec", "tsq").stdout != local.stdout,
              "tsq is no f32")


def check_bad_lines():
    good = '{"prompt_ids": [1], "forced_ids": [2]}\n'
    for line, *words in (
            ('{"prompt_ids": [1]}', "forced_ids", "missing"),
            ('{"forced_ids": [1]}', "prompt_ids", "missing"),
            ('{"prompt_ids": [], "forced_ids": [2]}', "prompt_ids"),
            ('{"prompt_ids": [1], "forced_ids": []}', "forced_ids"),
            ('{"prompt_ids": [1], "forced_ids": [49152]}', "forced_ids", "vocabulary"),
            ('{"prompt_ids": [-1], "forced_ids": [2]}', "prompt_ids", "vocabulary"),
            ('{"prompt_ids": [1], "forced_ids": ["x"]}', "forced_ids"),
            ('{"prompt_ids": [' + "1," * 9000 + '1], "forced_ids": [2]}', "9002", "8192"),
            ("[1]", "object"), ("nonsense", "")):
        done = score("\n" + good + line + "\n", "--local")
        check_refused(done, "stdin:3", *words)
        e2e.check(done.stdout.count("\n") == 1, "the good line before it is answered")


def check_bad_arguments():
    smollm2 = e2e.model("smollm2")
    text = os.path.join(e2e.ROOT, "README.md")  # long enough for a window
    for split in (0, 30):
        check_refused(score("", "--split", split), "--split %d" % split)
        check_refused(e2e.isthmus("eval", "-m", smollm2, "--text", text, "--split", split),
                      "--split %d" % split)
    check_refused(score("", "--split", 3, "--local"), "--local")
    check_refused(score("", "--codec", "f16", "--local"), "--local", "--codec")
    check_refused(e2e.isthmus("eval", "-m", smollm2), "--text")
    check_refused(e2e.isthmus("eval", "-m", smollm2, "--text", "/nonexistent"), "/nonexistent")
    check_refused(e2e.isthmus("eval", "-m", smollm2, "--text", "/dev/null"), "/dev/null")
    check_refused(e2e.isthmus("eval", "-m", smollm2, "--text", text, "--tokens", 10 ** 9), "--tokens")
    check_refused(e2e.isthmus("eval", "-m", smollm2, "--text", text, "--codec", "q9"), "q9")
    check_refused(e2e.isthmus("eval", "-m", smollm2, "--text", text, "--ctx", 64), "--ctx", "512")


check_identity()
check_bad_lines()
check_bad_arguments()
e2e.finish()
