# SPDX-License-Identifier: Apache-2.0
"""All checks of the project, called by tools/check. The last line it prints is the count alone:

    N passed, N failed, N skipped

--quick     one build and its tests, with few prompts: a developer's minute
--fuzz N    seconds for each fuzz target (default 20)
--explore S nothing but the simulations, for S seconds in all, with seeds that nobody tried before: all other
            checks always run the same ones, so that no change is refused for what it did not do. A failure
            says the command that repeats it; mend it, and put its seed into tests/sim/meson.build
--seed N    the first that --explore tries (default: by the time of day)

With CI=true in the environment a skipped test counts as failed.
"""
import argparse
import concurrent.futures
import glob
import json
import os
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
COVERED = {"codec": "codec/", "wire and link": "dataplane/link/"}
COVERAGE_MIN = 90.0
# Whose invariants hold for any seed. Those of sim_rate, sim_adapt and sim_fleet are figures, with bounds for
# the seeds that meson's tests run.
SIMULATIONS = (("sim_link", {}), ("sim_pipeline", {}), ("sim_pipeline", {"HEAD": "edge"}), ("sim_edges", {}),
               ("sim_edges", {"HEAD": "edge"}))
# Of each of these in a check, beyond those of meson's tests: a minute in all.
FIRST_SEED, RUNS = 1000, 250

# Where nobody reads what was skipped, a test that could not run is a failure.
SKIPPED = "failed" if os.environ.get("CI") == "true" else "skipped"

counts = {"passed": 0, "failed": 0, "skipped": 0}
failures = []


def say(text):
    print(text, flush=True)


def count(result, name):
    counts[result] += 1
    if result == "failed":
        failures.append(name)
    return result == "passed"


def command(name, argv, env=None, quiet=True, counted=True):
    """Run one check; its output is shown when it fails (or when not quiet)."""
    start = time.monotonic()
    done = subprocess.run(argv, cwd=ROOT, env={**os.environ, **(env or {})}, text=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, check=False)
    good = done.returncode == 0
    if not good or not quiet:
        say(done.stdout.rstrip())
    say("%-6s %s (%.0f s)" % ("ok" if good else "FAILED", name, time.monotonic() - start))
    if counted:
        count("passed" if good else "failed", name)
    return good


def configure(folder, *options, env=None):
    if os.path.exists(os.path.join(ROOT, folder, "build.ninja")):
        return True
    return (command("configure " + folder, ["meson", "setup", folder, *options], env, counted=False)
            or count("failed", "configure " + folder))


def build(folder, *options, targets=(), env=None):
    return (configure(folder, *options, env=env)
            and command(" ".join(["build", folder, *targets]), ["ninja", "-C", folder, *targets],
                        env))


def tests_named(folder, *words):
    """Names of the build's tests that hold one of these words."""
    done = subprocess.run(["meson", "test", "-C", folder, "--list", "--no-rebuild"], cwd=ROOT,
                          text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False)
    names = [line.split(" / ")[-1].split(":", 1)[-1] for line in done.stdout.splitlines()]
    return [n for n in names if any(w in n for w in words)]


def meson_test(folder, *options, env=None):
    """Run a build's tests and count each of them."""
    log = os.path.join(ROOT, folder, "meson-logs", "testlog.json")
    if os.path.exists(log):
        os.unlink(log)
    say("test   " + folder)
    subprocess.run(["meson", "test", "-C", folder, "--print-errorlogs", *options],
                   cwd=ROOT, env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL,
                   check=False)
    if not os.path.exists(log):
        count("failed", folder + ": no test ran")
        return
    with open(log, encoding="utf-8") as f:
        for line in f:
            test = json.loads(line)
            name = "%s: %s" % (folder, test["name"])
            count({"OK": "passed", "EXPECTEDFAIL": "passed", "SKIP": SKIPPED}.get(
                test["result"], "failed"), name)


def simulate(seed, *length, limit_s=300):
    """The simulations from this seed on; length: an option for how long."""
    for name, env in SIMULATIONS:
        argv = ["build/tests/sim/" + name, "--seed", str(seed), *length]
        start = time.monotonic()
        done = subprocess.run(["timeout", "-s", "ABRT", str(limit_s), *argv],  # ABRT: it says the seed
                              cwd=ROOT, env={**os.environ, **env}, text=True, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        good = done.returncode == 0
        said = done.stdout.splitlines()
        summary = [l for l in said if l.startswith(name + ": ")]
        say("\n".join(summary if good and summary else said[-20:]))
        what = " ".join([*("%s=%s" % v for v in env.items()), *argv])
        say("%-6s %s (%.0f s)" % ("ok" if good else "FAILED", what, time.monotonic() - start))
        count("passed" if good else "failed", what)


def explore(seconds, seed):
    """The simulations with seeds that nobody tried before."""
    if build("build", "--prefix=/usr", targets=sorted({"tests/sim/" + name for name, _ in SIMULATIONS})):
        say("sim    the first seed is %d" % seed)
        part_s = seconds / len(SIMULATIONS)
        simulate(seed, "--seconds", str(part_s), limit_s=300 + part_s)


def fuzz_target(binary, seconds):
    name = os.path.basename(binary)
    corpus = os.path.join(os.path.dirname(binary), "corpus-" + name)
    os.makedirs(corpus, exist_ok=True)
    argv = [binary, "-max_total_time=%d" % seconds, "-timeout=10", "-rss_limit_mb=2048",
            "-print_final_stats=1", corpus]
    seeds = os.path.join(ROOT, "tests", "fuzz", "corpus", name)
    if os.path.isdir(seeds):
        argv.append(seeds)
    done = subprocess.run(argv, cwd=os.path.dirname(binary), text=True, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    runs = [l for l in done.stdout.splitlines() if "number_of_executed_units" in l]
    return name, done, runs[0].split()[-1] if runs else "0"


def fuzz(seconds):
    if not build("build-fuzz", "-Dfuzzers=true", "-Dbuildtype=debugoptimized",
                 "-Db_lundef=false", targets=["fuzzers"], env={"CC": "clang-14"}):
        return
    binaries = sorted(b for b in glob.glob(os.path.join(ROOT, "build-fuzz/tests/fuzz/*"))
                      if os.path.isfile(b) and os.access(b, os.X_OK))
    if not binaries:
        count("failed", "fuzz: no targets")
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for name, done, runs in pool.map(lambda b: fuzz_target(b, seconds), binaries):
            if done.returncode != 0:
                say(done.stdout[-6000:])
            good = done.returncode == 0 and int(runs) > 0
            say("%-6s fuzz %s: %s inputs" % ("ok" if good else "FAILED", name, runs))
            count("passed" if good else "failed", "fuzz " + name)


def coverage():
    if not configure("build-cov", "-Db_coverage=true", "-Dbuildtype=debug"):
        return
    for stale in glob.glob(os.path.join(ROOT, "build-cov/**/*.gcda"), recursive=True):
        os.unlink(stale)
    # Their own: what else has such a word in its name would compile all kernels without optimization, for minutes.
    names = [n for n in tests_named("build-cov", "codec ", "link ") if n.startswith(("codec ", "link ", "sim link"))]
    say("test   build-cov: " + ", ".join(names))
    # Without --no-rebuild: builds what these tests need, and nothing else.
    subprocess.run(["meson", "test", "-C", "build-cov", "-q", *names], cwd=ROOT,
                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False)
    for name, folder in COVERED.items():
        done = subprocess.run(["gcovr", "--root", ".", "--filter", folder, "--json-summary",
                               "--gcov-ignore-parse-errors", "build-cov"], cwd=ROOT, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
        try:
            summary = json.loads(done.stdout)
        except ValueError:
            say(done.stderr[-2000:])
            count("failed", "coverage of " + name)
            continue
        for file in summary["files"]:
            say("         %-40s %5.1f %%" % (file["filename"], file["line_percent"] or 0))
        good = summary["line_percent"] is not None and summary["line_percent"] >= COVERAGE_MIN
        say("%-6s line coverage of %s: %.1f %% (at least %.0f)"
            % ("ok" if good else "FAILED", name, summary["line_percent"] or 0, COVERAGE_MIN))
        count("passed" if good else "failed", "coverage of " + name)


def fetch_models():
    for name, variable in (("smollm2", "ISTHMUS_SMOLLM2"), ("qwen05", "ISTHMUS_QWEN05")):
        if os.environ.get(variable):
            continue
        done = subprocess.run(["tools/fetch-model", name], cwd=ROOT, text=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False)
        if count("passed" if done.returncode == 0 else "failed", "fetch-model " + name):
            os.environ[variable] = done.stdout.strip()
            say("ok     model %s: %s" % (name, done.stdout.strip()))


def check(options):
    fetch_models()
    # For the prefix of a package, so that one is packed from it without being compiled again.
    if build("build", "--prefix=/usr"):
        build("build", targets=["benchmarks"])  # they compile
        command("headers", ["tools/check-headers"], quiet=False)
        command("symbols", ["tools/check-symbols", "build"], quiet=False)
        meson_test("build", env={"ISTHMUS_QUICK": "1"} if options.quick else None)
        if not options.quick:
            simulate(FIRST_SEED, "--runs", str(RUNS))
    if not options.quick:
        if build("build-asan", "-Db_sanitize=address,undefined", "-Db_lundef=false",
                 "-Dbuildtype=debugoptimized"):
            # Figures of quality, speed and memory say nothing here, and a calibration is an hour's work:
            # unit tests run its statistics, fuzzers its profiles.
            names = [n for n in tests_named("build-asan", "")
                     if n not in ("e2e score", "e2e quality", "e2e edge_memory", "e2e bench runs",
                                  "e2e dataplane goals", "e2e netem goals", "e2e adapt",
                                  "e2e figures", "e2e calibrate", "e2e profile", "e2e docs",
                                  "e2e package", "e2e plan", "e2e quantize", "e2e quantize_files",
                                  "e2e soak", "e2e soak_split", "e2e kv")]
            meson_test("build-asan", "-t", "3", *names, env={
                "ISTHMUS_QUICK": "1",  # the same cases, fewer prompts
                "ASAN_OPTIONS": "detect_leaks=1",
                "LSAN_OPTIONS": "print_suppressions=0:suppressions="
                                + os.path.join(ROOT, "tests", "lsan.supp"),
                "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1"})
        if configure("build-tsan", "-Db_sanitize=thread", "-Db_lundef=false",
                     "-Dbuildtype=debugoptimized"):
            meson_test("build-tsan", "-t", "10", *tests_named("build-tsan", "team", "barrier", "calibrate p", "service queue", "rpc", "gateway-http"))
        coverage()
        fuzz(options.fuzz)


def main():
    parser = argparse.ArgumentParser(prog="tools/check", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--fuzz", type=int, default=20, metavar="N")
    parser.add_argument("--explore", type=float, metavar="S")
    parser.add_argument("--seed", type=int, metavar="N")
    options = parser.parse_args()
    if options.explore is not None and not options.explore > 0:
        parser.error("--explore: %g seconds are none" % options.explore)
    if options.seed is not None and options.explore is None:
        parser.error("--seed is for --explore: all other checks have the same seeds each time")

    start = time.monotonic()
    if options.explore is None:
        check(options)
    else:
        explore(options.explore, int(time.time()) if options.seed is None else options.seed)
    for name in failures:
        say("FAILED " + name)
    say("%.0f s" % (time.monotonic() - start))
    say("%(passed)d passed, %(failed)d failed, %(skipped)d skipped" % counts)
    return 1 if counts["failed"] or not counts["passed"] else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
