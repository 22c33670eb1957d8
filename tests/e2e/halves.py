# SPDX-License-Identifier: Apache-2.0
"""The two halves as processes of their own, met at a port; in a network namespace each, if wanted."""
import atexit
import contextlib
import os
import random
import select
import signal
import socket
import subprocess
import tempfile
import threading

import e2e

LIMIT_S = 180  # for a step of seconds: tells a hang from a slow machine, and nothing else
started = []  # halves
others = []   # processes that are none, and end with them


def processes():
    return [half.process for half in started] + others


def kill_all():
    for process in processes():
        if process.poll() is None:
            process.kill()


def stop_all():
    kill_all()
    for process in processes():
        process.wait()


atexit.register(stop_all)


def hung(what, said=""):
    """The test's end: a wait was in vain. What all that run beside it said tells why."""
    e2e.check(False, "%s: nothing within the time\n%s" % (what, said[-3000:]))
    for half in started:
        e2e.say("---- %s: exit code %s, said:\n%s"
                % (half.what, half.process.poll(), half.said()[-3000:]))
    stop_all()
    e2e.finish()


@contextlib.contextmanager
def within(what, seconds=LIMIT_S):
    """Reads and waits in here have a limit. When it is over all halves are killed, which ends any wait for
    one of them, and the test has failed."""
    over = threading.Event()

    def end():
        over.set()
        kill_all()

    guard = threading.Timer(seconds, end)
    guard.daemon = True
    guard.start()
    try:
        yield
    finally:
        guard.cancel()
        if over.is_set():
            hung(what)


class Half:
    """A half, or `isthmus run` with both. What it says is kept in a file, its answer is read from here."""

    def __init__(self, *command, prefix=(), env=None, stdin=subprocess.DEVNULL,
                 stdout=subprocess.PIPE):
        self.what = "%s, the %d. started" % (command[0], len(started) + 1)
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen([*prefix, e2e.BINARY, *map(str, command)], bufsize=0,
                                        stdin=stdin, stdout=stdout, stderr=self.log,
                                        env={**os.environ, **(env or {})})
        started.append(self)

    def said(self):
        # At a place of its own: to seek would move the writer's, too.
        return os.pread(self.log.fileno(), 1 << 24, 0).decode(errors="replace")

    def write(self, text):
        self.process.stdin.write(text.encode())

    def line(self):
        """The next line of the answer; "": it has ended."""
        with within(self.what + ": a line of its answer"):
            return self.process.stdout.readline().decode()

    def some(self):
        """Bytes of the answer as they come; b"": it has ended, or none came."""
        ready = select.select([self.process.stdout], [], [], LIMIT_S)[0]
        return os.read(self.process.stdout.fileno(), 65536) if ready else b""

    def end(self, seconds=LIMIT_S):
        """It ends by itself: the exit code, and the rest of the answer."""
        with within(self.what + ": its end", seconds):
            rest = self.process.stdout.read().decode() if self.process.stdout else ""
            return self.process.wait(), rest

    def stop(self, sig=signal.SIGTERM):
        """Asked to end, or killed: the exit code."""
        self.process.send_signal(sig)
        with within("%s: its end by signal %d" % (self.what, sig)):
            return self.process.wait()


def threads(pid):
    """What the kernel says of each."""
    for task in os.listdir("/proc/%d/task" % pid):
        with open("/proc/%d/task/%s/status" % (pid, task), encoding="ascii") as f:
            yield {k: v.strip() for k, v in (line.split(":", 1) for line in f)}


def uids(pid):
    return {int(n) for t in threads(pid) for n in t["Uid"].split()}


def gave_up_root(half, uid=65534, name="nobody", allowed=0):
    """Every thread of it is somebody else now, without a way back; some may keep capabilities."""
    e2e.check("root is given up, %s (uid %d)" % (name, uid) in half.said(), half.said())
    for t in threads(half.process.pid):
        e2e.check(t["Uid"].split() == [str(uid)] * 4 and "0" not in t["Gid"].split() and not t["Groups"],
                  "%s, in no group: %s" % (name, t))
        e2e.check({int(t[k], 16) for k in ("CapPrm", "CapEff")} <= {0, allowed}
                  and int(t["CapInh"], 16) == 0, "capabilities: %s" % t)
        e2e.check(t["NoNewPrivs"] == "1", "no new privileges: %s" % t)


def secured(half, args):
    """Encrypted unless a test says otherwise."""
    chosen = {"--insecure", "--identity", "--peer", "--authorized"}
    return [] if chosen & set(args) else e2e.secured(half)


def free_port():
    """A number nobody listens at, and that no client is given by the kernel meanwhile: below those."""
    while True:
        number = random.randrange(20000, 32000)
        try:
            for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                with socket.socket(socket.AF_INET, kind) as s:
                    s.bind(("", number))
            return number
        except OSError:
            pass


def loopback_v6():
    """[::1], where this host has it; not every container does."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as s:
            s.bind(("::1", 0))
        return "[::1]"
    except OSError:
        e2e.not_tried("IPv6, for there is no ::1")
        return "127.0.0.1"


class Cloud(Half):
    """`isthmus cloud`."""

    def __init__(self, model, port, *args, **more):
        super().__init__("cloud", "-m", model, "--port", port, *secured("cloud", args), *args,
                         stdout=subprocess.DEVNULL, **more)

    def ready(self):
        """It serves; False: it ended, or does not come to it."""
        e2e.wait_for(lambda: "up to " in self.said() or self.process.poll() is not None, LIMIT_S)
        return "up to " in self.said() and self.process.poll() is None


class Edge(Half):
    """`isthmus edge`, to be watched: it answers what is written to it, if no prompt is among its arguments."""

    def __init__(self, model, port, *args, stdin=subprocess.PIPE, **more):
        super().__init__("edge", "-m", model, "--port", port, *secured("edge", args), *args,
                         stdin=stdin, **more)


def edge(model, port, *args, prefix=(), text_in=None, timeout=e2e.TIMEOUT_S):
    """An edge run to its end."""
    try:
        return subprocess.run([*prefix, e2e.BINARY, "edge", "-m", model, "--port", port,
                               *secured("edge", args), *map(str, args)],
                              input=text_in, text=True, encoding="utf-8",
                              stdin=subprocess.DEVNULL if text_in is None else None,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as late:
        return hung("edge %s %s" % (port, args), (late.stderr or b"").decode(errors="replace"))


def edge_started(model, port, *args, prefix=()):
    """An edge in mid-answer."""
    begun = Edge(model, port, "-p", "Once upon a time", "-n", "4000", "--ignore-eos", *args, prefix=prefix,
                 stdin=subprocess.DEVNULL)
    e2e.check(begun.some() != b"", "an answer begins: " + begun.said()[-600:])
    return begun


def requests(quick=3, full=8):
    """Prompts, and what --local answers to them."""
    model = e2e.model("smollm2")
    n = 8 if e2e.QUICK else 24
    asked = [{"prompt": p, "n_predict": n} for p in e2e.PROMPTS[:quick if e2e.QUICK else full]]
    local = e2e.run_requests(asked, "-m", model, "--local", "--ignore-eos", "--parallel", "4")
    return asked, [r["ids"] for r in local]


def same_as_local(model, port, asked, local, *args, prefix=(), timeout=e2e.TIMEOUT_S):
    """The edge's ids are those of --local."""
    done = edge(model, port, "--split", "10", "--codec", "f32", "--ignore-eos", "--parallel", "4",
                "--requests", "-", *args, prefix=prefix, text_in=e2e.lines_of(asked),
                timeout=timeout)
    ids = [r["ids"] for r in e2e.json_lines(done, "edge " + port)]
    same = sum(a == b for a, b in zip(ids, local))
    e2e.say("%d of %d the same: %s %s" % (same, len(local), port, " ".join(map(str, args))))
    e2e.check(ids == local, "the ids of --local over " + port)
    return done
