# SPDX-License-Identifier: Apache-2.0
"""Memory: requests through `isthmus run`, and the most that its two processes had resident meanwhile; a limit that
the kernel holds."""
import json
import os
import subprocess
import sys
import tempfile
import threading
import time

import e2e

BASES = (("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.failcnt",
          "memory.max_usage_in_bytes"),
         ("/sys/fs/cgroup", "memory.max", "memory.events", "memory.peak"))


def peak_bytes(pid):
    """The kernel's own count of it; 0 when the process has gone."""
    try:
        with open("/proc/%d/status" % pid, encoding="ascii") as f:
            for line in f:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return 0


def child_of(pid):
    """Its first child; 0: none."""
    try:
        with open("/proc/%d/task/%d/children" % (pid, pid), encoding="ascii") as f:
            return int((f.read().split() or ["0"])[0])
    except OSError:
        return 0


def run_requests(requests, *args, timeout=e2e.TIMEOUT_S):
    """(result lines, most bytes of the edge, of the cloud)."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as err:
        run = subprocess.Popen([e2e.BINARY, "run", "--requests", "-", *map(str, args)], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=err, text=True)
        peaks = [0, 0]

        def watch():
            while run.poll() is None:
                peaks[0] = max(peaks[0], peak_bytes(run.pid))
                cloud = child_of(run.pid)
                peaks[1] = max(peaks[1], peak_bytes(cloud)) if cloud else peaks[1]
                time.sleep(.05)

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        out, _ = run.communicate(e2e.lines_of(requests), timeout=timeout)
        watcher.join()
        if run.returncode != 0:
            err.seek(0)
            e2e.say("FAILED: run %s: exit code %d\n%s" % (" ".join(map(str, args)), run.returncode, err.read()))
            sys.exit(1)
    return [json.loads(line) for line in out.splitlines()][:len(requests)], peaks[0], peaks[1]


class Group:
    """A memory cgroup of version 1 or 2 with a hard limit."""

    def __init__(self, name, limit):
        for base, self.limit, self.events, self.peak in BASES:
            self.folder = os.path.join(base, "isthmus-%s-%d" % (name, os.getpid()))
            try:
                os.mkdir(self.folder)
            except OSError:
                continue
            try:
                self.set(limit)
                return
            except OSError:
                os.rmdir(self.folder)
        e2e.skip("no memory cgroup can be made here")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.remove()

    def set(self, limit):
        with open(os.path.join(self.folder, self.limit), "w", encoding="ascii") as f:
            f.write(str(int(limit)))
        self.bytes = limit

    def prefix(self):
        return ("sh", "-c", "echo $$ > %s/cgroup.procs; exec \"$@\"" % self.folder, "sh")

    def read(self, name):
        with open(os.path.join(self.folder, name), encoding="ascii") as f:
            return f.read()

    def hits(self):
        """Times that the limit was hit."""
        if self.events == "memory.failcnt":
            return int(self.read("memory.failcnt"))
        found = dict(line.split() for line in self.read(self.events).splitlines())
        return int(found["max"]) + int(found["oom_kill"])

    def most(self):
        try:
            return int(self.read(self.peak))
        except OSError:
            return 0  # before Linux 5.19

    def remove(self):
        e2e.wait_for(lambda: not self.read("cgroup.procs").strip(), 30)
        try:
            os.rmdir(self.folder)
        except OSError:
            e2e.say("%s stays" % self.folder)
