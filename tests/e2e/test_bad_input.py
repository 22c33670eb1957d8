#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Bad input gets one clear line and exit code 2 (or 1 when the peer refuses); never a crash or hang."""
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

import e2e


def refused(what, args, code, *words, text_in=None):
    try:
        done = e2e.isthmus(*args, timeout=180, text_in=text_in)
    except subprocess.TimeoutExpired:
        e2e.check(False, what + ": hangs")
        return
    last = done.stderr.strip().splitlines()[-1:] or [""]
    e2e.say("%-34s exit %d: %s" % (what, done.returncode, last[0][:140]))
    e2e.check(done.returncode == code, "%s: exit code %d, expected %d: %s"
              % (what, done.returncode, code, done.stderr[-500:]))
    for word in words:
        e2e.check(word in done.stderr, "%s: does not say %r: %s" % (what, word, done.stderr[-500:]))
    e2e.check(done.stdout == "", "%s: prints %r" % (what, done.stdout[:100]))


def write(folder, name, data):
    path = os.path.join(folder, name)
    with open(path, "wb") as f:
        f.write(data)
    return path


def gguf_string(text):
    return struct.pack("<Q", len(text)) + text.encode()


def gguf(architecture, tensor_type=0):
    """A small well-formed file: one key, one tensor of 32 values."""
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 1)
    head += gguf_string("general.architecture") + struct.pack("<I", 8) + gguf_string(architecture)
    head += gguf_string("token_embd.weight") + struct.pack("<IQIQ", 1, 32, tensor_type, 0)
    head += b"\0" * (-len(head) % 32)
    return head + b"\0" * 128


def files(folder, model):
    with open(model, "rb") as f:
        head = f.read(1 << 22)

    def run(path):
        return ["run", "-m", path, "-p", "x", "-n", "1"]

    refused("no such file", run(os.path.join(folder, "none.gguf")), 2, "none.gguf", "fetch-model")
    refused("a folder", run(folder), 2, "edge.gguf: No such file or directory: `isthmus quantize ")
    refused("an empty file", run(write(folder, "empty.gguf", b"")), 2, "empty.gguf")
    refused("not GGUF", run(write(folder, "text.gguf", b"hello world, " * 100)), 2, "text.gguf")
    refused("truncated in the header", run(write(folder, "short.gguf", head[:5000])), 2, "short.gguf")
    refused("truncated in the tensors", run(write(folder, "cut.gguf", head)), 2, "cut.gguf")
    lying = bytearray(head)
    lying[8:16] = struct.pack("<Q", 1 << 60)
    refused("2^60 tensors", run(write(folder, "count.gguf", bytes(lying))), 2, "count.gguf")
    refused("unknown architecture", run(write(folder, "arch.gguf", gguf("mamba"))), 2, "mamba", "llama")
    refused("unknown tensor type", run(write(folder, "type.gguf", gguf("llama", 99))), 2, "99", "Q4_K")

    damaged(folder, model, run)


def header_parts(model):
    """Where a model file's keys and its tensors' descriptions end: (keys, all)."""
    with open(model, "rb") as f:
        head = f.read(1 << 24)
    n_tensors, n_keys = struct.unpack_from("<QQ", head, 8)
    at = 24

    def string():
        nonlocal at
        n, = struct.unpack_from("<Q", head, at)
        at += 8 + n

    def value(kind):
        nonlocal at
        if kind == 8:
            string()
        elif kind == 9:
            inner, n = struct.unpack_from("<IQ", head, at)
            at += 12
            for _ in range(n):
                value(inner)
        else:
            at += {0: 1, 1: 1, 2: 2, 3: 2, 7: 1, 10: 8, 11: 8, 12: 8}.get(kind, 4)

    for _ in range(n_keys):
        string()
        kind, = struct.unpack_from("<I", head, at)
        at += 4
        value(kind)
    keys = at
    for _ in range(n_tensors):
        string()
        n_dims, = struct.unpack_from("<I", head, at)
        at += 4 + 8 * n_dims + 12
    return keys, at


def damaged(folder, model, run):
    """A few bytes of the header are wrong, all else is there: an answer or one error, no crash."""
    keys, end = header_parts(model)
    path = shutil.copy(model, os.path.join(folder, "damaged.gguf"))
    seed = random.randrange(1 << 32)
    e2e.say("seed %d" % seed)
    rnd = random.Random(seed)
    seen = {}
    stop = time.monotonic() + 120
    with open(path, "r+b", buffering=0) as f:
        for _ in range(10 if e2e.QUICK else 40):
            if time.monotonic() > stop:
                break
            first, last = rnd.choice(((4, 400), (4, keys), (keys, end)))
            spots = [rnd.randrange(first, last) for _ in range(rnd.randrange(1, 4))]
            before = [os.pread(f.fileno(), 1, at) for at in spots]
            for at in spots:
                os.pwrite(f.fileno(), rnd.randbytes(1), at)
            done = e2e.isthmus(*run(path), "--local", timeout=180)
            for at, byte in zip(spots, before):
                os.pwrite(f.fileno(), byte, at)
            seen[done.returncode] = seen.get(done.returncode, 0) + 1
            e2e.check(done.returncode in (0, 1, 2), "exit code %d with seed %d, bytes at %s: %s"
                      % (done.returncode, seed, spots, done.stderr[-500:]))
            e2e.check(done.returncode == 0 or done.stderr.startswith("isthmus: "),
                      "seed %d, bytes at %s: says %r" % (seed, spots, done.stderr[-500:]))
    os.unlink(path)
    e2e.say("damaged headers, times an exit code came: %s" % seen)
    e2e.check(sum(seen.values()) >= 5, "enough of them were tried")
    e2e.check(2 in seen, "some damage is refused as bad input")


def usage(model):
    run = ["run", "-m", model]
    refused("split 0", run + ["-p", "x", "--split", "0"], 2, "--split", "1 to 29")
    refused("split past the end", run + ["-p", "x", "--split", "30"], 2, "--split", "1 to 29")
    refused("split no number", run + ["-p", "x", "--split", "ten"], 2, "--split ten")
    refused("unknown codec", run + ["-p", "x", "--codec", "zip"], 2, "tsq, rans, xform, f16 and f32")
    refused("a head elsewhere", run + ["-p", "x", "--head", "here"], 2, "--head here", "cloud or edge")
    refused("--local with a head", run + ["-p", "x", "--local", "--head", "edge"], 2, "leave out --head")
    refused("codec out of range", run + ["-p", "x", "--codec", "tsq:delta=2"], 2, "delta")
    refused("another mode's parameter", run + ["-p", "x", "--codec", "xform:tau=4"], 2, "there is step")
    refused("step 0", run + ["-p", "x", "--codec", "rans:step=0"], 2, "step > 0")
    refused("no profile there", run + ["-p", "x", "--profile", "/none.prof"], 2, "/none.prof")
    refused("a profile that is none", run + ["-p", "x", "--profile", model], 2, "profile")
    refused("a profile for f16", run + ["-p", "x", "--codec", "f16", "--profile", "p"], 2, "f16 uses none")
    refused("--local with a profile", run + ["-p", "x", "--local", "--profile", "p"], 2, "--profile")
    refused("a rate without a unit", run + ["-p", "x", "--rate", "200"], 2, "200B/token")
    refused("a KL of nothing", run + ["-p", "x", "--quality", "kl=0"], 2, "kl=.006")
    refused("a rate and a quality", run + ["-p", "x", "--rate", "200B/token", "--quality", "kl=.006"], 2, "one of them")
    refused("a rate and a step", run + ["-p", "x", "--rate", "200B/token", "--codec", "xform:step=.01"], 2, "leave it out")
    refused("a rate without a profile", run + ["-p", "x", "--rate", "200B/token"], 2, "isthmus calibrate")
    refused("--local with a rate", run + ["-p", "x", "--local", "--rate", "200B/token"], 2,
            "leave out --rate")
    refused("--local with a quality", run + ["-p", "x", "--local", "--quality", "kl=.01"], 2,
            "leave out --quality")
    refused("--local with netem", run + ["-p", "x", "--local", "--netem", "drop=.1"], 2,
            "leave out --netem")
    refused("--local with a codec", run + ["-p", "x", "--local", "--codec", "f16"], 2, "--codec")
    refused("--ignore-eos in a chat", run + ["--ignore-eos"], 2, "--ignore-eos")
    refused("a core and a half", run + ["-p", "x", "--first-core", "1.5"], 2, "--first-core 1.5")
    refused("a CPU that is not there", run + ["-p", "x", "--cpus", "60000"], 2, "--cpus 60000", "no CPU 60000")
    refused("CPUs that are no list", run + ["-p", "x", "--cpus", "1-"], 2, "like 0-3,8")
    refused("a node that is not there", run + ["-p", "x", "--numa", "900"], 2, "no NUMA node 900")
    refused("pinned and not", run + ["-p", "x", "--cpus", "0", "--first-core", "-1"], 2, "leave out --cpus")
    refused("unknown chat template", run + ["--chat-template", "jinja"], 2, "--chat-template jinja", "chatml, llama3, gemma")
    refused("another model's chat template", run + ["--chat-template", "gemma"], 2, "no such control tokens")
    refused("a zero byte in the prompt", run + ["-p", "-"], 2, "zero byte", text_in="a\0b")
    refused("unknown option", run + ["-p", "x", "--frobnicate"], 2, "frobnicate")
    refused("unknown command", ["frobnicate"], 2, "frobnicate")
    refused("no model", ["run", "-p", "x"], 2, "-m FILE")
    refused("no port", ["edge", "-m", model, "-p", "x"], 2, "--port")
    refused("bad port", ["edge", "-m", model, "-p", "x", "--port", "tcp:1"], 2, "tcp:1")
    refused("empty prompt", run + ["-p", "", "--local"], 2, "empty")
    refused("prompt past the context", run + ["--ctx", "16", "-p", "one two three " * 20], 2,
            "the context 16")
    refused("prompt past the context, local", run + ["--local", "--ctx", "16", "-p", "one two " * 20],
            2, "the context 16")
    refused("requests: not JSON", run + ["--requests", "-"], 2, "stdin:2", text_in='{"prompt":"a"}\n{"p\n')
    refused("requests: unknown field", run + ["--requests", "-"], 2, "stdin:1", "promt",
            text_in='{"promt":"a"}\n')
    refused("requests: bad ids", run + ["--requests", "-"], 2, "stdin:1", "vocabulary",
            text_in='{"prompt_ids":[1,99999999]}\n')
    refused("requests: nothing", run + ["--requests", "-"], 2, "no requests", text_in="\n")

    # One line too long does not harm the others.
    done = e2e.isthmus(*run, "--requests", "-", "--ctx", "32", "-n", "4", "--ignore-eos", text_in=(
        '{"prompt":"The capital of France is"}\n{"prompt":"%s"}\n{"prompt":"Water boils at"}\n'
        % ("one two three " * 40)))
    lines = done.stdout.splitlines()
    e2e.check(done.returncode == 1 and len(lines) == 3 and '"error"' in lines[1]
              and '"ids"' in lines[0] and '"ids"' in lines[2] and "stdin:2" in done.stderr,
              "a line too long among others: exit %d, %s %s" % (done.returncode, lines, done.stderr))


def mismatches(folder, model):
    """Halves that do not fit are refused when they meet, both values said."""
    def meet(what, cloud_args, edge_args, *words):
        path = os.path.join(folder, "m.sock")
        cloud = subprocess.Popen([e2e.BINARY, "cloud", "--port", "memif:" + path, *e2e.secured("cloud"), *cloud_args],
                                 stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                 stderr=subprocess.STDOUT)
        try:
            e2e.check(e2e.wait_for(lambda: os.path.exists(path), 180), what + ": the cloud listens")
            refused(what, ["edge", "--port", "memif:" + path, *e2e.secured("edge"), "-p", "Water", "-n", "2",
                           *edge_args], 1, *words)
            e2e.check(cloud.poll() is None, what + ": the cloud ended")
        finally:
            e2e.end(cloud, what + ": the cloud")
        e2e.check(not os.path.exists(path), what + ": the socket stays")

    m = ["-m", model]
    meet("another split", m + ["--split", "10"], m + ["--split", "11"],
         "split mismatch: ", "11", "10")
    meet("another codec", m + ["--split", "10", "--codec", "f16"], m + ["--split", "10"],
         "codec mismatch: edge tsq, cloud f16:")
    meet("no head", m + ["--split", "10", "--head", "edge"], m + ["--split", "10"], "no head (--head edge)",
         "start the edge with --head edge")
    other = os.environ.get("ISTHMUS_QWEN05") or (None if e2e.QUICK else e2e.model("qwen05"))
    if other:
        meet("another model", ["-m", other, "--split", "10"], m + ["--split", "10"],
             "model mismatch: edge ", "cloud ")
    path = os.path.join(folder, "nobody.sock")
    refused("no cloud", ["edge", *m, "-p", "x", "--connect", "1", "--port", "memif:" + path,
                         *e2e.secured("edge")], 1,
            "no cloud at")


def strangers(folder, model):
    """Whoever connects to the cloud's socket and talks nonsense, or nothing, is turned away; the next
    edge is served."""
    path = os.path.join(folder, "s.sock")
    args = ["-m", model, "--split", "10", "--port", "memif:" + path]
    cloud = subprocess.Popen([e2e.BINARY, "cloud", *args, *e2e.secured("cloud")], stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    rnd = random.Random(1)
    try:
        e2e.check(e2e.wait_for(lambda: os.path.exists(path), 180), "strangers: the cloud listens")
        for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
            for n in (0, 1, 100, 5000):
                with socket.socket(socket.AF_UNIX, kind) as s:
                    s.settimeout(5)
                    try:
                        s.connect(path)
                        s.send(rnd.randbytes(n))
                        time.sleep(.05)
                    except OSError:
                        pass
        done = e2e.isthmus("edge", *args, *e2e.secured("edge"), "-p", "The capital of France is", "-n", "4")
        e2e.say("after strangers: %r" % done.stdout)
        e2e.check(done.returncode == 0 and done.stdout.startswith(" Paris"),
                  "after strangers: exit %d: %s" % (done.returncode, done.stderr))
    finally:
        said = e2e.end(cloud, "strangers: the cloud")
    e2e.check(cloud.returncode == 0, "strangers: the cloud ends with %d: %s" % (cloud.returncode, said))


def interrupted(model):
    for args in (["--local"], []):
        edge = subprocess.Popen([e2e.BINARY, "run", "-m", model, "-p", "Once upon a time", "-n",
                                 "1500", "--ignore-eos", *args], stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        os.read(edge.stdout.fileno(), 1)
        start = time.monotonic()
        edge.send_signal(signal.SIGINT)
        try:
            err = edge.communicate(timeout=180)[1].decode()
        except subprocess.TimeoutExpired:
            edge.kill()
            e2e.check(False, "SIGINT: hangs")
            continue
        took = time.monotonic() - start
        e2e.say("SIGINT in mid-answer %-10s exit %d after %.2f s: %s"
                % (" ".join(args), edge.returncode, took, err.strip()[-90:]))
        e2e.check(edge.returncode == 130 and took < 60, "SIGINT: exit 130, and soon")


def main():
    model = e2e.model("smollm2")
    before = e2e.leftovers()
    with tempfile.TemporaryDirectory(prefix="isthmus-test-") as folder:
        files(folder, model)
        usage(model)
        mismatches(folder, model)
        strangers(folder, model)
    interrupted(model)
    e2e.check_nothing_left(before)
    e2e.finish()


sys.exit(main())
