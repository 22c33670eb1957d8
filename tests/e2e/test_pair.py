#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Halves in files of their own: `run`, `edge`, `cloud` and `eval` take them and give the ids of the model
that they are; what doesn't fit together is refused, with both sides said."""
import json
import os
import subprocess
import tempfile

import e2e
import pair

SPLIT = 10
PROMPT = ["-p", "The capital of France is", "-n", "12", "--ignore-eos", "--json"]


def ids(*args):
    done = e2e.isthmus("run", *PROMPT, *args)
    if not e2e.check(done.returncode == 0, "run %s: exit %d: %s" % (args, done.returncode, done.stderr)):
        return None
    return json.loads(done.stdout)["ids"]


def refused(what, args, code, *words):
    done = e2e.isthmus(*args)
    e2e.say("%s: %s" % (what, done.stderr.strip()))
    e2e.check(done.returncode == code and all(w in done.stderr for w in words),
              "%s: exit %d, not %d, or without %s" % (what, done.returncode, code, words))


def meet(folder, cloud_model, edge_model, *words):
    """A cloud and an edge that do not go together; or, without words, that do."""
    path = os.path.join(folder, "m.sock")
    cloud = subprocess.Popen([e2e.BINARY, "cloud", "--port", "memif:" + path, *e2e.secured("cloud"),
                              "-m", cloud_model], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT)
    try:
        e2e.check(e2e.wait_for(lambda: os.path.exists(path), 180), "the cloud listens")
        args = ["edge", "--port", "memif:" + path, *e2e.secured("edge"), "-m", edge_model, "-p", "Water boils at",
                "-n", "4"]
        if words:
            refused("another pair", args, 1, *words)
        else:
            done = e2e.isthmus(*args)
            e2e.check(done.returncode == 0 and done.stdout.strip(), "edge: exit %d: %s"
                      % (done.returncode, done.stderr))
    finally:
        e2e.end(cloud, "the cloud")


def main():
    path = e2e.model("smollm2")
    model = pair.Model(path)
    with tempfile.TemporaryDirectory(prefix="isthmus-pair-") as folder:
        same, other, rough = (os.path.join(folder, n) for n in ("same", "other", "rough"))
        first = pair.make(model, same, SPLIT,
                          {n: lambda t: pair.to_g4(t, sparse=True) for n in model.tensors if "attn_v" in n})
        second = pair.make(model, other, SPLIT, salt="other", parent="f" * 32)
        local = ids("-m", path, "--local")

        # The same numbers in another storage: the very ids.
        e2e.check(ids("-m", same, "--codec", "f32") == local, "g4:32 of Q4_1 gives the model's own ids")
        e2e.check(ids("-m", same, "--codec", "f32", "--cpu-mask", "avx2", "--threads", "2", "--chunk", "3",
                      "--split", SPLIT) == local, "in chunks on two threads too, and --split said")

        # Each of the sq schemes in some matrices: not the same numbers, but still the model.
        pair.make(model, rough, SPLIT, salt="rough",
                  schemes={"blk.%d.%s.weight" % (layer, name): lambda t, b=bits: pair.to_sq(t, b, 3 if b > 2 else 80)
                           for layer, name, bits in ((2, "attn_k", 4), (3, "attn_v", 3), (12, "attn_k", 2),
                                                     (29, "attn_output", 4))})
        got = ids("-m", rough, "--codec", "f32")
        e2e.say("sq in four matrices: %s, the model %s" % (got, local))
        e2e.check(got is not None and got[0] == local[0], "sq4, sq3 and sq2 in some matrices still say Paris")
        e2e.check(ids("-m", rough, "--codec", "f32", "--cpu-mask", "avx2", "--chunk", "2") == got,
                  "and the same whatever the chunk")

        # By themselves, by directory and by file.
        meet(folder, same, same)
        meet(folder, os.path.join(same, "cloud.gguf"), os.path.join(same, "edge.gguf"))
        meet(folder, same, other, "model mismatch", first, second, "half of " + "0123456789abcdef" * 2,
             "half of " + "f" * 32, "quantize again")
        meet(folder, path, same, "model mismatch", first, "half of " + "0123456789abcdef" * 2)

        text = os.path.join(folder, "text")
        with open(text, "w") as f:
            f.write("The lighthouse stood on a rock in the middle of the strait. " * 100)
        def evaluate(model_path, split):
            return ["eval", "--text", text, "--tokens", "512", "--codec", "f32", "--split", split, "-m", model_path]
        refused("eval of another split", evaluate(same, "11"), 2, "--split 11", "10")
        done = [e2e.isthmus(*evaluate(m, "10")) for m in (path, same)]
        lines = [json.loads(d.stdout.splitlines()[-1]) if d.returncode == 0 else {"said": d.stderr} for d in done]
        e2e.check("ppl_full" in lines[0] and lines[0] == lines[1], "eval of the halves is that of the model: %s" % lines)

        # What can't be.
        edge, cloud = os.path.join(same, "edge.gguf"), os.path.join(same, "cloud.gguf")
        refused("another split", ["run", "-m", same, "-p", "x", "--split", "11"], 2, "--split 11", "10")
        refused("a half without a head", ["run", "-m", same, "-p", "x", "--head", "edge"], 2, "no head",
                "leave out --head edge")
        refused("the same, looked at", ["run", "-m", same, "--head", "edge", "--check-config"], 2, "no head")
        refused("local", ["run", "-m", same, "-p", "x", "--local"], 2, "--local", "edge half")
        refused("one file of two", ["run", "-m", edge, "-p", "x"], 2, "edge half", "directory")
        refused("the edge's as a cloud", ["cloud", "-m", edge, "--port", "memif:/tmp/x", "--insecure"], 2,
                "edge half", "cloud.gguf")
        refused("the cloud's as an edge", ["edge", "-m", cloud, "--port", "memif:/tmp/x", "--insecure", "-p", "x"], 2,
                "cloud half", "edge.gguf")
        refused("score", ["score", "-m", edge], 2, "edge half", "whole model")
        mixed = os.path.join(folder, "mixed")
        os.mkdir(mixed)
        os.link(edge, os.path.join(mixed, "edge.gguf"))
        os.link(os.path.join(other, "cloud.gguf"), os.path.join(mixed, "cloud.gguf"))
        refused("halves of two pairs", ["run", "-m", mixed, "-p", "x"], 2, first, second, "f" * 32,
                "quantize again")
        os.unlink(os.path.join(mixed, "cloud.gguf"))
        refused("half a pair", ["run", "-m", mixed, "-p", "x"], 2, "cloud.gguf", "`isthmus quantize ")
        refused("no half yet", ["edge", "-m", os.path.join(folder, "new", "edge.gguf"), "--port", "memif:/tmp/x",
                                "--insecure", "-p", "x"], 2, "edge.gguf: No such file", "`isthmus quantize ")
        for n_bytes in (0, 300000, os.path.getsize(cloud) // 2):
            with open(cloud, "rb") as whole, open(os.path.join(mixed, "cloud.gguf"), "wb") as part:
                part.write(whole.read(n_bytes))
            refused("a copy of %d bytes" % n_bytes, ["run", "-m", mixed, "-p", "x"], 2, "cloud.gguf", "copy it again")
    e2e.finish()


if __name__ == "__main__":
    main()
