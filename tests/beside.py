#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Times quern and its peers side by side, for what a plain run of their benches over a prompt and some tokens does not show.

The programs take turns, round by round, so that whatever else the machine does hits all alike; the tables hold medians over the
rounds.  "best" is the best of ik_llama.cpp as it comes ("ik"), the same with run-time repacking ("ik -rtr"), and llama.cpp; those
that are not given are left out.  Nothing else should run meanwhile: a round on a busy machine says nothing.

what       quantity, and the programs that give it
depth      tokens/s of a prompt of 512 and of 32 tokens written one by one, both after N tokens: quern bench -d, llama-bench -d,
           llama-sweep-bench of ik (its llama-bench -gp shows writing only).  quern writes after N + 512 tokens if N >= 8192.
prompt     tokens/s of prompts of 512, 2048 and 4096 at -ub 2048, and for quern the same without the time of attention proper,
           which grows with the length.  Wanted: never below the figure at 512.
sequences  tokens/s of all sequences together, 32 tokens each after a prompt of 32: quern bench -npl, llama-batched-bench.  That of
           ik feeds token 0 to every sequence, so that all choose the same experts: put std::rand() % llama_n_vocab(model) in place
           of the 0 in its two calls of common_batch_add, as llama.cpp has it.
memory     peak of resident memory, mapped files included, of every way to hold the weights, beside file + KV + state + 300 MiB.
start      seconds from the call to the first token, page cache warm: quern run, quern with --pack-cache, ik's llama-cli.
crowd      tokens/s of quern with more workers than cores, as a share of those with as many.  Wanted: one half.

With --samples FILE each measurement is kept there as a line, and the medians include those of earlier calls with this file, so
that the rounds can be made at different times.
"""
import argparse
import csv
import io
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time

MIB = 1 << 20
PEERS = ("ik", "ik -rtr", "llama.cpp")


class Failed(Exception):
    """A program that could not be run or ended with an error; the message says which and why."""


class Table:
    """Measurements by row and program."""

    def __init__(self, what, args):
        self.what, self.path, self.values = what, args.samples, {}
        for line in open(self.path) if self.path and os.path.exists(self.path) else ():
            s = json.loads(line)
            if s["what"] == what:
                self.values.setdefault(s["row"], {}).setdefault(s["program"], []).append(s["value"])

    def add(self, row, program, value):
        """One more measurement, shown at once: a call that is stopped has not been for nothing."""
        self.values.setdefault(row, {}).setdefault(program, []).append(value)
        print(f"{self.what}: {row}: {program} {value:.2f}", file=sys.stderr, flush=True)
        if self.path:
            with open(self.path, "a") as f:
                f.write(json.dumps({"what": self.what, "row": row, "program": program, "value": value}) + "\n")

    def median(self, row, program):
        values = self.values.get(row, {}).get(program)
        return statistics.median(values) if values else None

    def print_speeds(self):
        """A line for each row: the medians, and quern's over the best peer's."""
        programs = [p for p in ("quern",) + PEERS if any(p in v for v in self.values.values())]
        print_markdown(["tokens/s"] + programs + ["rounds", "quern / best"], (
            [row] + [number(self.median(row, p)) for p in programs] + [len(v.get("quern", ())), self.ratio(row)]
            for row, v in self.values.items()))

    def ratio(self, row):
        peers = [m for m in (self.median(row, p) for p in PEERS) if m]
        return number(self.median(row, "quern") / max(peers)) if peers and self.median(row, "quern") else "-"


def number(x):
    return "-" if x is None else f"{x:.1f}" if x >= 100 else f"{x:.2f}" if x >= 10 else f"{x:.3f}"


def print_markdown(head, rows):
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |", flush=True)


# ---- running programs


def run(command, timeout):
    """Runs a command in an empty folder, for some leave logs behind; its output, all that it said, seconds, peak memory in bytes."""
    with tempfile.TemporaryDirectory() as folder, open(f"{folder}/out", "w+") as out, open(f"{folder}/err", "w+") as err:
        began = time.monotonic()
        try:
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=folder)
        except OSError as e:
            raise Failed(f"{command[0]}: {e.strerror}") from e
        # wait4 instead of Popen.wait: it tells the peak of this one child
        usage, status = None, 0
        while usage is None:
            pid, status, usage = os.wait4(child.pid, os.WNOHANG)
            if pid == 0:
                usage = None
                if time.monotonic() - began > timeout:
                    child.kill()
                time.sleep(0.005)
        seconds = time.monotonic() - began
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0), err.seek(0)
        stdout, stderr = out.read(), err.read()
    if child.returncode:
        raise Failed(f"{shlex.join(command)}: status {child.returncode}: {stderr[-400:].strip()}")
    return stdout, stdout + stderr, seconds, usage.ru_maxrss * 1024


def quern_bench(a, threads, *options):
    """Rows of quern bench, as dicts of texts."""
    command = [a.quern, "bench", "-m", a.model, "-t", str(threads), "-r", "1", "--format", "csv", "--no-limits", *options]
    return list(csv.DictReader(io.StringIO(run(command + shlex.split(a.quern_args), a.timeout)[0])))


def peers(a):
    """Name, folder and options of every peer that was given."""
    every = [("ik", a.ik, shlex.split(a.ik_args)), ("ik -rtr", a.ik, shlex.split(a.ik_args) + ["-rtr"]),
             ("llama.cpp", a.ml, shlex.split(a.ml_args))]
    wanted = a.only.split(",") if a.only else None
    return [p for p in every if p[1] and (not wanted or p[0] in wanted)]


def peer(a, folder, program, threads, options):
    """What a peer's program printed."""
    command = [os.path.join(folder, program), "-m", a.model, "-t", str(threads), *options]
    return run(command, a.timeout)[1]


def with_quern(a):
    return not a.only or "quern" in a.only.split(",")


def llama_bench(a, folder, threads, options):
    """Rows of a peer's llama-bench, as quern_bench gives them.  -rtr is a switch elsewhere, but takes a value there."""
    options = [x for o in options for x in ((o, "1") if o == "-rtr" else (o,))]
    command = [os.path.join(folder, "llama-bench"), "-m", a.model, "-t", str(threads), "-r", "1", "-o", "csv", *options]
    return list(csv.DictReader(io.StringIO(run(command, a.timeout)[0])))


# ---- what is measured


def depth(a, table):
    """One prompt and some tokens after each depth."""
    for n in a.depths:
        for t in a.threads:
            rows = {False: f"read {a.prompt} after {n}, {t} threads", True: f"write {a.tokens} after {n}, {t} threads"}
            sizes = ["-p", str(a.prompt), "-n", str(a.tokens)]
            if with_quern(a):
                for r in quern_bench(a, t, *sizes, "-d", str(n)):
                    table.add(rows[r["n_gen"] != "0"], "quern", float(r["avg_ts"]))
            for name, folder, options in peers(a):
                if name == "llama.cpp":
                    speeds = {r["n_gen"] != "0": float(r["avg_ts"])
                              for r in llama_bench(a, folder, t, sizes + ["-d", str(n)] + options)}
                else:  # a row for each stride: prompt and context of the last one are measured at N
                    text = peer(a, folder, "llama-sweep-bench", t, [
                        "-c", str(n + a.prompt), "-ub", str(a.prompt), "-n", str(a.tokens), "--sweep-stride",
                        str(max(n // a.prompt, 1)), "--output-format", "jsonl"] + options)
                    row = [json.loads(x) for x in re.findall(r"^\{.*\}", text, re.M)]
                    row = next(r for r in row if r["n_kv"] == n)
                    speeds = {False: row["speed_pp"], True: row["speed_tg"]}
                for writing, speed in speeds.items():
                    table.add(rows[writing], name, speed)


def prompt(a, table):
    """Prompts of several lengths in large micro-batches."""
    sizes = ["-p", "512,2048,4096", "-n", "0", "-ub", "2048"]
    for t in a.threads:
        for r in quern_bench(a, t, *sizes) if with_quern(a) else ():
            n = r["n_prompt"]
            table.add(f"read {n}, {t} threads", "quern", float(r["avg_ts"]))
            rest = float(r["seconds"]) - float(r["attention_s"])
            table.add(f"read {n} without attention, {t} threads", "quern", int(n) / rest)
        for name, folder, options in peers(a):
            for r in llama_bench(a, folder, t, sizes + options):
                table.add(f"read {r['n_prompt']}, {t} threads", name, float(r["avg_ts"]))


def sequences(a, table):
    """Several sequences that write side by side."""
    for t in a.threads:
        row = lambda n: f"{n} sequences, {t} threads"
        if with_quern(a):
            for r in quern_bench(a, t, "-p", "0", "-n", "32", "-d", "32", "-npl", "1,2,4,8"):
                table.add(row(r["n_seq"]), "quern", float(r["avg_ts"]))
        for name, folder, options in peers(a):
            text = peer(a, folder, "llama-batched-bench", t, [
                "-c", "2048", "-npp", "32", "-ntg", "32", "-npl", "1,2,4,8"] + options)
            # | PP | TG | B | N_KV | T_PP s | S_PP t/s | T_TG s | S_TG t/s | ...
            for n, speed in re.findall(r"^\|\s*32 \|\s*32 \|\s*(\d+) \|(?:[^|]*\|){4}\s*([\d.]+) \|", text, re.M):
                table.add(row(n), name, float(speed))


def memory(a, table):
    """Peak memory of the ways to hold the weights."""
    with tempfile.TemporaryDirectory(dir=a.cache_folder) as folder:
        cache, parts = os.path.join(folder, "packed"), os.path.getsize(a.model)
        ways = [("packed at load", 512, []), ("packed at load", 4096, []), ("--isa avx2", 512, ["--isa", "avx2"]),
                ("--numa off", 512, ["--numa", "off"]), ("writes a pack cache", 512, ["--pack-cache", cache]),
                ("maps a pack cache", 512, ["--pack-cache", cache]), ("maps a pack cache", 4096, ["--pack-cache", cache])]
        rows = []
        for name, n, options in ways:
            inspect = json.loads(run([a.quern, "inspect", a.model, "--json", "-c", str(n + 1)], 60)[0])["memory"]
            peak = run([a.quern, "bench", "-m", a.model, "-t", str(a.threads[-1]), "-p", str(n), "-n", "8", "-ub", str(n), "-r",
                        "1", "--no-limits", *options, *shlex.split(a.quern_args)], a.timeout)[3]
            allowed = parts + inspect["kv"] + inspect["state"] + 300 * MIB
            table.add(f"{name}, -ub {n}", "quern", peak / MIB)
            rows.append([name, n] + [f"{x / MIB:.0f}" for x in (peak, parts, inspect["kv"] + inspect["state"])]
                        + [f"{(peak - allowed) / MIB + 300:+.0f}"])
    print_markdown(["weights", "-ub", "peak, MiB", "file", "KV and state", "over these (300 allowed)"], rows)


def start(a, table):
    """Seconds until a program that writes one token has ended."""
    one = ["-m", a.model, "-p", "Hi", "-n", "1", "-t", str(a.threads[-1])]
    with tempfile.TemporaryDirectory(dir=a.cache_folder) as folder:
        cache = ["--pack-cache", os.path.join(folder, "packed")]
        quern = [a.quern, "run", *one, *shlex.split(a.quern_args)]
        commands = {"quern": quern, "quern --pack-cache": quern + cache}
        for name, where, options in peers(a):
            if name != "llama.cpp":
                commands[name] = [os.path.join(where, "llama-cli"), *one, "--no-warmup", *options]
        run(quern + cache, a.timeout)  # writes it
        for command in commands.values():
            run(command, a.timeout)  # warms the page cache, and is not counted
        for _ in range(a.rounds):
            for name, command in commands.items():
                table.add("start", name, run(command, a.timeout)[2])
    print_markdown(["program", "median, s", "all, s"], (
        [n, number(table.median("start", n)), " ".join(f"{s:.2f}" for s in v)] for n, v in table.values["start"].items()))
    for name, base in (("quern", "ik -rtr"), ("quern --pack-cache", "ik")):
        if table.median("start", base):
            print(f"{name} / {base}: {number(table.median('start', name) / table.median('start', base))}")


def crowd(a, table):
    """More workers than cores."""
    cores = len(os.sched_getaffinity(0))
    for t in (cores, 4 * cores):
        for r in quern_bench(a, t, "-p", "512", "-n", "32"):
            table.add("write 32" if r["n_gen"] != "0" else "read 512", f"-t {t}", float(r["avg_ts"]))


def print_crowd(table):
    for row, programs in table.values.items():
        few, many = sorted(programs, key=lambda p: int(p[3:]))
        print_markdown([row, few, many, "share"], [["tokens/s", number(table.median(row, few)), number(
            table.median(row, many)), number(table.median(row, many) / table.median(row, few))]])


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=["depth", "prompt", "sequences", "memory", "start", "crowd"])
    p.add_argument("-m", "--model", required=True, help="a GGUF file")
    p.add_argument("--quern", default="./quern", help="the program")
    p.add_argument("--ik", help="folder of ik_llama.cpp's programs")
    p.add_argument("--ml", help="folder of llama.cpp's programs")
    for name in ("quern", "ik", "ml"):
        p.add_argument(f"--{name}-args", default="", help="more options for it, as one text")
    p.add_argument("-t", "--threads", default="1,2", help="threads to try; memory and start take the last (default 1,2)")
    p.add_argument("-d", "--depths", default="8192", help="depths, multiples of the prompt (default 8192)")
    p.add_argument("--prompt", type=int, default=512, help="prompt that is read at depth (default 512)")
    p.add_argument("--tokens", type=int, default=32, help="tokens that are written at depth (default 32)")
    p.add_argument("--rounds", type=int, default=3, help="(default 3)")
    p.add_argument("--only", help="only these programs: quern, ik, 'ik -rtr', llama.cpp")
    p.add_argument("--samples", help="file where measurements are kept and found")
    p.add_argument("--cache-folder", help="where pack caches are written (default: the system's folder for temporary files)")
    p.add_argument("--timeout", type=int, default=3600, help="seconds a program may take (default 3600)")
    a = p.parse_args()
    a.threads, a.depths = ([int(x) for x in text.split(",")] for text in (a.threads, a.depths))
    a.model, a.quern, a.ik, a.ml = (x and os.path.abspath(x) for x in (a.model, a.quern, a.ik, a.ml))
    table = Table(a.what, a)
    try:
        if a.what in ("memory", "start"):
            {"memory": memory, "start": start}[a.what](a, table)
            return
        for _ in range(a.rounds):
            {"depth": depth, "prompt": prompt, "sequences": sequences, "crowd": crowd}[a.what](a, table)
    except Failed as e:
        sys.exit(f"beside.py: {e}")
    finally:
        if a.what == "crowd":
            print_crowd(table)
        elif a.what not in ("memory", "start") and table.values:
            table.print_speeds()


main()
