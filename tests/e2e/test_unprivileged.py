#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Acceptance 1: the split model runs as an ordinary user, with no hugepages reserved by us."""
import json
import os
import shutil
import tempfile

import e2e


def main():
    with open("/proc/meminfo", encoding="ascii") as f:
        pages = [int(l.split()[1]) for l in f if l.startswith("HugePages_Total")]
    model = e2e.model("smollm2")
    user = {}
    with tempfile.TemporaryDirectory(prefix="isthmus-test-") as folder:
        if os.getuid() == 0:
            # Nobody may not be able to reach the checkout: give it its own copies.
            os.chmod(folder, 0o755)
            model = shutil.copy(model, os.path.join(folder, "model.gguf"))
            e2e.BINARY = shutil.copy(e2e.BINARY, os.path.join(folder, "isthmus"))
            os.chmod(model, 0o644)
            os.chmod(e2e.BINARY, 0o755)
            user = {"user": 65534, "group": 65534, "extra_groups": []}
        done = e2e.isthmus("run", "-m", model, "-p", "The capital of France is", "-n", "8", "--json",
                           env={"HOME": "/nonexistent", "XDG_RUNTIME_DIR": ""}, cwd="/", **user)
        e2e.check(done.returncode == 0, "exit %d: %s" % (done.returncode, done.stderr))
        r = json.loads(done.stdout) if done.returncode == 0 else {}
    e2e.check(r.get("text", "").startswith(" Paris"), "the answer")
    e2e.say("as uid %d, %s hugepages reserved: %r over %s"
            % (user.get("user", os.getuid()), pages[0] if pages else "no", r.get("text"), r.get("port")))
    e2e.finish()


main()
