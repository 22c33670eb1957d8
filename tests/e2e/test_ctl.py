#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The control socket of serving processes: sessions listed, killed and retargeted while they are
answered; drained and undrained; frames captured; who may do what; `isthmus ctl` and `isthmus top`."""
import json
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import tempfile
import time

import e2e
import halves
from served import Answer, Control, LONG, answers, serving


def ctl(path, *args):
    return e2e.isthmus("ctl", "--socket", path, *args, timeout=60)


def sessions(path, model):
    half, port = serving(path, model)
    control = Control(path)
    names = [m["name"] for m in control.result("methods.list")["methods"]]
    e2e.check(len(names) == len(set(names)) and {"sessions.list", "memory", "capture.start"} <= set(names),
              "methods: %s" % names)
    e2e.check(control.result("sessions.list") == [], "no sessions yet")
    e2e.check(control.result("health")["ready"], "it is ready")

    first, second = Answer(port), Answer(port)
    e2e.check(e2e.wait_for(lambda: sum(s["generated_tokens"] > 2 and s["bytes_per_token"] is not None
                                       for s in control.result("sessions.list")) == 2, 60),
              "two sessions run: %s %s" % (first.body, second.body))
    listed = control.result("sessions.list")
    e2e.check(all(s["state"] == "running" and s["prompt_tokens"] > 2 and s["most_tokens"] == LONG
                  and s["first_token_ms"] > 0 and s["bytes_per_token"] > 100 for s in listed),
              "what they are at: %s" % listed)
    victim = listed[0]["id"]
    e2e.check(control.result("sessions.show", id=victim)["id"] == victim, "one of them")

    link = control.result("link.stats")
    e2e.check(link["connected"] and link["cipher"] == "AES-128-GCM" and link["tokens"] > 4
              and 100 < link["bytes_per_token"] < 5000 and link["rtt_ms"] > 0, "the link: %s" % link)
    ports = control.result("port.stats")
    e2e.check(len(ports) == 1 and ports[0]["port"] == "memif" and ports[0]["tx_packets"] > 5
              and ports[0]["pool_free"] <= ports[0]["pool_packets"], "the port: %s" % ports)
    memory = control.result("memory")
    items = {i["what"]: i for i in memory["items"]}
    e2e.check(items["weights"]["bytes"] > 1e7 and 0 < items["kv cache"]["bytes"] <=
              items["kv cache"]["limit_bytes"] and sum(i["bytes"] for i in memory["items"]) <=
              memory["rss_bytes"] * 1.3, "the account: %s" % memory)
    threads = control.result("threads")["threads"]
    e2e.check({"isthmus-control"} <= {t["name"] for t in threads} and max(t["cpu_s"] for t in threads) > .01,
              "threads: %s" % threads)
    stats = control.result("stats")
    e2e.check(stats["running"] == 2 and stats["generated_tokens"] > 4 and stats["kv_bytes"] > 0,
              "figures: %s" % stats)
    workers = control.result("workers.list")
    e2e.check(len(workers) == 1 and workers[0]["state"] == "joined" and workers[0]["sessions"] == 2,
              "one worker: %s" % workers)

    e2e.check(control.code("sessions.kill", id=999999) == -32002, "nobody to kill")
    e2e.check(control.result("sessions.kill", id=victim)["killed"] == victim, "killed")
    e2e.check(e2e.wait_for(lambda: not first.is_alive() or not second.is_alive(), 30), "its client is told")
    e2e.check([s["id"] for s in control.result("sessions.list")] == [listed[1]["id"]], "the other goes on")

    # Drained: no new ones, who is there goes on.
    control.result("drain")
    late = Answer(port, 2)
    e2e.check(late.ended() and late.status == 503, "drained: %s %s" % (late.status, late.body))
    e2e.check(control.result("health")["health"] == "draining" and
              len(control.result("sessions.list")) == 1, "what runs goes on")
    control.result("undrain")
    again = Answer(port, 2)
    e2e.check(again.ended() and again.status == 200, "undrained: %s %s" % (again.status, again.body))

    top(path)
    commands(path)
    control.result("sessions.kill", id=listed[1]["id"])
    e2e.check(first.ended() and second.ended(), "both have ended")
    e2e.check(control.code("codec.set", rate=150) == -32003, "no profile, no targets")

    # A second process does not get its socket; what a dead one left is replaced.
    done = e2e.isthmus("run", "-m", model, "--listen", "127.0.0.1:%d" % halves.free_port(), "--control", path,
                       *e2e.ONE_CORE, timeout=120)
    e2e.check(done.returncode == 2 and "another process" in done.stderr, "taken: %s" % done.stderr)
    half.process.kill()
    half.process.wait()
    e2e.check(os.path.exists(path), "a dead process's socket stays")
    os.rename(path, path + ".old")
    os.rename(path + ".old", path)
    # io_uring may close the socket of one that was killed a little later.
    e2e.check(e2e.wait_for(lambda: "Connection refused" in ctl(path, "health").stderr, 10), "nobody there")
    done = ctl(path, "health")
    e2e.check(done.returncode == 1 and path in done.stderr, "nobody there: %s" % done.stderr)


def commands(path):
    done = ctl(path, "--json", "sessions")
    e2e.check(done.returncode == 0 and len(json.loads(done.stdout)) == 1, "--json: %s" % done.stdout)
    done = ctl(path, "sessions")
    lines = done.stdout.splitlines()
    e2e.check(len(lines) == 2 and lines[0].split()[:3] == ["id", "client", "state"], "a table: %s" % lines)
    e2e.check("load" in ctl(path, "threads").stdout, "how busy threads are")
    for args, code, word in ((("sesions.list",), 2, "did you mean sessions.list"),
                             (("kill",), 2, "id is missing"), (("kill", "x"), 2, "id must be an integer"),
                             (("kill", "1", "2"), 2, "one value too many"),
                             (("kill", "123456"), 1, "no session 123456"),
                             (("log", "loud"), 2, "one of error, warn, info, debug"),
                             (("reload",), 1, "no configuration")):
        done = ctl(path, *args)
        e2e.check(done.returncode == code and word in done.stderr, "%s: %d %s" % (args, done.returncode, done.stderr))
    done = ctl(path, "log", "debug")
    e2e.check(done.returncode == 0 and "debug" in done.stdout, "log: %s" % done.stderr)

    watch = subprocess.Popen([e2e.BINARY, "ctl", "--socket", path, "--json", "--watch=.1", "health"],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    seen = [json.loads(watch.stdout.readline())["ready"] for _ in range(3)]
    watch.send_signal(signal.SIGINT)
    e2e.check(seen == [True] * 3 and watch.wait(30) == 130, "--watch: %s" % seen)
    for stream in (watch.stdout, watch.stderr):
        stream.close()


def top(path):
    done = e2e.isthmus("top", "--socket", path, "--once", "--interval", ".5", timeout=60)
    e2e.check(done.returncode == 0 and "\033" not in done.stdout
              and all(w in done.stdout for w in ("tokens/s", "RTT", "KV ", "threads", "sessions", "running")),
              "top --once: %s %s" % (done.stdout, done.stderr))
    rate = float(done.stdout.split("tokens/s ")[1].split(",")[0])
    e2e.check(rate > 1, "it counts tokens: %g" % rate)

    # Into a pipe that is closed: it ends, without a word.
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([e2e.BINARY, "top", "--socket", path, "--interval", ".1"], stdin=subprocess.DEVNULL,
                          stdout=write, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    os.close(write)
    e2e.check(done.returncode == 1 and not done.stderr, "top | head: %d %s" % (done.returncode, done.stderr))

    # On one that knows no escape sequences: lines.
    pid, fd = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "dumb"
        os.execv(e2e.BINARY, [e2e.BINARY, "top", "--socket", path, "--interval", ".2"])
    seen = b""
    end = time.monotonic() + 30
    while seen.count(b"tokens/s") < 2 and time.monotonic() < end:
        if select.select([fd], [], [], 1)[0]:
            seen += os.read(fd, 65536)
    os.kill(pid, signal.SIGTERM)
    os.waitpid(pid, 0)
    os.close(fd)
    e2e.check(seen.count(b"tokens/s") >= 2 and b"\033" not in seen, "TERM=dumb top: %s" % seen[-300:])

    # On a terminal: a page, and q.
    pid, fd = pty.fork()
    if pid == 0:
        os.execv(e2e.BINARY, [e2e.BINARY, "top", "--socket", path, "--interval", ".2"])
    seen = b""
    end = time.monotonic() + 30
    while seen.count(b"tokens/s") < 3 and time.monotonic() < end:
        if select.select([fd], [], [], 1)[0]:
            seen += os.read(fd, 65536)
    os.write(fd, b"q")
    status = None
    while time.monotonic() < end and status is None:
        if select.select([fd], [], [], .2)[0]:
            try:
                seen += os.read(fd, 65536)
            except OSError:
                pass
        done = os.waitpid(pid, os.WNOHANG)
        status = done[1] if done[0] else None
    os.close(fd)
    e2e.check(status == 0 and b"\033[?1049h" in seen and b"\033[?1049l" in seen,
              "top on a terminal: %s %s" % (status, seen[-300:]))


# --- capture -----------------------------------------------------------------------------------------


def blocks(path):
    with open(path, "rb") as f:
        data = f.read()
    at = 0
    while at < len(data):
        kind, length = struct.unpack_from("<II", data, at)
        e2e.check(length % 4 == 0 and struct.unpack_from("<I", data, at + length - 4)[0] == length,
                  "a block's length at %d" % at)
        yield kind, data[at + 8:at + length - 4]
        at += length


def read_back(path):
    """[(sent, time in s, frame's length, bytes kept)] of a pcapng file."""
    found, interfaces = [], 0
    for i, (kind, body) in enumerate(blocks(path)):
        if i == 0:
            e2e.check(kind == 0x0a0d0d0a and struct.unpack_from("<I", body)[0] == 0x1a2b3c4d, "its head")
        interfaces += kind == 1
        if kind == 6:
            interface, high, low, kept, whole = struct.unpack_from("<IIIII", body)
            e2e.check(interface < interfaces, "its interface")
            options = body[20 + (kept + 3) // 4 * 4:]
            code, size, flags = struct.unpack_from("<HHI", options)
            e2e.check((code, size) == (2, 4), "its direction")
            found.append((flags == 2, (high << 32 | low) / 1e9, whole, body[20:20 + kept]))
    return found


def capture(path, model, folder):
    half, port = serving(path, model)
    control = Control(path)
    files = [os.path.join(folder, name) for name in ("heads.pcapng", "whole.pcapng")]
    for file, whole in zip(files, (False, True)):
        start = control.result("capture.start", path=file, whole=whole, seconds=60)
        e2e.check(start["running"] and start["path"] == file, "a capture: %s" % start)
        answer = Answer(port, 8)
        e2e.check(answer.ended() and answer.status == 200, "an answer meanwhile: %s" % answer.body)
        end = control.result("capture.stop")
        frames = read_back(file)
        e2e.check(not end["running"] and end["packets"] == len(frames) > 16 and end["dropped"] == 0
                  and end["bytes"] == os.path.getsize(file), "its end: %s" % end)
        e2e.check(abs(frames[-1][1] - time.time()) < 60 and frames == sorted(frames, key=lambda f: f[1]),
                  "wall clock, in order")
        e2e.check({f[0] for f in frames} == {True, False}, "both ways")
        e2e.check(all(len(f[3]) == (f[2] if whole else min(f[2], 66)) for f in frames), "how much is kept")
        e2e.check(all(f[3][12:14] == b"\x08\x00" and f[3][23] == 17 for f in frames), "IPv4 and UDP")
    e2e.check(control.code("capture.start", path=files[0]) == -32602, "what is there stays")
    e2e.check(control.code("capture.start", path="here") == -32602, "a whole path")
    limited = control.result("capture.start", packets=5)
    e2e.check(os.path.dirname(limited["path"]) == folder, "beside the socket: %s" % limited)
    Answer(port, 8).ended()
    e2e.check(e2e.wait_for(lambda: not control.result("capture.status")["running"], 20)
              and len(read_back(limited["path"])) == 5, "its limit ends it")
    e2e.end(half.process, "the server")
    e2e.check(not os.path.exists(path), "the socket is gone")


# --- targets -----------------------------------------------------------------------------------------


def targets(path, model, folder):
    profile = os.environ.get("ISTHMUS_TEST_PROFILE")
    if not profile:
        profile = os.path.join(folder, "small.prof")
        done = e2e.isthmus("calibrate", "-m", model, "--split", "20", "--chunks", "60-63", "--samples",
                           "1", "--classes", "8", "--text", e2e.shared("eval/wikitext2-valid.txt"),
                           "-o", profile, *e2e.ONE_CORE, timeout=1500)
        e2e.check(done.returncode == 0, "calibrate: %s" % done.stderr)
    half, port = serving(path, model, "--profile", profile)
    control = Control(path)
    codec = control.result("codec.get")
    low, high = codec["targets"]["rate_min"], codec["targets"]["rate_max"]
    e2e.check(codec["codec"].startswith("xform:step=") and 20 < low < high, "the codec: %s" % codec)
    dump = control.result("profile.dump")
    e2e.check(len(dump["profile"]["hash"]) == 32 and dump["profile"]["split"] == 20
              and len(dump["profile"]["curves"]["xform"]) > 3, "the profile: %s" % dump)

    answer = Answer(port)
    # Bytes are looked at now and then, tokens are counted at once.
    e2e.check(e2e.wait_for(lambda: any(s["generated_tokens"] > 20 and s["bytes_per_token"] for s in
                                       control.result("sessions.list")), 60), "a session runs")
    session = control.result("sessions.list")[0]["id"]

    def rate_over(rows):
        """Bytes a row, of the rows from now on."""
        def at():
            s = control.result("sessions.show", id=session)
            return s["generated_tokens"] + s["prompt_tokens"] - 1, s["bytes_per_token"]
        n, each = at()
        e2e.wait_for(lambda: at()[0] >= n + rows, 120)
        m, all_ = at()
        return (m * all_ - n * each) / (m - n)

    before = rate_over(60)
    # Within reach: the coarsest step of so small a profile leaves this text's rows six tenths.
    wanted = min(high, max(low, .75 * before))
    e2e.check(control.code("codec.set", id=session, rate=low / 2) == -32602, "out of range")
    e2e.check(control.code("codec.set", id=session) == -32602, "what for?")
    e2e.check(control.code("codec.set", id=999999, rate=wanted) == -32002, "no such session")
    control.result("codec.set", id=session, rate=wanted)
    rate_over(40)
    after = rate_over(100)
    at = control.result("codec.get")["sessions"][0]
    e2e.say("%.1f bytes a row, then with a target of %.1f: %.1f (step %g)"
            % (before, wanted, after, at["parameter"] or 0))
    e2e.check(abs(after / wanted - 1) < .2 and at["parameter"] > 0, "the target is kept: %s" % at)
    control.result("codec.set", id=session, none=True)
    e2e.wait_for(lambda: control.result("codec.get")["sessions"][0]["parameter"] is None, 10)
    e2e.check(control.result("codec.get")["sessions"][0]["parameter"] is None, "no target any more")
    control.result("sessions.kill", id=session)
    e2e.check(answer.ended(), "ended")
    e2e.end(half.process, "the server")


# --- roles, and a cloud ------------------------------------------------------------------------------


def as_other(path, groups, *methods):
    """What another uid gets: error codes, None for a result; "refused" where it can't connect."""
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setgroups(groups[1:])
        os.setgid(groups[0])
        os.setuid(65534)
        try:
            control = Control(path)
            found = [control.ask(m).get("error", {}).get("code") for m in methods]
        except PermissionError:
            found = "refused"
        os.write(into, json.dumps(found).encode())
        os._exit(0)
    os.close(into)
    with os.fdopen(out) as f:
        found = json.loads(f.read() or "null")
    os.waitpid(pid, 0)
    return found


def cloud(path, model, folder):
    port = "memif:" + os.path.join(folder, "port.sock")
    half = halves.Half("cloud", "-m", model, "--split", "10", "--port", port, *e2e.secured("cloud"),
                       "--control", path, "--control-group", "40001", "--control-operator-group",
                       "40002", "--control-admin-group", "40003", *e2e.ONE_CORE)
    if not e2e.wait_for(lambda: answers(path), 120):
        halves.hung("the cloud", half.said())
    control = Control(path)
    done = e2e.isthmus("edge", "-m", model, "--split", "10", "--port", port, *e2e.secured("edge"), "-p",
                       "Water boils at", "-n", "8", *e2e.ONE_CORE)
    e2e.check(done.returncode == 0, "an edge: %s" % done.stderr)
    stats = control.result("stats")
    e2e.check(stats["generated_tokens"] >= 8 and stats["edges_joined"] == 1, "a cloud's figures: %s" % stats)
    page = e2e.isthmus("top", "--socket", path, "--once", "--interval", ".1")
    e2e.check(page.returncode == 0 and "wire bytes/answered token" in page.stdout and "RTT 0.000" not in page.stdout,
              "top of a cloud: %s %s" % (page.stdout, page.stderr))
    page = e2e.isthmus("ctl", "--socket", path, "--json", "edges")
    e2e.check(page.returncode == 0, "ctl edges: %s" % page.stderr)
    start = time.monotonic()
    for _ in range(20):
        control.result("health")
    e2e.check(time.monotonic() - start < 5, "an idle cloud is woken: %.1f s" % (time.monotonic() - start))
    e2e.check("sessions.list" not in [m["name"] for m in control.result("methods.list")["methods"]],
              "a cloud has its own methods")
    control.result("drain")
    e2e.check(control.result("health")["health"] == "draining", "a cloud drains")
    control.result("undrain")
    e2e.check(control.result("health")["ready"], "and serves again")
    e2e.check("edges joined" in ctl(path, "stats").stdout, "a table")

    garbage = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    garbage.connect(path)
    garbage.sendall(os.urandom(3000).replace(b"\n", b"x") + b"\n")
    e2e.check(b"-32700" in garbage.recv(65536), "garbage is answered")
    garbage.sendall(b"x" * 70000)
    e2e.check(b"-32600" in garbage.recv(65536), "a line too long")
    garbage.close()

    if os.geteuid() == 0:
        os.chmod(folder, 0o755)
        asked = ("health", "drain", "undrain", "config.reload")
        for groups, expected in (((65534,), "refused"), ((40001,), [None, -32001, -32001, -32001]),
                                 ((65534, 40001, 40002), [None, None, None, -32001]),
                                 ((65534, 40001, 40003), [None, None, None, -32003])):
            e2e.check(as_other(path, groups, *asked) == expected,
                      "groups %s: %s" % (groups, as_other(path, groups, *asked)))
    else:
        e2e.say("not root: other users' roles are not tried")
    e2e.check(control.result("health")["ready"], "it serves after all that")
    e2e.end(half.process, "the cloud")
    e2e.check(not os.path.exists(path), "the socket is gone")


def main():
    model = e2e.model("smollm2")
    before = e2e.leftovers()
    with tempfile.TemporaryDirectory(prefix="isthmus-test-") as folder:
        path = os.path.join(folder, "control.sock")
        cloud(path, model, folder)
        sessions(path, model)
        capture(path, model, folder)
        if e2e.QUICK and not os.environ.get("ISTHMUS_TEST_PROFILE"):
            e2e.say("quick: no profile is calibrated, so no target is set")
        else:
            targets(path, model, folder)
    halves.stop_all()
    e2e.check_nothing_left(before)
    e2e.finish()


main()
