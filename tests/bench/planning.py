# SPDX-License-Identifier: Apache-2.0
"""What the benches of the planner share: the models' tables, a profile of this host, and halves in fewer
bits that are there already."""
import argparse
import os
import sys

import e2e

TABLES = {"smollm2": "smollm2-135m.json", "qwen05": "qwen05.json"}


def quality(model):
    return os.path.join(e2e.ROOT, "docs", "quality", TABLES[model])


QUALITY = quality("smollm2")


def host_profile(model, path):
    """Where none was given: made now, and said."""
    e2e.say("no --profile: this host is measured first, into %s" % path)
    done = e2e.isthmus("profile", "-m", model, "-o", path)
    if done.returncode != 0:
        sys.exit("profile: exit code %d: %s" % (done.returncode, done.stderr[-2000:]))
    return path


def pair(text):
    """SPLIT:SCHEME:DIR as ((split, scheme), folder)."""
    parts = text.split(":", 2)
    if len(parts) < 3 or not parts[0].isdigit():
        raise argparse.ArgumentTypeError("%r is not SPLIT:SCHEME:DIR, such as 10:sq3:pair" % text)
    if not os.path.exists(os.path.join(parts[2], "edge.gguf")):
        raise argparse.ArgumentTypeError(
            "there is no %s/edge.gguf: isthmus quantize -m MODEL --split %s --front %s --calibration FILE -o %s makes it"
            % (parts[2], parts[0], parts[1], parts[2]))
    return (int(parts[0]), parts[1]), parts[2]
