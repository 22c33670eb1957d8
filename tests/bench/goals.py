# SPDX-License-Identifier: Apache-2.0
"""Figures beside what they are to be: a line each as it is found, and whether all were met at the end."""
import json

import e2e


class Goals:
    """Lines of a Markdown table, or of JSON."""

    def __init__(self, bench, form):
        self.bench, self.form = bench, form
        self.lines = self.missed = 0

    def judge(self, goal, figure, sense, bound, unit, **detail):
        """`sense` is how the figure is to stand to the bound: "<=", ">=" or "<"."""
        met = {"<=": figure <= bound, ">=": figure >= bound, "<": figure < bound}[sense]
        self.missed += not met
        if self.form == "jsonl":
            e2e.say(json.dumps({"bench": self.bench, "goal": goal, "figure": round(figure, 4), "unit": unit,
                                "sense": sense, "bound": round(bound, 4), "met": met, **detail}))
            return met
        if not self.lines:
            e2e.say("| goal | measured | bound | | beside it |\n|---|---:|---:|---|---|")
        self.lines += 1
        unit = unit and " " + unit
        e2e.say("| %s | %.4g%s | %s %.4g%s | %s | %s |"
                % (goal, figure, unit, sense, bound, unit, "met" if met else "**not met**",
                   ", ".join("%s %s" % (k.replace("_", " "), shown(v)) for k, v in detail.items())))
        return met


def shown(value):
    if isinstance(value, float):
        return "%.4g" % value
    if isinstance(value, (list, tuple)):
        return " ".join(map(shown, value))
    return str(value)
