#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The files of `isthmus quantize`: another program reads them and finds our values; a disk that fills and a kill in
mid-write leave no half one (small file systems, as root); memory is a layer's; progress is said."""
import contextlib
import ctypes
import errno
import json
import os
import pty
import re
import signal
import subprocess
import sys
import tempfile
import time

import e2e
import packaged
import resident

MODEL = e2e.model("smollm2")
FRONT = 2  # layers
USUAL = ("quantize", "-m", MODEL, "--split", str(FRONT), "--front", "Q8_0")
MB = 1000000
FALLOCATE = 285  # x86-64's number


def read_by_others(folder):
    """Every type of ggml's that is written, by a package that is not ours: its values are those of --as f16."""
    types = ("attn_q=Q4_0", "attn_k=Q4_1", "attn_v=Q5_0")
    args = ["quantize", "-m", MODEL, "--split", str(FRONT), "--front", "Q6_K"]  # and Q8_0 where columns do not fit
    for one in types:
        args += ["--tensor", "blk.[01].%s.weight=%s" % tuple(one.split("="))]
    pair, plain = os.path.join(folder, "pair"), os.path.join(folder, "plain")
    for more in (["-o", pair], ["-o", plain, "--as", "f16"]):
        done = e2e.isthmus(*args, *more)
        e2e.check(done.returncode == 0, "quantize %s: %s" % (more, done.stderr))
    done = subprocess.run([packaged.python(), os.path.join(os.path.dirname(__file__), "gguf_reader.py"),
                           plain + "/model.gguf", pair + "/edge.gguf", pair + "/cloud.gguf"],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    if not e2e.check(done.returncode == 0, "the gguf package: " + done.stderr):
        return
    read = json.loads(done.stdout)
    e2e.say("read by the gguf package: %s" % read["types"])
    for kind, n in (("Q4_0", FRONT), ("Q5_0", FRONT), ("Q6_K", FRONT), ("Q8_0", 3 * FRONT), ("Q4_1", FRONT + 28 * 7)):
        e2e.check(read["types"].get(kind) == {"equal": n, "other": 0}, "%s: %s" % (kind, read["types"].get(kind)))
    for half, stage in zip(read["metadata"], ("edge", "cloud")):
        e2e.check(half["isthmus.stage"] == stage and half["isthmus.split"] == FRONT, "metadata: %s" % half)


@contextlib.contextmanager
def disk(folder, n_bytes):
    """A file system of so many bytes, empty; and how many of them are taken."""
    where = os.path.join(folder, "disk")
    os.makedirs(where, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=%d" % n_bytes, "none", where], check=True)

    def taken():
        fs = os.statvfs(where)
        return (fs.f_blocks - fs.f_bfree) * fs.f_frsize

    try:
        yield where, taken
    finally:
        subprocess.run(["umount", where], check=True)


def no_fallocate():
    """Before exec: from now on fallocate says what a file system without it does."""
    def op(code, jt, jf, k):
        return code.to_bytes(2, "little") + bytes((jt, jf)) + k.to_bytes(4, "little")

    code = b"".join((op(0x20, 0, 0, 0), op(0x15, 0, 1, FALLOCATE),
                     op(0x06, 0, 0, 0x50000 | errno.EOPNOTSUPP), op(0x06, 0, 0, 0x7fff0000)))
    filters = ctypes.create_string_buffer(code, len(code))

    class Program(ctypes.Structure):
        _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    libc = ctypes.CDLL(None)
    program = Program(4, ctypes.addressof(filters))
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(program)):
        os._exit(99)


def full_disk(folder, edge_bytes):
    """Refused before it begins where room can be reserved; said in mid-write where not, in either file. What was there
    stays, nothing else does."""
    for room in (8 * MB, edge_bytes + 6 * MB):
        for prepare, says in ((None, "are free there"), (no_fallocate, "No space left on device")):
            with disk(folder, room) as (where, taken):
                before = taken()
                done = e2e.isthmus(*USUAL, "-o", where + "/new", preexec_fn=prepare)
                e2e.check(done.returncode == 1 and says in done.stderr,
                          "%d bytes: exit %d: %s" % (room, done.returncode, done.stderr))
                e2e.check(os.listdir(where) == [] and taken() <= before, "left behind: %s" % os.listdir(where))
                os.mkdir(where + "/old")
                for name in ("edge.gguf", "cloud.gguf"):
                    with open("%s/old/%s" % (where, name), "w", encoding="utf-8") as f:
                        f.write("old")
                done = e2e.isthmus(*USUAL, "-o", where + "/old", preexec_fn=prepare)
                e2e.check(done.returncode == 1 and sorted(os.listdir(where + "/old")) == ["cloud.gguf", "edge.gguf"]
                          and os.path.getsize(where + "/old/edge.gguf") == os.path.getsize(where + "/old/cloud.gguf") == 3,
                          "the old pair stays: %s" % os.listdir(where + "/old"))


def killed(folder, edge_bytes):
    """In mid-write, of the first file and of the second: neither is there, nor their bytes."""
    for past in (MB, edge_bytes + MB):
        with disk(folder, 300 * MB) as (where, taken):
            process = subprocess.Popen([e2e.BINARY, *USUAL, "-o", where + "/pair"], stdin=subprocess.DEVNULL,
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=no_fallocate)
            e2e.check(e2e.wait_for(lambda: taken() > past or process.poll() is not None, e2e.TIMEOUT_S), "it writes")
            process.send_signal(signal.SIGKILL)
            if process.wait() == 0:  # it was quicker than this
                e2e.say("past %d bytes: done before it was killed" % past)
                continue
            e2e.check(process.returncode == -signal.SIGKILL, "killed in mid-write, past %d bytes" % past)
            e2e.check(os.listdir(where + "/pair") == [] and e2e.wait_for(lambda: taken() < MB // 2, 10),
                      "left behind: %s, %d bytes" % (os.listdir(where + "/pair"), taken()))


def peaks(folder, splits, *args):
    """The most resident while so many layers are quantized, for each of two numbers of them."""
    found = []
    for split in splits:
        process = subprocess.Popen([e2e.BINARY, "quantize", "-m", MODEL, "--split", str(split), *args, "-o",
                                    os.path.join(folder, "peak")], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        peak = 0
        while process.poll() is None:
            peak = max(peak, resident.peak_bytes(process.pid))
            time.sleep(.01)
        e2e.check(process.returncode == 0, "quantize --split %d %s" % (split, args))
        found.append(peak)
    e2e.say("%s: most resident: %.1f MB for %d layers, %.1f for %d"
            % (args[1], found[0] / MB, splits[0], found[1] / MB, splits[1]))
    return found


def memory(folder):
    """More layers take no more of it: blocks, and what is calibrated, with its second moments."""
    layer = 4 * 3538944  # its seven matrices in f32
    few, many = peaks(folder, (2, 12), "--front", "Q8_0")
    e2e.check(abs(many - few) < layer / 2, "no more for ten layers more: %d, %d" % (few, many))
    e2e.check(0 < max(few, many) < 40 * MB + layer, "a layer, and the program: %d, %d" % (few, many))
    text = os.path.join(folder, "text.profile")
    done = e2e.isthmus("calibrate", "-m", MODEL, "--text", e2e.shared("eval/wikitext2-valid.txt"), "--chunks", "60-67",
                       "--split", 29, "--samples", 1, "--classes", 0, *e2e.ONE_CORE, "-o", text)
    if e2e.check(done.returncode == 0, "calibrate: " + done.stderr[-2000:]):
        few, many = peaks(folder, (2, 4), "--front", "sq3", "--calibration", text, *e2e.ONE_CORE)
        e2e.check(abs(many - few) < layer / 2, "no more for two layers more: %d, %d" % (few, many))
        e2e.check(0 < max(few, many) < 230 * MB, "the text's rows, a layer and its moments: %d, %d" % (few, many))


def progress(folder):
    """On a terminal: how far, and how long still, from the first layer to the last."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen([e2e.BINARY, *USUAL, "-o", os.path.join(folder, "shown")], stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    said = b""
    with contextlib.suppress(OSError):  # its end
        while more := os.read(ours, 4096):
            said += more
    os.close(ours)
    e2e.check(process.wait() == 0, "quantize: %r" % said)
    steps = [(int(a), int(b)) for a, b in re.findall(r"quantize: +(\d+) %, (\d+) s left", said.decode())]
    e2e.check(len(steps) >= 4 and steps == sorted(steps, key=lambda s: s[0]) and 0 < steps[0][0] < 50
              and steps[-1] == (100, 0), "progress: %s" % steps)
    e2e.check(said.endswith(b"\r\033[K"), "and its line is gone in the end")


def main():
    with tempfile.TemporaryDirectory() as folder:
        done = e2e.isthmus(*USUAL, "--json", "-o", os.path.join(folder, "first"))
        edge_bytes = e2e.json_lines(done, "quantize")[0]["edge"]["file_bytes"]
        memory(folder)
        progress(folder)
        if os.geteuid() == 0:
            full_disk(folder, edge_bytes)
            killed(folder, edge_bytes)
        read_by_others(folder)
    if os.geteuid() != 0 and not e2e.failures:
        e2e.skip("small file systems need root")
    e2e.finish()


if os.geteuid() == 0 and "--own-mounts" not in sys.argv:  # they go with us, whatever ends us
    os.execvp("unshare", ["unshare", "-m", sys.executable, os.path.abspath(__file__), "--own-mounts"])
main()
