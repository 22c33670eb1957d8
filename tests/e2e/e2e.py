# SPDX-License-Identifier: Apache-2.0
"""What the end-to-end tests share: the binary, models, golden data, and a way to say what was found.

A test is a program: exit code 0 passed, 1 failed, 77 skipped, or a part of it could not be
tried here. Each runs by itself:

    tests/e2e/test_NAME.py          (after `ninja -C build`)

ISTHMUS          the binary (default build/isthmus)
ISTHMUS_SHARED   folder with golden/ and eval/ (default ../shared beside the checkout)
ISTHMUS_SMOLLM2, ISTHMUS_QWEN05   model files (default: tools/fetch-model)
ISTHMUS_QUICK    set: fewer prompts and rounds
"""
import atexit
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BINARY = os.environ.get("ISTHMUS") or os.path.join(ROOT, "build", "isthmus")
SHARED = os.environ.get("ISTHMUS_SHARED") or os.path.join(os.path.dirname(ROOT), "shared")
QUICK = bool(os.environ.get("ISTHMUS_QUICK"))
TIMEOUT_S = 600
# Meson runs two tests at once on two cores: what computes for minutes takes one of them, not both.
ONE_CORE = ("--threads", "1", "--first-core", "-1")

# Where --local is the yardstick, texts of our own will do: short ones, a long one, and not ASCII alone.
PROMPTS = (
    "The capital of France is",
    "Once upon a time there was a",
    "def fibonacci(n):\n",
    "<|im_start|>user\nWhat is gravity?<|im_end|>\n<|im_start|>assistant\n",
    "List three colours: red,",
    "Water boils at",
    " The lighthouse stood on a rock in the middle of the strait, half a mile from either shore, and was built "
    "of granite that had come by ship. Its keeper lived there for eleven years, with a dog and a clock; he "
    "wrote down the wind, the height of the water and the names of all ships that passed by day. In the "
    "winter of his last year there was ice from shore to shore, and for nine weeks",
    "Übermut tut selten gut \u2013 \u4f60\u597d, \U0001f600!",
)

failures = 0
untried = 0


def skip(why):
    """What could not be tried ends the test, and hides nothing that has failed before."""
    say("skipped: " + why)
    if failures:
        finish()
    sys.exit(77)


def not_tried(what):
    """A part that this host does not allow; the others go on. Where all others pass the test counts as skipped."""
    global untried
    untried += 1
    say("NOT TRIED HERE: " + what)


def say(text):
    print(text, flush=True)


def check(good, what):
    """One expectation: said when it fails, counted at the end by finish()."""
    global failures
    if not good:
        failures += 1
        say("FAILED: " + what)
    return good


def finish():
    if failures:
        say("%d failures" % failures)
        sys.exit(1)
    if untried:
        say("skipped: %d parts could not be tried here; the others passed" % untried)
        sys.exit(77)
    say("passed")
    sys.exit(0)


def model(name):
    path = os.environ.get({"smollm2": "ISTHMUS_SMOLLM2", "qwen05": "ISTHMUS_QWEN05"}[name])
    if not path:
        done = subprocess.run([os.path.join(ROOT, "tools", "fetch-model"), name], text=True,
                              stdout=subprocess.PIPE, check=False)
        path = done.stdout.strip()
        if done.returncode != 0:
            skip("no model %s: tools/fetch-model could not fetch it" % name)
    return path


def shared(path):
    full = os.path.join(SHARED, path)
    if not os.path.exists(full):
        skip("%s is not there: ISTHMUS_SHARED names the folder of the reference data" % full)
    return full


def golden(name):
    with open(shared("golden/" + name), encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def prompts(name):
    """The reference's, where it is here; else our own serve as well, for the yardstick is --local."""
    if os.path.exists(os.path.join(SHARED, "golden")):
        return [c["prompt"] for c in golden(name + "-greedy.jsonl")]
    say("no reference data: with %d prompts of our own" % len(PROMPTS))
    return PROMPTS


def isthmus(*args, text_in=None, timeout=TIMEOUT_S, env=None, prefix=(), **more):
    """Run to the end, behind what a prefix runs first; output as text. A hang is a failure of the test."""
    try:
        return subprocess.run([*prefix, BINARY, *map(str, args)], input=text_in, text=True, encoding="utf-8",
                              stdin=subprocess.DEVNULL if text_in is None else None,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout,
                              env={**os.environ, **(env or {})}, check=False, **more)
    except subprocess.TimeoutExpired as late:
        said = (late.stderr or b"").decode(errors="replace")
        check(False, "%s: no end within %d s: %s" % (args, timeout, said[-4000:]))
        return finish()


def quick_profile(model_path, path):
    """A host's profile whose times are good for nothing, in seconds."""
    done = isthmus("profile", "-m", model_path, "--time", ".01", "--depth", "256", "-o", path)
    if done.returncode != 0:
        say("FAILED: profile: exit code %d: %s" % (done.returncode, done.stderr[-2000:]))
        sys.exit(1)
    return path


def to_full_disk(*args, text_in="", timeout=TIMEOUT_S):
    """Run with nowhere to write its results: this must be said, and be a failure."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run([BINARY, *map(str, args)], input=text_in, text=True, stdout=full,
                              stderr=subprocess.PIPE, timeout=timeout, check=False)
    check(done.returncode == 1 and ("No space left" in done.stderr or "cannot write" in done.stderr),
          "%s to a full disk: exit %d: %s" % (args, done.returncode, done.stderr))


def json_lines(done, what):
    """The JSON lines of a run that must have worked."""
    if done.returncode != 0:
        say("FAILED: %s: exit code %d\n%s" % (what, done.returncode, done.stderr[-4000:]))
        sys.exit(1)
    return [json.loads(line) for line in done.stdout.splitlines()]


def lines_of(objects):
    return "".join(json.dumps(o, ensure_ascii=False) + "\n" for o in objects)


def run_requests(requests, *args, timeout=TIMEOUT_S):
    """`isthmus run --requests`: the result lines."""
    return json_lines(isthmus("run", "--requests", "-", *args, text_in=lines_of(requests),
                              timeout=timeout), "run " + " ".join(map(str, args)))


keys_folder = None
keys = {}


def keygen(name):
    """A key of this test's: (file, fingerprint), made once."""
    global keys_folder
    if not keys_folder:
        keys_folder = tempfile.mkdtemp(prefix="isthmus-test-keys-")
        atexit.register(shutil.rmtree, keys_folder, ignore_errors=True)
    if name not in keys:
        path = os.path.join(keys_folder, name + ".key")
        done = isthmus("keygen", "-o", path)
        if done.returncode != 0:
            say("FAILED: keygen: " + done.stderr)
            sys.exit(1)
        keys[name] = (path, done.stdout.strip())
    return keys[name]


def secured(half):
    """The options by which an edge and a cloud of this test know each other."""
    other = {"edge": "cloud", "cloud": "edge"}[half]
    return ["--identity", keygen(half)[0], "--peer", keygen(other)[1]]


def wait_for(condition, seconds):
    """True as soon as condition() is; False when the time is over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return condition()


def end(process, what, seconds=120):
    """Ask it to end, and all that it said. A hang is a failure of the test."""
    process.send_signal(signal.SIGTERM)
    try:
        return process.communicate(timeout=seconds)[0].decode()
    except subprocess.TimeoutExpired:
        check(False, what + " does not end")
        process.kill()
        return process.communicate()[0].decode()


def leftovers():
    """What a run could leave behind: DPDK run-time folders, shared memory, Unix sockets."""
    found = set()

    def look(folder, ours):
        try:
            found.update(e.path for e in os.scandir(folder) if ours(e))
        except OSError:
            pass

    runtime = os.environ.get("XDG_RUNTIME_DIR") or "/run/user/%d" % os.getuid()
    look("/dev/shm", lambda e: "isthmus" in e.name)
    for folder in (tempfile.gettempdir(), runtime):
        look(folder, lambda e: "isthmus" in e.name and stat.S_ISSOCK(e.stat().st_mode))
    for folder in ("/var/run", tempfile.gettempdir(), runtime):
        look(os.path.join(folder, "dpdk"), lambda e: True)
    with open("/proc/net/unix", encoding="utf-8") as f:
        found.update("socket " + line.split()[-1] for line in f if "isthmus" in line)
    return found


def check_nothing_left(before):
    """What tests beside us run meanwhile has names of its own and goes again; what stays is ours."""
    new = leftovers() - before
    wait_for(lambda: not new & leftovers(), 120)
    check(not new & leftovers(), "left behind: %s" % sorted(new & leftovers()))
