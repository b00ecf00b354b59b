/* SPDX-License-Identifier: MIT */
/* UTF-8 decoding, class look-up and NFC.  Decomposition and composition come from utf8proc, which is newer than the
 * reference normalizer: what is newer in it is UNI_INERT in our table and never reaches it (tests/gen_unicode.py).
 * Marks are put in order here, because utf8proc takes quadratic time for it. */
#include "unicode.h"
#include "unicode_tables.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

enum { MAX_DECOMPOSED = 4 }; /* code points one character decomposes into at most */

enum uni_class uni_class(uint32_t cp)
{
    return cp < 0x110000 ? (enum uni_class)(uni_blocks[uni_index[cp / UNI_BLOCK]][cp % UNI_BLOCK] & 7) : UNI_OTHER;
}

enum uni_nfc uni_nfc(uint32_t cp)
{
    return cp < 0x110000 ? (enum uni_nfc)(uni_blocks[uni_index[cp / UNI_BLOCK]][cp % UNI_BLOCK] >> 3) : UNI_INERT;
}

/* Length of the character that starts with s[0], 0 if none does; *have bytes of it are at hand and well formed
 * (Unicode, table 3-7: the second byte excludes overlong forms, surrogates and what lies above U+10FFFF). */
static size_t utf8_scan(const uint8_t *s, size_t n, size_t *have)
{
    uint8_t c = s[0], lo = 0x80, hi = 0xBF;
    size_t len = c < 0x80 ? 1 : c < 0xC2 ? 0 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : c < 0xF5 ? 4 : 0;
    if (c == 0xE0)
        lo = 0xA0;
    else if (c == 0xED)
        hi = 0x9F;
    else if (c == 0xF0)
        lo = 0x90;
    else if (c == 0xF4)
        hi = 0x8F;
    *have = len != 0;
    while (*have < len && *have < n && s[*have] >= lo && s[*have] <= hi) {
        lo = 0x80, hi = 0xBF;
        ++*have;
    }
    return len;
}

size_t utf8_decode(const char *text, size_t n, uint32_t *cp)
{
    const uint8_t *s = (const uint8_t *)text;
    if (s[0] < 0x80)
        return *cp = s[0], 1;
    size_t have, len = utf8_scan(s, n, &have);
    if (len == 0 || have < len)
        return *cp = UNI_INVALID, 1;
    uint32_t c = s[0] & (0xFF >> (len + 1));
    for (size_t i = 1; i < len; i++)
        c = c << 6 | (s[i] & 0x3F);
    *cp = c;
    return len;
}

size_t utf8_unfinished(const char *text, size_t n)
{
    const uint8_t *s = (const uint8_t *)text;
    for (size_t k = 1; k <= 3 && k <= n; k++) {
        size_t have, len = utf8_scan(s + n - k, k, &have);
        if (len)
            return len > k && have == k ? k : 0;
    }
    return 0;
}

static size_t utf8_encode(uint32_t c, char *out)
{
    uint8_t *o = (uint8_t *)out;
    if (c < 0x80)
        return o[0] = (uint8_t)c, 1;
    if (c < 0x800)
        return o[0] = (uint8_t)(0xC0 | c >> 6), o[1] = (uint8_t)(0x80 | (c & 0x3F)), 2;
    if (c < 0x10000) {
        o[0] = (uint8_t)(0xE0 | c >> 12), o[1] = (uint8_t)(0x80 | (c >> 6 & 0x3F)), o[2] = (uint8_t)(0x80 | (c & 0x3F));
        return 3;
    }
    o[0] = (uint8_t)(0xF0 | c >> 18), o[1] = (uint8_t)(0x80 | (c >> 12 & 0x3F));
    o[2] = (uint8_t)(0x80 | (c >> 6 & 0x3F)), o[3] = (uint8_t)(0x80 | (c & 0x3F));
    return 4;
}

/* Canonical order: every run of marks sorted by combining class, equal ones in their order.  Counting sort: linear. */
static void marks_order(int32_t *cp, size_t n, int32_t *tmp)
{
    for (size_t i = 0; i < n;) {
        if (utf8proc_get_property(cp[i])->combining_class == 0) {
            i++;
            continue;
        }
        size_t count[257] = {0}, end = i;
        for (; end < n; end++) {
            int ccc = utf8proc_get_property(cp[end])->combining_class;
            if (ccc == 0)
                break;
            count[ccc + 1]++;
        }
        for (int v = 1; v < 257; v++)
            count[v] += count[v - 1];
        for (size_t j = i; j < end; j++)
            tmp[count[utf8proc_get_property(cp[j])->combining_class]++] = cp[j];
        memcpy(cp + i, tmp, (end - i) * sizeof *cp);
        i = end;
    }
}

struct nfc {
    int32_t *cp, *tmp; /* [cap], [cap_tmp] code points of a segment */
    char *out; /* [n_out] */
    size_t cap, cap_tmp, n_out, cap_out;
};

/* p, made large enough for `need` elements; NULL when there is no memory (p stays as it is). */
static void *nfc_room(void *p, size_t *cap, size_t need, size_t size)
{
    if (need <= *cap)
        return p;
    size_t want = need + need / 2 + 64;
    void *bigger = want <= SIZE_MAX / size ? realloc(p, want * size) : NULL;
    if (bigger)
        *cap = want;
    return bigger;
}

static bool out_room(struct nfc *b, size_t n)
{
    char *out = nfc_room(b->out, &b->cap_out, b->n_out + n + 1, 1);
    if (out)
        b->out = out;
    return out;
}

static bool nfc_append(struct nfc *b, const char *s, size_t n)
{
    if (!out_room(b, n))
        return false;
    memcpy(b->out + b->n_out, s, n);
    b->n_out += n;
    return true;
}

static bool code_points_room(struct nfc *b, size_t n)
{
    int32_t *cp = nfc_room(b->cp, &b->cap, n, sizeof *cp);
    if (cp)
        b->cp = cp;
    int32_t *tmp = cp ? nfc_room(b->tmp, &b->cap_tmp, n, sizeof *tmp) : NULL;
    if (tmp)
        b->tmp = tmp;
    return tmp;
}

/* Normalizes the valid UTF-8 s: a base and what may join it. */
static bool nfc_segment(struct nfc *b, const char *s, size_t n)
{
    size_t n_cp = 0;
    if (!code_points_room(b, n * MAX_DECOMPOSED))
        return false;
    for (size_t i = 0; i < n;) {
        uint32_t c;
        int boundary = 0;
        i += utf8_decode(s + i, n - i, &c);
        utf8proc_ssize_t k =
            utf8proc_decompose_char((int32_t)c, b->cp + n_cp, MAX_DECOMPOSED, UTF8PROC_DECOMPOSE, &boundary);
        if (k < 0 || k > MAX_DECOMPOSED)
            return false;
        n_cp += (size_t)k;
    }
    marks_order(b->cp, n_cp, b->tmp);
    utf8proc_ssize_t k = utf8proc_normalize_utf32(b->cp, (utf8proc_ssize_t)n_cp, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    if (k < 0 || !out_room(b, (size_t)k * 4))
        return false;
    for (utf8proc_ssize_t i = 0; i < k; i++)
        b->n_out += utf8_encode((uint32_t)b->cp[i], b->out + b->n_out);
    return true;
}

/* Finds the next stretch [*from, *to) to normalize at or after i: a base directly in front of, and a run of, characters
 * that join.  False when there is none. */
static bool nfc_next(const char *s, size_t n, size_t i, size_t *from, size_t *to)
{
    bool base = false;
    size_t start = 0;
    for (uint32_t c; i < n;) {
        size_t len = utf8_decode(s + i, n - i, &c);
        enum uni_nfc k = uni_nfc(c);
        if (k == UNI_JOINS) {
            *from = base ? start : i;
            do {
                i += len;
                len = i < n ? utf8_decode(s + i, n - i, &c) : 0;
            } while (len && uni_nfc(c) == UNI_JOINS);
            *to = i;
            return true;
        }
        base = k == UNI_BASE;
        start = i;
        i += len;
    }
    return false;
}

int uni_normalize(const char *s, size_t n, char **out, size_t *n_out, struct qn_error *err)
{
    struct nfc b = {0};
    size_t done = 0, from, to;
    bool ok = true;
    *out = NULL;
    *n_out = 0;
    while (ok && nfc_next(s, n, done, &from, &to)) {
        ok = nfc_append(&b, s + done, from - done) && nfc_segment(&b, s + from, to - from);
        done = to;
    }
    if (ok && b.out)
        ok = nfc_append(&b, s + done, n - done);
    free(b.cp);
    free(b.tmp);
    if (!ok) {
        free(b.out);
        return fail(err, QN_E_MEMORY, "not enough memory to normalize a text of %zu bytes", n);
    }
    *out = b.out;
    *n_out = b.n_out;
    return 0;
}
