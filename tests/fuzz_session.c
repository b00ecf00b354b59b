/* SPDX-License-Identifier: MIT */
/* libFuzzer target: a session of a small model with some bytes changed, and its checksums put right again, so that what is behind them
 * is reached, too.
 *
 * Input: a byte of flags (1: cut at the first change, 2: leave the checksums wrong, 4: continue what could be loaded), then changes of 4 bytes: place (24 bits; odd
 * ones anywhere, even ones in the tables), value. */
#include "content.h"
#include "hashmodel.h"
#include "quern.h"
#include "session.h"
#include "testing.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { N_IDS = 130, N_KEPT = 120, VOCAB = 512 };

static qn_engine *engine;
static qn_seq *seq;
static const char *path;
static char *whole; /* [n_whole] a session that can be loaded */
static size_t n_whole;

static void must(int code, const struct qn_error *err)
{
    if (!code)
        return;
    fprintf(stderr, "%s\n", err->text);
    abort();
}

static void begin(void)
{
    struct qn_options o = {.model = hash_model_file("qwen35", "Q8_0"),
                           .n_threads = 1,
                           .n_ctx = 256,
                           .n_ubatch = 64,
                           .cache_ram = 16 << 20};
    struct qn_error err;
    int32_t ids[N_IDS];
    for (int i = 0; i < N_IDS; i++)
        ids[i] = i;
    must(qn_open(&engine, &o, &err), &err);
    must(qn_seq_new(&seq, engine, &err), &err);
    must(qn_eval(engine, &(struct qn_span){.seq = seq, .ids = ids, .n = N_KEPT}, 1, NULL, &err), &err);
    qn_seq_keep(seq);
    must(qn_eval(engine, &(struct qn_span){.seq = seq, .ids = ids + N_KEPT, .n = N_IDS - N_KEPT}, 1, NULL, &err), &err);
    path = test_tmp("session");
    must(qn_seq_save(seq, path, "note", 4, &err), &err);
    whole = test_read(path, &n_whole);
}

/* The hashes of n_parts parts of so many bytes, from data on; returns what is behind them. */
static const char *hash_parts(const char *data, int n_parts, size_t bytes, char **hash)
{
    for (int i = 0; i < n_parts; i++)
        for (size_t at = 0; at < bytes; at += CONTENT_PIECE, *hash += sizeof(uint64_t)) {
            size_t n = bytes - at < CONTENT_PIECE ? bytes - at : CONTENT_PIECE;
            uint64_t h = XXH3_64bits(data, n);
            memcpy(*hash, &h, sizeof h);
            data += n;
        }
    return data;
}

/* By the sizes that the unchanged file has: a changed size is wrong anyway. */
static void put_right(char *bytes)
{
    struct session_head was, now;
    memcpy(&was, whole, sizeof was);
    char *hash = bytes + sizeof was + was.n_ids * sizeof(int32_t);
    const char *pages = hash_parts(bytes + was.data_at, 2, (size_t)was.state_bytes, &hash);
    hash_parts(pages, (N_IDS + 127) / 128, (size_t)was.page_bytes, &hash);
    memcpy(&now, bytes, sizeof now);
    now.head_hash = 0;
    memcpy(bytes, &now, sizeof now);
    now.head_hash = XXH3_64bits(bytes, (size_t)(hash - bytes) + (size_t)was.note_bytes);
    memcpy(bytes, &now, sizeof now);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!engine)
        begin();
    int flags = size ? data[0] : 0;
    size_t n = n_whole;
    struct session_head h;
    memcpy(&h, whole, sizeof h);
    char *bytes = malloc(n_whole), *note = NULL;
    if (!bytes)
        abort();
    memcpy(bytes, whole, n_whole);
    for (size_t i = 1; i + 4 <= size; i += 4) {
        size_t at = (size_t)data[i] | (size_t)data[i + 1] << 8 | (size_t)data[i + 2] << 16;
        at = at % 2 ? at / 2 % n_whole : at / 2 % h.data_at;
        bytes[at] = (char)data[i + 3];
        if ((flags & 1) && i == 1)
            n = at;
    }
    if (!(flags & 2))
        put_right(bytes);
    test_write(path, bytes, n);
    free(bytes);
    struct qn_error err = {0};
    size_t n_note;
    int32_t id = 5;
    float logits[VOCAB];
    if (qn_seq_load(seq, path, &note, &n_note, &err)) {
        if (note || qn_seq_len(seq) || !err.text[0])
            abort();
    } else if (note[n_note]) {
        abort();
    } else if (flags & 4) { /* states that are not numbers are an error of qn_eval() */
        qn_eval(engine, &(struct qn_span){.seq = seq, .ids = &id, .n = 1, .logits = QN_LOGITS_LAST}, 1, logits, &err);
    }
    free(note);
    return 0;
}
