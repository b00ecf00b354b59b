/* SPDX-License-Identifier: MIT */
/* The tokenizer in use: look-ups, text to ids, ids to bytes.  Tables come from tok_load.c, merging from tok_merge.c. */
#include "tok.h"
#include "unicode.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* ---- look-ups */

int tok_n_vocab(const struct tok *k) { return k->n_vocab; }
struct tok_ids tok_ids(const struct tok *k) { return k->ids; }

static bool in_vocab(const struct tok *k, int32_t id) { return id >= 0 && id < k->n_vocab; }

bool tok_is_control(const struct tok *k, int32_t id)
{
    return in_vocab(k, id) && (k->type[id] == TOK_CONTROL || k->type[id] == TOK_UNKNOWN);
}

bool tok_is_stop(const struct tok *k, int32_t id) { return in_vocab(k, id) && k->stop[id]; }

const char *tok_text(const struct tok *k, int32_t id, size_t *n)
{
    *n = in_vocab(k, id) ? k->text_at[id + 1] - k->text_at[id] : 0;
    return *n ? k->texts + k->text_at[id] : "";
}

const char *tok_bytes(const struct tok *k, int32_t id, bool show_control, size_t *n)
{
    bool shown = in_vocab(k, id) && (show_control || !tok_is_control(k, id));
    *n = shown ? k->bytes_at[id + 1] - k->bytes_at[id] : 0;
    return *n ? k->bytes + k->bytes_at[id] : "";
}

int32_t tok_find(const struct tok *k, const char *text, size_t n)
{
    uint64_t hash = XXH3_64bits(text, n);
    for (size_t i = hash & k->text_mask; k->by_text[i].id >= 0; i = (i + 1) & k->text_mask) {
        int32_t id = k->by_text[i].id;
        if (k->by_text[i].hash == (uint32_t)(hash >> 32) && k->text_at[id + 1] - k->text_at[id] == n &&
            memcmp(k->texts + k->text_at[id], text, n) == 0)
            return id;
    }
    return -1;
}

/* ---- text to ids */

static int out_of_memory(const struct encoder *e)
{
    return fail(e->err, QN_E_MEMORY, "not enough memory to tokenize: %zu tokens so far", e->n_ids);
}

static int put_id(struct encoder *e, int32_t id)
{
    if (e->n_ids == e->cap_ids) {
        size_t cap = e->cap_ids + e->cap_ids / 2 + 64;
        int32_t *ids = realloc(e->ids, cap * sizeof *ids);
        if (!ids)
            return out_of_memory(e);
        e->ids = ids;
        e->cap_ids = cap;
    }
    e->ids[e->n_ids++] = id;
    return 0;
}

static int put_byte(struct encoder *e, uint8_t byte)
{
    int32_t id = e->tok->byte_id[byte];
    if (id < 0 && e->tok->model == TOK_SPM)
        id = e->tok->unk;
    if (id < 0)
        return fail(e->err, QN_E_UNSUPPORTED, "the vocabulary has no token for byte 0x%02X of the text", byte);
    return put_id(e, id);
}

/* One word of byte-level BPE: its bytes are the first symbols. */
static int encode_word(struct encoder *e, const char *s, size_t n)
{
    const struct tok *k = e->tok;
    if (n == 1)
        return put_byte(e, (uint8_t)s[0]);
    if (!encoder_syms(e, n))
        return out_of_memory(e);
    for (size_t i = 0; i < n; i++) {
        int32_t id = k->byte_id[(uint8_t)s[i]];
        if (id < 0)
            return put_byte(e, (uint8_t)s[i]);
        e->syms[i] = (struct sym){.prev = (int32_t)i - 1, .next = i + 1 < n ? (int32_t)i + 1 : -1, .id = id};
        e->syms[i].start = (uint32_t)i, e->syms[i].n = 1;
    }
    merge_symbols(e, s, n);
    int err = 0;
    for (int32_t i = 0; i >= 0 && !err; i = e->syms[i].next)
        err = put_id(e, e->syms[i].id);
    return err;
}

/* A word that is a normal token by itself, or -1. */
static int32_t whole_word(const struct tok *k, const char *s, size_t n)
{
    char spelled[256];
    size_t len = 0;
    for (size_t i = 0; i < n; i++) {
        size_t m;
        const char *t = tok_text(k, k->byte_id[(uint8_t)s[i]], &m);
        if (m == 0 || len + m > sizeof spelled)
            return -1;
        memcpy(spelled + len, t, m);
        len += m;
    }
    int32_t id = tok_find(k, spelled, len);
    return id >= 0 && k->type[id] <= TOK_NORMAL ? id : -1;
}

static int encode_bpe(struct encoder *e, const char *s, size_t n)
{
    const struct pretok *p = e->tok->pre;
    int err = 0;
    for (size_t i = 0, len; i < n && !err; i += len) {
        len = pretok_next(p, s + i, n - i);
        int32_t id = p->whole_words ? whole_word(e->tok, s + i, len) : -1;
        err = id >= 0 ? put_id(e, id) : encode_word(e, s + i, len);
    }
    return err;
}

/* SentencePiece: spaces become U+2581, characters are the first symbols; what is no token is spelled in bytes. */
static int encode_spm(struct encoder *e, const char *s, size_t n)
{
    const struct tok *k = e->tok;
    size_t n_syms = 0, len, m = 0, n_spaces = 0;
    for (size_t i = 0; i < n; i++)
        n_spaces += s[i] == ' ';
    char *text = malloc(n + 2 * n_spaces + 1);
    if (!text || !encoder_syms(e, n)) {
        free(text);
        return out_of_memory(e);
    }
    for (size_t i = 0; i < n; i += len) {
        uint32_t cp;
        len = utf8_decode(s + i, n - i, &cp);
        size_t n_out = cp == ' ' ? 3 : len;
        memcpy(text + m, cp == ' ' ? "\xE2\x96\x81" : s + i, n_out);
        int32_t id = tok_find(k, text + m, n_out);
        e->syms[n_syms] = (struct sym){.prev = (int32_t)n_syms - 1, .next = (int32_t)n_syms + 1};
        e->syms[n_syms].id = id >= 0 && k->type[id] <= TOK_NORMAL ? id : -1;
        e->syms[n_syms].start = (uint32_t)m, e->syms[n_syms].n = (uint32_t)n_out;
        m += n_out;
        n_syms++;
    }
    e->syms[n_syms - 1].next = -1;
    merge_symbols(e, text, n_syms);
    int err = 0;
    for (int32_t i = 0; i >= 0 && !err; i = e->syms[i].next) {
        const struct sym *y = &e->syms[i];
        if (y->id >= 0)
            err = put_id(e, y->id);
        for (uint32_t b = 0; y->id < 0 && b < y->n && !err; b++)
            err = put_byte(e, (uint8_t)text[y->start + b]);
    }
    free(text);
    return err;
}

/* Text between special tokens. */
static int encode_plain(struct encoder *e, const char *s, size_t n)
{
    const struct tok *k = e->tok;
    if (n == 0)
        return 0;
    if (k->model == TOK_BPE && !k->pre->nfc)
        return encode_bpe(e, s, n);
    char *changed = NULL;
    size_t n_changed = 0;
    int err;
    if (k->model == TOK_BPE) {
        if ((err = uni_normalize(s, n, &changed, &n_changed, e->err)))
            return err;
        err = changed ? encode_bpe(e, changed, n_changed) : encode_bpe(e, s, n);
    } else if (k->space_prefix) {
        if (!(changed = malloc(n + 1)))
            return out_of_memory(e);
        changed[0] = ' ';
        memcpy(changed + 1, s, n);
        err = encode_spm(e, changed, n + 1);
    } else {
        err = encode_spm(e, s, n);
    }
    free(changed);
    return err;
}

/* The longest special token at s that may be recognised there: user-defined ones anywhere, control ones where all their
 * bytes are marked, or anywhere if `control`.  Returns its length, 0 when there is none. */
static size_t special_at(const struct tok *k, const char *s, size_t n, const uint8_t *mark, bool control, int32_t *id)
{
    size_t best = 0;
    uint32_t node = 0;
    bool allowed = mark || control;
    if (!k->special_first[(uint8_t)s[0]])
        return 0;
    for (size_t i = 0; i < n && (node = (uint32_t)tok_step(k, node, (uint8_t)s[i])); i++) {
        allowed = allowed && (!mark || mark[i]);
        int32_t found = k->node_id[node];
        if (found >= 0 && (allowed || k->type[found] == TOK_USER_DEFINED)) {
            best = i + 1;
            *id = found;
        }
    }
    return best;
}

static int encode_text(struct encoder *e, const char *s, size_t n, const uint8_t *special, bool control)
{
    size_t done = 0;
    int err = 0;
    for (size_t i = 0, len; i < n && !err; i += len ? len : 1) {
        int32_t id = -1;
        len = special_at(e->tok, s + i, n - i, special ? special + i : NULL, control, &id);
        if (len == 0)
            continue;
        if ((err = encode_plain(e, s + done, i - done)) == 0)
            err = put_id(e, id);
        done = i + len;
    }
    return err ? err : encode_plain(e, s + done, n - done);
}

int tok_encode(const struct tok *k, const char *text, size_t n, const uint8_t *special, unsigned flags, int32_t **ids,
               int *n_ids, struct qn_error *err)
{
    struct encoder e = {.tok = k, .err = err};
    *ids = NULL;
    *n_ids = 0;
    if (n > INT32_MAX / 8)
        return fail(err, QN_E_ARGUMENT, "a text of %zu bytes is too long to tokenize, at most %d are allowed", n,
                    INT32_MAX / 8);
    e.cap_ids = n / 3 + 16;
    e.ids = malloc(e.cap_ids * sizeof *e.ids);
    int code = e.ids ? 0 : out_of_memory(&e);
    if (!code && (flags & QN_TOK_BOS) && k->ids.add_bos)
        code = put_id(&e, k->ids.bos);
    if (!code && n)
        code = encode_text(&e, text, n, special, flags & QN_TOK_SPECIAL);
    free(e.syms);
    free(e.heap);
    if (code) {
        free(e.ids);
        return code;
    }
    *ids = e.ids;
    *n_ids = (int)e.n_ids;
    return 0;
}

/* ---- ids to text */

size_t tok_detok_put(struct qn_detok *d, const struct tok *k, int32_t id, bool show_control, char *out, size_t cap)
{
    size_t n, held = (size_t)d->n_held;
    const char *s = tok_bytes(k, id, show_control, &n);
    if (!tok_is_control(k, id)) {
        if (!d->started && k->space_prefix && n && s[0] == ' ' && k->type[id] == TOK_NORMAL)
            s++, n--;
        d->started = 1;
    }
    if (held + n > cap) /* breaks the caller's promise: rather less text than a byte too many */
        n = cap > held ? cap - held : 0;
    if (held > cap)
        return 0;
    memcpy(out, d->held, held);
    memcpy(out + held, s, n);
    n += held;
    size_t keep = utf8_unfinished(out, n);
    memcpy(d->held, out + n - keep, keep);
    d->n_held = (int)keep;
    return n - keep;
}

size_t tok_detok_end(struct qn_detok *d, char *out, size_t cap)
{
    size_t n = (size_t)d->n_held <= cap ? (size_t)d->n_held : cap;
    memcpy(out, d->held, n);
    *d = (struct qn_detok){0};
    return n;
}
