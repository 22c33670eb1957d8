# SPDX-License-Identifier: Apache-2.0
"""What an operator has: the build installed into a folder that stands for a host's root."""
import atexit
import ctypes
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading

import e2e

BUILD = os.path.dirname(os.path.abspath(e2e.BINARY))


def run(*argv, env=None, timeout=e2e.TIMEOUT_S, text_in=None, cwd=None):
    """A program run to its end, stdout and stderr in one."""
    return subprocess.run([str(a) for a in argv], text=True, encoding="utf-8", input=text_in, cwd=cwd,
                          stdin=subprocess.DEVNULL if text_in is None else None,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout,
                          env={**os.environ, **(env or {})}, check=False)


def must(*argv, **more):
    """The same, where it has to succeed for the test to go on."""
    done = run(*argv, **more)
    if not e2e.check(done.returncode == 0, "%s: exit %d: %s" % (" ".join(map(str, argv)), done.returncode,
                                                                done.stdout[-4000:])):
        e2e.finish()
    return done.stdout


def prefix():
    """Where the build means to be installed: /usr, or /usr/local, ..."""
    options = json.loads(must("meson", "introspect", "--buildoptions", BUILD).split("\n", 1)[0])
    return next(o["value"] for o in options if o["name"] == "prefix")


def install(root):
    """`meson install` into root; the files, as they are named there."""
    must("meson", "install", "-C", BUILD, "--no-rebuild", "--quiet", "--destdir", root)
    return files(root)


def files(root):
    found = set()
    for folder, _, names in os.walk(root):
        found.update("/" + os.path.relpath(os.path.join(folder, n), root) for n in names)
    return found


def python():
    """The interpreter that has what tests/python-packages.txt lists."""
    path = os.path.join(e2e.ROOT, "build-python", "bin", "python")
    if not os.path.exists(path):
        e2e.skip("tools/python-packages has not been run")
    return path


def unit(root, prefix_folder, name, instance=""):
    """A unit's [Service] section, for an instance of it: {key: [values]}."""
    path = os.path.join(root, prefix_folder.lstrip("/"), "lib/systemd/system", name)
    found, section = {}, None
    with open(path, encoding="utf-8") as f:
        for line in f:
            line = line.strip()
            if line.startswith("["):
                section = line
            elif section == "[Service]" and "=" in line and not line.startswith("#"):
                key, value = line.split("=", 1)
                found.setdefault(key, []).append(value.replace("%i", instance))
    return found


def metrics_named():
    """Those of ours that the dashboard and the alert rules name."""
    found = set()
    for name in ("grafana/isthmus.json", "prometheus/isthmus.rules.yml"):
        with open(os.path.join(e2e.ROOT, "packaging", name), encoding="utf-8") as f:
            found.update(re.findall(r"\bisthmus_[a-z_]+", f.read()))
    return found


class Host:
    """A folder that stands for a host: paths of the units and of the configuration are under it."""

    def __init__(self, root):
        self.root = root
        self.prefix = prefix()
        self.config = "/etc/isthmus" if self.prefix == "/usr" else self.prefix + "/etc/isthmus"
        install(root)
        for path in ("/run/isthmus", "/var/lib/isthmus"):  # as tmpfiles.d would
            os.makedirs(self.path(path))

    def path(self, path):
        """The host's path, as it is named for the prefix /usr."""
        if path.startswith("/etc/isthmus"):
            path = self.config + path[len("/etc/isthmus"):]
        return os.path.join(self.root, path.lstrip("/"))

    def moved(self, text):
        """The text with its paths under the folder."""
        return re.sub(r"(?<![\w/.-])/(etc|run|var/lib)/isthmus\b", lambda m: self.path(m[0]), text)

    def shipped(self, half, name=None, **changes):
        """The installed example with some keys' values changed, those among them that it has as comments;
        as the configuration of name. Its text."""
        with open(os.path.join(e2e.ROOT, "packaging", half + ".ini"), encoding="utf-8") as f:
            text = f.read()
        for key, value in changes.items():
            key = key.replace("_", "-")
            text, n = re.subn(r"(?m)^(# ?)?%s = .*$" % re.escape(key), "%s = %s" % (key, value), text, count=1)
            e2e.check(n == 1, "%s.ini shows %s" % (half, key))
        self.configure(name or half, text)
        return text

    def configure(self, half, text):
        path = self.path("/etc/isthmus/%s.ini" % half)
        with open(path, "w", encoding="utf-8") as f:
            f.write(self.moved(text))
        return path


def private_network():
    """The rest of the program runs in a network namespace of its own, where this user may make one."""
    if os.environ.get("ISTHMUS_TEST_NETWORK"):
        must("ip", "link", "set", "lo", "up")
    elif run("unshare", "--net", "true").returncode == 0:
        os.environ["ISTHMUS_TEST_NETWORK"] = "private"
        sys.stdout.flush()
        os.execvp("unshare", ["unshare", "--net", sys.executable, *sys.argv])
    else:
        e2e.not_tried("a network namespace; on this host's loopback instead")


def free_tcp():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def locked_down():
    """In the child: NoNewPrivileges= and MemoryDenyWriteExecute= of the units."""
    libc = ctypes.CDLL(None)
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    libc.prctl(65, 1, 0, 0, 0)  # PR_SET_MDWE, where the kernel (6.3) has it


class Unit:
    """A unit run as systemd would: its ExecStart, NOTIFY_SOCKET, WATCHDOG_USEC, RUNTIME_DIRECTORY."""

    def __init__(self, host, name, instance="", inside=()):
        """instance: of a unit whose name ends in @. inside: what its command begins with."""
        self.host, self.name, self.inside = host, name + instance, inside
        self.keys = unit(host.root, host.prefix, name + ".service", instance)
        self.environment = {"WATCHDOG_USEC": str(int(float(self.keys["WatchdogSec"][0]) * 1e6))}
        self.process, self.log = None, tempfile.TemporaryFile()
        self.notes, self.watchdogs, self.socket, self.notify, self.thread = [], 0, None, None, None
        self.said_from = 0

    def argv(self):
        words = shlex.split(self.keys["ExecStart"][0])
        return [*self.inside, *(self.host.path(w) if w.startswith("/") else w for w in words)]

    def start(self, limit_s=120):
        """True when it has said READY=1."""
        runtime = self.host.path("/run/" + self.keys["RuntimeDirectory"][0])
        os.makedirs(runtime, exist_ok=True)
        path = self.notify = os.path.join(tempfile.mkdtemp(prefix="isthmus-test-notify-"), "socket")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(path)
        self.notes, self.watchdogs = [], 0
        self.said_from = os.fstat(self.log.fileno()).st_size
        env = {k: v for k, v in os.environ.items() if not k.startswith("ISTHMUS")}
        env.update(NOTIFY_SOCKET=path, RUNTIME_DIRECTORY=runtime, **self.environment)
        self.process = subprocess.Popen(self.argv(), stdin=subprocess.DEVNULL, stdout=self.log,
                                        stderr=self.log, env=env, cwd="/",
                                        preexec_fn=locked_down)
        running.append(self)
        self.thread = threading.Thread(target=self.listen, args=(self.socket,), daemon=True)
        self.thread.start()
        e2e.wait_for(lambda: "READY=1" in self.notes or self.process.poll() is not None, limit_s)
        return "READY=1" in self.notes and self.process.poll() is None

    def listen(self, sock):
        while True:
            data = sock.recv(4096)
            if not data:
                return
            for line in data.decode().splitlines():
                self.watchdogs += line == "WATCHDOG=1"
                self.notes.append(line)

    def said(self):
        """Since it was last started."""
        return os.pread(self.log.fileno(), 1 << 24, self.said_from).decode(errors="replace")

    def reload(self):
        """As ExecReload, to the RELOADING=1 or the line in its log that a caller waits for."""
        self.process.send_signal(signal.SIGHUP)

    def stop(self, sig=signal.SIGTERM, limit_s=120):
        """Its exit code; None: it did not end."""
        if self.process.poll() is None:
            self.process.send_signal(sig)
        return self.wait(limit_s)

    def wait(self, limit_s=120):
        try:
            rc = self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            e2e.check(False, self.name + " does not end: " + self.said()[-2000:])
            self.process.kill()
            self.process.wait()
            rc = None
        # All that it sent comes before this, which ends listen().
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
            s.sendto(b"", self.notify)
        self.thread.join()
        self.socket.close()
        shutil.rmtree(os.path.dirname(self.notify))
        return rc


running = []


@atexit.register
def kill_all():
    for u in running:
        if u.process.poll() is None:
            u.process.kill()
            u.process.wait()
