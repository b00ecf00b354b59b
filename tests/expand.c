/* SPDX-License-Identifier: MIT */
#include "expand.h"
#include "quant/quant.h"
#include "src/gguf.h"
#include "testing.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 32, PIECE = 1 << 16 /* weights decoded at a time; a multiple of every block */ };

struct out {
    FILE *f;
    uint64_t n;
};

static void die(const char *what)
{
    fprintf(stderr, "%s\n", what);
    abort();
}

static void put(struct out *o, const void *p, size_t n)
{
    if (n && fwrite(p, 1, n, o->f) != n)
        die("cannot write an expanded file");
    o->n += n;
}

static void put_u32(struct out *o, uint32_t v) { put(o, &v, sizeof v); }
static void put_u64(struct out *o, uint64_t v) { put(o, &v, sizeof v); }

static void put_str(struct out *o, const char *s, size_t n)
{
    put_u64(o, n);
    put(o, s, n);
}

static void put_padding(struct out *o)
{
    static const char zeros[ALIGNMENT];
    put(o, zeros, (ALIGNMENT - o->n % ALIGNMENT) % ALIGNMENT);
}

static size_t kind_bytes(enum gguf_kind k)
{
    switch (k) {
    case GGUF_U8:
    case GGUF_I8:
    case GGUF_BOOL:
        return 1;
    case GGUF_U16:
    case GGUF_I16:
        return 2;
    case GGUF_U64:
    case GGUF_I64:
    case GGUF_F64:
        return 8;
    default:
        return 4;
    }
}

static void put_kv(struct out *o, const struct gguf_kv *kv)
{
    put_str(o, kv->key, strlen(kv->key));
    put_u32(o, kv->kind);
    enum gguf_kind k = kv->kind;
    if (k == GGUF_ARR) {
        put_u32(o, k = kv->element);
        put_u64(o, kv->n);
    }
    if (k == GGUF_ARR)
        die("arrays of arrays cannot be expanded");
    if (k != GGUF_STR)
        put(o, kv->data, kv->n * kind_bytes(k));
    for (size_t i = 0; k == GGUF_STR && i < kv->n; i++)
        put_str(o, kv->strings[i].s, kv->strings[i].n);
}

static uint64_t weights(const struct gguf_tensor *t)
{
    return (uint64_t)t->ne[0] * (uint64_t)t->ne[1] * (uint64_t)t->ne[2] * (uint64_t)t->ne[3];
}

static uint64_t padded(uint64_t n) { return (n + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

static void put_infos(struct out *o, const struct gguf *g)
{
    uint64_t at = 0;
    for (size_t i = 0; i < g->n_tensors; i++) {
        const struct gguf_tensor *t = &g->tensors[i];
        put_str(o, t->name, strlen(t->name));
        put_u32(o, (uint32_t)t->n_dims);
        for (int d = 0; d < t->n_dims; d++)
            put_u64(o, (uint64_t)t->ne[d]);
        put_u32(o, QN_F32);
        put_u64(o, at);
        at += padded(weights(t) * sizeof(float));
    }
}

static void put_tensor(struct out *o, const struct gguf_tensor *t)
{
    static float piece[PIECE];
    const struct quant_type *q = quant_type_find(t->type);
    const uint8_t *blocks = t->data;
    for (uint64_t left = weights(t), n; left > 0; left -= n) {
        n = left < PIECE ? left : PIECE;
        int64_t n_blocks = (int64_t)n / q->block;
        q->decode(blocks, piece, n_blocks);
        blocks += n_blocks * q->block_bytes;
        put(o, piece, n * sizeof *piece);
    }
    put_padding(o);
}

const char *expand_file(const char *path, const char *name)
{
    struct qn_error err;
    struct gguf *g;
    int64_t alignment = ALIGNMENT;
    if (gguf_open(&g, path, false, &err) ||
        gguf_get_int(g, "general.alignment", ALIGNMENT, ALIGNMENT, &alignment, &err) < 0)
        die(err.text);
    if (g->n_parts != 1)
        die("split files cannot be expanded");
    const char *to = test_tmp(name);
    struct out o = {.f = fopen(to, "wb")};
    if (!o.f)
        die(to);
    put(&o, "GGUF", 4);
    put_u32(&o, 3);
    put_u64(&o, g->n_tensors);
    put_u64(&o, g->n_kv);
    for (size_t i = 0; i < g->n_kv; i++)
        put_kv(&o, &g->kv[i]);
    put_infos(&o, g);
    put_padding(&o);
    for (size_t i = 0; i < g->n_tensors; i++)
        put_tensor(&o, &g->tensors[i]);
    if (fclose(o.f) != 0)
        die("cannot write an expanded file");
    gguf_close(g);
    return to;
}
