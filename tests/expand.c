/* SPDX-License-Identifier: MIT */
#include "expand.h"
#include "bytes.h"
#include "quant/quant.h"
#include "src/gguf.h"
#include "testing.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 32, PIECE = 1 << 16 /* weights decoded at a time; a multiple of every block */ };

static void die(const char *what)
{
    fprintf(stderr, "%s\n", what);
    abort();
}

static void put(FILE *f, const void *p, size_t n)
{
    if (n && fwrite(p, 1, n, f) != n)
        die("cannot write an expanded file");
}

static uint64_t weights(const struct gguf_tensor *t)
{
    return (uint64_t)t->ne[0] * (uint64_t)t->ne[1] * (uint64_t)t->ne[2] * (uint64_t)t->ne[3];
}

static uint64_t padded(uint64_t n) { return (n + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

/* All that is in front of the data. */
static void put_header(FILE *f, const struct gguf *g)
{
    struct bytes b = {0};
    uint64_t at = 0;
    bytes_gguf_head(&b, g->n_tensors, g->n_kv);
    for (size_t i = 0; i < g->n_kv; i++)
        bytes_gguf_kv(&b, &g->kv[i]);
    for (size_t i = 0; i < g->n_tensors; i++) {
        bytes_gguf_tensor(&b, &g->tensors[i], QN_F32, at);
        at += padded(weights(&g->tensors[i]) * sizeof(float));
    }
    bytes_pad(&b, ALIGNMENT);
    put(f, b.p, b.n);
    free(b.p);
}

static void put_tensor(FILE *f, const struct gguf_tensor *t)
{
    static const char zeros[ALIGNMENT];
    static float piece[PIECE];
    const struct quant_type *q = quant_type_find(t->type);
    const uint8_t *blocks = t->data;
    for (uint64_t left = weights(t), n; left > 0; left -= n) {
        n = left < PIECE ? left : PIECE;
        int64_t n_blocks = (int64_t)n / q->block;
        q->decode(blocks, piece, n_blocks);
        blocks += n_blocks * q->block_bytes;
        put(f, piece, n * sizeof *piece);
    }
    size_t bytes = weights(t) * sizeof(float);
    put(f, zeros, padded(bytes) - bytes);
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
    FILE *f = fopen(to, "wb");
    if (!f)
        die(to);
    put_header(f, g);
    for (size_t i = 0; i < g->n_tensors; i++)
        put_tensor(f, &g->tensors[i]);
    if (fclose(f) != 0)
        die("cannot write an expanded file");
    gguf_close(g);
    return to;
}
