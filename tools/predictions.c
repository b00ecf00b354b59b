/* SPDX-License-Identifier: MIT */
/* The file of predictions that two models, or two programs, are compared by. */
#include "predictions.h"
#include "term.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char MAGIC[8] = {'_', 'l', 'o', 'g', 'i', 't', 's', '_'};

static void read_exactly(struct predictions *p, void *to, size_t n, const char *what)
{
    if (fread(to, 1, n, p->f) != n)
        die("%s: %s while reading %s", p->path, ferror(p->f) ? strerror(errno) : "the file ends", what);
}

static void check_size(struct predictions *p)
{
    struct stat st;
    uint64_t rows = (uint64_t)p->n_chunk * (uint64_t)predictions_scored(p->n_ctx);
    uint64_t need = 20 + 4 * (uint64_t)p->n_chunk * (uint64_t)p->n_ctx + rows * predictions_row_bytes(p->n_vocab);
    if (!fstat(fileno(p->f), &st) && S_ISREG(st.st_mode) && (uint64_t)st.st_size < need)
        die("%s: %lld bytes, %d chunks of %d tokens with a vocabulary of %d need %llu", p->path, (long long)st.st_size,
            p->n_chunk, p->n_ctx, p->n_vocab, (unsigned long long)need);
}

void predictions_open(struct predictions *p, const char *path)
{
    *p = (struct predictions){.f = fopen(path, "rb"), .path = path};
    if (!p->f)
        die("%s: %s", path, strerror(errno));
    char magic[8];
    int32_t head[3];
    read_exactly(p, magic, sizeof magic, "the magic");
    if (memcmp(magic, MAGIC, sizeof magic))
        die("%s: not a file of predictions (it does not begin with _logits_)", path);
    read_exactly(p, head, sizeof head, "the sizes");
    p->n_ctx = head[0];
    p->n_vocab = head[1];
    p->n_chunk = head[2];
    if (p->n_ctx < 4 || p->n_ctx > 1 << 24 || p->n_vocab < 1 || p->n_vocab > 1 << 28 || p->n_chunk < 1 ||
        (int64_t)p->n_chunk * p->n_ctx > INT32_MAX)
        die("%s: n_ctx %d, n_vocab %d, n_chunk %d are not possible", path, p->n_ctx, p->n_vocab, p->n_chunk);
    check_size(p);
    size_t n = (size_t)p->n_chunk * (size_t)p->n_ctx;
    p->tokens = xmalloc(n * sizeof *p->tokens);
    read_exactly(p, p->tokens, n * sizeof *p->tokens, "the tokens");
    for (size_t i = 0; i < n; i++)
        if (p->tokens[i] < 0 || p->tokens[i] >= p->n_vocab)
            die("%s: token %zu is %d, the vocabulary has %d", path, i, p->tokens[i], p->n_vocab);
    p->row = xmalloc(predictions_row_bytes(p->n_vocab));
}

const uint16_t *predictions_next(struct predictions *p, float *row_scale, float *row_min)
{
    read_exactly(p, p->row, predictions_row_bytes(p->n_vocab), "the predictions");
    memcpy(row_scale, p->row, sizeof *row_scale);
    memcpy(row_min, p->row + 2, sizeof *row_min);
    if (!isfinite(*row_scale) || !isfinite(*row_min) || *row_scale < 0)
        die("%s: a row has scale %g and minimum %g", p->path, (double)*row_scale, (double)*row_min);
    return p->row + 4;
}

void predictions_close(struct predictions *p)
{
    if (p->f)
        fclose(p->f);
    free(p->tokens);
    free(p->row);
    *p = (struct predictions){0};
}

void predictions_write_head(struct io_out *out, int n_ctx, int n_vocab, int n_chunk, const int32_t *tokens)
{
    int32_t head[3] = {n_ctx, n_vocab, n_chunk};
    io_put(out, MAGIC, sizeof MAGIC);
    io_put(out, head, sizeof head);
    io_put(out, tokens, (size_t)n_ctx * (size_t)n_chunk * sizeof *tokens);
}

void predictions_write_row(struct io_out *out, const float *logits, int n_vocab, float max, double log_sum,
                           uint16_t *scratch)
{
    float min = max;
    for (int i = 0; i < n_vocab; i++)
        min = logits[i] < min ? logits[i] : min;
    min = min < max - 16 ? max - 16 : min; /* what is rarer keeps this probability */
    float scale = (max - min) / 65535, min_logprob = (float)((double)min - (double)max - log_sum);
    memset(scratch, 0, predictions_row_bytes(n_vocab));
    memcpy(scratch, &scale, sizeof scale);
    memcpy(scratch + 2, &min_logprob, sizeof min_logprob);
    for (int i = 0; scale > 0 && i < n_vocab; i++)
        scratch[4 + i] = logits[i] > min ? (uint16_t)lrintf((logits[i] - min) / scale) : 0;
    io_put(out, scratch, predictions_row_bytes(n_vocab));
}
