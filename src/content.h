/* SPDX-License-Identifier: MIT */
/* What a model's files hold, as a few numbers: a key that costs next to nothing, and checksums of every tensor. */
#ifndef QUERN_CONTENT_H
#define QUERN_CONTENT_H

#include "gguf.h"
#include "pool.h"

enum { CONTENT_PIECE = 4 << 20 }; /* bytes that are hashed in one go, by one worker */

/* A piece of something large. */
struct piece {
    const uint8_t *data;
    size_t bytes;
    uint64_t hash; /* XXH3 of the bytes */
};

static inline size_t content_n_pieces(size_t bytes) { return bytes / CONTENT_PIECE + (bytes % CONTENT_PIECE != 0); }
/* Fills in data and bytes of content_n_pieces(bytes) pieces. */
void content_cut(const void *data, size_t bytes, struct piece *pieces);
/* Hashes them, all workers at once.  let_go: they lie in mapped files, whose pages are given back after use. */
void content_hash_pieces(struct pool *pool, int n_workers, struct piece *pieces, size_t n, bool let_go);

/* XXH3-128 over all that is not weights (sizes, metadata, tensor tables) and a sample of the weights.  Two models with different keys
 * are different; those with the same are most likely the same. */
void content_key(const struct gguf *g, uint64_t key[2]);
/* The hash of each tensor's bytes: XXH3 of the XXH3s of its pieces; hash is [n_tensors]. */
int content_hash_tensors(const struct gguf *g, struct pool *pool, int n_workers, uint64_t *hash, struct qn_error *err);

#endif
