/* SPDX-License-Identifier: MIT */
/* libFuzzer target: a session of a small model, or a file of a cache folder, with some bytes changed, and its checksums put right
 * again, so that what is behind them is reached, too.
 *
 * Input: a byte of flags (1: cut at the first change, 2: leave the checksums wrong, 4: continue what could be loaded, 8: a file of the
 * folder, of which bits 4 to 7 tell which one), then changes of 4 bytes: place (24 bits; odd ones anywhere, even ones in the tables),
 * value. */
#include "content.h"
#include "hashmodel.h"
#include "run.h"
#include "saved.h"
#include "testing.h"
#include "tier.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { N_IDS = 130, N_KEPT = 120, VOCAB = 512, N_FILES = 8 };

static qn_engine *engine;
static qn_seq *seq;
static struct tier *tier;
static int32_t ids[N_IDS];

/* What can be loaded: the session, then the files of the folder. */
static struct whole {
    char path[512];
    char *bytes; /* [n] */
    size_t n;
    const struct saved_kind *kind;
} whole[1 + N_FILES];
static int n_whole;

static void must(int code, const struct qn_error *err)
{
    if (!code)
        return;
    fprintf(stderr, "%s\n", err->text);
    abort();
}

static void add_whole(const char *path, const struct saved_kind *kind)
{
    struct whole *w = &whole[n_whole++];
    snprintf(w->path, sizeof w->path, "%s", path);
    w->bytes = test_read(path, &w->n);
    w->kind = kind;
    if (!w->bytes)
        abort();
}

static void add_folder(const char *folder)
{
    DIR *d = opendir(folder);
    for (struct dirent *f; (f = readdir(d)) && n_whole <= N_FILES;) {
        char path[1024];
        snprintf(path, sizeof path, "%s/%s", folder, f->d_name);
        if (strstr(f->d_name, ".segment") || strstr(f->d_name, ".snapshot"))
            add_whole(path, strstr(f->d_name, ".segment") ? &saved_segment : &saved_snapshot);
    }
    closedir(d);
    if (n_whole < 5) /* two places */
        abort();
}

static void open_engine(const char *folder)
{
    struct qn_error err;
    struct qn_options o = {.model = hash_model_file("qwen35", "Q8_0"),
                           .n_threads = 1,
                           .n_ctx = 256,
                           .n_ubatch = 64,
                           .cache_ram = 16 << 20,
                           .cache_dir = folder};
    must(qn_open(&engine, &o, &err), &err);
    must(qn_seq_new(&seq, engine, &err), &err);
}

/* Called once, in front of the first input and outside of its time. */
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    struct qn_error err;
    const char *folder = test_tmp_folder("folder"), *path = test_tmp("session");
    for (int i = 0; i < N_IDS; i++)
        ids[i] = i;
    open_engine(folder);
    must(qn_eval(engine, &(struct qn_span){.seq = seq, .ids = ids, .n = N_KEPT}, 1, NULL, &err), &err);
    qn_seq_keep(seq);
    must(qn_eval(engine, &(struct qn_span){.seq = seq, .ids = ids + N_KEPT, .n = N_IDS - N_KEPT}, 1, NULL, &err), &err);
    qn_seq_keep(seq);
    must(qn_seq_save(seq, path, "note", 4, &err), &err);
    add_whole(path, &saved_session);
    qn_seq_free(seq);
    qn_close(engine);
    add_folder(folder);
    open_engine(NULL);
    must(tier_open(&tier, engine, folder, 0, &err), &err);
    return 0;
}

/* By the sizes that the unchanged file has: a changed size is wrong anyway. */
static void put_right(char *bytes, const struct whole *w)
{
    struct saved_head was, now;
    memcpy(&was, w->bytes, sizeof was);
    char *hash = bytes + sizeof was + was.n_ids * sizeof(int32_t);
    const char *data = bytes + was.data_at;
    int n_states = saved_n_states(w->kind, &was), n = n_states + saved_n_pages(w->kind, &was);
    for (int i = 0; i < n; i++) {
        size_t size = (size_t)(i < n_states ? was.state_bytes : was.page_bytes);
        for (size_t at = 0; at < size; at += CONTENT_PIECE, hash += sizeof(uint64_t)) {
            size_t some = size - at < CONTENT_PIECE ? size - at : CONTENT_PIECE;
            uint64_t h = XXH3_64bits(data, some);
            memcpy(hash, &h, sizeof h);
            data += some;
        }
    }
    memcpy(&now, bytes, sizeof now);
    now.head_hash = 0;
    memcpy(bytes, &now, sizeof now);
    now.head_hash = XXH3_64bits(bytes, (size_t)(hash - bytes) + (size_t)was.note_bytes);
    memcpy(bytes, &now, sizeof now);
}

/* Writes the file with the changes. */
static void write_changed(const struct whole *w, int flags, const uint8_t *data, size_t size)
{
    size_t n = w->n;
    struct saved_head h;
    memcpy(&h, w->bytes, sizeof h);
    char *bytes = malloc(n);
    if (!bytes)
        abort();
    memcpy(bytes, w->bytes, n);
    for (size_t i = 1; i + 4 <= size; i += 4) {
        size_t at = (size_t)data[i] | (size_t)data[i + 1] << 8 | (size_t)data[i + 2] << 16;
        at = at % 2 ? at / 2 % w->n : at / 2 % h.data_at;
        bytes[at] = (char)data[i + 3];
        if ((flags & 1) && i == 1)
            n = at;
    }
    if (!(flags & 2))
        put_right(bytes, w);
    test_write(w->path, bytes, n);
    free(bytes);
}

static void load_session(const char *path)
{
    struct qn_error err = {0};
    char *note = NULL;
    size_t n_note;
    if (qn_seq_load(seq, path, &note, &n_note, &err)) {
        if (note || qn_seq_len(seq) || !err.text[0])
            abort();
    } else if (note[n_note]) {
        abort();
    }
    free(note);
}

static void load_place(void)
{
    struct tier_found f;
    struct qn_error err;
    qn_seq_clear(seq);
    int n = tier_find(tier, ids, 0, N_IDS, &f);
    if (n > 0) {
        must(qn_seq_reserve(seq, n, &err), &err);
        state_admit(seq, n);
        bool good = tier_read(tier, &f, 0, seq);
        memcpy(seq->ids, ids, (size_t)n * sizeof *ids);
        seq->n = n;
        seq->stale = false;
        if (!good)
            qn_seq_clear(seq);
    }
    tier_release(&f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int flags = size ? data[0] : 0;
    struct qn_error err;
    int32_t id = 5;
    float logits[VOCAB];
    if (flags & 8) {
        for (int i = 1; i < n_whole; i++)
            test_write(whole[i].path, whole[i].bytes, whole[i].n);
        write_changed(&whole[1 + (flags >> 4) % (n_whole - 1)], flags, data, size);
        load_place();
    } else {
        write_changed(&whole[0], flags, data, size);
        load_session(whole[0].path);
    }
    if (flags & 4) /* states that are not numbers are an error of qn_eval() */
        qn_eval(engine, &(struct qn_span){.seq = seq, .ids = &id, .n = 1, .logits = QN_LOGITS_LAST}, 1, logits, &err);
    return 0;
}
