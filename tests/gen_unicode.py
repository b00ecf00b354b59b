#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Asks the reference tokenizers' library (PyPI: tokenizers 0.23.3) for the Unicode classes that its patterns and its NFC
normalizer know, and writes src/unicode_tables.h and tests/data/unicode_classes.txt.  Run from the top of the tree.

Two Unicode versions are at work there: \\p{L} \\p{N} \\p{M} \\s are those of its regular-expression engine (Unicode 17), while
its normalizer stands at Unicode 9: characters assigned since are inert to it, and must be to us."""
from tokenizers import Regex, normalizers, pre_tokenizers

CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
BLOCK = 128


def members(pattern):
    """Code points that a one-character pattern matches: what Split(removed) takes away."""
    split = pre_tokenizers.Split(Regex(pattern), "removed")
    found = set()
    for first in range(0, 0x110000, 0x800):
        if first == 0xD800:
            continue
        text = range(first, first + 0x800)
        kept = "".join(piece for piece, _ in split.pre_tokenize_str("".join(map(chr, text))))
        found |= set(text) - set(map(ord, kept))
    return found


def nfc_classes():
    """0: inert, no neighbour changes it.  1: may take up characters that follow.  2: may change or join what precedes."""
    nfc, nfd = normalizers.NFC().normalize_str, normalizers.NFD().normalize_str
    pairs = set()  # (what stands before, the character that joins it)
    hangul = range(0xAC00, 0xD7A4)
    for c in CODE_POINTS:
        d = nfd(chr(c))
        if len(d) > 1 and c not in hangul:
            pairs |= {(nfc(d[:i]), d[i]) for i in range(1, len(d))}
    joins = {(a, b) for a, b in pairs if len(a) == 1 and nfc(a + b) != a + b}
    first = {ord(a) for a, _ in joins} | set(range(0x1100, 0x1113))
    first |= {c for c in CODE_POINTS if nfd(chr(c)) != chr(c)}  # a mark may belong between its parts
    second = {ord(b) for _, b in joins} | set(range(0x1161, 0x1176)) | set(range(0x11A8, 0x11C3))
    assert all(nfc(chr(c) + "\u1161") != chr(c) + "\u1161" for c in range(0x1100, 0x1113))
    assert all(nfc("\uac00" + chr(c)) != "\uac00" + chr(c) for c in range(0x11A8, 0x11C3))
    for c in CODE_POINTS:
        high, low = "a\u0345" + chr(c), "a" + chr(c) + "\u0334"  # combining classes 240 and 1: any other one is reordered
        if nfc(chr(c)) != chr(c) or nfc(high) != high or nfc(low) != low or c in (0x0345, 0x0334):
            second.add(c)
    return {c: 2 if c in second else 1 for c in first | second}


def main():
    value = [0] * 0x110000
    for number, pattern in enumerate((r"\p{L}", r"\p{N}", r"\p{M}", r"\s"), 1):
        for c in members(pattern):
            assert value[c] == 0
            value[c] = number
    for c, k in nfc_classes().items():
        value[c] |= k << 3

    with open("tests/data/unicode_classes.txt", "w") as f:
        f.write("# first last class nfc: what the reference tokenizers know (tests/gen_unicode.py); the rest is 0 0\n")
        first = 0
        for c in range(1, 0x110001):
            if c == 0x110000 or value[c] != value[first]:
                if value[first]:
                    f.write(f"{first:X} {c - 1:X} {value[first] & 7} {value[first] >> 3}\n")
                first = c

    blocks, index = [], []
    for b in range(0, 0x110000, BLOCK):
        block = value[b:b + BLOCK]
        if block not in blocks:
            blocks.append(block)
        index.append(blocks.index(block))
    assert len(blocks) <= 256

    def rows(numbers):
        lines, line = [], "   "
        for x in numbers:
            if len(line) + len(str(x)) + 2 > 120:
                lines.append(line)
                line = "   "
            line += f" {x},"
        return "\n".join(lines + [line])

    with open("src/unicode_tables.h", "w") as f:
        f.write(f"""/* SPDX-License-Identifier: MIT */
/* Written by tests/gen_unicode.py: classes of the code points in two stages.  Value = class | nfc << 3 (src/unicode.h). */
/* clang-format off */
enum {{ UNI_BLOCK = {BLOCK} }};
static const uint8_t uni_index[0x110000 / UNI_BLOCK] = {{
{rows(index)}
}};
static const uint8_t uni_blocks[{len(blocks)}][UNI_BLOCK] = {{
""")
        for block in blocks:
            f.write("    {\n" + rows(block) + "\n    },\n")
        f.write("};\n/* clang-format on */\n")
    print(len(blocks), "blocks")


main()
