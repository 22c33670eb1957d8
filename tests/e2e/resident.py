# SPDX-License-Identifier: Apache-2.0
"""Requests through `isthmus run`, and the most memory that its two processes had resident meanwhile."""
import json
import subprocess
import sys
import tempfile
import threading
import time

import e2e


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
