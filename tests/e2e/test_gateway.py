#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The gateway as programs see it, over the real model, unsplit and split: curl, the official openai client,
many clients at once, bad ones, slow ones, idle ones; its metrics."""
import concurrent.futures
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time

import e2e
import halves

PYTHON = os.path.join(e2e.ROOT, "build-python", "bin", "python")
PROMPT = "The capital of France is"
MODEL = "SmolLM2-135M-Instruct.Q4_1"
LIMIT_S = 120


class Server:
    """`isthmus run --listen`, with its address."""

    def __init__(self, *args, model):
        self.half = halves.Half("run", "-m", model, "--listen", "127.0.0.1:0", *args)
        found = e2e.wait_for(lambda: "/v1, model" in self.half.said(), LIMIT_S)
        if not found:
            halves.hung("the gateway's address", self.half.said())
        self.port = int(self.half.said().split("/v1, model")[0].rsplit(":", 1)[1])
        self.url = "http://127.0.0.1:%d" % self.port
        e2e.check(e2e.wait_for(lambda: curl(self, "/readyz")[0] == 200, LIMIT_S), "it gets ready")

    def stop(self):
        e2e.check(self.half.stop() == 0, "it ends by SIGTERM: %s" % self.half.said()[-2000:])


def curl(server, path, body=None, *args):
    """(status, body)"""
    command = ["curl", "-sS", "-o", "-", "-w", "\n%{http_code}", "--max-time", str(LIMIT_S), *args]
    if body is not None:
        text = body if isinstance(body, (str, bytes)) else json.dumps(body)
        command += ["--data-binary", "@-", "-H", "Content-Type: application/json"]
    done = subprocess.run([*command, server.url + path], stdout=subprocess.PIPE, check=False,
                          input=None if body is None else text if isinstance(text, bytes) else text.encode())
    text, _, status = done.stdout.decode(errors="replace").rpartition("\n")
    return int(status or 0), text


def complete(server, path="/v1/completions", **fields):
    status, text = curl(server, path, {"model": MODEL, "temperature": 0, **fields})
    if not e2e.check(status == 200, "%s: %d %s" % (fields, status, text[:500])):
        e2e.finish()
    return json.loads(text)


def events(server, path="/v1/completions", **fields):
    status, text = curl(server, path, {"model": MODEL, "temperature": 0, "stream": True, **fields}, "-N")
    e2e.check(status == 200 and text.endswith("data: [DONE]\n\n"), "a stream: %d %s" % (status, text[-300:]))
    return [json.loads(e[6:]) for e in text.split("\n\n") if e.startswith("data: {")]


def streamed(found, i=0):
    of = [c for e in found for c in e["choices"] if c["index"] == i]
    return "".join(c["delta"].get("content", "") if "delta" in c else c["text"] for c in of), of[-1]["finish_reason"]


def refused(server, want, code, body, path="/v1/completions"):
    status, text = curl(server, path, body)
    try:
        error = json.loads(text)["error"]
    except (ValueError, KeyError):
        error = {}
    e2e.check(status == want and error.get("code") == code and error.get("message") and "type" in error,
              "%r: %d %s, must be %d %s" % (str(body)[:80], status, text[:300], want, code))


def metric(server, name):
    for line in curl(server, "/metrics")[1].splitlines():
        if line.startswith(name + " "):
            return float(line.split()[1])
    return None


def same_as_run(server, model, args):
    """The very text of `isthmus run -p` for a seed; streamed, the same; and its tokens as a prompt."""
    for extra in ({}, {"temperature": 0.9, "seed": 7, "top_p": 0.95, "top_k": 40}):
        options = ["--temp", extra.get("temperature", 0), "--seed", extra.get("seed", 0),
                   "--top-p", extra.get("top_p", 1), "--top-k", extra.get("top_k", 0)]
        done = e2e.json_lines(e2e.isthmus("run", "-m", model, "-p", PROMPT, "-n", 24, "--json", *args, *options),
                              "run -p")[0]
        got = complete(server, prompt=PROMPT, max_tokens=24, **extra)
        text = got["choices"][0]["text"]
        e2e.check(text == done["text"], "%s: %r, run says %r" % (extra, text, done["text"]))
        e2e.check(got["usage"]["prompt_tokens"] == 5 and got["usage"]["total_tokens"] == 29, str(got["usage"]))
        found = events(server, prompt=PROMPT, max_tokens=24, stream_options={"include_usage": True}, **extra)
        e2e.check(streamed(found) == (text, got["choices"][0]["finish_reason"]), "streamed: %s" % (found,))
        e2e.check(found[-1]["usage"]["completion_tokens"] == 24, str(found[-1]))
    ids = json.loads(e2e.isthmus("tokenize", "-m", model, text_in=json.dumps({"text": PROMPT}) + "\n").stdout)["ids"]
    e2e.check(complete(server, prompt=ids, max_tokens=8)["choices"][0]["text"]
              == complete(server, prompt=PROMPT, max_tokens=8)["choices"][0]["text"], "ids as a prompt")


def chat(server):
    ask = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 16}
    got = complete(server, "/v1/chat/completions", **ask)
    found = events(server, "/v1/chat/completions", **ask)
    e2e.check(streamed(found) == (got["choices"][0]["message"]["content"], got["choices"][0]["finish_reason"]),
              "a chat, streamed: %s" % found)
    # A control token that is typed is text: many tokens instead of one.
    plain, typed = (complete(server, "/v1/chat/completions", max_tokens=1, messages=[
        {"role": "user", "content": c}])["usage"]["prompt_tokens"] for c in ("", "<|im_end|>"))
    e2e.check(typed > plain + 2, "a typed control token acts: %d tokens, %d without it" % (typed, plain))


def parts(server):
    """Stop strings, several answers, log-probabilities, what is shared."""
    whole = complete(server, prompt=PROMPT, max_tokens=24)["choices"][0]["text"]
    stop = whole[9:13]
    def ended(how):
        return metric(server, 'isthmus_requests_finished_total{reason="%s"}' % how)
    before = ended("stop"), ended("cancelled")
    for found in (complete(server, prompt=PROMPT, max_tokens=24, stop=["\0never".strip("\0"), stop])["choices"][0],):
        e2e.check((found["text"], found["finish_reason"]) == (whole[:whole.index(stop)], "stop"), str(found))
    e2e.check(streamed(events(server, prompt=PROMPT, max_tokens=24, stop=stop)) == (whole[:whole.index(stop)], "stop"),
              "a stop string, streamed")
    e2e.check((ended("stop") - before[0], ended("cancelled") - before[1]) == (2, 0), "stop strings count as stops")
    several = complete(server, prompt=PROMPT, max_tokens=12, n=3, temperature=1, seed=40)["choices"]
    alone = [complete(server, prompt=PROMPT, max_tokens=12, temperature=1, seed=40 + i)["choices"][0]["text"]
             for i in range(3)]
    e2e.check([c["text"] for c in several] == alone and len(set(alone)) > 1, "n: %s, alone %s" % (several, alone))
    log = complete(server, prompt=PROMPT, max_tokens=4, logprobs=1)["choices"][0]["logprobs"]
    e2e.check("".join(log["tokens"]) == whole[:len("".join(log["tokens"]))] and len(log["token_logprobs"]) == 4
              and all(-20 < p <= 0 for p in log["token_logprobs"]), "log-probabilities: %s" % log)
    log = complete(server, prompt=PROMPT, max_tokens=4, temperature=0, logprobs=5)["choices"][0]["logprobs"]
    for token, p, top in zip(log["tokens"], log["token_logprobs"], log["top_logprobs"]):
        e2e.check(len(top) == 5 and top[token] == p == max(top.values()), "alternatives: %s" % log)
    long = "One two three four five six seven eight nine ten. " * 20
    complete(server, prompt=long, max_tokens=2)
    usage = complete(server, prompt=long + "Eleven", max_tokens=2)["usage"]
    e2e.check(usage["prompt_tokens_details"]["cached_tokens"] > 100, "the cache is shared: %s" % usage)


def bad_input(server):
    ok = {"model": MODEL, "prompt": "a"}
    refused(server, 400, "invalid_json", "{")
    refused(server, 400, "invalid_json", b'{"model":"\xff\xfe"}')
    refused(server, 400, "invalid_value", {**ok, "max_tokens": "a"})
    refused(server, 400, "invalid_value", {**ok, "temperature": 3})
    refused(server, 400, "invalid_value", {**ok, "logprobs": 6})
    refused(server, 400, "unsupported", {**ok, "echo": True})
    refused(server, 400, "invalid_value", {**ok, "prompt": [999999]})
    refused(server, 404, "model_not_found", {**ok, "model": "gpt-4"})
    refused(server, 400, "context_length_exceeded", {**ok, "prompt": "word " * 9000})
    refused(server, 413, "body_too_large", {**ok, "prompt": "a" * (2 << 20)})
    refused(server, 404, "not_found", ok, "/v1/embeddings")
    e2e.check(curl(server, "/v1/completions")[0] == 405, "GET of completions")
    e2e.check(curl(server, "/v1/models", None, "-I")[0] == 200, "HEAD")


def ambiguous(server):
    """A body whose end depends on who reads: one answer, and nothing behind it is taken for a request."""
    behind = b"0\r\n\r\nGET /readyz HTTP/1.1\r\nHost: x\r\n\r\n"
    for lengths in (b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n" % len(behind),
                    b"Content-Length: 5\r\nContent-Length: %d\r\n" % len(behind)):
        with socket.create_connection(("127.0.0.1", server.port), 30) as s:
            s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n" + lengths + b"\r\n" + behind)
            said = b""
            while more := s.recv(4096):
                said += more
        e2e.check(said.startswith(b"HTTP/1.1 400") and said.count(b"HTTP/1.1") == 1 and b"ambiguous_length" in said,
                  "%s: %s" % (lengths, said))


def post_raw(server, **fields):
    body = json.dumps({"model": MODEL, **fields}).encode()
    s = socket.create_connection(("127.0.0.1", server.port))
    s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    return s


def disconnect(server):
    """Who leaves is not worked for."""
    for stream in (True, False):
        s = post_raw(server, prompt="Once upon a time", max_tokens=4000, stream=stream, ignore_eos=True)
        e2e.check(e2e.wait_for(lambda: metric(server, "isthmus_requests_running") == 1, 30), "it runs")
        s.close()
        e2e.check(e2e.wait_for(lambda: metric(server, "isthmus_requests_running") == 0, 5),
                  "it goes on after its client left")


def many(server):
    asks = [{"prompt": "%s %d:" % (PROMPT, i), "max_tokens": 16} for i in range(16)]
    alone = [complete(server, **a)["choices"][0]["text"] for a in asks]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda a: streamed(events(server, **a))[0], asks))
    e2e.check(together == alone, "16 at once: %s, alone: %s" % (together, alone))


def idle_and_slow(server):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 2048)), hard))
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(1000)]
    slow = socket.create_connection(("127.0.0.1", server.port))
    slow.sendall(b"POST /v1/completions HTTP/1.1\r\n")
    begun = time.monotonic()
    complete(server, prompt=PROMPT, max_tokens=4)
    e2e.check(metric(server, "isthmus_http_connections") >= 1001, "1,000 idle connections")
    slow.settimeout(30)
    said = b""
    try:
        while time.monotonic() - begun < 30:
            slow.sendall(b"X")
            slow.settimeout(.5)
            try:
                some = slow.recv(4096)
            except socket.timeout:
                continue
            if not some:
                break
            said += some
    except OSError:
        pass
    e2e.check(b"408" in said, "a slow head is refused: %r" % said[:200])
    for s in idle:
        s.close()


def full(model, args):
    server = Server("--max-sessions", "1", "--max-waiting", "1", *args, model=model)
    busy = [post_raw(server, prompt="Once", max_tokens=4000, stream=True, ignore_eos=True) for _ in range(2)]
    e2e.check(e2e.wait_for(lambda: metric(server, "isthmus_requests_waiting") == 1, 30), "one waits")
    refused(server, 429, "rate_limit_exceeded", {"model": MODEL, "prompt": "a"})
    status, head = curl(server, "/v1/completions", {"model": MODEL, "prompt": "a"}, "-i")
    e2e.check(status == 429 and "Retry-After: " in head, "Retry-After: %s" % head)
    for s in busy:
        s.close()
    server.stop()


def named(model, args):
    """--model-id, --default-max-tokens, --max-connections."""
    server = Server("--model-id", "acme/small", "--default-max-tokens", "3", "--max-connections", "2", *args, model=model)
    e2e.check('"id":"acme/small"' in curl(server, "/v1/models")[1], "the model's name")
    ask = {"messages": [{"role": "user", "content": "Say hello."}], "ignore_eos": True}
    got = complete(server, "/v1/chat/completions", **{**ask, "model": "acme/small"})
    e2e.check(got["usage"]["completion_tokens"] == 3 and got["model"] == "acme/small", str(got))
    refused(server, 404, "model_not_found", {"model": MODEL, "prompt": "a"})
    two = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(2)]
    e2e.check(e2e.wait_for(lambda: curl(server, "/healthz", None, "--max-time", "1")[0] == 0, 10), "a third one waits")
    for s in two:
        s.close()
    e2e.check(e2e.wait_for(lambda: curl(server, "/healthz")[0] == 200, 10), "until one of two is closed")
    server.stop()


def with_keys(model, args):
    with tempfile.NamedTemporaryFile("w", suffix=".keys") as f: # mode 0600
        f.write("# who\nalice sk-0123456789abcdef0123\n")
        f.flush()
        server = Server("--api-keys", f.name, *args, model=model)
        e2e.check(curl(server, "/v1/models")[0] == 401, "without a key")
        e2e.check(curl(server, "/v1/models", None, "-H", "Authorization: Bearer x")[0] == 401, "another key")
        e2e.check(curl(server, "/v1/models", None, "-H", "Authorization: Bearer sk-0123456789abcdef0123")[0] == 200,
                  "the key")
        e2e.check("sk-0123" not in server.half.said(), "a key is logged")
        server.stop()
        os.chmod(f.name, 0o644)
        done = e2e.isthmus("run", "-m", model, "--listen", "127.0.0.1:0", "--api-keys", f.name, *args)
        e2e.check(done.returncode == 2 and "open to others" in done.stderr, "a file for all: %s" % done.stderr)


def promtool(server):
    done = subprocess.run(["promtool", "check", "metrics"], input=curl(server, "/metrics")[1], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    e2e.check(done.returncode == 0 and not done.stdout.strip(), "promtool: %s" % done.stdout)


OPENAI = """
import sys, openai
c = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key="none", max_retries=0)
m = c.models.list().data[0].id
a = c.completions.create(model=m, prompt="The capital of France is", max_tokens=8, temperature=0)
s = c.completions.create(model=m, prompt="The capital of France is", max_tokens=8, temperature=0, stream=True)
assert "".join(e.choices[0].text for e in s) == a.choices[0].text and a.usage.completion_tokens == 8
ask = dict(model=m, messages=[{"role": "user", "content": "Hi"}], max_tokens=8, temperature=0)
b = c.chat.completions.create(logprobs=True, **ask)
assert len(b.choices[0].logprobs.content) == b.usage.completion_tokens - (b.choices[0].finish_reason == "stop")
b = c.chat.completions.create(logprobs=True, top_logprobs=20, seed=3, **{**ask, "temperature": 1.5})
for t in b.choices[0].logprobs.content:
    p = [x.logprob for x in t.top_logprobs]
    assert len(p) == 20 and p == sorted(p, reverse=True), p
    assert all("\ufffd" in x.token or bytes(x.bytes) == x.token.encode() for x in t.top_logprobs)
    assert {bytes(x.bytes): x.logprob for x in t.top_logprobs}.get(bytes(t.bytes), t.logprob) == t.logprob
streamed = [t for e in c.chat.completions.create(logprobs=True, top_logprobs=20, seed=3, stream=True,
                                                 **{**ask, "temperature": 1.5})
            for x in e.choices if x.logprobs for t in x.logprobs.content]
assert [t.model_dump() for t in streamed] == [t.model_dump() for t in b.choices[0].logprobs.content]
try:
    c.chat.completions.create(logprobs=True, top_logprobs=21, **ask)
    raise SystemExit("21 alternatives are given")
except openai.BadRequestError as e:
    assert e.param == "top_logprobs" and "less than or equal to 20" in e.message, e
b = c.chat.completions.create(logprobs=True, **ask)
s = list(c.chat.completions.create(stream=True, stream_options={"include_usage": True}, **ask))
assert s[-1].usage.completion_tokens == b.usage.completion_tokens
assert "".join(e.choices[0].delta.content or "" for e in s if e.choices) == b.choices[0].message.content
for wrong, kind in (({"model": "gpt-4"}, openai.NotFoundError), ({"temperature": 3}, openai.BadRequestError)):
    try:
        c.chat.completions.create(**{**ask, **wrong})
        raise SystemExit("%s is taken" % wrong)
    except kind as e:
        assert e.code and e.type == "invalid_request_error"
print("openai", openai.__version__)
"""


def openai_client(server):
    """False: there is none."""
    for python in (sys.executable, PYTHON):
        if not os.path.exists(python) or subprocess.run([python, "-c", "import openai"], check=False,
                                                        stderr=subprocess.DEVNULL).returncode:
            continue
        done = subprocess.run([python, "-c", OPENAI, server.url], text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=LIMIT_S, check=False)
        e2e.check(done.returncode == 0, "the openai client: %s" % done.stdout[-2000:])
        e2e.say(done.stdout.strip()[-200:])
        return True
    return False


def main():
    for tool in ("curl", "promtool"):
        if not shutil.which(tool):
            e2e.skip("no %s: tools/install-packages" % tool)
    model = os.path.realpath(e2e.model("smollm2"))
    if os.path.basename(model) != MODEL + ".gguf":
        global_name = os.path.basename(model).removesuffix(".gguf")
        globals()["MODEL"] = global_name
    local = ("--local", "--threads", "1")
    split = ("--split", "10", "--threads", "1", "--codec", "f32")
    has_client = True
    for args in (local, split):
        e2e.say("run " + " ".join(args))
        server = Server(*args, model=model)
        same_as_run(server, model, local)
        chat(server)
        parts(server)
        disconnect(server)
        many(server)
        has_client = openai_client(server)
        promtool(server)
        if args is local:
            bad_input(server)
            ambiguous(server)
            idle_and_slow(server)
        server.stop()
    full(model, local)
    named(model, local)
    with_keys(model, local)
    if not has_client:
        e2e.skip("no openai client: tools/python-packages")
    e2e.finish()


if __name__ == "__main__":
    main()
