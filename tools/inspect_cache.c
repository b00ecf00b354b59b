/* SPDX-License-Identifier: MIT */
/* quern inspect for pack caches: what the head says, and whether every byte is what was written. */
#include "inspect_cache.h"
#include "io.h"
#include "term.h"

#include "src/packfile.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

bool is_pack_cache(const char *path)
{
    char first[8] = {0};
    FILE *f = fopen(path, "rbe");
    bool found = f && fread(first, 1, sizeof first, f) == sizeof first && !memcmp(first, "QUERNPAK", sizeof first);
    if (f)
        fclose(f);
    return found;
}

/* Pieces of the data whose checksums are wrong. */
static uint64_t check_data(const struct packfile *p)
{
    struct file_map map;
    struct qn_error err;
    struct progress bar;
    uint64_t n_wrong = 0;
    if (file_map_open(&map, p->path, &err))
        die("%s", err.text);
    if (map.size != p->head->data_at + p->head->data_bytes)
        die("%s: changes while it is read", p->path);
    struct piece *pieces = xmalloc((p->head->n_pieces + 1) * sizeof *pieces);
    content_cut(map.data + p->head->data_at, p->head->data_bytes, pieces);
    progress_begin(&bar, "checking");
    for (uint64_t i = 0; i < p->head->n_pieces; i++) {
        if (XXH3_64bits(pieces[i].data, pieces[i].bytes) != p->pieces[i]) {
            say("%s: the checksum of bytes %" PRIu64 " to %" PRIu64 " is wrong", p->path,
                p->head->data_at + i * CONTENT_PIECE, p->head->data_at + i * CONTENT_PIECE + pieces[i].bytes - 1);
            n_wrong++;
        }
        progress_set(&bar, (double)(i + 1) / (double)p->head->n_pieces, "");
    }
    progress_end(&bar);
    free(pieces);
    file_map_close(&map);
    return n_wrong;
}

static void print_json(const struct packfile *p, bool checked, uint64_t n_wrong)
{
    const struct pack_head *h = p->head;
    char key[40];
    snprintf(key, sizeof key, "%016" PRIx64 "%016" PRIx64, h->key[0], h->key[1]);
    json_t *files = json_array();
    for (uint32_t i = 0; i < h->n_parts; i++)
        json_array_append_new(files, json_pack("{s:I, s:I, s:I, s:I}", "device", (json_int_t)p->parts[i].dev, "inode",
                                               (json_int_t)p->parts[i].ino, "bytes", (json_int_t)p->parts[i].size,
                                               "mtime_ns", (json_int_t)p->parts[i].mtime_ns));
    json_t *j =
        json_pack("{s:s, s:i, s:i, s:s, s:o, s:i, s:I, s:I}", "path", p->path, "format", (int)h->version, "layout",
                  (int)h->layout, "model_key", key, "model_files", files, "tensors", (int)h->n_tensors, "data_offset",
                  (json_int_t)h->data_at, "data_bytes", (json_int_t)h->data_bytes);
    if (checked)
        json_object_set_new(j, "damaged_pieces", json_integer((json_int_t)n_wrong));
    char *text = json_dump(j);
    out_printf("%s\n", text);
    free(text);
    json_decref(j);
}

static void print_text(const struct packfile *p)
{
    const struct pack_head *h = p->head;
    out_printf("%s: pack cache, format %u, layout %u\n", p->path, h->version, h->layout);
    out_printf("model    %016" PRIx64 "%016" PRIx64 ", %u tensors\n", h->key[0], h->key[1], h->n_tensors);
    for (uint32_t i = 0; i < h->n_parts; i++)
        out_printf("file %-3u device %" PRIu64 ", inode %" PRIu64 ", %" PRIu64 " bytes\n", i + 1, p->parts[i].dev,
                   p->parts[i].ino, p->parts[i].size);
    out_printf("data     %" PRIu64 " bytes from %" PRIu64 " on, %" PRIu64 " checksums\n", h->data_bytes, h->data_at,
               h->n_pieces);
}

int inspect_pack_cache(const struct opts *o)
{
    struct packfile p;
    struct qn_error err;
    if (packfile_open(&p, o->model, &err))
        die("%s", err.text);
    uint64_t n_wrong = o->check ? check_data(&p) : 0;
    if (o->json)
        print_json(&p, o->check, n_wrong);
    else if (o->check)
        out_printf("%" PRIu64 " pieces with %" PRIu64 " bytes checked: %" PRIu64 " damaged\n", p.head->n_pieces,
                   p.head->data_bytes, n_wrong);
    else
        print_text(&p);
    out_flush();
    packfile_close(&p);
    return n_wrong ? 1 : 0;
}
