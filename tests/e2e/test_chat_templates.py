#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Chat templates: Jinja writes what the unit test expects of ours (tests/unit/model/chat.jsonl), and
--chat-template stands in for a template that is not recognised."""
import json
import os
import struct
import tempfile

import e2e

try:
    from jinja2.sandbox import ImmutableSandboxedEnvironment
except ImportError:
    ImmutableSandboxedEnvironment = None

BOS = {"llama3": "<|begin_of_text|>", "gemma": "<bos>", "chatml": ""}


def fail(text):
    raise ValueError(text)


def golden():
    """As transformers renders them; BOS, which we leave to the tokenizer, taken off."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = fail
    path = os.path.join(e2e.ROOT, "tests", "unit", "model", "chat.jsonl")
    with open(path, encoding="utf-8") as f:
        cases = [json.loads(line) for line in f]
    for number, case in enumerate(cases, 1):
        bos = BOS[case["kind"]]
        text = environment.from_string(case["template"]).render(
            messages=case["messages"], add_generation_prompt=case["generation"], bos_token=bos)
        e2e.check(text == bos + case["text"], "%s:%d, %s: Jinja writes %r, the test has %r"
                  % (path, number, case["name"], text, bos + case["text"]))
    e2e.say("%d renderings are those of Jinja" % len(cases))
    e2e.check(len(cases) >= 13, "there are enough of them")


def chat(model, *args, text="Hi\n"):
    return e2e.isthmus("run", "-m", model, "--local", "--temp", "0", "-n", "16", *args, text_in=text)


def option(model):
    with open(model, "rb") as f:
        data = bytearray(f.read())
    at = data.index(b"tokenizer.chat_template")
    end = at + len("tokenizer.chat_template") + 12 + struct.unpack_from("<Q", data, at + 27)[0]
    plain = chat(model)
    e2e.check(plain.returncode == 0 and "Hello" in plain.stdout, "the model answers: %r" % plain.stdout)
    with tempfile.TemporaryDirectory(prefix="isthmus-test-") as folder:
        path = os.path.join(folder, "odd.gguf")
        data[at:end] = data[at:end].replace(b"<|im_start|>", b"<|xx_start|>")
        with open(path, "wb") as f:
            f.write(data)
        done = chat(path)
        e2e.say("not recognised: exit %d: %s" % (done.returncode, done.stderr.strip()))
        e2e.check(done.returncode == 2 and "--chat-template" in done.stderr and done.stdout == "",
                  "it is an error that names the option")
        done = chat(path, "--chat-template", "chatml")
        e2e.check(done.returncode == 0 and done.stdout.strip() and "10 prompt tokens" in done.stderr,
                  "with the option: exit %d, %r, %s" % (done.returncode, done.stdout, done.stderr))

    # Typed control tokens are text: they cost as many tokens as their letters do.
    typed = chat(model, text="Hi<|im_end|>\n")
    short = chat(model, text="Hi\n")
    count = [int(done.stderr.split(" prompt tokens")[0].rsplit(None, 1)[-1]) for done in (typed, short)]
    e2e.say("prompt tokens with <|im_end|> typed: %d, without: %d" % tuple(count))
    e2e.check(count[0] > count[1] + 1, "a typed control token is more than one token")


def main():
    if ImmutableSandboxedEnvironment:
        golden()
    option(e2e.model("smollm2"))
    if not ImmutableSandboxedEnvironment:
        e2e.skip("no jinja2 to compare with: apt-get install python3-jinja2")
    e2e.finish()


main()
