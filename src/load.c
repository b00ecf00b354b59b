/* SPDX-License-Identifier: MIT */
/* Packing the weights, and pack caches.  A cache that is written is packed into its own mapped pages, so there is never a copy beside
 * it, and models larger than memory pass through; it gets its name when all of it is on the disk. */
#include "load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int n_workers(const struct qn_engine *e)
{
    return e->n_threads_batch > e->n_threads ? e->n_threads_batch : e->n_threads;
}

static bool report(const struct qn_options *o, const char *what, double share)
{
    return o->progress && o->progress(o->cookie, what, share) != 0;
}

static int cancelled(const struct loading *l, struct qn_error *err)
{
    return fail(err, QN_E_CANCELLED, "%s: loading was cancelled", l->e->gguf->path);
}

/* ---- packing */

struct packing {
    const struct model *m;
    const struct qn_options *o;
    struct content_sums *sums; /* or NULL */
    int64_t total; /* bytes to pack */
    atomic_bool cancelled;
};

enum { PACK_BYTES = 4 << 20 }; /* of source that a worker packs before its file pages are let go */

/* Packs tiles [first, last) of a job and lets go of the file's pages, so that never both copies are resident. */
static void pack_piece(const struct packing *p, const struct pack_job *j, int64_t first, int64_t last)
{
    size_t bytes;
    const uint8_t *src = model_job_source(j, first, last, &bytes);
    if (src && p->sums)
        content_sums_read(p->sums, src, bytes);
    for (int64_t t = first; t < last; t++)
        model_pack_tile(j, t);
    if (src)
        mem_discard((void *)(uintptr_t)src, bytes);
}

static void pack_worker(struct worker *w, void *arg)
{
    struct packing *p = arg;
    int64_t done = 0;
    for (size_t i = 0; i < model_n_jobs(p->m); i++) {
        const struct pack_job *j = model_job(p->m, i);
        int64_t tiles = model_job_tiles(j), tile_bytes = (int64_t)j->row_bytes * TILE_ROWS, first, last;
        int64_t most = PACK_BYTES / tile_bytes + 1;
        pool_share(w, tiles, &first, &last); /* the same shares as when multiplying: memory lands near its reader */
        for (int64_t t = first, end; t < last; t = end) {
            if (atomic_load_explicit(&p->cancelled, memory_order_relaxed))
                return;
            int64_t run = model_job_run(j, t);
            end = t + (run < most ? run : most);
            end = end < last ? end : last;
            pack_piece(p, j, t, end);
            done += (end - t) * tile_bytes;
            if (w->id == 0 && report(p->o, "loading", (double)done * w->n / (double)p->total))
                atomic_store_explicit(&p->cancelled, true, memory_order_relaxed);
        }
    }
}

/* Every region of slices is taken from the node of the workers that read it. */
static void place_slices(const struct qn_engine *e)
{
    const struct model *m = &e->model;
    for (int i = 0; m->n_slices > 1 && i < m->n_slices; i++)
        topology_place(m->packed + (size_t)i * m->slice_bytes, m->slice_bytes, pool_node(e->pool, i));
}

static int pack_all(struct loading *l, struct qn_error *err)
{
    struct packing p = {.m = &l->e->model, .o = l->o, .sums = l->sums};
    for (size_t i = 0; i < model_n_jobs(p.m); i++)
        p.total += model_job_tiles(model_job(p.m, i)) * (int64_t)model_job(p.m, i)->row_bytes * TILE_ROWS;
    atomic_init(&p.cancelled, false);
    place_slices(l->e);
    pool_run(l->e->pool, n_workers(l->e), pack_worker, &p);
    return atomic_load_explicit(&p.cancelled, memory_order_relaxed) ? cancelled(l, err) : 0;
}

/* ---- looking for a cache */

static int cache_path(struct loading *l, struct qn_error *err)
{
    const char *folder = l->o->pack_cache_dir;
    l->automatic = folder != NULL;
    if (!folder) {
        l->path = strdup(l->o->pack_cache);
    } else if (folder_private(folder, err)) {
        return err->code;
    } else {
        size_t cap = strlen(folder) + sizeof "/0123456789abcdef0123456789abcdef-draft.pack";
        l->path = malloc(cap);
        if (l->path)
            snprintf(l->path, cap, "%s/%016llx%016llx%s.pack", folder, (unsigned long long)l->wanted.key[0],
                     (unsigned long long)l->wanted.key[1], l->e->model.drafts ? "-draft" : "");
    }
    return l->path ? 0 : fail(err, QN_E_MEMORY, "no memory for the name of a pack cache");
}

/* The files are not those that the cache was written from, but may be copies: then they hold the same tensors. */
static int check_tensors(struct loading *l, struct qn_error *err)
{
    const struct gguf *g = l->e->gguf;
    uint64_t *hash = calloc(g->n_tensors + 1, sizeof *hash);
    if (!hash)
        return fail(err, QN_E_MEMORY, "%s: no memory for checksums", g->path);
    int code = content_hash_tensors(g, l->e->pool, n_workers(l->e), hash, err);
    for (size_t i = 0; i < g->n_tensors && !code; i++)
        if (hash[i] != l->cache.tensors[i])
            code = fail(err, QN_E_FORMAT, "%s: this pack cache is stale: tensor %s of %s has changed", l->path,
                        g->tensors[i].name, g->path);
    if (!code && l->automatic)
        packfile_adopt(&l->cache, g);
    free(hash);
    return code;
}

/* 0: l->cache is to be mapped; 1: there is none that fits. */
static int find_cache(struct loading *l, struct qn_error *err)
{
    int code = packfile_open(&l->cache, l->path, err);
    if (!code)
        code = packfile_fits(&l->cache, &l->wanted, err);
    if (!code && !packfile_same_files(&l->cache, l->e->gguf))
        code = check_tensors(l, err);
    if (code == 0 || code == 1)
        return code;
    packfile_close(&l->cache);
    if (code != QN_E_FORMAT && code != QN_E_UNSUPPORTED)
        return code;
    if (!l->automatic) {
        char why[sizeof err->text];
        memcpy(why, err->text, sizeof why);
        return fail(err, code, "%.900s (without the file it is written anew)", why);
    }
    log_line(&l->e->log, QN_LOG_WARN, "%s; it is rewritten", err->text);
    return 1;
}

static int begin_cache(struct loading *l, struct qn_error *err)
{
    const struct model *m = &l->e->model;
    l->wanted = (struct pack_wanted){.gguf = l->e->gguf, .plan = model_plan(m), .data_bytes = m->packed_used};
    content_sample(l->e->gguf, l->wanted.key);
    if (cache_path(l, err))
        return err->code;
    int code = find_cache(l, err);
    if (code == 1)
        code = packfile_new(&l->fresh, l->path, &l->wanted, &l->fresh_at, err);
    l->elsewhere = code == 0;
    if (code != QN_E_IO || !l->automatic)
        return code;
    log_line(&l->e->log, QN_LOG_WARN, "%s; going on without a pack cache", err->text);
    return 0;
}

/* Something saved will be looked at. */
static bool want_key(const struct qn_options *o) { return o->hash_model || o->cache_dir; }

/* The model's key without reading the weights, if that is possible. */
static void find_key(struct loading *l)
{
    struct qn_engine *e = l->e;
    struct qn_error why;
    l->hash_dir = want_key(l->o) ? l->o->hash_dir : NULL;
    if (l->cache.fd >= 0) {
        content_key(e->gguf, l->cache.tensors, e->key);
        e->key_known = true;
    } else if (l->hash_dir && folder_private(l->hash_dir, &why)) {
        log_line(&e->log, QN_LOG_WARN, "%s; the model's hash is not noted", why.text);
        l->hash_dir = NULL;
    } else if (l->hash_dir) {
        e->key_known = content_key_find(l->hash_dir, e->gguf, e->key);
    }
}

static int use_hugepages(struct loading *l, struct qn_error *err)
{
    const struct model *m = &l->e->model;
    l->elsewhere = true;
    for (int i = 0; i < m->n_slices; i++)
        if (mem_use_huge(m->packed + (size_t)i * m->slice_bytes, m->packed_used, err))
            return err->code;
    return 0;
}

int load_begin(struct loading *l, struct qn_engine *e, const struct qn_options *o, struct qn_error *err)
{
    *l = (struct loading){.e = e, .o = o, .cache.fd = -1, .fresh.fd = -1};
    int n_ways = (o->pack_cache != NULL) + (o->pack_cache_dir != NULL) + (o->hugepages != 0), code = 0;
    if (n_ways > 1)
        return fail(err, QN_E_ARGUMENT,
                    "only one of a pack cache, a folder of them and explicit huge pages is possible");
    if (n_ways && e->model.packed_used)
        code = o->hugepages ? use_hugepages(l, err) : begin_cache(l, err);
    if (!code)
        find_key(l);
    return code;
}

/* ---- loading */

enum { STRIDE = 16 << 20 }; /* bytes from one look at the progress to the next */

struct prefetching {
    const struct qn_options *o;
    uint8_t *data;
    size_t bytes;
    atomic_size_t next;
    atomic_bool cancelled;
};

static void prefetch_worker(struct worker *w, void *arg)
{
    struct prefetching *p = arg;
    size_t at;
    while ((at = atomic_fetch_add_explicit(&p->next, STRIDE, memory_order_relaxed)) < p->bytes &&
           !atomic_load_explicit(&p->cancelled, memory_order_relaxed)) {
        mem_prefetch(p->data + at, p->bytes - at < STRIDE ? p->bytes - at : STRIDE);
        if (w->id == 0 && report(p->o, "loading", (double)at / (double)p->bytes))
            atomic_store_explicit(&p->cancelled, true, memory_order_relaxed);
    }
}

static int map_cache(struct loading *l, struct qn_error *err)
{
    const struct pack_head *h = l->cache.head;
    struct prefetching p = {.o = l->o, .data = l->e->model.packed, .bytes = h->data_bytes};
    if (mem_use_file(p.data, h->data_bytes, l->cache.fd, h->data_at, false, err))
        return err->code;
    log_line(&l->e->log, QN_LOG_INFO, "%s: pack cache mapped", l->path);
    if (h->data_bytes > mem_available())
        return 0; /* what does not fit is read when it is needed */
    atomic_init(&p.next, 0);
    atomic_init(&p.cancelled, false);
    pool_run(l->e->pool, n_workers(l->e), prefetch_worker, &p);
    return atomic_load_explicit(&p.cancelled, memory_order_relaxed) ? cancelled(l, err) : 0;
}

/* Everything to the disk in steps, so that progress can be shown. */
static int flush(struct loading *l, struct qn_error *err)
{
    size_t bytes = l->e->model.packed_used;
    for (size_t at = 0; at < bytes; at += STRIDE) {
        if (report(l->o, "writing the pack cache", (double)at / (double)bytes))
            return cancelled(l, err);
        if (mem_flush(l->e->model.packed + at, bytes - at < STRIDE ? bytes - at : STRIDE, err))
            return err->code;
    }
    return 0;
}

static void know_key(struct qn_engine *e, const uint64_t *tensors)
{
    content_key(e->gguf, tensors, e->key);
    e->key_known = true;
}

/* Packs, and hashes the tensors on the way. */
static int pack_and_hash(struct loading *l, uint64_t *tensors, struct qn_error *err)
{
    struct qn_engine *e = l->e;
    struct content_sums sums;
    if (content_sums_open(&sums, e->gguf, err))
        return err->code;
    l->sums = &sums;
    int code = pack_all(l, err);
    l->sums = NULL;
    if (!code)
        code = content_sums_end(&sums, e->pool, n_workers(e), tensors, err);
    if (!code)
        know_key(e, tensors);
    content_sums_close(&sums);
    return code;
}

static int pack_into_cache(struct loading *l, uint64_t *tensors, struct piece *pieces, struct qn_error *err)
{
    struct qn_engine *e = l->e;
    uint8_t *data = e->model.packed;
    size_t bytes = e->model.packed_used;
    if (mem_use_file(data, bytes, l->fresh.fd, l->fresh_at, true, err) || pack_and_hash(l, tensors, err))
        return err->code;
    content_cut(data, bytes, pieces);
    content_hash_pieces(e->pool, n_workers(e), pieces, content_n_pieces(bytes), false);
    mem_read_only(data, bytes);
    if (flush(l, err) || packfile_finish(&l->fresh, &l->wanted, tensors, pieces, err) ||
        file_new_commit(&l->fresh, err))
        return err->code;
    log_line(&e->log, QN_LOG_INFO, "%s: pack cache written, %.0f MiB", l->path, (double)bytes / (1 << 20));
    return 0;
}

static int write_cache(struct loading *l, struct qn_error *err)
{
    uint64_t *tensors = calloc(l->e->gguf->n_tensors + 1, sizeof *tensors);
    struct piece *pieces = calloc(content_n_pieces(l->e->model.packed_used), sizeof *pieces);
    int code = tensors && pieces ? pack_into_cache(l, tensors, pieces, err)
                                 : fail(err, QN_E_MEMORY, "%s: no memory for checksums", l->path);
    free(tensors);
    free(pieces);
    return code;
}

/* Packs; the model's key is there afterwards. */
static int pack_and_know(struct loading *l, struct qn_error *err)
{
    uint64_t *tensors = calloc(l->e->gguf->n_tensors + 1, sizeof *tensors);
    int code = tensors ? pack_and_hash(l, tensors, err)
                       : fail(err, QN_E_MEMORY, "%s: no memory for checksums", l->e->gguf->path);
    free(tensors);
    return code;
}

int load_weights(struct loading *l, struct qn_error *err)
{
    struct qn_engine *e = l->e;
    bool hash = want_key(l->o) && !e->key_known, note = hash && l->hash_dir;
    struct qn_error why;
    int code = l->cache.fd >= 0   ? map_cache(l, err)
               : l->fresh.fd >= 0 ? write_cache(l, err)
               : hash             ? pack_and_know(l, err)
                                  : pack_all(l, err);
    if (!code && note && content_key_note(l->hash_dir, e->gguf, e->key, &why))
        log_line(&e->log, QN_LOG_WARN, "%s; the model's hash was not noted", why.text);
    model_pack_done(&e->model);
    return code;
}

int load_key(struct qn_engine *e, struct qn_error *err)
{
    if (e->key_known)
        return 0;
    uint64_t *tensors = calloc(e->gguf->n_tensors + 1, sizeof *tensors);
    int code = tensors ? content_hash_tensors(e->gguf, e->pool, n_workers(e), tensors, err)
                       : fail(err, QN_E_MEMORY, "%s: no memory for checksums", e->gguf->path);
    if (!code)
        know_key(e, tensors);
    free(tensors);
    return code;
}

void load_end(struct loading *l)
{
    packfile_close(&l->cache);
    file_new_close(&l->fresh);
    free(l->path);
    l->path = NULL;
}
