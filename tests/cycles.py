#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Estimates the cycles of the kernels of quantized types with llvm-mca.

A level's file is compiled to assembly.  Of a kernel (type, columns) the innermost loop with dots is cut out and given to
llvm-mca; the number of dots tells how much of a tile a turn of the loop multiplies.  Printed are cycles for 32 columns of
16 rows (512 weights) times M = 1, 8 and 16 columns of activations; what a block of 256 needs once, before that loop, is left
out.  The model has every load in the first-level cache, predicts all branches and does not wait for stores: its figures compare
kernels, they are no measurements.

usage: tests/cycles.py [LEVEL...]     neon i8mm avx2 avxvnni avx512 avx512vbmi; without: all
environment: LLVM_MCA (llvm-mca; 19 or newer), CC_AARCH64 (aarch64-linux-gnu-gcc), CPU_AARCH64 (neoverse-v2), CC_X86_64
             (gcc), CPU_X86_64 (sapphirerapids; the models of Zen take twice its time for 512-bit dots)
"""
import json
import os
import pathlib
import re
import string
import subprocess
import sys

TOP = pathlib.Path(__file__).resolve().parent.parent
ARM = ("aarch64", "aarch64-linux-gnu-gcc", "neoverse-v2")
X86 = ("x86_64", "gcc", "sapphirerapids")
# level: machine, source, flags of configure.ac, {a dot: its number for 512 weights and one column}
LEVELS = {
    "neon": (ARM, "arm/mul_neon.c", "NEON_CFLAGS", {"sdot": 32}),
    "i8mm": (ARM, "arm/mul_i8mm.c", "I8MM_CFLAGS", {"sdot": 32, "smmla": 16}),
    "avx2": (X86, "x86/mul_avx2.c", "AVX2_CFLAGS", {"vpmaddubsw": 16}),
    "avxvnni": (X86, "x86/mul_avxvnni.c", "AVXVNNI_CFLAGS", {"vpdpbusd": 16}),
    "avx512": (X86, "x86/mul_avx512.c", "AVX512_CFLAGS", {"vpdpbusd": 8}),
    "avx512vbmi": (X86, "x86/mul_avx512vbmi.c", "AVX512VBMI_CFLAGS", {"vpdpbusd": 8}),
}
COLUMNS = (1, 8, 16)


def flags(name):
    """The value of a variable of configure.ac, first assignment."""
    found = {}
    for line in (TOP / "configure.ac").read_text().splitlines():
        m = re.match(r'([A-Z0-9_]+_CFLAGS)="(.*)"$', line)
        if m:
            found.setdefault(m[1], string.Template(m[2]).safe_substitute(found))
    return (found["QUERN_CFLAGS"] + " " + found[name]).split()


def compile_level(level):
    (machine, cc, _), source, name, _ = LEVELS[level]
    cc = os.environ.get("CC_" + machine.upper(), cc)
    command = [*cc.split(), "-S", "-O3", "-w", *flags(name), f"-I{TOP}", f"-I{TOP}/src", "-o", "-", TOP / "simd" / source]
    return subprocess.run(command, text=True, check=True, stdout=subprocess.PIPE).stdout


def functions(text):
    """(type, columns) -> lines of a kernel"""
    found = re.finditer(r"^tile_(\w+)_(\d+):\n.*?^\s+\.size", text, re.M | re.S)
    return {(m[1], int(m[2])): m[0].splitlines() for m in found}


def inner_loop(lines, dots):
    """The shortest piece between a label and a jump back to it that has dots, and their share of a column's."""
    at = {line[:-1]: i for i, line in enumerate(lines) if re.match(r"\.L\w+:$", line)}
    best, share = None, 0
    for i, line in enumerate(lines):
        m = re.match(r"\s+(?:b[.a-z]*|[ct]bn?z|j[a-z]+)\s.*?(\.L\w+)$", line)
        if not m or at.get(m[1], i) >= i:
            continue
        body = [re.sub("0xf{14}", "0x", x) for x in lines[at[m[1]]:i + 1] if not re.match(r"\s+\.", x)]
        done = sum(1 / dots[word] for word in (x.split()[0] for x in body if x.strip()) if word in dots)
        if done and (best is None or len(body) < len(best)):
            best, share = body, done
    return best, share


def estimate(level, kernels):
    """(type, columns) -> cycles of llvm-mca for 512 weights and all columns"""
    (machine, _, cpu), _, _, dots = LEVELS[level]
    text, turns = [], {}
    for (name, n), lines in kernels.items():
        loop, share = inner_loop(lines, dots)
        if n not in COLUMNS or loop is None:
            continue
        turns[f"{name} {n}"] = share / n
        text += [f"# LLVM-MCA-BEGIN {name} {n}", *loop, "# LLVM-MCA-END"]
    cpu = os.environ.get("CPU_" + machine.upper(), cpu)
    mca = os.environ.get("LLVM_MCA", "llvm-mca")
    run = subprocess.run([mca, "-mtriple=" + machine, "-mcpu=" + cpu, "-json"], input="\n".join(text) + "\n", text=True,
                         check=True, stdout=subprocess.PIPE)
    result = {}
    for region in json.loads(run.stdout)["CodeRegions"]:
        name, n = region["Name"].split()
        view = region["SummaryView"]
        result[name, int(n)] = view["TotalCycles"] / view["Iterations"] / turns[region["Name"]]
    return result


def main(levels):
    table = {level: estimate(level, functions(compile_level(level))) for level in levels}
    print(f"{'':8}" + "".join(f"{level:>{6 * len(COLUMNS)}}" for level in levels))
    print(f"{'type':8}" + "".join(f"{n:6}" for n in COLUMNS) * len(levels))
    for name in dict.fromkeys(name for level in levels for name, _ in table[level]):
        row = ""
        for level in levels:
            for n in COLUMNS:
                # where kernels end at 8 columns, 16 are two times 8
                cycles = table[level].get((name, n)) or 2 * table[level].get((name, n // 2), 0)
                row += f"{cycles:6.0f}" if cycles else f"{'-':>6}"
        print(f"{name:8}{row}")


if __name__ == "__main__":
    main(sys.argv[1:] or LEVELS)
