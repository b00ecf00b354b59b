#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes tests/data/quant: four real and four random blocks of each type with their reference values.

usage: gen_quant_blocks.py ORACLE/quant tests/data/quant

The oracle holds 64 blocks of each kind, decoded to float32 by the Python package `gguf` 0.19.0 (Q1_0 and Q2_0, which it lacks,
and the random blocks: by libggml).  blocks.txt has a line for each set, in the order of blocks.bin:
    type, real|random, blocks, bytes of the blocks, bytes of the values (little-endian float32)
"""
import json
import sys
from pathlib import Path

PICK = (0, 21, 42, 63)


def main():
    oracle, out = Path(sys.argv[1]), Path(sys.argv[2])
    index = json.loads((oracle / "index.json").read_text())
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "blocks.bin", "wb") as data, open(out / "blocks.txt", "w") as text:
        for name, info in index.items():
            for kind, raw, f32 in (("real", "raw", "f32"), ("random", "rand_raw", "rand_f32")):
                if raw not in info:
                    continue
                size, values = info["type_size"], 4 * info["block_size"]
                blocks = (oracle / info[raw]).read_bytes()
                floats = (oracle / info[f32]).read_bytes()
                data.write(b"".join(blocks[i * size:(i + 1) * size] for i in PICK))
                data.write(b"".join(floats[i * values:(i + 1) * values] for i in PICK))
                text.write(f"{name} {kind} {len(PICK)} {len(PICK) * size} {len(PICK) * values}\n")


if __name__ == "__main__":
    main()
