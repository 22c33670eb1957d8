# SPDX-License-Identifier: Apache-2.0
"""Pairs of halves in many schemes at many splits, and what they cost: for tools/quality-table and
tests/bench/quality.py.

A layer's codes depend on the layers below it and on the calibration alone. So of a front scheme one pair is
quantized, at the deepest split that is asked for, and those of all other splits are cut from its files, the
layers behind them taken from the model; tests/e2e/test_quantize.py has `isthmus quantize` write the same
tensors. Results are kept as JSON lines, so that a run that was ended goes on where it was."""
import contextlib
import functools
import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BINARY = os.environ.get("ISTHMUS") or os.path.join(ROOT, "build", "isthmus")
sys.path.insert(0, os.path.join(ROOT, "tests", "e2e"))
import pair  # noqa: E402  pylint: disable=wrong-import-position

# Schemes that `isthmus quantize` writes without a calibration.
PLAIN = ("Q8_0", "Q6_K", "Q5_0", "Q4_1", "Q4_0")


def run(*args):
    """What isthmus prints; the end of the program where it fails."""
    done = subprocess.run([BINARY, *map(str, args)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          text=True, check=False)
    if done.returncode != 0:
        sys.exit("isthmus %s: exit code %d" % (" ".join(map(str, args)), done.returncode))
    return done.stdout


def run_lines(*args):
    return [json.loads(line) for line in run(*args).splitlines()]


@functools.lru_cache(None)
def hash_of(path):
    """By which results know a file: what is in it, not what it is called."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()[:16]


def layer_of(name):
    found = re.match(r"blk\.(\d+)\.", name)
    return int(found[1]) if found else None


def matrix_bytes(tensors, split):
    """What the matrices of layers [0, split) take, tables and exact weights too: codes and blocks of the
    seven, whatever their scheme."""
    return sum(len(t.data) for t in tensors
               if (layer_of(t.name) or 0) < split and t.name.startswith("blk.")
               and t.name.split(".")[2] in pair.LINEAR and not t.name.endswith(".bias"))


def cut(deep, model, split, out):
    """The pair `deep`, a folder, cut before its split instead; layers from there on to its own are the
    model's, or its own where its back was quantized too."""
    edge, cloud = (pair.Model(os.path.join(deep, half + ".gguf")) for half in ("edge", "cloud"))
    whole = pair.Model(model)
    of_edge = {n: t for n, t in edge.tensors.items() if (layer_of(n) or 0) < split}
    kept = edge.metadata["isthmus.back"][12:] == b"keep"
    of_cloud = {n: t for n, t in (whole if kept else edge).tensors.items()
                if layer_of(n) is not None and split <= layer_of(n)}
    of_cloud.update((n, t) for n, t in cloud.tensors.items() if n not in of_cloud)
    identity = hashlib.md5(edge.metadata["isthmus.pair"][12:] + b" %d" % split).hexdigest()
    changed = {"isthmus.split": struct.pack("<II", pair.U32, split),
               "isthmus.pair": struct.pack("<I", pair.STRING) + pair.string(identity)}
    os.makedirs(out, exist_ok=True)
    for half, tensors, stage in (("edge", of_edge, edge), ("cloud", of_cloud, cloud)):
        schemes = {**edge.metadata, **cloud.metadata}
        metadata = {k: v for k, v in stage.metadata.items() if not k.startswith("isthmus.scheme.")}
        metadata.update((k, v) for k, v in schemes.items() if k.startswith("isthmus.scheme.")
                        and k[len("isthmus.scheme."):] + ".codes" in tensors)
        pair.write(os.path.join(out, half + ".gguf"), {**metadata, **changed}, tensors.values())


class Results:
    """Measured cells, a line of JSON each: what asked for it, and what it came to."""

    def __init__(self, path):
        self.path, self.cells = path, []
        if path and os.path.exists(path):
            with open(path, encoding="utf-8") as f:
                self.cells = [json.loads(line) for line in f]

    def all(self, **key):
        return [c for c in self.cells if all(c.get(k) == v for k, v in key.items())]

    def find(self, **key):
        return next(iter(self.all(**key)), None)

    def add(self, cell):
        self.cells.append(cell)
        if self.path:
            with open(self.path, "a", encoding="utf-8") as f:
                f.write(json.dumps(cell) + "\n")
        return cell


class Pairs:
    """Pairs of one model in a working folder, each made when it is first asked for."""

    def __init__(self, model, folder, calibration=None, threads=1):
        self.model, self.folder = model, folder
        self.calibration, self.threads = calibration, threads
        os.makedirs(folder, exist_ok=True)

    def quantize(self, front, back, split, options=()):
        """A folder with the pair that `isthmus quantize` writes."""
        out = os.path.join(self.folder, "-".join([front, back, str(split), *options]).replace("/", "_"))
        if not os.path.exists(os.path.join(out, "cloud.gguf")):
            need = [] if {front, back} <= {*PLAIN, "keep"} else ["--calibration", self.calibration]
            if None in need:
                sys.exit("%s needs a calibration: --calibration FILE (isthmus calibrate)" % front)
            print("quantize: front %s, back %s, split %d" % (front, back, split), file=sys.stderr)
            run("quantize", "-m", self.model, *need, "--split", split, "--front", front, "--back", back,
                "--threads", self.threads, "-o", out, *options)
        return out

    def key(self, front, back, split, options=()):
        """What a pair is called among the results. The model as it is: keep, keep, 0."""
        calibration = None if {front, back} <= {*PLAIN, "keep"} else self.calibration
        return {"model": os.path.basename(self.model), "model_hash": hash_of(self.model), "front": front, "back": back,
                "split": split, "options": list(options),
                "calibration": calibration and os.path.basename(calibration),
                "calibration_hash": calibration and hash_of(calibration)}

    def text_key(self, front, back, split, text, chunks, options=()):
        """What it is called that was measured on windows of a text."""
        return {**self.key(front, back, split, options), "text": os.path.basename(text), "text_hash": hash_of(text),
                "chunks": chunks}

    @contextlib.contextmanager
    def made(self, front, back, split, deepest, options=()):
        """The pair for as long as the block runs; the model where nothing is to be quantized. back: keep, or
        with front keep another scheme, or the front's (the whole model at one width)."""
        if front == back == "keep":
            yield self.model
        elif back != "keep" or split == deepest:
            yield self.quantize(front, back, split if back == "keep" else deepest, options)
        else:
            deep = self.quantize(front, "keep", deepest, options)
            out = tempfile.mkdtemp(prefix="cut-", dir=self.folder)
            cut(deep, self.model, split, out)
            try:
                yield out
            finally:
                shutil.rmtree(out)

    def measure(self, results, front, back, split, deepest, text, chunks, options=(), exact=False):
        """A cell of results: divergence from the model, perplexities, bytes of the edge's matrices and of all.
        exact: in f32 arithmetic instead of production's."""
        key = {**self.text_key(front, back, split, text, chunks, options), **({"arithmetic": "f32"} if exact else {})}
        found = next((c for c in results.all(**key) if c.get("arithmetic") == key.get("arithmetic")), None)
        if found:
            return found
        with self.made(front, back, split, deepest, options) as folder:
            lines = run_lines("eval", "-m", folder, "--reference", self.model, "--text", text, "--chunks", chunks,
                              "--threads", self.threads, *(["--exact"] if exact else []))
            r, = (line for line in lines if line["exact"] == exact)
            halves = [os.path.join(folder, half + ".gguf") for half in ("edge", "cloud")]
            tensors = [t for path in halves for t in pair.Model(path).tensors.values()]
        return results.add({**key, "edge_bytes": matrix_bytes(tensors, split),
                            "all_bytes": matrix_bytes(tensors, 1 << 30),
                            **{k: v for k, v in r.items() if k not in ("model", "reference", "exact")}})

    def measure_suite(self, results, front, back, split, deepest, suite, path, items, options=()):
        """A cell: the share of a suite's first items that come out right, which the model itself has as keep."""
        key = {**self.key(front, back, split, options), "suite": suite, "text_hash": hash_of(path), "items": items}
        found = results.find(**key)
        if found:
            return found
        with self.made(front, back, split, deepest, options) as folder:
            whole = ["--split", deepest] if folder == self.model else []
            r, = run_lines("eval", "-m", folder, "--suite", suite, path, *(["--items", items] if items else []),
                           "--codec", "f32", "--threads", self.threads, *whole)
        return results.add({**key, "n": r["items"], "acc": r["acc_ref"], "acc_norm": r["acc_norm_ref"]})
