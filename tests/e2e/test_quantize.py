#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`isthmus quantize`: the two files and what they say of themselves, the same bytes for any number of
threads, plain files of the same values against the model, and bad input, which leaves no file."""
import json
import os
import struct
import sys
import tempfile

import e2e

sys.path.append(os.path.join(e2e.ROOT, "tools"))
import pairs  # noqa: E402  pylint: disable=wrong-import-position

CHUNKS = "60-67"  # as few windows as are taken
FRONT = 2  # layers: each takes seconds
# Mean KL of halves whose first FRONT layers are in a scheme, calibrated on CHUNKS, over the first window of the text;
# and of ten layers of sq3. As measured in production arithmetic, whose rounding differs by processor.
KL = {"sq4": .00900, "sq3": .02710, "sq2": .17597, "g4": .01311, "g3": .05492, "g2": .13779, "Q4_0": .01528,
      "Q5_0": .00526, "Q8_0": .00189}
KL_TEN = .12343


def run(*args, **kwargs):
    return e2e.isthmus("quantize", *map(str, args), timeout=1700, **kwargs)


class Gguf:
    """Metadata and shapes, read by the format's own words."""

    SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}

    def __init__(self, path):
        with open(path, "rb") as f:
            self.b, self.at = f.read(), 0
        magic, version, n_tensors, n_kv = struct.unpack("<4sIQQ", self.take(24))
        e2e.check(magic == b"GGUF" and version == 3, "GGUF v3: %s" % path)
        self.kv = {}
        for _ in range(n_kv):
            key = self.string()
            self.kv[key] = self.value(self.u32())
        self.tensors = {}
        for _ in range(n_tensors):
            name = self.string()
            ne = [self.u64() for _ in range(self.u32())]
            self.tensors[name] = (self.u32(), ne, self.u64())

    def take(self, n):
        self.at += n
        return self.b[self.at - n:self.at]

    def u32(self):
        return struct.unpack("<I", self.take(4))[0]

    def u64(self):
        return struct.unpack("<Q", self.take(8))[0]

    def string(self):
        return self.take(self.u64()).decode("utf-8", "replace")

    def value(self, kind):
        if kind == 8:
            return self.string()
        if kind == 9:
            kind, n = self.u32(), self.u64()
            return [self.value(kind) for _ in range(n)]
        return int.from_bytes(self.take(self.SIZES[kind]), "little")


def read(path):
    with open(path, "rb") as f:
        return f.read()


def patched(model, path, at, bytes_):
    with open(path, "wb") as f:
        f.write(read(model))
        f.seek(at)
        f.write(bytes_)
    return path


def nan_model(model, path):
    """Its first matrix begins with a block (Q4_1) whose scale is no number."""
    g = Gguf(model)
    kind, _, offset = g.tensors["blk.0.attn_q.weight"]
    e2e.check(kind == 3, "Q4_1")
    return patched(model, path, (g.at + 31) // 32 * 32 + offset, b"\xff\xff")


def unpaired(out, path):
    """Halves of which the edge's says another number of layers."""
    os.mkdir(path)
    edge = os.path.join(out, "edge.gguf")
    key = b"isthmus.layers"
    at = read(edge).index(key) + len(key) + 4
    patched(edge, os.path.join(path, "edge.gguf"), at, struct.pack("<I", 31))
    os.link(os.path.join(out, "cloud.gguf"), os.path.join(path, "cloud.gguf"))
    return path


def check_files(folder, result, layers):
    edge, cloud = (Gguf(os.path.join(folder, name + ".gguf")) for name in ("edge", "cloud"))
    for g, stage in ((edge, "edge"), (cloud, "cloud")):
        want = {"isthmus.version": 1, "isthmus.stage": stage, "isthmus.split": FRONT,
                "isthmus.layers": layers, "isthmus.front": "sq3", "isthmus.back": "keep",
                "isthmus.parent": result["parent"], "isthmus.pair": result["pair"],
                "general.architecture": "llama"}
        for key, value in want.items():
            e2e.check(g.kv.get(key) == value, "%s: %s is %s" % (stage, key, g.kv.get(key)))
    e2e.check("tokenizer.ggml.tokens" in cloud.kv, "the tokenizer is in both")
    name = "blk.1.ffn_down.weight"
    e2e.check(name not in edge.tensors and edge.kv["isthmus.scheme." + name] == "sq3", "the scheme of " + name)
    e2e.check(edge.tensors[name + ".codes"][:2] == (24, [1536 * 3 // 8, 576]), "codes")
    e2e.check(edge.tensors[name + ".lut"][:2] == (1, [8, 576]), "levels")
    exact = int(1536 * 576 * .005)
    e2e.check(edge.tensors[name + ".sp_rows"][:2] == (26, [577]) and
              edge.tensors[name + ".sp_cols"][:2] == (25, [exact]) and
              edge.tensors[name + ".sp_values"][:2] == (1, [exact]), "the sparse part")
    e2e.check(all(not t.startswith("blk.%d." % FRONT) for t in edge.tensors) and
              all(not t.startswith("blk.%d." % (FRONT - 1)) for t in cloud.tensors), "each its own layers")
    e2e.check("blk.%d.ffn_down.weight" % FRONT in cloud.tensors, "kept as they are")
    e2e.check("output_norm.weight" in edge.tensors and "output_norm.weight" in cloud.tensors, "a head at either half")


def check_cut(model, deep, want, folder):
    """A pair with more layers in front, cut to FRONT, is the one that was quantized there: all tools that
    measure many splits build on it."""
    cut = os.path.join(folder, "cut")
    pairs.cut(deep, model, FRONT, cut)
    for half in ("edge.gguf", "cloud.gguf"):
        ours, theirs = (pairs.pair.Model(os.path.join(p, half)) for p in (cut, want))
        e2e.check({n: (t.ne, t.kind, t.data) for n, t in ours.tensors.items()}
                  == {n: (t.ne, t.kind, t.data) for n, t in theirs.tensors.items()}, "cut: tensors of " + half)
        differ = {k for k in {*ours.metadata, *theirs.metadata} if ours.metadata.get(k) != theirs.metadata.get(k)}
        e2e.check(differ == {"isthmus.pair"}, "cut: metadata of %s: %s" % (half, differ))
    done = e2e.isthmus("run", "-m", cut, "-p", "The capital of France is", "-n", "1")
    e2e.check(done.returncode == 0, "a pair that was cut: " + done.stderr)


def check_quality(model, profile, text, folder):
    """No scheme loses what it once kept."""
    cases = [(s, FRONT, KL[s] * 1.15) for s in (("sq3",) if e2e.QUICK else KL)]
    cases += [] if e2e.QUICK else [("sq3", 10, KL_TEN * 1.1)]
    for scheme, split, most in cases:
        out = os.path.join(folder, "quality")
        done = run("-m", model, "--calibration", profile, "--split", split, "--front", scheme, "-o", out)
        e2e.check(done.returncode == 0, "quantize --front %s: %s" % (scheme, done.stderr))
        done = e2e.isthmus("eval", "-m", out, "--reference", model, "--text", text, "--chunks", "0-0", timeout=800)
        line = e2e.json_lines(done, "eval --reference")[0]
        e2e.say("%d layers of %s: mean KL %.5f, at most %.5f" % (split, scheme, line["kl_mean"], most))
        e2e.check(most / 4 < line["kl_mean"] <= most, "quality of %s, %d layers: %s" % (scheme, split, line))


def check_results(folder, model):
    """A cell of results is of what is in its files: another text or calibration of the same name is another cell."""
    for name in ("text", "calibration"):
        for which in ("a", "b"):
            os.makedirs(os.path.join(folder, which), exist_ok=True)
            with open(os.path.join(folder, which, name), "w", encoding="utf-8") as f:
                f.write(which)

    def key(calibration, text):
        made = pairs.Pairs(model, folder, os.path.join(folder, calibration, "calibration"))
        return made.text_key("sq3", "keep", FRONT, os.path.join(folder, text, "text"), "0-0")

    results = pairs.Results(None)
    results.add({**key("a", "a"), "kl_mean": 1})
    found = {which: results.find(**key(*which)) is not None for which in ("aa", "ab", "ba")}
    e2e.check(found == {"aa": True, "ab": False, "ba": False}, "results: found %s" % found)


def main():
    model = e2e.model("smollm2")
    text = os.path.join(e2e.SHARED, "eval", "wikitext2-valid.txt")
    if not os.path.exists(text):
        e2e.skip("no text: %s" % text)
    with tempfile.TemporaryDirectory() as folder:
        check_results(folder, model)
        profile = os.path.join(folder, "profile")
        calibrate = ["calibrate", "-m", model, "--text", text, "--split", "29", "--samples", "1", "--classes", "0"]
        done = e2e.isthmus(*calibrate, "--chunks", CHUNKS, "-o", profile, timeout=800)
        e2e.check(done.returncode == 0, "calibrate: " + done.stderr)

        usual = ["-m", model, "--calibration", profile, "--split", FRONT, "--front", "sq3", "--json"]
        out = os.path.join(folder, "pair")

        def pair(threads, args):
            done = run(*args, "--threads", threads, "--first-core", -1, "-o", out)
            e2e.check(done.returncode == 0, "quantize: " + done.stderr)
            e2e.check(sorted(os.listdir(out)) == ["cloud.gguf", "edge.gguf"], "nothing else: %s" % os.listdir(out))
            written = read(os.path.join(out, "edge.gguf")) + read(os.path.join(out, "cloud.gguf"))
            return json.loads(done.stdout), written

        plain_types = ["-m", model, "--split", FRONT, "--front", "Q8_0", "--json"]
        e2e.check(pair(1, plain_types)[1] == pair(2, plain_types)[1], "Q8_0: the same bytes for any --threads")
        result, written = pair(2, usual)
        e2e.check(e2e.QUICK or pair(1, usual)[1] == written, "sq3: the same bytes for any --threads")
        check_files(out, result, 30)
        texts = [e2e.isthmus("run", "-m", out, "-p", "The capital of France is", "-n", "8", "--head", head).stdout
                 for head in ("cloud", "edge")]
        e2e.check(texts[0] and texts[0] == texts[1], "the edge half has the head, too: %s" % texts)
        bits = result["edge"]["bits_per_weight"]
        e2e.check(3.3 < bits <= 3.4, "bits a weight: %s" % bits)
        e2e.check(len(result["matrices"]) == 210 and all(0 < m["error"] < .1 for m in result["matrices"][:14]),
                  "errors: %s" % result["matrices"][:14])

        check_quality(model, profile, text, folder)
        deep = os.path.join(folder, "deep")
        done = run("-m", model, "--calibration", profile, "--split", FRONT + 1, "--front", "sq3", "-o", deep)
        e2e.check(done.returncode == 0, "quantize: " + done.stderr)
        check_cut(model, deep, out, folder)

        done = run(*usual, "--as", "f16", "-o", out)
        e2e.check(done.returncode == 0, "--as f16: " + done.stderr)
        plain = os.path.join(out, "model.gguf")
        done = e2e.isthmus("eval", "-m", plain, "--reference", model, "--text", text, "--chunks", "0-0", timeout=800)
        line = e2e.json_lines(done, "eval --reference")[0]
        e2e.say("2 layers of sq3: mean KL %.4f" % line["kl_mean"])
        e2e.check(.001 < line["kl_mean"] < .1 and line["top1"] > .8, "near the model: %s" % line)

        there = sorted(os.listdir(folder))

        def refused(code, says, *args):
            done = run(*args)
            e2e.check(done.returncode == code and says in done.stderr, "%s: %d, %s" % (args, done.returncode, done.stderr))
            e2e.check(sorted(os.listdir(folder)) == there, "files left behind: %s" % os.listdir(folder))

        none = os.path.join(folder, "none")
        short = os.path.join(folder, "short")
        done = e2e.isthmus(*calibrate, "--chunks", "60-63", "-o", short, timeout=800)
        e2e.check(done.returncode == 0, "calibrate: " + done.stderr)
        unnamed = patched(model, os.path.join(folder, "unnamed"), read(model).index(b"blk.0.attn_q.weight"), b"blk.0.attn_Q")
        no_number = nan_model(model, os.path.join(folder, "nan"))
        odd = unpaired(out, os.path.join(folder, "odd"))
        done = e2e.isthmus("run", "-m", odd, "-p", "x", "-n", "1")
        e2e.check(done.returncode == 2 and "isthmus.layers is 31 and llama.block_count 30" in done.stderr, done.stderr)
        there = sorted(os.listdir(folder))
        refused(2, "blk.0.attn_Q.weight", "-m", unnamed, "--front", "Q8_0", "-o", none)
        refused(1, "infinite or NaN", "-m", no_number, "--front", "Q8_0", "-o", none)
        refused(2, "no such scheme; there are Q8_0", "-m", model, "--front", "sq5", "-o", none)
        refused(2, "must be 1 to 29", "-m", model, "--split", 30, "--front", "Q8_0", "-o", none)
        refused(2, "needs --calibration", "-m", model, "--front", "sq3", "-o", none)
        refused(2, "too short", "-m", model, "--front", "sq3", "--calibration", short, "-o", none)
        refused(2, "no calibration text", "-m", model, "--front", "sq3", "--calibration", text, "-o", none)
        refused(2, "another model", "-m", plain, "--front", "sq3", "--calibration", profile, "-o", none)
        refused(2, "multiple of 32", "-m", model, "--front", "g3", "--group", 40, "-o", none)
        refused(2, "none of the schemes", "-m", model, "--front", "Q8_0", "--sparse", 1, "-o", none)
        refused(2, "no matrix", "-m", model, "--front", "Q8_0", "--tensor", "blk.99.*=keep", "-o", none)
        refused(2, "not a folder", "-m", model, "--front", "Q8_0", "-o", profile)
    e2e.finish()


main()
