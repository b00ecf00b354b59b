/* SPDX-License-Identifier: MIT */
/* Pack caches: packed weights in a file, as they lie in memory.
 *
 *     head      struct pack_head
 *     tables    struct file_id [n_parts]   the model's files when the cache was written
 *               uint64_t [n_tensors]       content_hash_tensors() of the model
 *               uint64_t [n_pieces]        XXH3 of each CONTENT_PIECE bytes of the data
 *     zeros     up to data_at, the start of a huge page
 *     data      data_bytes, the last of the file
 *
 * Numbers are little endian.  head_hash covers head and tables, so a file whose head was read holds what was once written there; the
 * data is checked where somebody asks for it, since reading all of it is what a cache saves. */
#ifndef QUERN_PACKFILE_H
#define QUERN_PACKFILE_H

#include "content.h"

enum { PACKFILE_VERSION = 1 };

struct pack_head {
    char magic[8]; /* "QUERNPAK" */
    uint32_t version; /* PACKFILE_VERSION */
    uint32_t layout; /* QUANT_LAYOUT */
    uint64_t head_bytes; /* of head and tables */
    uint64_t head_hash; /* XXH3 of them with this field zero */
    uint64_t data_at, data_bytes;
    uint64_t plan; /* what lies where: model_plan() */
    uint64_t key[2]; /* content_sample() of the model */
    uint32_t n_parts, n_tensors;
    uint64_t n_pieces;
};

struct packfile {
    char *path;
    int fd; /* -1: none */
    struct pack_head *head; /* with its tables */
    const struct file_id *parts;
    const uint64_t *tensors, *pieces;
};

/* What a cache has to be for. */
struct pack_wanted {
    const struct gguf *gguf;
    uint64_t key[2], plan, data_bytes;
};

/* Reads and checks head and tables.  1: there is no such file; else 0 or an error. */
int packfile_open(struct packfile *p, const char *path, struct qn_error *err);
void packfile_close(struct packfile *p); /* idempotent */
/* An error when the cache is for another model, or for other code. */
int packfile_fits(const struct packfile *p, const struct pack_wanted *w, struct qn_error *err);
/* The model's files are those, untouched, that the cache was written from. */
bool packfile_same_files(const struct packfile *p, const struct gguf *g);

/* The model has moved or was touched, and turned out to be the same: notes its files, so that the next start need not look into them.
 * It does not matter when that fails; a head that is half written is found by its checksum. */
void packfile_adopt(struct packfile *p, const struct gguf *g);

/* A new cache: f gets room for it, *at is where its data belongs. */
int packfile_new(struct file_new *f, const char *path, const struct pack_wanted *w, size_t *at, struct qn_error *err);
/* Writes head and tables; tensors is [n_tensors], pieces are those of the data. */
int packfile_finish(const struct file_new *f, const struct pack_wanted *w, const uint64_t *tensors,
                    const struct piece *pieces, struct qn_error *err);

#endif
