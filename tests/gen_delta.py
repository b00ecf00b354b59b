#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Cuts tests/data/delta/unit.{json,bin} out of the full set of delta-rule vectors: one value head and 16 of its columns of two
cases.  The full set was made with transformers 5.23 (torch_recurrent_gated_delta_rule, float32).

usage: gen_delta.py FULL_DIR OUT_DIR
"""
import json
import sys

import numpy as np

CASES = [("gdn_T65_k2_v4_d128", 1, 32), ("gdn_T130_k2_v6_d64", 4, 48)]  # name, value head, first column

full, out = sys.argv[1:]
index = json.load(open(f"{full}/unit.json"))
data = np.fromfile(f"{full}/unit.bin", dtype=np.float32)


def array(name):
    shape, offset = index[name]["shape"], index[name]["offset"] // 4  # bytes
    return data[offset : offset + int(np.prod(shape))].reshape(shape)


new_index, parts, size = {}, [], 0
for case, head, column in CASES:
    k_head = head * array(f"{case}_k").shape[1] // array(f"{case}_v").shape[1]
    columns = slice(column, column + 16)
    for field in ("q", "k", "v", "g", "beta", "s0", "out", "s1"):
        x = array(f"{case}_{field}")
        if field in ("q", "k"):
            x = x[:, k_head : k_head + 1]
        elif field in ("v", "out"):
            x = x[:, head : head + 1, columns]
        elif field in ("g", "beta"):
            x = x[:, head : head + 1]
        else:
            x = x[head : head + 1, :, columns]
        new_index[f"{case}_{field}"] = {"shape": list(x.shape), "offset": 4 * size}
        parts.append(np.ascontiguousarray(x).ravel())
        size += x.size
np.concatenate(parts).tofile(f"{out}/unit.bin")
with open(f"{out}/unit.json", "w") as f:
    f.write("{\n" + ",\n".join(f'"{k}": {json.dumps(v)}' for k, v in new_index.items()) + "\n}\n")
