/* SPDX-License-Identifier: MIT */
/* Predictions of a model at the scored positions of a text, in the file layout that llama.cpp's perplexity program shares:
 *   "_logits_", int32 n_ctx, n_vocab, n_chunk, int32 tokens[n_chunk][n_ctx], then per scored position
 *   float32 scale, float32 min, uint16 u[n_vocab, padded to even]: log probability = min + scale * u.
 * Of a chunk the positions n_ctx / 2 .. n_ctx - 2 are scored.  Numbers are little-endian. */
#ifndef QUERN_PREDICTIONS_H
#define QUERN_PREDICTIONS_H

#include "io.h"

#include <stdint.h>

struct predictions {
    int n_ctx, n_vocab, n_chunk;
    int32_t *tokens; /* [n_chunk][n_ctx] */
    FILE *f; /* reading: stands at the next row */
    const char *path;
    uint16_t *row; /* [predictions_row_bytes / 2] scratch of one row */
};

static inline size_t predictions_row_bytes(int n_vocab) { return 8 + ((size_t)n_vocab + 1) / 2 * 4; }
static inline int predictions_first(int n_ctx) { return n_ctx / 2; }
static inline int predictions_scored(int n_ctx) { return n_ctx - 1 - n_ctx / 2; } /* of a chunk */

/* Opens a file, checks it and reads everything in front of the rows; ends the program when something is wrong. */
void predictions_open(struct predictions *p, const char *path);
/* The next row: log probability of token i = row_min + row_scale * u[i]. */
const uint16_t *predictions_next(struct predictions *p, float *row_scale, float *row_min);
void predictions_close(struct predictions *p);

/* Writes what stands in front of the rows, then row by row. */
void predictions_write_head(struct io_out *out, int n_ctx, int n_vocab, int n_chunk, const int32_t *tokens);
/* log_sum: log of the sum of exp(logits - max); scratch: predictions_row_bytes(n_vocab). */
void predictions_write_row(struct io_out *out, const float *logits, int n_vocab, float max, double log_sum,
                           uint16_t *scratch);

#endif
