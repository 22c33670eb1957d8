# SPDX-License-Identifier: Apache-2.0
"""What an operator has: the build installed into a folder that stands for a host's root."""
import json
import os
import subprocess

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


def unit(root, prefix_folder, name):
    """A unit's [Service] section: {key: [values]}."""
    path = os.path.join(root, prefix_folder.lstrip("/"), "lib/systemd/system", name)
    found, section = {}, None
    with open(path, encoding="utf-8") as f:
        for line in f:
            line = line.strip()
            if line.startswith("["):
                section = line
            elif section == "[Service]" and "=" in line and not line.startswith("#"):
                key, value = line.split("=", 1)
                found.setdefault(key, []).append(value)
    return found
