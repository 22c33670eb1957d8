#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Adaptation with the real model on a link whose rate changes: one session's rows become coarser when it falls, most
tokens are in time then, and the quality comes back with it; answers stay whole, what cannot be held is said, and what
does not fit together is refused. How well limits are kept is measured, not tested: tests/sim/sim_adapt.c in virtual
time, tests/bench/adaptation.py with the real model."""
import json
import os
import re
import subprocess
import tempfile

import e2e
from served import Answer, Control, serving

PROMPT = ("-p", "The history of the railway began", "--ignore-eos", "--json", "--threads", "1")
TOKENS, WHOLE = 1500, 330  # more than come until the rate is back; and all of them waited for
# Both ways. With 170 bytes of heads and of what the other way takes a message of the finest is 500 bytes, of the
# coarsest 340: on the slow link a token takes three quarters of the time.
SLOW, FINEST, HALF = "24kbit", "tsq:tau=4,delta=.04", 4
LINK = "delay=5ms,rate=1mbit,rate@6s=%s,rate@32s=1mbit" % SLOW


def run(model, limit_ms):
    done = subprocess.run([e2e.BINARY, "run", "-m", model, *PROMPT, "-n", str(WHOLE), "--netem",
                           "delay=5ms,rate=1mbit,rate@3s=60kbit,rate@9s=1mbit", "--max-tpot", str(limit_ms)],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, timeout=e2e.TIMEOUT_S, check=False)
    e2e.check(done.returncode == 0, "exit code %d: %s" % (done.returncode, done.stderr[-500:]))
    return json.loads(done.stdout), done.stderr


def finest_ms():
    """Between two tokens of the finest on the slow link, on this machine as busy as it is."""
    done = e2e.isthmus("run", "-m", e2e.model("smollm2"), *PROMPT, "-n", 40, "--codec", FINEST, "--netem",
                       "delay=5ms,rate=" + SLOW, "--max-tpot", 100000)
    result = e2e.json_lines(done, "on the slow link")[0]
    e2e.check(result["adaptation"]["changes"] == 0, "nothing changes where the limit is far: %s" % result)
    return result["token_gap_ms_p50"]


def watch(control, answer):
    """What ctl shows of an answer in the making: the controller, and the parameter that its last message announced
    (none: as --codec says)."""
    while not answer.ended(.2):
        session = control.result("codec.get")["sessions"]
        yield control.result("stats")["adaptation"], session[0]["parameter"] if session else None


def falls_and_rises(model, folder):
    """One session, and the link's rate falls: coarser rows are sent, with which most tokens are in time; it comes back,
    and so does the quality. The limit is between what the finest and what the coarsest take on the slow link."""
    slow_ms = finest_ms()
    path = os.path.join(folder, "control.sock")
    half, port = serving(path, model, "--codec", FINEST, "--netem", LINK, "--max-tpot", .88 * slow_ms)
    control = Control(path)
    answer = Answer(port, TOKENS)
    coarse, coarsest, came_back = [], 0, False
    for a, parameter in watch(control, answer):
        if a["level"] >= HALF:
            coarse.append((a["tokens"], a["late_tokens"]))
            coarsest = max(coarsest, parameter or 0)
        if came_back := bool(coarse) and a["level"] == 0 and not parameter:
            break
    for s in control.result("sessions.list"):
        control.result("sessions.kill", id=s["id"])
    e2e.check(answer.ended(), "the answer ends")
    a = control.result("stats")["adaptation"]
    e2e.end(half.process, "the server")
    if not e2e.check(coarse, "no coarser rows were sent on the slow link: %s" % a):
        return
    e2e.check(came_back, "coarser, and the finest again: %s" % a)
    tokens, late = (coarse[-1][i] - coarse[0][i] for i in range(2))
    e2e.say("the finest takes %.0f ms, the limit is %.0f; %d changes, delta up to %.3g; late: %d before coarser ones "
            "were sent, %d of %d while they were"
            % (slow_ms, a["max_tpot_ms"], a["changes"], coarsest, coarse[0][1], late, tokens))
    e2e.check(a["changes"] >= 2 and coarsest > .08, "it was changed, and announced: %s, %s" % (coarsest, a))
    e2e.check(coarse[0][1] < tokens / 3, "it was soon: %d late before, %d coarser" % (coarse[0][1], tokens))
    e2e.check(tokens > 20 and late < tokens / 2, "most are in time with it: %d of %d late" % (late, tokens))
    levels = [int(n) for n in re.findall(r"quality (\d) of 0 [(]best[)] to 8: parameter", half.said())]
    e2e.check(any(n >= HALF for n in levels), "it is logged: %s" % half.said()[-500:])


def cannot_be_held(model):
    result, said = run(model, 1)
    e2e.check(not result["adaptation"]["holds"], "1 ms a token can't be held")
    e2e.check(said.count("no quality holds the limits") == 1, "which is said once: %s" % said[-500:])
    e2e.check(len(result["ids"]) == WHOLE, "and the answer is whole")


def refusals(model):
    for args, word in ((("--max-kl", ".01"), "--max-kl"),
                       (("--max-tpot", "50", "--max-kl", ".01"), "--profile"),
                       (("--max-tpot", "50", "--codec", "f16"), "quality"),
                       (("--max-tpot", "0"), "--max-tpot"),
                       (("--max-tpot", "50", "--local"), "--local")):
        done = e2e.isthmus("run", "-m", model, *PROMPT[:2], *args)
        e2e.check(done.returncode == 2 and word in done.stderr,
                  "%s: exit code %d: %s" % (args, done.returncode, done.stderr[-300:]))


def main():
    model = e2e.model("smollm2")
    refusals(model)
    with tempfile.TemporaryDirectory() as folder:
        falls_and_rises(model, folder)
    cannot_be_held(model)
    e2e.finish()


main()
