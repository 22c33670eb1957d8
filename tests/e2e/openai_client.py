# SPDX-License-Identifier: Apache-2.0
"""Programs of a gateway's users: asks by the official OpenAI client, and says what came, a JSON line each.

    build-python/bin/python tests/e2e/openai_client.py URL KEY [ONE QUESTION A LINE OF STDIN]

A question is a JSON object: the arguments of completions.create, or with "messages" of
chat.completions.create. All are asked at once, streamed; a line of the result, in the order of the questions,
has the text, the number of pieces, and the error's class if there was one.
"""
import concurrent.futures
import json
import sys

import openai


def ask(client, question):
    create = client.chat.completions.create if "messages" in question else client.completions.create
    text, pieces, finish = "", 0, None
    try:
        for chunk in create(stream=True, **question):
            for choice in chunk.choices:
                piece = choice.delta.content if "messages" in question else choice.text
                text += piece or ""
                pieces += 1
                finish = choice.finish_reason or finish
    except openai.APIError as e:
        return {"text": text, "pieces": pieces, "error": type(e).__name__ + ": " + str(e)}
    return {"text": text, "pieces": pieces, "finish": finish}


def main():
    client = openai.OpenAI(base_url=sys.argv[1], api_key=sys.argv[2], max_retries=0, timeout=300)
    questions = [json.loads(line) for line in sys.stdin]
    model = client.models.list().data[0].id
    for q in questions:
        q.setdefault("model", model)
    with concurrent.futures.ThreadPoolExecutor(max(1, len(questions))) as pool:
        for answer in pool.map(lambda q: ask(client, q), questions):
            print(json.dumps(answer), flush=True)


main()
