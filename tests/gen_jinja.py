#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes the expected results of a test file anew: gen_jinja.py tests/jinja.test > new, or the same with
tests/data/chat/NAME.jsonl, conversations {case, messages, tools, kwargs} for the template NAME.jinja beside it.

jinja.test:

A case is three lines, as in jq's tests: template, JSON object of variables, expected text; cases are separated by blank
lines, lines that start with # are comments.  A first or third line that starts with a double quote is a JSON string.
The third line is "!" and an exception's name where rendering must fail.

The judge is jinja2 3.1 in the environment that the transformers library sets up (version 5.23 read)."""
import datetime
import json
import sys

import jinja2
import jinja2.ext
import jinja2.nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

NOW = datetime.datetime(2026, 8, 15, 13, 45, 7)


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_support"), [], [], body).set_lineno(line)

    def _support(self, caller):
        return caller()


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def environment():
    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = NOW.strftime
    return env


def render(template, variables):
    """The text, or "! Exception"."""
    base = {"tools": None, "documents": None, "add_generation_prompt": False}
    try:
        return environment().from_string(template).render({**base, **variables})
    except Exception as e:
        return "! " + type(e).__name__


def decode(line):
    return json.loads(line) if line.startswith('"') else line


def encode(text):
    plain = text == text.strip() and "\n" not in text and "\r" not in text and not text.startswith(('"', "#"))
    return text if text and plain else json.dumps(text, ensure_ascii=False)


def render_chats(path):
    template = open(path.removesuffix("l").removesuffix(".json") + ".jinja", encoding="utf-8", newline="").read()
    for line in open(path, encoding="utf-8", newline="\n"):
        row = json.loads(line)
        text = render(template, {"messages": row["messages"], "tools": row["tools"], **row["kwargs"]})
        row["expected"] = text
        print(json.dumps(row, ensure_ascii=False))


def main():
    if sys.argv[1].endswith(".jsonl"):
        return render_chats(sys.argv[1])
    lines = open(sys.argv[1], encoding="utf-8", newline="\n").read().split("\n")
    i = 0
    out = []
    while i < len(lines):
        if not lines[i] or lines[i].startswith("#"):
            out.append(lines[i])
            i += 1
            continue
        template, variables = lines[i], lines[i + 1]
        text = render(decode(template), json.loads(variables))
        out += [template, variables, text if text.startswith("! ") else encode(text)]
        i += 3 if i + 2 < len(lines) and lines[i + 2] else 2
    sys.stdout.write("\n".join(out))


if __name__ == "__main__":
    main()
