/* SPDX-License-Identifier: MIT */
/* Reads every value and every byte that an opened file gives out, through the public look-ups, and checks that it lies
 * within the maps: past a file's end the last page reads as zeros, which no sanitizer sees. */
#ifndef QUERN_GGUF_WALK_H
#define QUERN_GGUF_WALK_H

#include "gguf.h"

#include <string.h>
#include <xxhash.h>

static inline bool gguf_walk_inside(const struct file_map *m, const void *p, size_t n)
{
    const uint8_t *first = p;
    return first >= m->data && n <= m->size && (size_t)(first - m->data) <= m->size - n;
}

/* Of one entry, in the first part. */
static inline bool gguf_walk_bounds(const struct gguf *g, const struct gguf_kv *kv)
{
    static const size_t bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    for (size_t i = 0; kv->element == GGUF_STR && i < kv->n; i++)
        if (!gguf_walk_inside(&g->parts[0], kv->strings[i].s, kv->strings[i].n))
            return false;
    return kv->element == GGUF_STR || gguf_walk_inside(&g->parts[0], kv->data, kv->n * bytes[kv->element]);
}

static inline uint64_t gguf_walk_value(const struct gguf_kv *kv, size_t i)
{
    if (kv->element == GGUF_STR)
        return XXH3_64bits(kv->strings[i].s, kv->strings[i].n);
    double f = gguf_float_at(kv, i);
    uint64_t bits;
    memcpy(&bits, &f, sizeof bits);
    bool whole = kv->element != GGUF_F32 && kv->element != GGUF_F64;
    return whole ? bits ^ (uint64_t)gguf_int_at(kv, i) : bits;
}

/* 0 when a name is not found again or something lies outside the file, else a hash of everything. */
static inline uint64_t gguf_walk(const struct gguf *g)
{
    uint64_t h = 1;
    for (size_t k = 0; k < g->n_kv; k++) {
        if (gguf_find(g, g->kv[k].key) != &g->kv[k] || !gguf_walk_bounds(g, &g->kv[k]))
            return 0;
        for (size_t i = 0; i < g->kv[k].n; i++)
            h = h * 31 + gguf_walk_value(&g->kv[k], i);
    }
    for (size_t i = 0; i < g->n_tensors; i++) {
        const struct gguf_tensor *t = &g->tensors[i];
        if (gguf_tensor_find(g, t->name) != t || (t->data && !gguf_walk_inside(&g->parts[t->part], t->data, t->bytes)))
            return 0;
        if (t->data)
            h = h * 31 + XXH3_64bits(t->data, t->bytes);
    }
    return h ? h : 1;
}

#endif
