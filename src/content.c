/* SPDX-License-Identifier: MIT */
/* Keys and checksums of a model's content; see content.h. */
#include "content.h"

#include <stdatomic.h>
#include <stdlib.h>

#include <xxhash.h>

enum { SAMPLES = 64, SAMPLE_BYTES = 256 };

void content_cut(const void *data, size_t bytes, struct piece *pieces)
{
    for (size_t at = 0; at < bytes; at += CONTENT_PIECE, pieces++)
        *pieces = (struct piece){.data = (const uint8_t *)data + at,
                                 .bytes = bytes - at < CONTENT_PIECE ? bytes - at : CONTENT_PIECE};
}

struct hashing {
    struct piece *pieces;
    size_t n;
    bool let_go;
    atomic_size_t next;
};

static void hash_worker(struct worker *w, void *arg)
{
    struct hashing *h = arg;
    size_t i;
    while ((i = atomic_fetch_add_explicit(&h->next, 1, memory_order_relaxed)) < h->n) {
        struct piece *p = &h->pieces[i];
        p->hash = XXH3_64bits(p->data, p->bytes);
        if (h->let_go)
            mem_discard((void *)(uintptr_t)p->data, p->bytes);
    }
}

void content_hash_pieces(struct pool *pool, int n_workers, struct piece *pieces, size_t n, bool let_go)
{
    struct hashing h = {.pieces = pieces, .n = n, .let_go = let_go};
    atomic_init(&h.next, 0);
    pool_run(pool, n_workers, hash_worker, &h);
}

/* Bytes of a part in front of its first tensor. */
static size_t metadata_bytes(const struct gguf *g, int part)
{
    size_t first = g->parts[part].size;
    for (size_t i = 0; i < g->n_tensors; i++) {
        const struct gguf_tensor *t = &g->tensors[i];
        if (t->part == part && (size_t)(t->data - g->parts[part].data) < first)
            first = (size_t)(t->data - g->parts[part].data);
    }
    return first;
}

/* Goes on with a key over more bytes. */
static void add_to_key(uint64_t key[2], const void *bytes, size_t n)
{
    XXH128_hash_t hash = XXH3_128bits(bytes, n);
    uint64_t chain[5] = {key[0], key[1], n, hash.high64, hash.low64};
    hash = XXH3_128bits(chain, sizeof chain);
    key[0] = hash.high64;
    key[1] = hash.low64;
}

void content_key(const struct gguf *g, uint64_t key[2])
{
    key[0] = key[1] = 0;
    for (int i = 0; i < g->n_parts; i++) {
        uint64_t size = g->parts[i].size;
        add_to_key(key, &size, sizeof size);
        add_to_key(key, g->parts[i].data, metadata_bytes(g, i));
    }
    for (size_t i = 0; i < SAMPLES && i < g->n_tensors; i++) {
        const struct gguf_tensor *t = &g->tensors[g->n_tensors < SAMPLES ? i : i * g->n_tensors / SAMPLES];
        add_to_key(key, t->data, t->bytes < SAMPLE_BYTES ? t->bytes : SAMPLE_BYTES);
    }
}

int content_hash_tensors(const struct gguf *g, struct pool *pool, int n_workers, uint64_t *hash, struct qn_error *err)
{
    size_t n = 0, most = 0;
    for (size_t i = 0; i < g->n_tensors; i++) {
        size_t mine = content_n_pieces(g->tensors[i].bytes);
        n += mine;
        most = mine > most ? mine : most;
    }
    struct piece *pieces = calloc(n + 1, sizeof *pieces), *p = pieces;
    uint64_t *sums = calloc(most + 1, sizeof *sums);
    if (!pieces || !sums) {
        free(pieces);
        free(sums);
        return fail(err, QN_E_MEMORY, "%s: no memory for %zu checksums", g->path, n);
    }
    for (size_t i = 0; i < g->n_tensors; p += content_n_pieces(g->tensors[i].bytes), i++)
        content_cut(g->tensors[i].data, g->tensors[i].bytes, p);
    content_hash_pieces(pool, n_workers, pieces, n, true);
    p = pieces;
    for (size_t i = 0; i < g->n_tensors; i++) {
        size_t mine = content_n_pieces(g->tensors[i].bytes);
        for (size_t k = 0; k < mine; k++)
            sums[k] = p++->hash;
        hash[i] = XXH3_64bits(sums, mine * sizeof *sums);
    }
    free(pieces);
    free(sums);
    return 0;
}
