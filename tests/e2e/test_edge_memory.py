#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Acceptance 6: the edge at split 5 keeps resident less than 40 % of what --local keeps, EAL and
packet pools apart; those stay under 24 MB."""
import json

import e2e

MB = 1e6


def main():
    model = e2e.model("smollm2")
    prompt = ["-p", "The capital of France is", "-n", "16", "--json", "--threads", "1"]

    def run(*args):
        return e2e.json_lines(e2e.isthmus("run", "-m", model, *prompt, *args), "run")[0]

    local = run("--local")
    split = run("--split", "5")
    edge = split["edge_rss_bytes"] - split["edge_eal_rss_bytes"]
    share = edge / local["edge_rss_bytes"]
    e2e.say("edge %.1f MB of %.1f MB of --local: %.1f %%; EAL and packet pools %.1f MB"
            % (edge / MB, local["edge_rss_bytes"] / MB, 100 * share,
               split["edge_eal_rss_bytes"] / MB))
    e2e.say(json.dumps({k: v for k, v in split.items() if k.endswith("rss_bytes")}))
    e2e.check(0 < share < .40, "the edge keeps less than 40 %")
    e2e.check(0 < split["edge_eal_rss_bytes"] < 24 * MB, "EAL and packet pools under 24 MB")
    e2e.check(split["cloud_rss_bytes"] > edge, "the cloud keeps the rest")
    e2e.finish()


main()
