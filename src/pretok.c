/* SPDX-License-Identifier: MIT */
/* Pre-tokenizers: cut text into the words inside which pairs are merged, by hand what the published patterns do:
 *   gpt2       's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 *   qwen2      (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*
 *              |\s*[\r\n]+|\s+(?!\S)|\s+
 *   llama-bpe  the same with \p{N}{1,3}
 *   qwen35     the same as qwen2 with [\p{L}\p{M}]+ for words and \p{M} taken out of the rest
 * Every character is looked at a bounded number of times, however long its run is. */
#include "tok.h"
#include "unicode.h"

#include <string.h>

static const struct pretok pretoks[] = {
    {.name = "gpt2", .gpt2 = true},
    {.name = "gpt-2", .gpt2 = true},
    {.name = "qwen2", .digits = 1, .nfc = true},
    {.name = "qwen35", .digits = 1, .marks = true, .nfc = true},
    {.name = "llama-bpe", .digits = 3, .whole_words = true, .add_bos = true},
    {.name = "llama3", .digits = 3, .whole_words = true, .add_bos = true},
    {.name = "llama-v3", .digits = 3, .whole_words = true, .add_bos = true},
};

const struct pretok *pretok_find(const char *name, size_t n)
{
    for (size_t i = 0; i < sizeof pretoks / sizeof *pretoks; i++)
        if (strlen(pretoks[i].name) == n && memcmp(pretoks[i].name, name, n) == 0)
            return &pretoks[i];
    return NULL;
}

const char *pretok_names(void) { return "gpt2 (gpt-2), qwen2, qwen35, llama-bpe (llama3, llama-v3)"; }

/* Class of the character at s, and its length. */
static enum uni_class class_at(const struct pretok *p, const char *s, size_t n, uint32_t *cp, size_t *len)
{
    *len = utf8_decode(s, n, cp);
    enum uni_class c = uni_class(*cp);
    return c == UNI_MARK ? (p->marks ? UNI_LETTER : UNI_OTHER) : c;
}

/* Bytes of the run of class c at s, at most `most` characters of it (0 = any number). */
static size_t run_of(const struct pretok *p, enum uni_class c, const char *s, size_t n, int most)
{
    size_t i = 0, len;
    uint32_t cp;
    for (int k = 0; i < n && (most == 0 || k < most); i += len, k++)
        if (class_at(p, s + i, n - i, &cp, &len) != c)
            break;
    return i;
}

/* The letter that c stands for in a contraction; U+017F, the long s, folds to s. */
static char fold(const struct pretok *p, uint32_t c)
{
    if (p->gpt2)
        return c < 0x80 ? (char)c : 0;
    if (c >= 'A' && c <= 'Z')
        return (char)(c + ('a' - 'A'));
    return c < 0x80 ? (char)c : c == 0x17F ? 's' : 0;
}

/* 's 't 're 've 'm 'll 'd at s, which holds an apostrophe; 0 when none is there. */
static size_t contraction(const struct pretok *p, const char *s, size_t n)
{
    uint32_t a, b;
    if (n < 2)
        return 0;
    size_t len = utf8_decode(s + 1, n - 1, &a);
    char first = fold(p, a);
    if (first && strchr("stmd", first))
        return 1 + len;
    if (n < 3 || len != 1 || !first || !strchr("rvl", first))
        return 0;
    utf8_decode(s + 2, n - 2, &b);
    return fold(p, b) == (first == 'l' ? 'l' : 'e') ? 3 : 0;
}

/* A run of white space: up to its last line break (newer patterns), else without its last character when a word
 * follows. */
static size_t spaces(const struct pretok *p, const char *s, size_t n)
{
    size_t i = 0, last = 0, line = 0, len;
    uint32_t cp;
    while (i < n && class_at(p, s + i, n - i, &cp, &len) == UNI_SPACE) {
        last = i;
        i += len;
        if (cp == '\n' || cp == '\r')
            line = i;
    }
    if (!p->gpt2 && line)
        return line;
    return i == n || last == 0 ? i : last;
}

static size_t line_breaks(const char *s, size_t n)
{
    size_t i = 0;
    while (i < n && (s[i] == '\r' || s[i] == '\n'))
        i++;
    return i;
}

size_t pretok_next(const struct pretok *p, const char *s, size_t n)
{
    uint32_t cp, next_cp;
    size_t len, next_len;
    enum uni_class c = class_at(p, s, n, &cp, &len), next = UNI_SPACE;
    if (cp == '\'' && (next_len = contraction(p, s, n)))
        return next_len;
    if (len < n)
        next = class_at(p, s + len, n - len, &next_cp, &next_len);

    if (p->gpt2) {
        size_t lead = cp == ' ' && next != UNI_SPACE ? 1 : 0;
        if (lead)
            c = next;
        return c == UNI_SPACE ? spaces(p, s, n) : lead + run_of(p, c, s + lead, n - lead, 0);
    }
    if (c == UNI_LETTER)
        return run_of(p, UNI_LETTER, s, n, 0);
    if (next == UNI_LETTER && c != UNI_NUMBER && cp != '\r' && cp != '\n')
        return len + run_of(p, UNI_LETTER, s + len, n - len, 0);
    if (c == UNI_NUMBER)
        return run_of(p, UNI_NUMBER, s, n, p->digits);
    if (c == UNI_OTHER || (cp == ' ' && next == UNI_OTHER)) {
        size_t lead = c == UNI_OTHER ? 0 : 1;
        size_t i = lead + run_of(p, UNI_OTHER, s + lead, n - lead, 0);
        return i + line_breaks(s + i, n - i);
    }
    return spaces(p, s, n);
}
