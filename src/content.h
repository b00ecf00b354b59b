/* SPDX-License-Identifier: MIT */
/* What a model's files hold, as a few numbers: checksums of every tensor, a key over all of it, and a sample that costs next to
 * nothing. */
#ifndef QUERN_CONTENT_H
#define QUERN_CONTENT_H

#include "gguf.h"
#include "pool.h"

#include <stdatomic.h>

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

/* XXH3-128 over all that is not weights (sizes, metadata, tensor tables) and a sample of the weights.  Two models with different
 * samples are different; those with the same are most likely the same. */
void content_sample(const struct gguf *g, uint64_t sample[2]);

/* Checksums of all tensors in the making.  Pieces may be hashed while somebody reads the weights anyway, by any number of workers. */
struct content_sums {
    const struct gguf *g;
    struct piece *piece; /* [n] tensor after tensor */
    atomic_bool *taken; /* [n] is hashed by somebody */
    size_t n;
};
int content_sums_open(struct content_sums *c, const struct gguf *g, struct qn_error *err);
void content_sums_close(struct content_sums *c); /* idempotent */
/* Hashes the pieces that bytes of a tensor lie in, unless they were. */
void content_sums_read(struct content_sums *c, const uint8_t *data, size_t bytes);
/* Hashes the rest.  The hash of a tensor is XXH3 of the XXH3s of its pieces; hash is [n_tensors]. */
int content_sums_end(struct content_sums *c, struct pool *pool, int n_workers, uint64_t *hash, struct qn_error *err);
/* All of it at once. */
int content_hash_tensors(const struct gguf *g, struct pool *pool, int n_workers, uint64_t *hash, struct qn_error *err);

/* What a model is: XXH3-128 over sizes, metadata, tensor tables and the hashes of all tensors. */
void content_key(const struct gguf *g, const uint64_t *tensors, uint64_t key[2]);
/* The key is noted in a folder, under the device and inode of the model's files with their sizes and times.  False: it is not there,
 * or a file was touched since. */
bool content_key_find(const char *folder, const struct gguf *g, uint64_t key[2]);
int content_key_note(const char *folder, const struct gguf *g, const uint64_t key[2], struct qn_error *err);

#endif
