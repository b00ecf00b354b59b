/* SPDX-License-Identifier: MIT */
/* Keys and checksums of a model's content; see content.h. */
#include "content.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

/* Begins a key with all that is not weights. */
static void begin_key(const struct gguf *g, uint64_t key[2])
{
    key[0] = key[1] = 0;
    for (int i = 0; i < g->n_parts; i++) {
        uint64_t size = g->parts[i].size;
        add_to_key(key, &size, sizeof size);
        add_to_key(key, g->parts[i].data, metadata_bytes(g, i));
    }
}

void content_sample(const struct gguf *g, uint64_t sample[2])
{
    begin_key(g, sample);
    for (size_t i = 0; i < SAMPLES && i < g->n_tensors; i++) {
        const struct gguf_tensor *t = &g->tensors[g->n_tensors < SAMPLES ? i : i * g->n_tensors / SAMPLES];
        add_to_key(sample, t->data, t->bytes < SAMPLE_BYTES ? t->bytes : SAMPLE_BYTES);
    }
}

void content_key(const struct gguf *g, const uint64_t *tensors, uint64_t key[2])
{
    begin_key(g, key);
    add_to_key(key, tensors, g->n_tensors * sizeof *tensors);
}

/* ---- checksums of tensors */

int content_sums_open(struct content_sums *c, const struct gguf *g, struct qn_error *err)
{
    *c = (struct content_sums){.g = g};
    for (size_t i = 0; i < g->n_tensors; i++)
        c->n += content_n_pieces(g->tensors[i].bytes);
    c->piece = calloc(c->n + 1, sizeof *c->piece);
    c->taken = calloc(c->n + 1, sizeof *c->taken);
    if (!c->piece || !c->taken) {
        content_sums_close(c);
        return fail(err, QN_E_MEMORY, "%s: no memory for checksums", g->path);
    }
    struct piece *p = c->piece;
    for (size_t i = 0; i < g->n_tensors; p += content_n_pieces(g->tensors[i].bytes), i++)
        content_cut(g->tensors[i].data, g->tensors[i].bytes, p);
    return 0;
}

void content_sums_close(struct content_sums *c)
{
    free(c->piece);
    free(c->taken);
    *c = (struct content_sums){0};
}

void content_sums_read(struct content_sums *c, const uint8_t *data, size_t bytes)
{
    for (size_t i = 0, at = 0; i < c->g->n_tensors; at += content_n_pieces(c->g->tensors[i].bytes), i++) {
        const struct gguf_tensor *t = &c->g->tensors[i];
        if (data < t->data || data >= t->data + t->bytes || bytes == 0)
            continue;
        size_t first = (size_t)(data - t->data) / CONTENT_PIECE, last = (size_t)(data - t->data + bytes - 1);
        for (size_t k = first; k <= last / CONTENT_PIECE && k < content_n_pieces(t->bytes); k++)
            if (!atomic_exchange_explicit(&c->taken[at + k], true, memory_order_relaxed))
                c->piece[at + k].hash = XXH3_64bits(c->piece[at + k].data, c->piece[at + k].bytes);
    }
}

int content_sums_end(struct content_sums *c, struct pool *pool, int n_workers, uint64_t *hash, struct qn_error *err)
{
    struct piece *left = calloc(c->n + 1, sizeof *left);
    uint64_t *sums = calloc(c->n + 1, sizeof *sums);
    size_t n_left = 0;
    for (size_t i = 0; left && i < c->n; i++)
        if (!atomic_load_explicit(&c->taken[i], memory_order_relaxed))
            left[n_left++] = c->piece[i];
    if (left && sums) {
        content_hash_pieces(pool, n_workers, left, n_left, true);
        for (size_t i = 0, k = 0; i < c->n; i++)
            sums[i] = c->taken[i] ? c->piece[i].hash : left[k++].hash;
        for (size_t i = 0, at = 0; i < c->g->n_tensors; at += content_n_pieces(c->g->tensors[i].bytes), i++)
            hash[i] = XXH3_64bits(sums + at, content_n_pieces(c->g->tensors[i].bytes) * sizeof *sums);
    }
    int code = left && sums ? 0 : fail(err, QN_E_MEMORY, "%s: no memory for %zu checksums", c->g->path, c->n);
    free(left);
    free(sums);
    return code;
}

int content_hash_tensors(const struct gguf *g, struct pool *pool, int n_workers, uint64_t *hash, struct qn_error *err)
{
    struct content_sums c;
    int code = content_sums_open(&c, g, err);
    if (!code)
        code = content_sums_end(&c, pool, n_workers, hash, err);
    content_sums_close(&c);
    return code;
}

/* ---- keys of files that were seen before: struct key_note, then struct file_id [n_parts] */

struct key_note {
    char magic[8]; /* "QUERNKEY" */
    uint32_t version; /* KEY_VERSION */
    uint32_t n_parts;
    uint64_t hash; /* XXH3 of the file with this field zero */
    uint64_t key[2];
};
enum { KEY_VERSION = 1 };

/* What a note for these files holds, but for its key and hash: malloc [*n]; NULL when there is no memory. */
static struct key_note *make_note(const struct gguf *g, size_t *n)
{
    *n = sizeof(struct key_note) + (size_t)g->n_parts * sizeof(struct file_id);
    struct key_note *note = calloc(1, *n);
    if (!note)
        return NULL;
    memcpy(note->magic, "QUERNKEY", sizeof note->magic);
    note->version = KEY_VERSION;
    note->n_parts = (uint32_t)g->n_parts;
    struct file_id *id = (struct file_id *)(note + 1);
    for (int i = 0; i < g->n_parts; i++)
        id[i] = g->parts[i].id;
    return note;
}

/* Where it lies, malloc: a file that was touched has its note in the same place. */
static char *note_path(const char *folder, const struct gguf *g)
{
    size_t cap = strlen(folder) + sizeof "/0123456789abcdef.key";
    char *path = malloc(cap);
    uint64_t name = 0;
    for (int i = 0; i < g->n_parts; i++) {
        const uint64_t who[] = {name, g->parts[i].id.dev, g->parts[i].id.ino};
        name = XXH3_64bits(who, sizeof who);
    }
    if (path)
        snprintf(path, cap, "%s/%016llx.key", folder, (unsigned long long)name);
    return path;
}

bool content_key_find(const char *folder, const struct gguf *g, uint64_t key[2])
{
    struct file_map m;
    struct qn_error none;
    size_t n;
    char *path = note_path(folder, g);
    struct key_note *want = make_note(g, &n);
    bool found = path && want && file_map_open(&m, path, &none) == 0;
    if (found) {
        struct key_note there;
        found = m.size == n;
        if (found) {
            memcpy(&there, m.data, sizeof there);
            memcpy(want->key, there.key, sizeof there.key);
            want->hash = XXH3_64bits(want, n);
            found = want->hash == there.hash && memcmp(m.data, want, n) == 0;
            memcpy(key, there.key, sizeof there.key);
        }
        file_map_close(&m);
    }
    free(want);
    free(path);
    return found;
}

int content_key_note(const char *folder, const struct gguf *g, const uint64_t key[2], struct qn_error *err)
{
    struct file_new f;
    size_t n;
    char *path = note_path(folder, g);
    struct key_note *note = make_note(g, &n);
    int code;
    if (!path || !note) {
        code = fail(err, QN_E_MEMORY, "%s: no memory for a note", g->path);
    } else {
        memcpy(note->key, key, sizeof note->key);
        note->hash = XXH3_64bits(note, n);
        code = file_new_open(&f, path, n, err);
        if (!code && !(code = file_new_write(&f, note, n, 0, err)))
            code = file_new_commit(&f, err);
        file_new_close(&f);
    }
    free(note);
    free(path);
    return code;
}
