/* SPDX-License-Identifier: MIT */
/* The cache folder: what comes back from it has the bits of a plain computation, whatever was damaged, full or of another model, nothing is
 * written again that is there, and the budget holds.  Several processes, and kills: check_disk_processes. */
#include "eval.h"
#include "folder.h"
#include "hashmodel.h"
#include "src/run.h"
#include "src/saved.h"
#include "testing.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

enum { VOCAB = 512, N_CTX = 800, MORE = 20 };

static const char *hybrid(void) { return hash_model_file("qwen35", "Q8_0"); }

/* An engine computes ids and keeps them at these places. */
static void save(const struct qn_options *o, const int32_t *ids, const int *keep, int n_keep)
{
    qn_engine *e = eval_open(o);
    qn_seq *s = eval_seq(e);
    int from = qn_seq_resume(s, ids, keep[0], NULL);
    for (int i = 0; i < n_keep; from = keep[i++]) {
        eval_append(s, ids + from, keep[i] - from, NULL);
        assert_int_equal(qn_seq_keep(s), 1);
    }
    qn_seq_free(s);
    qn_close(e);
}

/* Another engine resumes ids[0..n) and goes on to `all`; what was kept. */
static struct qn_kept go_on(const struct qn_options *o, const int32_t *ids, int n, int all, const uint64_t *want)
{
    static uint64_t got[N_CTX];
    struct qn_kept k;
    qn_engine *e = eval_open(o);
    qn_seq *s = eval_seq(e);
    int from = qn_seq_resume(s, ids, n, &k);
    assert_int_equal(from, k.kept);
    assert_int_equal(from, qn_seq_len(s));
    assert_memory_equal(qn_seq_ids(s), ids, (size_t)from * sizeof *ids);
    eval_rows(s, ids + from, all - from, got);
    for (int t = from; t < all; t++)
        if (got[t - from] != want[t])
            fail_msg("%d tokens were kept, %d of them on disk: other bits at token %d", k.kept, k.disk, t);
    qn_seq_free(s);
    qn_close(e);
    return k;
}

/* ---- the same bits */

static void test_restored(void **state)
{
    static const char *const models[] = {"qwen35moe", "qwen35", "qwen3next", "qwen3"};
    static const enum qn_kv_type kinds[] = {QN_KV_F16, QN_KV_Q8_0};
    static const int keep[] = {90, 300, 700};
    (void)state;
    int32_t ids[N_CTX];
    uint64_t want[N_CTX];
    eval_ids(1, N_CTX, ids);
    for (int m = 0; m < 4; m++)
        for (int i = 0; i < 2; i++) {
            const char *folder = test_tmp_folder("restored");
            struct qn_options o = folder_options(hash_model_file(models[m], "Q8_0"), N_CTX, folder);
            o.type_k = o.type_v = kinds[i];
            eval_plain_rows(&o, ids, N_CTX, want);
            save(&o, ids, keep, 3);
            struct folder_content c = folder_look(folder);
            assert_in_range(c.n_snapshots, m < 3 ? 3 : 0, m < 3 ? 4 : 0); /* one is made unasked */
            assert_int_equal(c.n_others, 0);
            o.n_threads = 2;
            for (int p = 2; p >= 0; p--) {
                struct qn_kept k = go_on(&o, ids, keep[p] + 1, keep[p] + MORE, want);
                assert_int_equal(k.kept, keep[p]);
                assert_int_equal(k.disk, keep[p]);
                assert_int_equal(k.same, keep[p] + (p < 2)); /* with what is known to follow there */
            }
            struct qn_kept k = go_on(&o, ids, N_CTX - 1, N_CTX, want);
            assert_int_equal(k.kept, 700);
            assert_int_equal(folder_warnings, 0);
        }
    test_tmp_folder("restored");
}

/* With a draft block: its keys and values come back, too, also where it was behind when a snapshot was written. */
static void test_drafts(void **state)
{
    enum { N_DRAFT = 3 };
    (void)state;
    static const int keep[] = {384, 600};
    static float want[N_DRAFT * VOCAB], got[N_DRAFT * VOCAB];
    const char *folder = test_tmp_folder("drafts");
    struct qn_options o = folder_options(hash_model_file("qwen35-mtp", "Q8_0"), N_CTX, NULL);
    struct qn_error err;
    int32_t ids[N_CTX], guesses[N_DRAFT];
    eval_ids(6, N_CTX, ids);
    o.draft_block = 1;
    qn_engine *e = eval_open(&o);
    qn_seq *s = eval_seq(e);
    eval_append(s, ids, 600, NULL);
    assert_int_equal(qn_draft(s, ids[600], N_DRAFT, guesses, want, &err), N_DRAFT);
    qn_seq_free(s);
    qn_close(e);
    o.cache_dir = folder;
    save(&o, ids, keep, 1); /* written while the block had not seen the last position of a page */
    save(&o, ids, keep, 2);
    assert_int_equal(folder_look(folder).n_snapshots, 3);
    e = eval_open(&o);
    s = eval_seq(e);
    assert_int_equal(qn_seq_resume(s, ids, 601, NULL), 600);
    assert_int_equal(qn_draft(s, ids[600], N_DRAFT, guesses, got, &err), N_DRAFT);
    assert_memory_equal(got, want, sizeof want);
    qn_seq_free(s);
    qn_close(e);
    o.draft_block = 0;
    uint64_t rows[N_CTX];
    eval_plain_rows(&o, ids, 605, rows);
    assert_int_equal(go_on(&o, ids, 601, 605, rows).kept, 0);
    assert_int_equal(folder_warnings, 0);
    test_tmp_folder("drafts");
}

/* Of ten turns each page is written once, or twice where turns meet in it; and what is there is not written again. */
static void test_turns(void **state)
{
    enum { TURNS = 10, LONG = 50 };
    (void)state;
    const char *folder = test_tmp_folder("turns");
    struct qn_options o = folder_options(hybrid(), N_CTX, folder);
    int32_t ids[N_CTX];
    uint64_t want[N_CTX];
    int keep[TURNS];
    eval_ids(2, N_CTX, ids);
    eval_plain_rows(&o, ids, N_CTX, want);
    for (int i = 0; i < TURNS; i++)
        keep[i] = (i + 1) * LONG;
    save(&o, ids, keep, TURNS);
    struct folder_content c = folder_look(folder);
    assert_int_equal(c.n_snapshots, TURNS);
    int pages = 0;
    for (int i = 0; i < TURNS; i++)
        pages += (keep[i] - 1) / ATTN_BLOCK - i * LONG / ATTN_BLOCK + 1;
    qn_engine *e = eval_open(&o);
    size_t state_bytes = state_size(e), page_bytes = e->page_bytes;
    qn_close(e);
    assert_true(c.bytes < TURNS * (state_bytes + 4096) + (size_t)(pages + 1) * page_bytes + (TURNS + 1) * 2 * 4096);

    char *first = strdup(folder_path(folder, c.name[0]));
    struct stat was, is;
    assert_int_equal(stat(first, &was), 0);
    struct qn_kept k = go_on(&o, ids, keep[TURNS - 1] + 5, keep[TURNS - 1] + 10, want);
    assert_int_equal(k.kept, keep[TURNS - 1]);
    size_t bytes = c.bytes;
    assert_true(folder_look(folder).bytes == bytes);
    assert_int_equal(stat(first, &is), 0);
    assert_true(is.st_ino == was.st_ino);
    free(first);

    /* prompts that part later share the segments in front */
    ids[470] = 490;
    save(&o, ids, (const int[]){490}, 1);
    c = folder_look(folder);
    assert_int_equal(c.n_snapshots, TURNS + 1);
    assert_true(c.bytes - bytes < state_bytes + 2 * page_bytes + 4 * 4096);
    test_tmp_folder("turns");
}

/* What leaves memory for want of room comes back from the folder while the engine is open, and can be rewound to. */
static void test_evicted(void **state)
{
    enum { N = 200, PATHS = 6 };
    (void)state;
    const char *folder = test_tmp_folder("evicted");
    struct qn_options o = folder_options(hybrid(), N_CTX, folder);
    o.n_seq = 2;
    static uint64_t want[PATHS][N + MORE], got[N + MORE];
    static int32_t ids[PATHS][N + MORE];
    for (int i = 0; i < PATHS; i++) {
        eval_ids(10 + (uint64_t)i, N + MORE, ids[i]);
        ids[i][0] = 400 + i; /* no page belongs to two of them */
        eval_plain_rows(&o, ids[i], N + MORE, want[i]);
    }
    qn_engine *e = eval_open(&o);
    o.cache_ram = 2 * (e->slot_bytes + 2 * e->page_bytes) + 16384; /* two of them */
    qn_close(e);
    e = eval_open(&o);
    qn_seq *s = eval_seq(e);
    struct qn_cache_info info;
    for (int i = 0; i < PATHS; i++) {
        qn_seq_clear(s);
        eval_append(s, ids[i], N, NULL);
        assert_int_equal(qn_seq_keep(s), 1);
        qn_cache_info(e, &info);
        assert_int_equal(info.n_written, i < 2 ? 0 : i - 1);
    }
    qn_seq_clear(s);
    for (int i = 0; i < 2 * PATHS; i++) {
        struct qn_kept k;
        int p = i % PATHS;
        assert_int_equal(qn_seq_resume(s, ids[p], N + 1, &k), N);
        assert_int_equal(k.disk, N);
        eval_rows(s, ids[p] + N, MORE, got);
        assert_memory_equal(got, want[p] + N, MORE * sizeof *got);
        qn_cache_info(e, &info);
        assert_true(info.bytes <= info.budget);
        assert_int_equal(info.n_read, i + 1);
    }
    /* a sequence whose snapshot has left goes back to it, too */
    assert_int_equal(qn_seq_resume(s, ids[0], N + 1, NULL), N);
    eval_append(s, ids[0] + N, MORE, NULL);
    qn_seq *other = eval_seq(e);
    for (int i = 1; i < PATHS; i++)
        qn_seq_resume(other, ids[i], N + 1, NULL);
    qn_cache_info(e, &info);
    int64_t n_read = info.n_read;
    assert_int_equal(qn_seq_rewind(s, N + 3), N);
    qn_cache_info(e, &info);
    assert_int_equal(info.n_read, n_read + 1);
    eval_rows(s, ids[0] + N, MORE, got);
    assert_memory_equal(got, want[0] + N, MORE * sizeof *got);
    qn_seq_free(other);
    qn_seq_free(s);
    qn_close(e);
    assert_int_equal(folder_warnings, 0);
    test_tmp_folder("evicted");
}

/* ---- what is refused, and what is nobody's */

static void test_refused(void **state)
{
    (void)state;
    const char *folder = test_tmp_folder("refused");
    struct qn_options o = folder_options(hybrid(), N_CTX, folder);
    struct stat st;
    qn_close(eval_open(&o));
    assert_int_equal(stat(folder, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    chmod(folder, 0777);
    eval_refused(&o, QN_E_IO, "everybody may write");
    chmod(folder, 0700);
    o.cache_ram = 0;
    eval_refused(&o, QN_E_ARGUMENT, "cache folder");
    o.cache_ram = FOLDER_AMPLE;
    o.cache_dir = hybrid();
    eval_refused(&o, QN_E_IO, "not a folder");
    o.cache_dir = test_tmp("no/such");
    eval_refused(&o, QN_E_IO, "cannot be made");
    test_tmp_folder("refused");
}

/* Files for another model or other settings are passed by without a word; one under a wrong name is found out. */
static void test_others(void **state)
{
    (void)state;
    static const int keep[] = {150};
    const char *folder = test_tmp_folder("others");
    struct qn_options o = folder_options(hybrid(), N_CTX, folder), other[5];
    int32_t ids[N_CTX];
    uint64_t want[N_CTX];
    eval_ids(3, N_CTX, ids);
    save(&o, ids, keep, 1);
    for (int i = 0; i < 5; i++)
        other[i] = o;
    other[0].model = hash_model_file("qwen35", "Q4_0");
    other[1].type_v = QN_KV_F32;
    other[2].rope_freq_base = 5000;
    other[3].delta = QN_DELTA_CHUNKED;
    other[4].model = hash_model_file("qwen35moe", "Q8_0");
    for (int i = 0; i < 5; i++) {
        eval_plain_rows(&other[i], ids, 200, want);
        assert_int_equal(go_on(&other[i], ids, 190, 200, want).kept, 0);
        assert_int_equal(folder_warnings, 0);
    }
    /* the other model's files under this one's names */
    char mine[2][256];
    for (int round = 0; round < 2; round++) {
        test_tmp_folder("others");
        save(round ? &other[4] : &o, ids, keep, 1);
        struct folder_content c = folder_look(folder);
        assert_int_equal(c.n_segments, 1);
        assert_int_equal(c.n_snapshots, 1);
        for (int i = 0; i < 2; i++) {
            char *name = mine[strstr(c.name[i], ".snapshot") != NULL];
            char *from = strdup(folder_path(folder, c.name[i]));
            if (round)
                rename(from, folder_path(folder, name));
            else
                strcpy(name, c.name[i]);
            free(from);
        }
    }
    eval_plain_rows(&o, ids, 200, want);
    folder_warnings = 0;
    assert_int_equal(go_on(&o, ids, 190, 200, want).kept, 0);
    assert_int_equal(folder_warnings, 1);
    assert_non_null(strstr(folder_warning, "another model"));
    test_tmp_folder("others");
}

/* What killed processes left is removed, what belongs to somebody else is not. */
static void test_left_behind(void **state)
{
    (void)state;
    const char *folder = test_tmp_folder("left");
    struct qn_options o = folder_options(hybrid(), N_CTX, folder);
    int32_t ids[N_CTX];
    uint64_t want[N_CTX];
    eval_ids(4, N_CTX, ids);
    eval_plain_rows(&o, ids, 200, want);
    save(&o, ids, (const int[]){150}, 1);
    struct folder_content c = folder_look(folder);
    char name[300];
    snprintf(name, sizeof name, "%s.12345", c.name[0]);
    test_write(folder_path(folder, name), "half", 4);
    snprintf(name, sizeof name, "%s.XyZ123", c.name[1]);
    test_write(folder_path(folder, name), "half", 4);
    test_write(folder_path(folder, "notes.txt"), "mine", 4);
    assert_int_equal(folder_look(folder).n_others, 3);
    assert_int_equal(go_on(&o, ids, 190, 200, want).kept, 150);
    assert_int_equal(folder_look(folder).n_others, 1);
    assert_int_equal(access(folder_path(folder, "notes.txt"), F_OK), 0);
    test_tmp_folder("left");
}

/* ---- damage */

struct image {
    char *name[16], *bytes[16];
    size_t n[16];
    int n_files;
};

static struct image take_image(const char *folder)
{
    struct folder_content c = folder_look(folder);
    struct image im = {.n_files = c.n_segments + c.n_snapshots};
    assert_true(im.n_files <= 16);
    for (int i = 0; i < im.n_files; i++) {
        im.name[i] = strdup(c.name[i]);
        im.bytes[i] = test_read(folder_path(folder, c.name[i]), &im.n[i]);
    }
    return im;
}

static void put_image(const char *folder, const struct image *im)
{
    for (struct folder_content c = folder_look(folder); c.n_segments + c.n_snapshots > 0; c = folder_look(folder))
        unlink(folder_path(folder, c.name[0])); /* the same tokens may have been cut elsewhere since */
    for (int i = 0; i < im->n_files; i++) {
        test_write(folder_path(folder, im->name[i]), im->bytes[i], im->n[i]);
        chmod(folder_path(folder, im->name[i]), 0600);
    }
}

static void free_image(struct image *im)
{
    for (int i = 0; i < im->n_files; i++) {
        free(im->name[i]);
        free(im->bytes[i]);
    }
}

/* One file is wrong: it is removed with one line of warning, and what is in front of it is used. */
static void try_damage(const struct qn_options *o, const int32_t *ids, const uint64_t *want, const char *path,
                       const char *how, size_t at)
{
    folder_warnings = 0;
    struct qn_kept k = go_on(o, ids, 740, 745, want);
    if (k.kept >= 720 || folder_warnings != 1 || !strstr(folder_warning, path) ||
        !strstr(folder_warning, "; it is removed") || strchr(folder_warning, '\n'))
        fail_msg("%s at %zu of %s: %d kept, %d warnings: %s", how, at, path, k.kept, folder_warnings, folder_warning);
    struct qn_kept again = go_on(o, ids, 740, 745, want); /* what was missing was written again */
    if (again.kept < k.kept || folder_warnings != 1)
        fail_msg("%s at %zu of %s: %d kept, then %d: %s", how, at, path, k.kept, again.kept, folder_warning);
}

static void test_damage(void **state)
{
    (void)state;
    const char *folder = test_tmp_folder("damage");
    struct qn_options o = folder_options(hybrid(), N_CTX, folder);
    int32_t ids[N_CTX];
    uint64_t want[N_CTX];
    eval_ids(5, N_CTX, ids);
    eval_plain_rows(&o, ids, N_CTX, want);
    save(&o, ids, (const int[]){300, 720}, 2); /* segments end at 300, 512 and 720, and 512 is kept, too */
    struct image im = take_image(folder);
    assert_int_equal(im.n_files, 6);
    int n_passed = 0;
    for (int i = 0; i < im.n_files; i++) {
        struct saved_head h;
        char path[2048];
        memcpy(&h, im.bytes[i], sizeof h);
        if (strstr(im.name[i], ".snapshot") && h.n_ids < 720) {
            n_passed++;
            continue; /* nobody looks at them */
        }
        /* the page in which the next segment begins is read from there */
        size_t end = im.n[i] - (strstr(im.name[i], ".segment") && h.n_ids == 300 ? (size_t)h.page_bytes : 0);
        for (int k = 0; k < (test_quick() ? 12 : 40); k++) {
            uint64_t random = hash_splitmix64((uint64_t)(i * 1000 + k));
            size_t at = k % 3 == 0   ? random % sizeof h
                        : k % 3 == 1 ? sizeof h + random % (h.data_at - sizeof h)
                                     : h.data_at + random % (end - h.data_at);
            put_image(folder, &im);
            snprintf(path, sizeof path, "%s", folder_path(folder, im.name[i]));
            if (k % 4 == 3) {
                test_write(path, im.bytes[i], at); /* cut */
                try_damage(&o, ids, want, path, "a cut", at);
                continue;
            }
            im.bytes[i][at] ^= (char)(1 << k % 8);
            test_write(path, im.bytes[i], im.n[i]);
            im.bytes[i][at] ^= (char)(1 << k % 8);
            try_damage(&o, ids, want, path, "a flipped bit", at);
        }
        put_image(folder, &im);
        unlink(folder_path(folder, im.name[i])); /* gone: no error */
        folder_warnings = 0;
        assert_true(go_on(&o, ids, 740, 745, want).kept < 720);
        assert_int_equal(folder_warnings, 0);
    }
    assert_int_equal(n_passed, 2);
    put_image(folder, &im);
    assert_int_equal(go_on(&o, ids, 740, 745, want).kept, 720); /* the harness itself breaks nothing */
    /* files that have each other's names */
    for (int i = 1; i < im.n_files; i++)
        test_write(folder_path(folder, im.name[i]), im.bytes[i - 1], im.n[i - 1]);
    assert_true(go_on(&o, ids, 740, 745, want).kept <= 720);
    free_image(&im);
    test_tmp_folder("damage");
}

/* ---- room */

/* What was used last stays, a segment stays as long as something hangs on it, and another model's files count and go like one's own. */
static void test_budget(void **state)
{
    enum { N = 200, PATHS = 5 };
    (void)state;
    const char *folder = test_tmp_folder("budget");
    struct qn_options o = folder_options(hybrid(), N_CTX, folder),
                      other = folder_options(hash_model_file("qwen35", "Q4_0"), N_CTX, folder);
    static int32_t ids[PATHS][N_CTX];
    static uint64_t want[PATHS][N_CTX];
    for (int i = 0; i < PATHS; i++) {
        eval_ids(30 + (uint64_t)i, N_CTX, ids[i]);
        eval_plain_rows(&o, ids[i], N + MORE, want[i]);
    }
    for (int i = 0; i < 3; i++)
        save(&o, ids[i], (const int[]){N}, 1);
    struct folder_content c = folder_look(folder);
    assert_int_equal(c.n_snapshots, 3);
    o.cache_disk = other.cache_disk = c.bytes; /* three of them */
    qn_engine *e = eval_open(&o);
    qn_seq *s = eval_seq(e);
    qn_seq_resume(s, ids[0], N + 1, NULL); /* used */
    qn_seq_free(s);
    qn_close(e);
    save(&other, ids[3], (const int[]){N}, 1);
    assert_true(folder_look(folder).bytes <= o.cache_disk);
    assert_int_equal(go_on(&o, ids[1], N + 1, N + 2, want[1]).kept,
                     0); /* was the oldest; what it leaves is another one */
    assert_int_equal(go_on(&o, ids[0], N + 1, N + 2, want[0]).kept, N);
    assert_true(folder_look(folder).bytes <= o.cache_disk);

    /* all older ones go for a long one, and those that it hangs on stay */
    save(&o, ids[4], (const int[]){N, 500}, 2);
    assert_true(folder_look(folder).bytes <= o.cache_disk);
    e = eval_open(&o);
    s = eval_seq(e);
    assert_int_equal(qn_seq_resume(s, ids[4], 501, NULL), 500);
    struct qn_cache_info info;
    qn_cache_info(e, &info);
    assert_true(info.disk_budget == o.cache_disk && info.disk_bytes <= o.cache_disk && info.disk_bytes > 0);
    qn_seq_free(s);
    qn_close(e);

    /* what can never fit throws nothing out; less room throws out at once */
    size_t bytes = folder_look(folder).bytes;
    o.cache_disk = bytes;
    save(&o, ids[0], (const int[]){N_CTX}, 1);
    assert_true(folder_look(folder).bytes <= bytes);
    o.cache_disk = bytes / 3;
    qn_close(eval_open(&o));
    assert_true(folder_look(folder).bytes <= bytes / 3);
    o.cache_disk = 1;
    qn_close(eval_open(&o));
    assert_true(folder_look(folder).bytes == 0);
    o.cache_disk = 0;
    e = eval_open(&o);
    qn_cache_info(e, &info);
    assert_true(info.disk_budget > 0 && info.disk_budget <= (size_t)16 << 30);
    qn_close(e);
    assert_int_equal(folder_warnings, 0);
    test_tmp_folder("budget");
}

/* A full disk: one warning, nothing half-written, and the store goes on in memory. */
static void test_no_room(void **state)
{
    enum { N = 200, PATHS = 5 };
    (void)state;
    const char *folder = test_tmp_folder("full");
    struct qn_options o = folder_options(hybrid(), N_CTX, folder);
    struct rlimit was, small;
    static int32_t ids[PATHS][N_CTX];
    uint64_t want[N_CTX];
    for (int i = 0; i < PATHS; i++)
        eval_ids(40 + (uint64_t)i, N_CTX, ids[i]);
    eval_plain_rows(&o, ids[PATHS - 1], N + 1, want);
    qn_engine *e = eval_open(&o);
    o.cache_ram = 2 * (e->slot_bytes + 2 * e->page_bytes) + 16384;
    size_t segment = 2 * e->page_bytes + 4096;
    qn_close(e);
    getrlimit(RLIMIT_FSIZE, &was);
    signal(SIGXFSZ, SIG_IGN);
    for (int round = 0; round < 2; round++) { /* nothing fits; segments fit, snapshots do not */
        small = was;
        small.rlim_cur = round ? segment + 100 : 5000;
        e = eval_open(&o);
        folder_warnings = 0;
        assert_true(segment + 100 < state_size(e));
        setrlimit(RLIMIT_FSIZE, &small);
        qn_seq *s = eval_seq(e);
        for (int i = 0; i < PATHS; i++) {
            qn_seq_clear(s);
            eval_append(s, ids[i], N, NULL);
            assert_int_equal(qn_seq_keep(s), 1);
        }
        qn_seq_clear(s);
        uint64_t got;
        assert_int_equal(qn_seq_resume(s, ids[PATHS - 1], N + 1, NULL), N);
        eval_rows(s, ids[PATHS - 1] + N, 1, &got);
        assert_true(got == want[N]);
        qn_seq_free(s);
        qn_close(e);
        setrlimit(RLIMIT_FSIZE, &was);
        assert_int_equal(folder_warnings, 1);
        struct folder_content c = folder_look(folder);
        assert_int_equal(c.n_snapshots + c.n_others, 0);
        assert_true(round ? c.n_segments > 0 : c.n_segments == 0);
    }
    test_tmp_folder("full");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        {"disk/restored", test_restored, NULL, NULL, NULL},
        {"disk/drafts", test_drafts, NULL, NULL, NULL},
        {"disk/turns", test_turns, NULL, NULL, NULL},
        {"disk/evicted", test_evicted, NULL, NULL, NULL},
        {"disk/refused", test_refused, NULL, NULL, NULL},
        {"disk/others", test_others, NULL, NULL, NULL},
        {"disk/left_behind", test_left_behind, NULL, NULL, NULL},
        {"disk/damage", test_damage, NULL, NULL, NULL},
        {"disk/budget", test_budget, NULL, NULL, NULL},
        {"disk/no_room", test_no_room, NULL, NULL, NULL},
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests_name("disk", tests, NULL, NULL);
}
