/* SPDX-License-Identifier: MIT */
/* Reading and writing of pack caches; see packfile.h.  A cache is data from strangers until its head is checked. */
#include "packfile.h"
#include "quant/quant.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <xxhash.h>

static const char magic[8] = "QUERNPAK";

/* Bytes of head and tables; false when they do not fit a size_t. */
static bool head_size(uint32_t n_parts, uint32_t n_tensors, uint64_t n_pieces, size_t *out)
{
    size_t parts, tensors, pieces;
    return size_mul(n_parts, sizeof(struct file_id), &parts) && size_mul(n_tensors, sizeof(uint64_t), &tensors) &&
           size_mul(n_pieces, sizeof(uint64_t), &pieces) && size_add(sizeof(struct pack_head), parts, out) &&
           size_add(*out, tensors, out) && size_add(*out, pieces, out);
}

/* Where data begins behind so many bytes of head and tables. */
static size_t data_start(size_t head_bytes) { return (head_bytes + HUGE_PAGE - 1) & ~(size_t)(HUGE_PAGE - 1); }

static uint64_t hash_head(struct pack_head *head)
{
    uint64_t kept = head->head_hash;
    head->head_hash = 0;
    uint64_t hash = XXH3_64bits(head, head->head_bytes);
    head->head_hash = kept;
    return hash;
}

static bool read_at(int fd, void *to, size_t n, size_t at)
{
    for (char *p = to; n > 0;) {
        ssize_t done = pread(fd, p, n, (off_t)at);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return false;
        p += done;
        at += (size_t)done;
        n -= (size_t)done;
    }
    return true;
}

static int damaged(const struct packfile *p, const char *how, struct qn_error *err)
{
    return fail(err, QN_E_FORMAT, "%s: this pack cache is damaged: %s", p->path, how);
}

/* The fixed part: what it is, and sizes that agree with each other and the file. */
static int check_head(const struct packfile *p, const struct pack_head *h, uint64_t file_bytes, struct qn_error *err)
{
    size_t head_bytes, end;
    if (memcmp(h->magic, magic, sizeof magic))
        return fail(err, QN_E_FORMAT, "%s: not a pack cache", p->path);
    if (h->version != PACKFILE_VERSION || h->layout != QUANT_LAYOUT)
        return fail(err, QN_E_UNSUPPORTED,
                    "%s: this pack cache was written by another version (format %u, layout %u; this one has %d, %d)",
                    p->path, h->version, h->layout, PACKFILE_VERSION, QUANT_LAYOUT);
    if (!head_size(h->n_parts, h->n_tensors, h->n_pieces, &head_bytes) || head_bytes != h->head_bytes ||
        head_bytes > file_bytes || h->data_at != data_start(head_bytes) ||
        h->n_pieces != content_n_pieces(h->data_bytes) || !size_add(h->data_at, h->data_bytes, &end))
        return damaged(p, "its head contradicts itself", err);
    if (end != file_bytes)
        return fail(err, QN_E_FORMAT, "%s: this pack cache is damaged: it has %llu bytes, its head says %zu", p->path,
                    (unsigned long long)file_bytes, end);
    return 0;
}

static int read_head(struct packfile *p, uint64_t file_bytes, struct qn_error *err)
{
    struct pack_head fixed;
    if (file_bytes < sizeof fixed)
        return fail(err, QN_E_FORMAT, "%s: not a pack cache", p->path);
    if (!read_at(p->fd, &fixed, sizeof fixed, 0))
        return fail(err, QN_E_IO, "%s: cannot be read: %s", p->path, strerror(errno));
    if (check_head(p, &fixed, file_bytes, err))
        return err->code;
    p->head = malloc(fixed.head_bytes);
    if (!p->head)
        return fail(err, QN_E_MEMORY, "%s: no memory for its tables", p->path);
    if (!read_at(p->fd, p->head, fixed.head_bytes, 0))
        return fail(err, QN_E_IO, "%s: cannot be read: %s", p->path, strerror(errno));
    if (memcmp(p->head, &fixed, sizeof fixed) || hash_head(p->head) != p->head->head_hash)
        return damaged(p, "the checksum of its head is wrong", err);
    p->parts = (const struct file_id *)(p->head + 1);
    p->tensors = (const uint64_t *)(p->parts + fixed.n_parts);
    p->pieces = p->tensors + fixed.n_tensors;
    return 0;
}

int packfile_open(struct packfile *p, const char *path, struct qn_error *err)
{
    struct stat st;
    int code = 0;
    *p = (struct packfile){.fd = -1, .path = strdup(path)};
    if (!p->path)
        return fail(err, QN_E_MEMORY, "%s: no memory for a name", path);
    p->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* does not wait where it is a pipe */
    if (p->fd < 0)
        code = errno == ENOENT ? 1 : fail(err, QN_E_IO, "%s: %s", path, strerror(errno));
    else if (fstat(p->fd, &st))
        code = fail(err, QN_E_IO, "%s: %s", path, strerror(errno));
    else if (!S_ISREG(st.st_mode))
        code = fail(err, QN_E_IO, "%s: not a regular file", path);
    else if (st.st_mode & S_IWOTH)
        code = fail(err, QN_E_IO, "%s: everybody may write to this pack cache", path);
    else
        code = read_head(p, (uint64_t)st.st_size, err);
    if (code)
        packfile_close(p);
    return code;
}

void packfile_close(struct packfile *p)
{
    if (p->path && p->fd >= 0)
        close(p->fd);
    free(p->path);
    free(p->head);
    *p = (struct packfile){.fd = -1};
}

int packfile_fits(const struct packfile *p, const struct pack_wanted *w, struct qn_error *err)
{
    const struct pack_head *h = p->head;
    if (memcmp(h->key, w->key, sizeof h->key) || h->n_tensors != w->gguf->n_tensors ||
        h->n_parts != (uint32_t)w->gguf->n_parts)
        return fail(err, QN_E_FORMAT, "%s: this pack cache is of another model than %s", p->path, w->gguf->path);
    if (h->plan != w->plan || h->data_bytes != w->data_bytes)
        return fail(err, QN_E_UNSUPPORTED,
                    "%s: this pack cache was written by another version: its weights lie elsewhere", p->path);
    return 0;
}

bool packfile_same_files(const struct packfile *p, const struct gguf *g)
{
    for (int i = 0; i < g->n_parts; i++)
        if (memcmp(&p->parts[i], &g->parts[i].id, sizeof p->parts[i]))
            return false;
    return true;
}

void packfile_adopt(struct packfile *p, const struct gguf *g)
{
    const struct file_new f = {.fd = open(p->path, O_WRONLY | O_CLOEXEC), .path = p->path};
    struct qn_error ignored;
    if (f.fd < 0)
        return;
    struct file_id *ids = (struct file_id *)(p->head + 1);
    for (int i = 0; i < g->n_parts; i++)
        ids[i] = g->parts[i].id;
    p->head->head_hash = hash_head(p->head);
    file_new_write(&f, p->head, p->head->head_bytes, 0, &ignored);
    close(f.fd);
}

/* The fixed part of a cache to be written. */
static bool make_head(struct pack_head *h, const struct pack_wanted *w)
{
    size_t head_bytes, end;
    *h = (struct pack_head){.version = PACKFILE_VERSION,
                            .layout = QUANT_LAYOUT,
                            .data_bytes = w->data_bytes,
                            .plan = w->plan,
                            .key = {w->key[0], w->key[1]},
                            .n_parts = (uint32_t)w->gguf->n_parts,
                            .n_tensors = (uint32_t)w->gguf->n_tensors,
                            .n_pieces = content_n_pieces(w->data_bytes)};
    memcpy(h->magic, magic, sizeof magic);
    if (!head_size(h->n_parts, h->n_tensors, h->n_pieces, &head_bytes))
        return false;
    h->head_bytes = head_bytes;
    h->data_at = data_start(head_bytes);
    return size_add(h->data_at, h->data_bytes, &end);
}

int packfile_new(struct file_new *f, const char *path, const struct pack_wanted *w, size_t *at, struct qn_error *err)
{
    struct pack_head h;
    if (!make_head(&h, w))
        return fail(err, QN_E_FORMAT, "%s: %zu tensors do not fit into a pack cache", path, w->gguf->n_tensors);
    *at = h.data_at;
    return file_new_open(f, path, h.data_at + h.data_bytes, err);
}

int packfile_finish(const struct file_new *f, const struct pack_wanted *w, const uint64_t *tensors,
                    const struct piece *pieces, struct qn_error *err)
{
    struct pack_head fixed;
    make_head(&fixed, w);
    struct pack_head *h = malloc(fixed.head_bytes);
    if (!h)
        return fail(err, QN_E_MEMORY, "%s: no memory for its tables", f->path);
    *h = fixed;
    struct file_id *ids = (struct file_id *)(h + 1);
    for (uint32_t i = 0; i < h->n_parts; i++)
        ids[i] = w->gguf->parts[i].id;
    uint64_t *sums = (uint64_t *)(ids + h->n_parts);
    memcpy(sums, tensors, h->n_tensors * sizeof *sums);
    for (uint64_t i = 0; i < h->n_pieces; i++)
        sums[h->n_tensors + i] = pieces[i].hash;
    h->head_hash = hash_head(h);
    int code = file_new_write(f, h, h->head_bytes, 0, err);
    free(h);
    return code;
}
