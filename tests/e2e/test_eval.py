#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`isthmus eval`: shared passes change nothing, answers that are known, formats, the plot, bad input."""
import csv
import json
import os
import resource
import tempfile

import e2e

TEXT_KEYS = ("codec", "split", "tokens", "bits_per_value", "bytes_per_token",
             "wire_bytes_per_token", "rel_l2", "kl_mean", "kl_median", "kl_p99", "kl_max", "top1",
             "ppl", "ppl_ref", "ppl_full", "ppl_full_ref")
SUITE_KEYS = ("items", "acc", "acc_ref", "acc_lost", "acc_gained", "acc_net", "acc_norm",
              "acc_norm_ref", "acc_norm_lost", "acc_norm_gained", "acc_norm_net")
KNOWN = [
    ("The capital of France is", [" Paris.", " Berlin.", " a sandwich.", " seven."], 0),
    ("The opposite of hot is", ["yellow", "cold", "banana", "Wednesday"], 1),
    ("One, two, three, four,", ["cat", "purple", "five", "nobody"], 2),
    ("The days of the week: Monday, Tuesday,", ["Wednesday", "Friday", "March", "Apple"], 0),
    ("The sun rises in the", ["refrigerator", "table", "spoon", "east"], 3),
]


def evaluate(model, *args):
    return e2e.json_lines(e2e.isthmus("eval", "-m", model, *e2e.ONE_CORE, *args, timeout=900),
                          "eval " + " ".join(map(str, args)))


def items_file(folder, items=KNOWN, name="items.jsonl"):
    path = os.path.join(folder, name)
    with open(path, "w", encoding="utf-8") as f:
        f.write(e2e.lines_of([{"context": c, "choices": ch, "label": l} for c, ch, l in items]))
    return path


def small(model, text, folder):
    """All of it once, in seconds: for builds with sanitizers."""
    items = items_file(folder, KNOWN[:2], "two.jsonl")
    path = os.path.join(folder, "small.png")
    rows = evaluate(model, "--text", text, "--tokens", 24, "--suite", "hellaswag", items, "--split", "10,20",
                    "--codec", "tsq", "--codec", "f32", "--plot", path)
    e2e.check([(r["split"], r["codec"][:3]) for r in rows] == [(s, c) for s in (10, 20) for c in ("tsq", "f32")],
              "a line each: %s" % rows)
    for r in rows:
        e2e.check(r["tokens"] == 24 and r["items"] == 2 and r["acc"] == r["acc_ref"] == 1, "small: %s" % r)
        e2e.check((r["kl_mean"] == 0) == (r["codec"] == "f32"), "what it loses: %s" % r)
    with open(path, "rb") as f:
        e2e.check(f.read(8) == b"\x89PNG\r\n\x1a\n", "a PNG")


def shared_passes(model, text, items):
    """Many codecs and splits in one call give the lines that each gives alone."""
    what = ["--text", text, "--tokens", 96, "--suite", "hellaswag", items]
    codecs = ("tsq", "f32", "tsq:delta=.2")
    rows = evaluate(model, *what, "--split", "20,5", "--split", 5, *sum((["--codec", c] for c in codecs), []))
    e2e.check([r["split"] for r in rows] == [5] * 3 + [20] * 3, "splits in order, each once")
    alone = [evaluate(model, *what, "--split", s, "--codec", c)[0] for s in (5, 20) for c in codecs]
    e2e.check(rows == alone, "together\n%s\nalone\n%s" % (rows, alone))
    for r in rows:
        e2e.check(all(k in r for k in TEXT_KEYS + SUITE_KEYS), "keys of %s" % sorted(r))
        e2e.check(r["tokens"] == 96 and r["items"] == len(KNOWN), "counts")
        e2e.check(0 <= r["kl_median"] <= r["kl_p99"] <= r["kl_max"], "KL in order")
        e2e.check(r["acc_net"] == r["acc_gained"] - r["acc_lost"], "net")
        if r["codec"] == "f32":
            e2e.check(r["kl_max"] == 0 and r["rel_l2"] == 0 and r["top1"] == 1, "f32 loses nothing")
            e2e.check(r["ppl"] == r["ppl_ref"] and r["acc_lost"] == r["acc_gained"] == 0, "f32")
        else:
            e2e.check(r["kl_mean"] > 0 and r["rel_l2"] > 0, "tsq loses something")
    e2e.check(len({r["ppl_ref"] for r in rows}) == 1, "one reference")


def messages(model, text):
    """Rows that travel alone decode to the same, and cost more."""
    many, one = (evaluate(model, "--text", text, "--tokens", 64, "--rows", n)[0] for n in (64, 1))
    e2e.check(many["rows"] == 64 and one["rows"] == 1, "rows")
    e2e.check(one["kl_mean"] == many["kl_mean"], "the same values arrive")
    e2e.check(one["bytes_per_token"] > many["bytes_per_token"], "a header a row")
    e2e.check(abs(one["wire_bytes_per_token"] - one["bytes_per_token"] - 106) < .01,
              "82 bytes a packet and 24 a message")


def windows(model, text):
    """Windows by number are those of the whole text."""
    args = ("--text", text, "--split", 29, "--codec", "f16")
    first = evaluate(model, *args, "--tokens", 512)[0]
    chunk = evaluate(model, *args, "--chunks", "0-0")[0]
    e2e.check(first == chunk, "window 0 is the first 512 tokens")
    second = evaluate(model, *args, "--chunks", "1")[0]
    both = evaluate(model, *args, "--chunks", "0-1")[0]
    e2e.check(both["tokens"] == 1024 and abs(first["kl_mean"] + second["kl_mean"] - 2 * both["kl_mean"])
              < 1e-5 * both["kl_mean"], "two windows are the sum of each")
    e2e.check(abs(first["ppl_ref"] * second["ppl_ref"] / both["ppl_ref"] ** 2 - 1) < 1e-4, "perplexity")


def known_answers(model, folder, items):
    r = evaluate(model, "--suite", "hellaswag", items)[0]
    e2e.check(r["acc_ref"] == 1 and r["acc"] == 1 and r["suite"] == "hellaswag", "known: %s" % r)
    e2e.check(r["tokens"] is None and r["kl_mean"] is None and r["bytes_per_token"] > 0, "no text")
    # The same choices in another place, items in another order, more of them than run side by side.
    turned = [(c, ch[1:] + ch[:1], (l - 1) % 4) for c, ch, l in KNOWN[::-1]] * 7
    r = evaluate(model, "--suite", "hellaswag", items_file(folder, turned, "turned.jsonl"))[0]
    e2e.check(r["items"] == 35 and r["acc_ref"] == 1, "turned: %s" % r)
    wrong = [(c, ch, (l + 1) % 4) for c, ch, l in KNOWN]
    path = items_file(folder, wrong, "wrong.jsonl")
    r = evaluate(model, "--suite", "hellaswag", path)[0]
    e2e.check(r["acc_ref"] == 0 and r["acc_lost"] == 0, "wrong labels: %s" % r)
    r = evaluate(model, "--suite", "arc", path, "--items", 2)[0]
    e2e.check(r["items"] == 2 and r["suite"] == "arc", "--items")
    # White space brought along, and a choice of one token beside one of many.
    odd = items_file(folder, [("The capital of France is ", ["Paris", "the city of Berlin, Germany"], 0),
                              ("The capital of France is", ["\nParis", " Paris"], 1)], "odd.jsonl")
    r = evaluate(model, "--suite", "piqa", odd)[0]
    e2e.check(r["acc_ref"] == 1, "white space: %s" % r)


def formats(model, text, items):
    args = ("eval", "-m", model, "--text", text, "--tokens", 40, "--codec", "tsq", "--codec", "f32")
    done = e2e.isthmus(*args, "--format", "csv")
    rows = list(csv.DictReader(done.stdout.splitlines()))
    e2e.check(len(rows) == 2 and rows[0]["codec"].startswith("tsq:tau=") and rows[0]["tokens"] == "40",
              "csv: %s" % done.stdout)
    e2e.check(all(k in rows[0] for k in TEXT_KEYS + SUITE_KEYS) and rows[0]["acc"] == "", "csv fields")
    done = e2e.isthmus(*args, "--format", "md")
    lines = done.stdout.splitlines()
    e2e.check(len(lines) == 4 and len({line.count("|") for line in lines}) == 1, "md: %s" % done.stdout)
    for fmt in ("csv", "md", "jsonl"):
        e2e.to_full_disk(*args, "--format", fmt)
    e2e.check("mean KL" in lines[0] and "acc" not in lines[0], "only columns of the text")
    done = e2e.isthmus("eval", "-m", model, "--suite", "hellaswag", items, "--format", "md")
    lines = done.stdout.splitlines()
    e2e.check(len(lines) == 3 and len({line.count("|") for line in lines}) == 1, "md: %s" % done.stdout)
    e2e.check("KL" not in lines[0] and "acc_norm" in lines[0], "only columns of the suite")


def plot(model, text, folder):
    path = os.path.join(folder, "curves.png")
    args = ("eval", "-m", model, "--text", text, "--tokens", 24, "--split", "10,20")
    done = e2e.isthmus(*args, "--codec", "tsq", "--codec", "tsq:delta=.2", "--plot", path)
    e2e.check(done.returncode == 0, "plot: %s" % done.stderr)
    with open(path, "rb") as f:
        e2e.check(f.read(8) == b"\x89PNG\r\n\x1a\n", "a PNG")
    before = sorted(os.listdir(folder))
    refused(e2e.isthmus(*args, "--plot", path, env={"PATH": "/nonexistent"}), "gnuplot-nox")
    refused(e2e.isthmus(*args, "--plot", os.path.join(folder, "no", "x.png")), "x.png", "cannot be written")
    refused(e2e.isthmus(*args, "--plot", folder), "not a regular file")
    # A full disk: the old picture stays whole.
    with open(path, "rb") as f:
        whole = f.read()
    done = e2e.isthmus(*args, "--plot", path, restore_signals=False,
                       preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)))
    e2e.check(done.returncode == 1 and "curves.png: cannot be written" in done.stderr,
              "full disk: exit %d, %s" % (done.returncode, done.stderr))
    with open(path, "rb") as f:
        e2e.check(len(whole) > 4096 and f.read() == whole, "the picture of before")
    # gnuplot breaks when it should draw: the old picture stays, and nothing else.
    broken = os.path.join(folder, "bin")
    os.mkdir(broken)
    with open(os.path.join(broken, "gnuplot"), "w", encoding="utf-8") as f:
        f.write("#!/bin/sh\n[ \"$1\" = --version ] && exit 0\necho half a picture\nexit 3\n")
    os.chmod(os.path.join(broken, "gnuplot"), 0o755)
    done = e2e.isthmus(*args, "--plot", path, env={"PATH": broken + ":" + os.environ["PATH"]})
    e2e.check(done.returncode == 1 and "gnuplot" in done.stderr, "broken gnuplot: %s" % done.stderr)
    with open(path, "rb") as f:
        e2e.check(f.read(8) == b"\x89PNG\r\n\x1a\n", "still a PNG")
    done = e2e.isthmus(*args, "--codec", "f32", "--plot", os.path.join(folder, "f32.png"))
    e2e.check(done.returncode == 1 and "nothing to draw" in done.stderr, "f32 alone: %s" % done.stderr)
    e2e.check(sorted(os.listdir(folder)) == sorted(before + ["bin"]), "no half file")


def refused(done, *words):
    e2e.check(done.returncode == 2 and not done.stdout and all(w in done.stderr for w in words),
              "exit %d, wanted %s in: %s" % (done.returncode, words, done.stderr))


def bad_items(model, folder):
    good = {"context": "a", "choices": ["b", "c"], "label": 1}
    path = os.path.join(folder, "bad.jsonl")

    def check(line, *words, suite="piqa", args=()):
        with open(path, "w", encoding="utf-8") as f:
            f.write(json.dumps(good) + "\n\n" + line + "\n")
        refused(e2e.isthmus("eval", "-m", model, "--suite", suite, path, *args), path, *words)

    check("nonsense", ":3", "JSON")
    check("[]", ":3", "object")
    for missing in good:
        check(json.dumps({k: v for k, v in good.items() if k != missing}), ":3", missing, "missing")
    check(json.dumps({**good, "label": 2}), ":3", "label", "0 to 1")
    check(json.dumps({**good, "choices": ["b", ""]}), ":3", '"choices"[1] is empty')
    check(json.dumps({**good, "choices": ["b", "c", "d"]}), ":3", "piqa has 2")
    check(json.dumps({**good, "context": "word " * 9000}), ":3", "shorten")
    check(json.dumps(good), ":1", "hellaswag has 4", suite="hellaswag")
    check(json.dumps(good), "--items 3", args=("--items", 3))
    refused(e2e.isthmus("eval", "-m", model, "--suite", "piqa", "/dev/null"), "/dev/null", "no items")
    refused(e2e.isthmus("eval", "-m", model, "--suite", "piqa", "/nonexistent"), "/nonexistent")


def bad_arguments(model, text, folder):
    short = os.path.join(folder, "short.txt")
    with open(short, "w", encoding="utf-8") as f:
        f.write("Only a few words.")
    for args, *words in (
            (["--text", short], short, "512", "--tokens 5"),
            (["--text", short, "--chunks", "0"], short, "--tokens 5 instead of --chunks"),
            (["--text", text, "--chunks", "3-100000"], "--chunks 3-100000", "windows 0-"),
            (["--text", text, "--chunks", "5-2"], "--chunks"),
            (["--text", text, "--chunks", "x"], "--chunks"),
            (["--text", text, "--chunks", "0-1", "--tokens", 9], "--chunks", "--tokens"),
            (["--text", text, "--split", "10,"  "30"], "--split 30"),
            (["--text", text, "--split", ","], "--split"),
            (["--text", text, "--rows", 0], "--rows"),
            (["--text", text, "--format", "xml"], "--format"),
            (["--text", text, "--items", 3], "--items"),
            (["--suite", "piqa"], "--suite piqa", "file"),
            (["--suite", "piqa", "--items", 3], "--suite piqa", "file"),
            (["--suite", "quiz", short], "quiz", "hellaswag"),
            (["--text", text, "--split", "7,9", "--quality", "kl=.01"], "--quality", "profile of split 7"),
            (["--suite", "piqa", short, "--plot", "x.png"], "--plot"),
            ([], "--text", "--suite")):
        refused(e2e.isthmus("eval", "-m", model, *args), *words)


def main():
    model = e2e.model("smollm2")
    with tempfile.TemporaryDirectory(prefix="isthmus-test-") as folder:
        # What needs no reference data comes first.
        bad_items(model, folder)
        bad_arguments(model, os.path.join(e2e.ROOT, "README.md"), folder)
        text = e2e.shared("eval/wikitext2-valid.txt")
        small(model, text, folder)
        if not e2e.QUICK:
            items = items_file(folder)
            shared_passes(model, text, items)
            messages(model, text)
            windows(model, text)
            known_answers(model, folder, items)
            formats(model, text, items)
            plot(model, text, folder)
    e2e.finish()


main()
