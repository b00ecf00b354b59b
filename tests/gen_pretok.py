#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes tests/data/pretok.json with the reference tokenizers' library (PyPI: tokenizers 0.23.3): how each published
pattern cuts texts into words (lengths in bytes), and texts with their NFC.  Run from the top of the tree."""
import json
import random

from tokenizers import Regex, normalizers, pre_tokenizers

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = r"[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PATTERNS = {
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "qwen2": CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+" + TAIL,
    "qwen35": CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+" + TAIL,
    "llama-bpe": CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+" + TAIL,
}
TEXTS = [
    "Hello, world! It's 12345 o'clock; they'll say WE'RE and I'VE, you'D", "'s'S'\u017f'\u017fa 'RE'rE'r 'L'lL'vE'v", "''s '' 's",
    "  two  spaces\t\ttabs \n\n lines\r\n\r\n  \n end  ", "a \n", " \n x", "   x", "x   ", "\r\r\n", "!!\r\n\n x", " !x \n!\n",
    "\u3000\u3000a\u2003\u2003b\x85\x85c\xa0d\u2028e\u1680\u202f1\x1c\x1d ", "\u00bd\u00b2\u2167\u0663 1\u0661 \U0001d7d8\U0001f101",
    "e\u0301\u0327 \u0301x \u0301\u0301 n\u0303! \u0939\u093f\u0928\u094d\u0926\u0940 \u0e19\u0e49\u0e33 \u064e\u0651",
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002 \u65e5\u672c\u8a9e\u30c6\u30b9\u30c8 \ud55c\uad6d\uc5b4 \u1112\u1161\u11ab",
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea \ufe0f\u20e3", "\u1c89\ua7cb\U0001e5d0\U00010d40\u0897\U000323b0",
    "x=1;//c\n\tif(a[0]!=-1e-9){return\"\\n\";}\n\n\n", "https://a.b/c?d=e&f=%20#g", "...\n...\n \n...", "1234567890 12 3", "a1b22c333d4444",
    "\U0010ffff\ue000\ufffd\ufffea\ufeff", "\x00\x01a\x7f", "I'm can't won't 'tis rock'n'roll d'accord l'\u00e9t\u00e9 'll",
]
POOL = list(" \t\n\r'.,!-09aZ") + list("\u017f\u00e9\u0301\u0323\u093f\u00bd\u0663\u4e00\uac00\u1161\u3000\x85\u2028\u200d\U0001f600\U00010d40")


def main():
    rng = random.Random(1)
    texts = TEXTS + ["".join(rng.choice(POOL) for _ in range(rng.randrange(3, 40))) for _ in range(80)]
    words = []
    for name, pattern in PATTERNS.items():
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
        for text in texts:
            lengths = [len(w.encode()) for w, _ in split.pre_tokenize_str(text)]
            words.append({"pre": name, "text": text, "lengths": lengths})

    nfc, nfd = normalizers.NFC().normalize_str, normalizers.NFD().normalize_str
    marks = "\u0300\u0301\u0323\u0334\u0345\u0308\u0327\u05b0\u0653\u093c\u3099\u0898\U00010efd\U0001d165\U00011930"
    bases = "aeA\u00e9\u1e69\u03b1\u1f82\u0428\u0627\u0915\u0958\u304b\u1100\u1161\u11a8\uac00\uac01\u212b\u2126\uf900\U0001d157\U00011935"
    strings = ["".join(rng.choice(marks if rng.random() < .6 else bases) for _ in range(rng.randrange(2, 9))) for _ in range(300)]
    strings += [nfd(t) for t in texts[:20]] + ["\u0323" * 3 + "\u0334" * 3, "A\u030a\u0301|\ufb1d|\u0344"]
    with open("tests/data/pretok.json", "w") as f:
        json.dump({"words": words, "nfc": [[s, nfc(s)] for s in strings]}, f, separators=(",", ":"))
        f.write("\n")


main()
