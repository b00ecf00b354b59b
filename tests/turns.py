#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Seconds to the first token of a second turn, behind a long first one: quern and its peers.

The conversation is a message of --words words, an answer of a few tokens, and a short message.  Cases:

same process   quern chat, both turns.  The chat template (--template, as of Qwen3.5) opens the assistant's thinking, and leaves it out
               of the second prompt: what follows the assistant's header of the first turn has to be read again.
--session      quern chat is killed after /save and goes on with --session FILE: from the start to the answer, less what a start
               without a session takes until it waits for a message.  The median of some starts of both kinds in turn.
kept / lost    the peers' command line programs with --prompt-cache: seconds of "prompt eval" of the second prompt, which goes on
               where the first ended (kept) or leaves the first one's thinking out (lost; --lost asks for it, for it takes as long
               as the first turn).  Loading is not counted.

What quern may take is the time that quern bench needs for a prompt of the tokens that were computed, at that depth, and 0.3 s.
"""
import argparse
import csv
import io
import os
import random
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time

WORDS = ("the a one little big red blue happy sad and but then when house garden river tree dog cat king queen friend "
         "day home").split()
QUESTION = "What did the queen say when she came home from the river, and why was the little dog so happy about it?"
ANSWER_TOKENS = 4


def words(n):
    rng = random.Random(1)
    return " ".join(rng.choice(WORDS) for _ in range(n))


class Chat:
    """A quern chat behind pipes."""

    def __init__(self, a, *options):
        self.began = time.monotonic()
        self.err = tempfile.TemporaryFile("w+")
        command = [a.quern, "chat", "-m", a.model, "-t", str(a.threads), "--template-file", a.template, "--think", "on", "-n",
                   str(ANSWER_TOKENS), "--temp", "0", "--ignore-eos", *options, *shlex.split(a.quern_args)]
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.err, text=True)

    def said(self):
        self.err.seek(0)
        return self.err.read()

    def send(self, line):
        self.child.stdin.write(line + "\n")
        self.child.stdin.flush()

    def wait_for(self, what):
        """Seconds since the start until it has said so."""
        while what not in self.said():
            if self.child.poll() is not None:
                sys.exit(f"turns.py: {self.said()}")
            time.sleep(0.002)
        return time.monotonic() - self.began

    def turn(self, text):
        """Seconds until the answer has been written."""
        began = time.monotonic()
        self.send(text)
        if not self.child.stdout.readline():
            sys.exit(f"turns.py: {self.said()}")
        return time.monotonic() - began

    def kept(self):
        """Tokens of the last prompt that were kept, and that were computed."""
        self.send("/stats")
        lines = ""
        while not re.search(r"^sampling .*\n", lines, re.M):
            lines += self.child.stdout.readline()
        found = re.search(r"^last prompt .*?(\d+) kept.*?(\d+) computed(.*)", lines, re.M)
        return int(found[1]), int(found[2]), found[3]

    def kill(self):
        self.child.kill()
        self.child.wait()

    def close(self):
        self.child.stdin.close()
        if self.child.wait():
            sys.exit(f"turns.py: {self.said()}")


def quern(a, long, folder):
    session = a.session or os.path.join(folder, "session")
    if not os.path.exists(session):
        chat = Chat(a, "--session", session)
        chat.wait_for("; seed ")
        report("quern", "first turn", chat.turn(long), "of %d kept, %d computed%s" % chat.kept())
        chat.send("/save")
        chat.wait_for(" saved in ")
        seconds = chat.turn(QUESTION)
        report("quern", "same process, second turn", seconds, "of %d kept, %d computed%s" % chat.kept())
        chat.kill()  # the file is that of the first turn
    starts, turns = [], []
    for _ in range(a.rounds):
        chat = Chat(a)
        plain = chat.wait_for("; seed ")  # it waits for a message
        chat.close()
        chat = Chat(a, "--session", session)
        starts.append(chat.wait_for("; seed ") - plain)
        turns.append(chat.turn(QUESTION))
        kept, computed, why = chat.kept()
        chat.kill()
    each = ", ".join(f"{s:.2f} + {t:.2f}" for s, t in zip(starts, turns))
    report("quern", "--session, second turn", statistics.median(s + t for s, t in zip(starts, turns)),
           f"of {kept} kept, {computed} computed{why}; reading the file + turn: {each}")
    command = [a.quern, "bench", "-m", a.model, "-t", str(a.threads), "-p", str(computed), "-n", "0", "-d",
               str(kept), "-r", "3", "--format", "csv", "--no-limits", *shlex.split(a.quern_args)]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    for r in csv.DictReader(io.StringIO(out)):
        report("quern", "bench, as many read at this depth", computed / float(r["median_ts"]), "")


def peer(a, name, program, options, long, folder):
    """The first prompt fills the cache file; the second begins with it or leaves its thinking out."""
    user = f"<|im_start|>user\n{long}<|im_end|>\n<|im_start|>assistant\n"
    second = f"<|im_end|>\n<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    thinking = "<think>\nThe queen went home.\n</think>\n\n"
    prompts = [("first turn", user + thinking), ("second turn, kept", user + thinking + "Yes." + second)]
    if a.lost:
        prompts.append(("second turn, lost", user + "Yes." + second))
    cache = os.path.join(folder, f"cache of {name}")
    for i, (case, text) in enumerate(prompts):
        path = os.path.join(folder, "prompt")
        with open(path, "w") as f:
            f.write(text)
        command = [program, "-m", a.model, "-t", str(a.threads), "-c", str(a.context), "-f", path, "-n", "1", "--prompt-cache", cache,
                   "--no-warmup", "--temp", "0", *options] + (["--prompt-cache-ro"] if i else [])
        r = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                           errors="replace", cwd=folder)
        found = re.search(r"prompt eval time =\s*([\d.]+) ms /\s*(\d+) tokens", r.stdout)
        if r.returncode or not found:
            sys.exit(f"turns.py: {shlex.join(command)}: status {r.returncode}: {r.stdout[-800:]}")
        report(name, case, float(found[1]) / 1000, f"{found[2]} tokens computed")


def report(program, case, seconds, note):
    print(f"| {program} | {case} | {seconds:.2f} | {note} |", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-m", "--model", required=True, help="a GGUF file")
    p.add_argument("--template", required=True, help="chat template of Qwen3.5")
    p.add_argument("--quern", default="./quern", help="the program")
    p.add_argument("--ik", help="folder of ik_llama.cpp's programs")
    p.add_argument("--ml", help="folder of llama.cpp's programs")
    for name in ("quern", "ik", "ml"):
        p.add_argument(f"--{name}-args", default="", help="more options for it, as one text")
    p.add_argument("-t", "--threads", type=int, default=2, help="(default 2)")
    p.add_argument("--words", type=int, default=6150, help="of the first message (default 6150)")
    p.add_argument("--rounds", type=int, default=3, help="of quern's starts (default 3)")
    p.add_argument("--session", help="quern's first turn is in this file, or is kept in it if there is none")
    p.add_argument("--context", type=int, default=40960, help="of the peers (default 40960)")
    p.add_argument("--only", choices=["quern", "ik", "llama.cpp"], help="just this program")
    p.add_argument("--lost", action="store_true", help="peers: also the turn that their cache does not help")
    a = p.parse_args()
    a.model, a.template, a.quern, a.ik, a.ml, a.session = (
        x and os.path.abspath(x) for x in (a.model, a.template, a.quern, a.ik, a.ml, a.session))
    long = words(a.words)
    print("| program | case | seconds | |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        if a.only in (None, "quern"):
            quern(a, long, folder)
        if a.ik and a.only in (None, "ik"):
            peer(a, "ik", os.path.join(a.ik, "llama-cli"), shlex.split(a.ik_args), long, folder)
        if a.ml and a.only in (None, "llama.cpp"):
            peer(a, "llama.cpp", os.path.join(a.ml, "llama-completion"), ["-no-cnv", *shlex.split(a.ml_args)], long, folder)


main()
