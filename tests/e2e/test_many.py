#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""300 sessions at once over one link, more than a run has rows for: the ids of --local, by `run`, and by an edge
and a cloud over kernel UDP, which has them all at once."""
import json
import os
import tempfile
import threading

import e2e
import halves

SESSIONS = 300
ASKED = [{"prompt_ids": [100 + 131 * (i + 1) * (k + 3) % 40000 for k in range(4 + i % 9)], "n_predict": 3 + i % 3}
         for i in range(SESSIONS + 40)]
SMALL = ("--ctx", "64", "--kv", "q8", "--no-prefix-cache", "--ignore-eos")
SPLIT = ("--split", "10", "--codec", "f32")


class Watch(threading.Thread):
    """The most sessions that a cloud says it has."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.path, self.most, self.over = path, 0, threading.Event()
        self.start()

    def run(self):
        while not self.over.wait(.05):
            asked = e2e.isthmus("ctl", "--socket", self.path, "--json", "stats")
            if asked.returncode == 0:
                self.most = max(self.most, json.loads(asked.stdout)["running"])

    def end(self):
        self.over.set()
        self.join()
        return self.most


def main():
    model = e2e.model("smollm2")
    local = [g["ids"] for g in e2e.run_requests(ASKED, "-m", model, "--local", "--parallel", "16", *SMALL)]
    for args in (("--local",), SPLIT, (*SPLIT, "--head", "edge")):
        got = e2e.run_requests(ASKED, "-m", model, "--parallel", SESSIONS, "--json", *SMALL, *args)
        e2e.check([g["ids"] for g in got[:-1]] == local, "the ids of --local: run %s" % " ".join(args))
        e2e.say("run %s: %d sessions, %.0f tokens/s" % (" ".join(args), SESSIONS, got[-1]["tokens_per_s"]))

    port = "udp:127.0.0.1:%d" % halves.free_port()
    with tempfile.TemporaryDirectory(prefix="isthmus-test-many-") as folder:
        os.chmod(folder, 0o755)
        runtime = os.path.join(folder, "runtime")
        cloud = halves.Cloud(model, port, *SPLIT, "--max-sessions", SESSIONS, "--ctx", "64", "--kv", "q8",
                             "--runtime-dir", runtime)
        e2e.check(cloud.ready(), "the cloud serves: " + cloud.said())
        watch = Watch(os.path.join(runtime, "control.sock"))
        done = halves.edge(model, port, *SPLIT, *SMALL, "--parallel", SESSIONS, "--requests", "-",
                           text_in=e2e.lines_of(ASKED))
        ids = [g["ids"] for g in e2e.json_lines(done, "edge")]
        most = watch.end()
        e2e.check(ids == local, "the ids of --local: edge and cloud")
        e2e.check(256 < most <= SESSIONS, "at once there were %d: %s" % (most, cloud.said()[-500:]))
        e2e.say("over kernel UDP: %d sessions at once" % most)
        e2e.check(cloud.stop() == 0, "the cloud ends well: " + cloud.said()[-500:])
    for command, option in (("cloud", "--max-sessions"), ("edge", "--max-sessions"), ("edge", "--parallel")):
        refused = e2e.isthmus(command, "-m", model, "--port", port, option, 4001)
        e2e.check(refused.returncode == 2 and "4000" in refused.stderr, "%s 4001: %s" % (option, refused.stderr))
    e2e.finish()


main()
