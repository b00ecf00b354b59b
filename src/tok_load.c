/* SPDX-License-Identifier: MIT */
/* From a file's tokenizer.ggml.* keys to the tables of struct tok.  Everything is checked here, once: what tok_open()
 * accepts, encoding and decoding can trust. */
#include "tok.h"
#include "unicode.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { MAX_VOCAB = 1 << 26 };

struct loader {
    struct tok *k;
    const struct gguf *g;
    const struct gguf_kv *tokens;
    struct qn_error *err;
};

static int no_memory(const struct loader *l)
{
    return fail(l->err, QN_E_MEMORY, "%s: no memory for a vocabulary of %d tokens", l->g->path, l->k->n_vocab);
}

/* What of a string fits into a message: "%.*s" takes PART(s). */
#define PART(str) (int)((str).n < 64 ? (str).n : 64), (str).s

static size_t table_size(size_t entries)
{
    size_t size = 16;
    while (size < entries * 2)
        size *= 2;
    return size;
}

/* ---- spellings */

static int tokens_read(struct loader *l)
{
    struct tok *k = l->k;
    int e = gguf_get_strings(l->g, "tokenizer.ggml.tokens", &l->tokens, l->err);
    if (e < 0)
        return e;
    if (e == 0 || l->tokens->n == 0)
        return fail(l->err, QN_E_FORMAT, "%s: key tokenizer.ggml.tokens is %s: a file without a vocabulary", l->g->path,
                    e ? "empty" : "missing");
    if (l->tokens->n > MAX_VOCAB)
        return fail(l->err, QN_E_FORMAT, "%s: key tokenizer.ggml.tokens has %zu entries, at most %d are allowed",
                    l->g->path, l->tokens->n, MAX_VOCAB);
    k->n_vocab = (int)l->tokens->n;
    size_t total = 0;
    for (int i = 0; i < k->n_vocab; i++)
        if (!size_add(total, l->tokens->strings[i].n, &total))
            return no_memory(l);
    k->texts = mem_alloc(total);
    k->bytes = mem_alloc(total); /* no token stands for more bytes than it is spelled with */
    k->text_at = mem_alloc(((size_t)k->n_vocab + 1) * sizeof *k->text_at);
    k->bytes_at = mem_alloc(((size_t)k->n_vocab + 1) * sizeof *k->bytes_at);
    k->type = mem_alloc((size_t)k->n_vocab);
    k->stop = mem_alloc((size_t)k->n_vocab);
    if (!k->texts || !k->bytes || !k->text_at || !k->bytes_at || !k->type || !k->stop)
        return no_memory(l);
    return 0;
}

/* Type and score arrays: absent, or as long as the tokens are many. */
static int same_length(struct loader *l, const struct gguf_kv *kv)
{
    if (kv->n == (size_t)l->k->n_vocab)
        return 0;
    return fail(l->err, QN_E_FORMAT, "%s: key %s has %zu entries, tokenizer.ggml.tokens has %d", l->g->path, kv->key,
                kv->n, l->k->n_vocab);
}

static int types_read(struct loader *l)
{
    struct tok *k = l->k;
    const struct gguf_kv *kv;
    int e = gguf_get_ints(l->g, "tokenizer.ggml.token_type", &kv, l->err);
    if (e < 0)
        return e;
    if (e == 0) {
        memset(k->type, TOK_NORMAL, (size_t)k->n_vocab);
        return 0;
    }
    if ((e = same_length(l, kv)))
        return e;
    for (int i = 0; i < k->n_vocab; i++) {
        int64_t t = gguf_int_at(kv, (size_t)i);
        if (t < 0 || t >= TOK_N_TYPES)
            return fail(l->err, QN_E_FORMAT, "%s: key tokenizer.ggml.token_type: entry %d is %lld, 0..%d are known",
                        l->g->path, i, (long long)t, TOK_N_TYPES - 1);
        k->type[i] = (uint8_t)t;
    }
    return 0;
}

static int scores_read(struct loader *l)
{
    struct tok *k = l->k;
    const struct gguf_kv *kv;
    int e = gguf_get_floats(l->g, "tokenizer.ggml.scores", &kv, l->err);
    if (e < 0)
        return e;
    if (e == 0 && k->model == TOK_SPM)
        return fail(l->err, QN_E_FORMAT, "%s: key tokenizer.ggml.scores is missing, tokenizer.ggml.model is llama",
                    l->g->path);
    if (e && (e = same_length(l, kv)))
        return e;
    if (k->model != TOK_SPM)
        return 0;
    if (!(k->scores = mem_alloc((size_t)k->n_vocab * sizeof *k->scores)))
        return no_memory(l);
    for (int i = 0; i < k->n_vocab; i++) {
        k->scores[i] = (float)gguf_float_at(kv, (size_t)i);
        if (isnan(k->scores[i]))
            return fail(l->err, QN_E_FORMAT, "%s: key tokenizer.ggml.scores: entry %d is not a number", l->g->path, i);
    }
    return 0;
}

static bool is_utf8(struct gguf_str s)
{
    uint32_t cp = 0;
    for (size_t i = 0; i < s.n && cp != UNI_INVALID;)
        i += utf8_decode(s.s + i, s.n - i, &cp);
    return cp != UNI_INVALID;
}

/* Copies the spellings and indexes them.  Empty ones, which some converters write as padding, are never found. */
static int texts_index(struct loader *l)
{
    struct tok *k = l->k;
    size_t at = 0, size = table_size((size_t)k->n_vocab);
    if (!(k->by_text = mem_alloc(size * sizeof *k->by_text)))
        return no_memory(l);
    k->text_mask = size - 1;
    for (size_t i = 0; i < size; i++)
        k->by_text[i].id = -1;
    for (int id = 0; id < k->n_vocab; id++) {
        struct gguf_str s = l->tokens->strings[id];
        if (!is_utf8(s))
            return fail(l->err, QN_E_FORMAT, "%s: key tokenizer.ggml.tokens: entry %d is not UTF-8", l->g->path, id);
        memcpy(k->texts + at, s.s, s.n);
        k->text_at[id] = at;
        k->text_at[id + 1] = at += s.n;
        if (s.n == 0)
            continue;
        if (k->type[id] <= TOK_NORMAL && s.n > k->longest)
            k->longest = s.n;
        uint64_t hash = XXH3_64bits(s.s, s.n);
        size_t slot = hash & k->text_mask;
        for (; k->by_text[slot].id >= 0; slot = (slot + 1) & k->text_mask) {
            int other = k->by_text[slot].id;
            if (k->by_text[slot].hash == (uint32_t)(hash >> 32) && k->text_at[other + 1] - k->text_at[other] == s.n &&
                memcmp(k->texts + k->text_at[other], s.s, s.n) == 0)
                return fail(l->err, QN_E_FORMAT,
                            "%s: key tokenizer.ggml.tokens: \"%.*s\" is both entry %d and entry %d", l->g->path,
                            PART(s), other, id);
        }
        k->by_text[slot] = (struct text_slot){(uint32_t)(hash >> 32), id};
    }
    return 0;
}

/* ---- what tokens stand for */

/* Byte-level BPE spells bytes with 256 printable characters: those that are printable in Latin-1 stand for themselves,
 * the others, in order, are U+0100 and on. */
static void alphabet_make(uint16_t of_byte[256], int16_t to_byte[0x144])
{
    uint16_t next = 0x100;
    for (int c = 0; c < 0x144; c++)
        to_byte[c] = -1;
    for (int b = 0; b < 256; b++) {
        bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        of_byte[b] = printable ? (uint16_t)b : next++;
        to_byte[of_byte[b]] = (int16_t)b;
    }
}

/* Bytes of a spelling in that alphabet; a spelling with any other character stands for itself. */
static size_t alphabet_decode(const int16_t to_byte[0x144], const char *s, size_t n, char *out)
{
    size_t n_out = 0;
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        i += utf8_decode(s + i, n - i, &cp);
        if (cp >= 0x144 || to_byte[cp] < 0) {
            memcpy(out, s, n);
            return n;
        }
        out[n_out++] = (char)to_byte[cp];
    }
    return n_out;
}

/* SentencePiece spells a space as U+2581. */
static size_t pieces_decode(const char *s, size_t n, char *out)
{
    size_t n_out = 0;
    for (size_t i = 0; i < n;) {
        if (n - i >= 3 && memcmp(s + i, "\xE2\x96\x81", 3) == 0) {
            out[n_out++] = ' ';
            i += 3;
        } else {
            out[n_out++] = s[i++];
        }
    }
    return n_out;
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                  : -1;
}

/* The byte that a token of type 6, "<0x1F>", stands for; -1 when it is not spelled like one. */
static int byte_token(const char *s, size_t n)
{
    if (n != 6 || memcmp(s, "<0x", 3) || s[5] != '>' || hex_digit(s[3]) < 0 || hex_digit(s[4]) < 0)
        return -1;
    return hex_digit(s[3]) * 16 + hex_digit(s[4]);
}

static int bytes_make(struct loader *l)
{
    struct tok *k = l->k;
    uint16_t of_byte[256];
    int16_t to_byte[0x144];
    size_t at = 0;
    alphabet_make(of_byte, to_byte);
    for (int b = 0; b < 256; b++)
        k->byte_id[b] = -1;
    for (int id = 0; id < k->n_vocab; id++) {
        const char *s = k->texts + k->text_at[id];
        size_t n = k->text_at[id + 1] - k->text_at[id];
        char *out = k->bytes + at;
        if (k->type[id] == TOK_BYTE) {
            int b = byte_token(s, n);
            if (b < 0)
                return fail(l->err, QN_E_FORMAT,
                            "%s: token %d is of type byte, but spelled \"%.*s\", not <0x00>..<0xFF>", l->g->path, id,
                            (int)(n < 64 ? n : 64), s);
            *out = (char)b;
            k->byte_id[b] = id;
            n = 1;
        } else if (k->type[id] <= TOK_NORMAL || k->type[id] == TOK_UNUSED) {
            n = k->model == TOK_BPE ? alphabet_decode(to_byte, s, n, out) : pieces_decode(s, n, out);
        } else {
            memcpy(out, s, n);
        }
        k->bytes_at[id] = at;
        k->bytes_at[id + 1] = at += n;
    }
    for (int b = 0; b < 256 && k->model == TOK_BPE; b++) {
        char s[2] = {(char)of_byte[b], 0};
        size_t n = 1;
        if (of_byte[b] >= 0x80)
            s[0] = (char)(0xC0 | of_byte[b] >> 6), s[1] = (char)(0x80 | (of_byte[b] & 0x3F)), n = 2;
        int32_t id = tok_find(k, s, n);
        if (id >= 0 && !tok_is_control(k, id))
            k->byte_id[b] = id;
    }
    return 0;
}

/* ---- merges */

/* The tokens that merge number i names: *left, *right and the two together. */
static int merge_parse(struct loader *l, struct gguf_str s, size_t i, int32_t *left, int32_t *right, int32_t *both)
{
    char buf[512], *joined = buf;
    const char *space = s.n ? memchr(s.s, ' ', s.n) : NULL;
    size_t a = space ? (size_t)(space - s.s) : 0, b = space ? s.n - a - 1 : 0;
    if (a == 0 || b == 0 || memchr(space + 1, ' ', b))
        return fail(l->err, QN_E_FORMAT,
                    "%s: key tokenizer.ggml.merges: entry %zu, \"%.*s\", is not two tokens and a space", l->g->path, i,
                    PART(s));
    if (a + b > sizeof buf && !(joined = malloc(a + b)))
        return no_memory(l);
    memcpy(joined, s.s, a);
    memcpy(joined + a, space + 1, b);
    *left = tok_find(l->k, s.s, a);
    *right = tok_find(l->k, space + 1, b);
    *both = tok_find(l->k, joined, a + b);
    if (joined != buf)
        free(joined);
    if (*left >= 0 && *right >= 0 && *both >= 0)
        return 0;
    return fail(l->err, QN_E_FORMAT, "%s: key tokenizer.ggml.merges: entry %zu, \"%.*s\": %s is no token", l->g->path,
                i, PART(s),
                *left < 0    ? "its left part"
                : *right < 0 ? "its right part"
                             : "what it makes");
}

static int merges_read(struct loader *l)
{
    struct tok *k = l->k;
    const struct gguf_kv *kv;
    int e = gguf_get_strings(l->g, "tokenizer.ggml.merges", &kv, l->err);
    if (e < 0)
        return e;
    if (e == 0)
        return fail(l->err, QN_E_FORMAT, "%s: key tokenizer.ggml.merges is missing, tokenizer.ggml.model is gpt2",
                    l->g->path);
    if (kv->n > MAX_VOCAB)
        return fail(l->err, QN_E_FORMAT, "%s: key tokenizer.ggml.merges has %zu entries, at most %d are allowed",
                    l->g->path, kv->n, MAX_VOCAB);
    size_t size = table_size(kv->n);
    if (!(k->merges = mem_alloc(size * sizeof *k->merges)))
        return no_memory(l);
    k->merge_mask = size - 1;
    for (size_t i = 0; i < size; i++)
        k->merges[i].rank = UINT32_MAX;
    for (size_t i = 0; i < kv->n; i++) {
        int32_t left, right, both;
        if ((e = merge_parse(l, kv->strings[i], i, &left, &right, &both)))
            return e;
        uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
        size_t slot = tok_mix(pair) & k->merge_mask;
        while (k->merges[slot].rank != UINT32_MAX && k->merges[slot].pair != pair)
            slot = (slot + 1) & k->merge_mask;
        if (k->merges[slot].rank == UINT32_MAX) /* a pair named again keeps its first rank */
            k->merges[slot] = (struct merge_slot){pair, (uint32_t)i, both};
    }
    return 0;
}

/* ---- special tokens */

static struct trie_slot *trie_at(struct trie_slot *t, size_t mask, uint32_t parent, uint8_t byte)
{
    size_t i = tok_mix((uint64_t)parent << 8 | byte) & mask;
    while (t[i].node && (t[i].parent != parent || t[i].byte != byte))
        i = (i + 1) & mask;
    return &t[i];
}

int32_t tok_step(const struct tok *k, uint32_t node, uint8_t byte)
{
    return (int32_t)trie_at(k->trie, k->trie_mask, node, byte)->node;
}

static bool trie_grow(struct tok *k)
{
    size_t cap = k->cap_nodes ? (size_t)k->cap_nodes * 2 : 256, size = cap * 2;
    if (cap > INT32_MAX)
        return false;
    int32_t *node_id = realloc(k->node_id, cap * sizeof *node_id);
    struct trie_slot *trie = mem_alloc(size * sizeof *trie);
    if (node_id)
        k->node_id = node_id;
    if (!node_id || !trie) {
        mem_free(trie);
        return false;
    }
    for (size_t i = 0; k->trie && i <= k->trie_mask; i++)
        if (k->trie[i].node)
            *trie_at(trie, size - 1, k->trie[i].parent, (uint8_t)k->trie[i].byte) = k->trie[i];
    mem_free(k->trie);
    k->trie = trie;
    k->trie_mask = size - 1;
    k->cap_nodes = (uint32_t)cap;
    return true;
}

static bool trie_add(struct tok *k, const char *s, size_t n, int32_t id)
{
    uint32_t node = 0;
    for (size_t i = 0; i < n; i++) {
        if (k->n_nodes == k->cap_nodes && !trie_grow(k))
            return false;
        struct trie_slot *t = trie_at(k->trie, k->trie_mask, node, (uint8_t)s[i]);
        if (!t->node) {
            k->node_id[k->n_nodes] = -1;
            *t = (struct trie_slot){.parent = node, .node = k->n_nodes++, .byte = (uint8_t)s[i]};
        }
        node = t->node;
    }
    k->node_id[node] = id;
    k->special_first[(uint8_t)s[0]] = true;
    return true;
}

static int specials_index(struct loader *l)
{
    struct tok *k = l->k;
    if (!trie_grow(k))
        return no_memory(l);
    k->node_id[0] = -1;
    k->n_nodes = 1;
    for (int32_t id = 0; id < k->n_vocab; id++) {
        size_t n;
        const char *s = tok_text(k, id, &n);
        if (n && (tok_is_control(k, id) || k->type[id] == TOK_USER_DEFINED) && !trie_add(k, s, n, id))
            return no_memory(l);
    }
    return 0;
}

/* ---- ids and flags */

static int id_read(struct loader *l, const char *key, int32_t *out)
{
    int64_t v;
    *out = -1;
    int e = gguf_get_int(l->g, key, INT64_MIN, INT64_MAX, &v, l->err);
    if (e <= 0)
        return e;
    if (v < 0 || v >= l->k->n_vocab)
        return fail(l->err, QN_E_FORMAT, "%s: key %s is %lld, the vocabulary has %d tokens", l->g->path, key,
                    (long long)v, l->k->n_vocab);
    *out = (int32_t)v;
    return 0;
}

static int ids_read(struct loader *l)
{
    struct tok *k = l->k;
    int e;
    if ((e = id_read(l, "tokenizer.ggml.bos_token_id", &k->ids.bos)) ||
        (e = id_read(l, "tokenizer.ggml.eos_token_id", &k->ids.eos)) ||
        (e = id_read(l, "tokenizer.ggml.eot_token_id", &k->ids.eot)) ||
        (e = id_read(l, "tokenizer.ggml.eom_token_id", &k->ids.eom)) ||
        (e = id_read(l, "tokenizer.ggml.padding_token_id", &k->ids.pad)) ||
        (e = id_read(l, "tokenizer.ggml.unknown_token_id", &k->unk)))
        return e;
    k->ids.add_bos = k->model == TOK_SPM || k->pre->add_bos;
    k->space_prefix = k->model == TOK_SPM;
    if ((e = gguf_get_bool(l->g, "tokenizer.ggml.add_bos_token", &k->ids.add_bos, l->err)) < 0)
        return e;
    if (k->model == TOK_SPM &&
        (e = gguf_get_bool(l->g, "tokenizer.ggml.add_space_prefix", &k->space_prefix, l->err)) < 0)
        return e;
    k->ids.add_bos = k->ids.add_bos && k->ids.bos >= 0;
    return 0;
}

static void stops_mark(struct tok *k)
{
    static const char *const names[] = {"<|im_end|>",      "<|endoftext|>", "<|eot_id|>", "<|eom_id|>",
                                        "<|end_of_text|>", "<end_of_turn>", "</s>"};
    const int32_t ids[] = {k->ids.eos, k->ids.eot, k->ids.eom};
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++)
        if (ids[i] >= 0)
            k->stop[ids[i]] = 1;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        int32_t id = tok_find(k, names[i], strlen(names[i]));
        if (id >= 0 && k->type[id] == TOK_CONTROL)
            k->stop[id] = 1;
    }
}

/* ---- opening */

static int model_read(struct loader *l, const char *pre_override)
{
    struct gguf_str s;
    const char *key = "tokenizer.ggml.model";
    int e = gguf_get_str(l->g, key, &s, l->err);
    if (e < 0)
        return e;
    if (e == 0)
        return fail(l->err, QN_E_FORMAT, "%s: key %s is missing: a file without a tokenizer", l->g->path, key);
    if (s.n == 5 && memcmp(s.s, "llama", 5) == 0) {
        l->k->model = TOK_SPM;
        return 0;
    }
    if (s.n != 4 || memcmp(s.s, "gpt2", 4))
        return fail(l->err, QN_E_UNSUPPORTED, "%s: key %s is \"%.*s\", known are gpt2 and llama", l->g->path, key,
                    PART(s));
    l->k->model = TOK_BPE;
    if (pre_override) {
        l->k->pre = pretok_find(pre_override, strlen(pre_override));
        return l->k->pre ? 0
                         : fail(l->err, QN_E_ARGUMENT, "pre-tokenizer \"%.64s\" is unknown, known are %s", pre_override,
                                pretok_names());
    }
    key = "tokenizer.ggml.pre";
    if ((e = gguf_get_str(l->g, key, &s, l->err)) < 0)
        return e;
    if (e == 0)
        return fail(l->err, QN_E_UNSUPPORTED, "%s: key %s is missing, give one of %s", l->g->path, key, pretok_names());
    if (!(l->k->pre = pretok_find(s.s, s.n)))
        return fail(l->err, QN_E_UNSUPPORTED, "%s: key %s is \"%.*s\", known are %s", l->g->path, key, PART(s),
                    pretok_names());
    return 0;
}

int tok_open(struct tok **out, const struct gguf *g, const char *pre_override, struct qn_error *err)
{
    struct tok *k = mem_alloc(sizeof *k);
    struct loader l = {.k = k, .g = g, .err = err};
    int e;
    *out = NULL;
    if (!k)
        return fail(err, QN_E_MEMORY, "%s: no memory for a tokenizer", g->path);
    if ((e = model_read(&l, pre_override)) || (e = tokens_read(&l)) || (e = types_read(&l)) || (e = scores_read(&l)) ||
        (e = texts_index(&l)) || (e = bytes_make(&l)) || (k->model == TOK_BPE && (e = merges_read(&l))) ||
        (e = specials_index(&l)) || (e = ids_read(&l))) {
        tok_close(k);
        return e;
    }
    stops_mark(k);
    *out = k;
    return 0;
}

void tok_close(struct tok *k)
{
    if (!k)
        return;
    mem_free(k->texts);
    mem_free(k->text_at);
    mem_free(k->bytes);
    mem_free(k->bytes_at);
    mem_free(k->type);
    mem_free(k->stop);
    mem_free(k->by_text);
    mem_free(k->merges);
    mem_free(k->scores);
    mem_free(k->trie);
    free(k->node_id);
    mem_free(k);
}
