#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What is installed: the files, units, completion, alert rules, dashboard, manifest, Debian package.

The Debian package is installed with dpkg's --root into a folder, its maintainer scripts run beside it
(--force-script-chrootless): they are debhelper's, which honour DPKG_ROOT. So this host stays as it is, and
neither mounts nor a bootstrapped system are needed.
"""
import glob
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import tempfile

import e2e
import halves
import packaged

EXPOSURE_MAX = 2.0  # of 10, as systemd-analyze security counts
UNITS = ("isthmus-edge.service", "isthmus-cloud.service", "isthmus-edge@.service", "isthmus-cloud@.service")
# Units that ours name, so that `verify` finds them in the folder.
TARGETS = ("sysinit", "basic", "shutdown", "network-online", "nss-lookup", "multi-user")


def commands():
    text = e2e.isthmus("--help").stdout
    return re.findall(r"^  ([a-z]+) ", text, re.M)


def manual(installed, prefix):
    pages = {os.path.basename(p) for p in glob.glob(os.path.join(e2e.ROOT, "docs/man/*.[1-9]"))}
    wanted = {"isthmus.1"} | {"isthmus-%s.1" % c for c in commands()}
    e2e.check(wanted <= pages, "commands without a page: %s" % sorted(wanted - pages))
    there = {os.path.basename(p) for p in installed if p.startswith(prefix + "/share/man/man")}
    e2e.check(there == pages, "pages not installed: %s" % sorted(pages ^ there))
    with open(os.path.join(e2e.ROOT, "docs/man/isthmus.1"), encoding="utf-8") as f:
        top = f.read()
    for name in commands():
        e2e.check("\n%s: " % name in top and "isthmus-%s" % name in top.replace("\\", ""),
                  "isthmus(1) names " + name)
    e2e.say("%d pages for %d commands" % (len(pages), len(commands())))


def layout(installed, prefix):
    config = "/etc" if prefix == "/usr" else prefix + "/etc"
    for path in (config + "/isthmus/edge.ini", config + "/isthmus/cloud.ini", prefix + "/bin/isthmus",
                 prefix + "/lib/sysusers.d/isthmus.conf", prefix + "/lib/tmpfiles.d/isthmus.conf",
                 prefix + "/share/bash-completion/completions/isthmus",
                 prefix + "/share/zsh/site-functions/_isthmus",
                 prefix + "/share/isthmus/grafana/isthmus.json",
                 prefix + "/share/isthmus/prometheus/isthmus.rules.yml",
                 prefix + "/share/doc/isthmus/README.md", prefix + "/share/doc/isthmus/docs/operations.md",
                 prefix + "/share/doc/isthmus/examples/isthmus.yaml",
                 *(prefix + "/lib/systemd/system/" + u for u in UNITS)):
        e2e.check(path in installed, path + " is installed")


def units(root, prefix):
    """As systemd reads them, in a root of their own: no complaint, and little exposed."""
    system = os.path.join(root, "usr/lib/systemd/system")
    ours = os.path.join(root, prefix.lstrip("/"), "lib/systemd/system")
    os.makedirs(system, exist_ok=True)
    os.makedirs(os.path.join(root, "bin"), exist_ok=True)
    shutil.copy("/bin/kill", os.path.join(root, "bin/kill"))
    for target in TARGETS:
        shutil.copy("/lib/systemd/system/%s.target" % target, system)

    def verify(unit):
        # One at a time: of several, systemd 252 is silent about some.
        return packaged.run("systemd-analyze", "--man=no", "--root=" + root, "verify",
                            unit.replace("@.", "@1."))

    for unit in UNITS:
        done = verify(unit)
        e2e.check(done.returncode == 0 and not done.stdout.strip(), "systemd-analyze verify %s: %d: %s"
                  % (unit, done.returncode, done.stdout))
        path = os.path.join(ours, unit)
        with open(path, encoding="utf-8") as f:
            good = f.read()
        with open(path, "w", encoding="utf-8") as f:
            f.write(good.replace("Restart=on-failure", "Restart=perhaps"))
        e2e.check("perhaps" in verify(unit).stdout, "verify finds what is wrong with " + unit)
        with open(path, "w", encoding="utf-8") as f:
            f.write(good)
    for name in ("packet.conf", "xdp.conf", "pci.conf"):
        folder = os.path.join(ours, UNITS[0] + ".d")
        os.mkdir(folder)
        shutil.copy(os.path.join(e2e.ROOT, "packaging/systemd", name), folder)
        done = verify(UNITS[0])
        e2e.check(done.returncode == 0 and not done.stdout.strip(), "verify with %s: %s" % (name, done.stdout))
        shutil.rmtree(folder)
    for unit in UNITS[:2]:
        done = packaged.run("systemd-analyze", "--root=" + root, "security", "--offline=true", "--no-pager",
                            unit)
        found = re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)
        e2e.check(found and float(found[1]) <= EXPOSURE_MAX, "%s is exposed: %s" % (unit, done.stdout[-300:]))
        e2e.say("%s: exposure %s of 10" % (unit, found[1] if found else "?"))
        service = packaged.unit(root, prefix, unit)
        e2e.check(service["Type"] == ["notify"] and service["User"] == ["isthmus"]
                  and "WatchdogSec" in service and service["CapabilityBoundingSet"] == [""], unit + "'s keys")


def calls_of(group):
    """System calls of a filter's group, those of the groups in it too."""
    found = set()
    for line in packaged.must("systemd-analyze", "syscall-filter", group).split("\n")[1:]:
        word = line.strip()
        if word and not word.startswith("#"):
            found |= calls_of(word) if word.startswith("@") else {word}
    return found


# iopl is DPDK's, and only for cards of a kind; it is refused without the filter, too. The others give root up, which
# a unit's process never is.
NOT_OF_UNITS = {"iopl", "capset", "setgroups", "setfsuid", "setfsgid", "setresuid", "setresgid"}


def calls(root, prefix, folder):
    """What both halves ask of the kernel is what the units let pass."""
    allowed = set()
    for line in packaged.unit(root, prefix, UNITS[0])["SystemCallFilter"]:
        named = set()
        for word in line.lstrip("~").split():
            named |= calls_of(word) if word.startswith("@") else {word}
        allowed = allowed - named if line.startswith("~") else allowed | named
    trace = os.path.join(folder, "calls")
    packaged.must("strace", "-f", "-qq", "-o", trace, e2e.BINARY, "run", "-m", e2e.model("smollm2"), "-p", "Hello",
                  "-n", "4")
    with open(trace, encoding="utf-8", errors="replace") as f:
        made = set(re.findall(r"(?m)^\d+ +([a-z_0-9]+)\(", f.read()))
    e2e.check("mmap" in made and made - allowed <= NOT_OF_UNITS, "calls that the units forbid: %s"
              % sorted(made - allowed - NOT_OF_UNITS))
    e2e.say("%d different system calls, all of them allowed" % len(made - NOT_OF_UNITS))


BASH = r"""
source /usr/share/bash-completion/bash_completion
source "$1"; shift
COMP_WORDBREAKS=$' \t\n"\x27><=;|&(:'
COMP_LINE="$*"; COMP_LINE=${COMP_LINE// = /=}; COMP_POINT=${#COMP_LINE}; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_isthmus
printf '%s\n' "${COMPREPLY[@]}"
"""

# Of an interactive shell, which on its first line completes $LINE. A compadd with an option of those stores what
# it finds for a function that then adds it. What becomes of the line is the last that is said.
ZSHRC = r"""
unsetopt nomatch beep
fpath=($FUNCTIONS $fpath)
autoload -Uz compinit
compinit -u -d $ZDOTDIR/dump
compadd() {
    local -a matches
    [[ -n ${@[(r)-[OAD]*]} ]] || { builtin compadd -O matches "$@"; print -rl -- $matches >>$FOUND; }
    builtin compadd "$@"
}
complete-it() {
    BUFFER=$LINE CURSOR=${#LINE}
    zle complete-word
    print -r -- "$BUFFER" >>$FOUND
    exit
}
zle -N zle-line-init complete-it
"""


def in_bash(root, prefix):
    script = root + prefix + "/share/bash-completion/completions/isthmus"

    def complete(*words):
        words = [w for word in words for w in (re.split("(=)", word) if word.startswith("--") else [word])]
        done = packaged.run("bash", "--norc", "-c", BASH, "bash", script, e2e.BINARY, *words)
        return set(done.stdout.split())
    return complete


def in_zsh(root, prefix, folder):
    home, found = os.path.join(folder, "zsh"), os.path.join(folder, "found")
    os.mkdir(home)
    with open(os.path.join(home, ".zshrc"), "w", encoding="ascii") as f:
        f.write(ZSHRC)

    def complete(*words):
        with open(found, "w", encoding="utf-8"):
            pass
        line = " ".join((e2e.BINARY,) + words)
        pid, fd = pty.fork()
        if pid == 0:
            os.environ.update(ZDOTDIR=home, FOUND=found, LINE=line, TERM="dumb",
                              FUNCTIONS=root + prefix + "/share/zsh/site-functions")
            os.execvp("zsh", ["zsh", "-d", "-i"])
        said = b""
        while select.select([fd], [], [], 30)[0]:
            try:
                said += os.read(fd, 65536)
            except OSError: # its end
                break
        else:
            os.kill(pid, signal.SIGKILL)
        os.close(fd)
        os.waitpid(pid, 0)
        with open(found, encoding="utf-8") as f:
            *matches, after = f.read().splitlines() or [""]
        e2e.check(after.startswith(line), "zsh completes %r: %r %r" % (line, after, said[-500:]))
        found_words = {m for m in matches if m}
        return {after.split()[-1]} if len(found_words) == 1 else found_words # a file's is its last part alone
    return complete


def completion(shell, complete):
    e2e.check(complete("") == set(commands()), "%s: commands: %s" % (shell, complete("")))
    e2e.check(complete("cl") == {"cloud"}, "%s: cl: %s" % (shell, complete("cl")))
    groups = 0
    for name in commands():
        text = e2e.isthmus(name, "--help").stdout
        options = set(re.findall(r"(?<=[ ,])--[a-z][a-z-]+", text))
        found = complete(name, "--")
        if "%s NAME --help" % name in text:
            groups += 1
            members = set(re.findall(r"^  ([a-z]+) ", text, re.M))
            e2e.check(complete(name, "") == members, "%s: %s: %s" % (shell, name, complete(name, "")))
        else:
            e2e.check(options <= found, "%s: %s: not completed: %s" % (shell, name, sorted(options - found)))
    e2e.check(groups >= 1, "a group of commands")
    for words, expected in ((("edge", "--kv", ""), {"f16", "q8", "k8v4", "q4"}), (("edge", "--kv=q"), {"q8", "q4"}),
                            (("ctl", "sess"), {"sessions"}), (("config", ""), {"edge", "cloud", "run"}),
                            (("config", "--show", "e"), {"edge"})):
        e2e.check(complete(*words) == expected, "%s: %s: %s" % (shell, words, complete(*words)))
    short = complete("ctl", "")
    e2e.check({"sessions", "workers", "drain", "undrain", "codec", "log", "methods"} <= short,
              "%s: ctl: %s" % (shell, short))
    for name in short:  # with nobody there: each is a method, whatever comes of it
        done = e2e.isthmus("ctl", "--socket", "/nonexistent/sock", name)
        e2e.check("no control socket" in done.stderr, "ctl %s: %s" % (name, done.stderr))
    with tempfile.NamedTemporaryFile(suffix=".gguf") as f:
        for option in ("--model", "-m"):
            e2e.check(complete("run", option, f.name[:-3]) == {f.name}, "%s: %s completes files: %s"
                      % (shell, option, complete("run", option, f.name[:-3])))
    e2e.say("completion by %s agrees with --help of %d commands" % (shell, len(commands())))


def alerts():
    folder = os.path.join(e2e.ROOT, "packaging/prometheus")
    e2e.say(packaged.must("promtool", "check", "rules", os.path.join(folder, "isthmus.rules.yml")).strip())
    packaged.must("promtool", "test", "rules", os.path.join(folder, "isthmus.rules-test.yml"), cwd=folder)


    with open(os.path.join(folder, "isthmus.rules.yml"), encoding="utf-8") as f:
        names = re.findall(r"alert: (\w+)", f.read())
    with open(os.path.join(folder, "isthmus.rules-test.yml"), encoding="utf-8") as f:
        tested = f.read()
    with open(os.path.join(e2e.ROOT, "docs/operations.md"), encoding="utf-8") as f:
        explained = f.read()
    for name in names:
        e2e.check(name in tested, "%s is tested" % name)
        e2e.check(name in explained, "docs/operations.md says what to do about " + name)


def dashboard():
    """That it has the shape that Grafana imports; that its metrics exist the operator's test sees."""
    with open(os.path.join(e2e.ROOT, "packaging/grafana/isthmus.json"), encoding="utf-8") as f:
        board = json.load(f)
    ids = [p["id"] for p in board["panels"]]
    e2e.check(board["uid"] and board["schemaVersion"] and len(set(ids)) == len(ids) >= 10, "the dashboard")
    for panel in board["panels"]:
        for target in panel["targets"]:
            # promtool parses an expression as part of a rule; Grafana fills its variables in before.
            expr = target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".*")
            rule = json.dumps({"groups": [{"name": "g", "rules": [{"record": "x", "expr": expr}]}]})
            with tempfile.NamedTemporaryFile("w", suffix=".yml") as f:
                f.write(rule)
                f.flush()
                done = packaged.run("promtool", "check", "rules", f.name)
            e2e.check(done.returncode == 0, "panel %s: %s" % (panel["title"], done.stdout))
    e2e.say("a dashboard of %d panels" % len(ids))


def manifest():
    """By the schemas of a Kubernetes release: what is not in them is refused."""
    script = """
import sys, yaml, kubernetes_validate as k
objects = list(yaml.safe_load_all(open(sys.argv[1])))
for o in objects:
    k.validate(o, "1.33", strict=True)
    print(o["kind"], o["metadata"]["name"])
objects[-1]["spec"]["nonsense"] = 1
try:
    k.validate(objects[-1], "1.33", strict=True)
    sys.exit("the validator takes anything")
except k.ValidationError:
    pass
"""
    path = os.path.join(e2e.ROOT, "packaging/kubernetes/isthmus.yaml")
    said = packaged.must(packaged.python(), "-c", script, path).split("\n")
    e2e.check({"Deployment isthmus-cloud", "Service isthmus-cloud", "Deployment isthmus-edge",
               "Service isthmus-edge"} <= set(said), "objects: %s" % said)
    e2e.say("%d Kubernetes objects" % (len(said) - 1))
    with tempfile.TemporaryDirectory(prefix="isthmus-test-probes-") as folder:
        probes(path, folder)


def probes(manifest_path, folder):
    """The cloud's probes, as they are written there: alive and ready, alive and draining, gone."""
    script = """
import json, sys, yaml
cloud = [o for o in yaml.safe_load_all(open(sys.argv[1])) if o["kind"] == "Deployment"][0]
container = cloud["spec"]["template"]["spec"]["containers"][0]
print(json.dumps([container[k + "Probe"]["exec"]["command"] for k in ("startup", "liveness", "readiness")]))
"""
    commands_of = json.loads(packaged.must(packaged.python(), "-c", script, manifest_path))

    def answers():
        """How each of them ends."""
        here = [[word.replace("/run/isthmus", folder) for word in c] for c in commands_of]
        return [subprocess.run(c, check=False, capture_output=True,
                               env={**os.environ, "PATH": os.path.dirname(e2e.BINARY) + ":" + os.environ["PATH"]}
                               ).returncode for c in here]
    cloud = halves.Half("cloud", "-m", e2e.model("smollm2"), "--split", "10", "--insecure", "--port",
                        "memif:" + os.path.join(folder, "port"), "--runtime-dir", os.path.join(folder, "cloud"))
    e2e.check(e2e.wait_for(lambda: answers() == [0, 0, 0], halves.LIMIT_S), "probes of a cloud: %s" % answers())
    packaged.must(e2e.BINARY, "ctl", "--socket", os.path.join(folder, "cloud", "control.sock"), "drain")
    e2e.check(answers() == [0, 0, 1], "probes of one that drains: %s" % answers())
    cloud.stop()
    e2e.check(0 not in answers(), "probes of one that is gone: %s" % answers())


def as_root(*argv):
    return argv if os.geteuid() == 0 else ("fakeroot", *argv)


def database(root, package):
    """A dpkg database in which what the package depends on is there, as it is on this host."""
    for folder in ("info", "updates", "triggers"):
        os.makedirs(os.path.join(root, "var/lib/dpkg", folder))
    depends = packaged.must("dpkg-deb", "-f", package, "Depends")
    names = {re.split(r"[ (]", a.strip())[0] for d in depends.split(",") for a in d.split("|")[:1]}
    with open(os.path.join(root, "var/lib/dpkg/status"), "w", encoding="utf-8") as f:
        for name in sorted(names):
            f.write(packaged.must("dpkg-query", "-s", name) + "\n")
            open(os.path.join(root, "var/lib/dpkg/info", name + ".list"), "w", encoding="utf-8").close()
    os.makedirs(os.path.join(root, "etc"))
    for name, line in (("passwd", "root:x:0:0::/root:/bin/sh"), ("group", "root:x:0:")):
        with open(os.path.join(root, "etc", name), "w", encoding="utf-8") as f:
            f.write(line + "\n")
    return names


def build_depends():
    """What the build needs is in the package's Build-Depends, too."""
    with open(os.path.join(e2e.ROOT, "tools/packages.txt"), encoding="utf-8") as f:
        needed = {w for w in f.read().split() if w.endswith("-dev")}
    with open(os.path.join(e2e.ROOT, "packaging/debian/control"), encoding="utf-8") as f:
        given = set(re.findall(r"\blib[a-z0-9.+-]+-dev\b", f.read()))
    tests = {"libcmocka-dev", "libsimde-dev", "libclang-rt-14-dev"}
    e2e.check(needed - tests == given, "Build-Depends and tools/packages.txt differ: %s"
              % sorted((needed - tests) ^ given))


def debian(folder, prefix):
    from_build = ["--build", packaged.BUILD] if prefix == "/usr" else []
    if not from_build:
        e2e.say("the build is for the prefix %s: everything is compiled anew" % prefix)
    said = packaged.must(os.path.join(e2e.ROOT, "tools/build-deb"), *from_build, os.path.join(folder, "deb"),
                         timeout=3600)
    package = said.strip().split("\n")[-1]
    done = packaged.run("lintian", "--allow-root", "--fail-on", "error", package)
    e2e.say("lintian: %s" % (done.stdout.strip() or "nothing"))
    e2e.check(done.returncode == 0, "lintian finds errors")

    root = os.path.join(folder, "debian")
    names = database(root, package)
    e2e.check("libdpdk-dev" not in names and not any(n.startswith("librte") for n in names),
              "DPDK is part of the binary")
    dpkg = as_root("dpkg", "--root=" + root, "--force-script-chrootless", "--force-not-root")
    packaged.must(*dpkg, "-i", package)
    with open(os.path.join(root, "etc/passwd"), encoding="utf-8") as f:
        e2e.check("\nisthmus:" in f.read(), "the user is made")
    for path in ("run/isthmus", "var/lib/isthmus", "lib/systemd/system/isthmus-edge.service",
                 "usr/share/bash-completion/completions/isthmus", "usr/share/zsh/vendor-completions/_isthmus"):
        e2e.check(os.path.exists(os.path.join(root, path)), path + " is there")
    e2e.check(not os.path.exists(os.path.join(root, "etc/systemd/system/multi-user.target.wants")),
              "nothing is started before it is configured")
    e2e.check(packaged.must("dpkg-deb", "--ctrl-tarfile", package), "control files")
    binary = os.path.join(root, "usr/bin/isthmus")
    done = packaged.run(binary, "--version")
    e2e.check(done.returncode == 0 and done.stdout.startswith("isthmus 0."), "runs: %s" % done.stdout)
    done = packaged.run(binary, "run", "-m", e2e.model("smollm2"), "-p", "The capital of France is", "-n", "4")
    e2e.check(done.returncode == 0 and " Paris." in done.stdout, "answers: %s" % done.stdout)
    edited = os.path.join(root, "etc/isthmus/edge.ini")
    with open(edited, "a", encoding="utf-8") as f:
        f.write("# mine\n")
    packaged.must(*dpkg, "-i", package)
    with open(edited, encoding="utf-8") as f:
        e2e.check(f.read().endswith("# mine\n"), "an upgrade keeps the configuration")
    packaged.must(*dpkg, "-r", "isthmus")
    e2e.check(os.path.exists(edited) and not os.path.exists(binary), "removed but for the configuration")
    packaged.must(*dpkg, "-P", "isthmus")
    left = {p for p in packaged.files(root) if "isthmus" in p and "dpkg" not in p}
    e2e.check(not left, "left by purge: %s" % sorted(left))
    e2e.say("%s: installed, run, upgraded, removed, purged" % os.path.basename(package))


def main():
    prefix = packaged.prefix()
    with tempfile.TemporaryDirectory(prefix="isthmus-test-") as folder:
        root = os.path.join(folder, "root")
        installed = packaged.install(root)
        layout(installed, prefix)
        manual(installed, prefix)
        units(root, prefix)
        calls(root, prefix, folder)
        completion("bash", in_bash(root, prefix))
        completion("zsh", in_zsh(root, prefix, folder))
        alerts()
        dashboard()
        manifest()
        build_depends()
        debian(folder, prefix)
    e2e.finish()


main()
