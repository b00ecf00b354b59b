#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes quant/iquant_tables.c: the code books of the IQ formats, taken from the Python package `gguf` (0.19.0).

usage: gen_iquant_tables.py > quant/iquant_tables.c
"""
import numpy as np
from gguf import quants as q

HEAD = """/* SPDX-License-Identifier: MIT */
/* Code books of the IQ formats.  They are facts of the GGUF format, taken from the Python package `gguf` (gguf/quants.py,
 * MIT licence, the ggml authors) by tests/gen_iquant_tables.py; made by that script, not to be edited.
 * What an entry means: see iquant_tables.h. */
#include "quant/iquant_tables.h"

/* clang-format off */"""


def grid(cls, factor=1):
    cls.init_grid()
    rows = (cls.grid.reshape(cls.grid_shape) * factor).astype(np.int8).view(np.uint8)
    return [int.from_bytes(bytes(r), "little") for r in rows]


def table(ctype, name, values, per_line, fmt):
    print(f"\nconst {ctype} {name}[{len(values)}] = {{")
    for i in range(0, len(values), per_line):
        print("    " + " ".join(fmt(v) + "," for v in values[i:i + per_line]))
    print("};")


def codes(cls, bits):
    """Each value's rank, `bits` bits of it: 8 / bits of an entry to a byte of the first plane, the next ones to the second."""
    cls.init_grid()
    rows = cls.grid.reshape(cls.grid_shape)
    ranks = np.searchsorted(np.unique(rows), rows)
    planes = ranks.reshape(len(rows), 2, -1)
    return (planes << bits * np.arange(planes.shape[2])).sum(axis=2).T


def planes(name, values):
    print(f"\n_Alignas(64) const uint8_t {name}[2][{values.shape[1]}] = {{")
    for plane in values:
        print("    {")
        for i in range(0, len(plane), 16):
            print("        " + " ".join(f"0x{v:02x}," for v in plane[i:i + 16]))
        print("    },")
    print("};")


def main():
    print(HEAD)
    table("uint64_t", "iq1_grid8", grid(q.IQ1_S, 8), 5, "0x{:016x}".format)
    table("uint64_t", "iq2_xxs_grid", grid(q.IQ2_XXS), 5, "0x{:016x}".format)
    table("uint64_t", "iq2_xs_grid", grid(q.IQ2_XS), 5, "0x{:016x}".format)
    table("uint64_t", "iq2_s_grid", grid(q.IQ2_S), 5, "0x{:016x}".format)
    table("uint32_t", "iq3_xxs_grid", grid(q.IQ3_XXS), 8, "0x{:08x}".format)
    table("uint32_t", "iq3_s_grid", grid(q.IQ3_S), 8, "0x{:08x}".format)
    planes("iq1_codes", codes(q.IQ1_S, 2))
    planes("iq2_xxs_codes", codes(q.IQ2_XXS, 2))
    planes("iq2_xs_codes", codes(q.IQ2_XS, 2))
    planes("iq2_s_codes", codes(q.IQ2_S, 2))
    planes("iq3_xxs_codes", codes(q.IQ3_XXS, 3))
    planes("iq3_s_codes", codes(q.IQ3_S, 3))
    table("uint8_t", "iq_signs", list(q.IQ2_XXS.ksigns), 16, "0x{:02x}".format)
    table("int8_t", "iq4_values", list(q.IQ4_NL.kvalues), 16, str)
    table("int8_t", "fp4_values", list(q.MXFP4.kvalues), 16, str)


if __name__ == "__main__":
    main()
