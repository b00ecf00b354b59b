/* SPDX-License-Identifier: MIT */
/* The cache folder where tests of whole engines do not reach: files that are cut short or gone between finding and reading, files that
 * turn out damaged when a sequence has given up what it had for them, and where prompts part. */
#include "eval.h"
#include "hashmodel.h"
#include "src/run.h"
#include "src/saved.h"
#include "src/tier.h"
#include "testing.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <xxhash.h>

enum { VOCAB = 512, N_CTX = 800, N = 520, MORE = 12 };

static int n_warnings;
static char last_warning[600];

static void on_log(void *cookie, enum qn_log_level level, const char *line)
{
    if (level != QN_LOG_WARN)
        return;
    n_warnings++;
    snprintf(last_warning, sizeof last_warning, "%s", line);
}

static struct qn_options options(const char *model, const char *folder)
{
    struct qn_options o = eval_options(hash_model_file(model, "Q8_0"), N_CTX);
    o.type_k = o.type_v = QN_KV_F16;
    o.n_threads = 1;
    o.cache_ram = o.cache_disk = (size_t)64 << 20;
    o.cache_dir = folder;
    o.log = on_log;
    n_warnings = 0;
    return o;
}

static void make_ids(uint64_t seed, int n, int32_t *ids)
{
    for (int i = 0; i < n; i++)
        ids[i] = (int32_t)(hash_splitmix64(seed * 100003 + (uint64_t)i) % 490);
}

/* Appends ids; returns the hash of the last row. */
static uint64_t append(qn_seq *s, const int32_t *ids, int n)
{
    float logits[VOCAB];
    eval_spans(s->engine, &(struct qn_span){.seq = s, .ids = ids, .n = n, .logits = QN_LOGITS_LAST}, 1, logits);
    return XXH3_64bits(logits, sizeof logits);
}

/* The last row of ids as an engine without a folder computes it. */
static uint64_t plain_row(const char *model, const int32_t *ids, int n)
{
    struct qn_options o = options(model, NULL);
    o.cache_ram = 0;
    qn_engine *e = eval_open(&o);
    qn_seq *s = eval_seq(e);
    uint64_t row = append(s, ids, n);
    qn_seq_free(s);
    qn_close(e);
    return row;
}

/* An engine computes ids, keeps them at these places, and is closed. */
static void save(const char *model, const char *folder, const int32_t *ids, const int *keep, int n_keep)
{
    struct qn_options o = options(model, folder);
    qn_engine *e = eval_open(&o);
    qn_seq *s = eval_seq(e);
    for (int i = 0, at = 0; i < n_keep; at = keep[i++]) {
        append(s, ids + at, keep[i] - at);
        assert_int_equal(qn_seq_keep(s), 1);
    }
    qn_seq_free(s);
    qn_close(e);
}

/* ---- files */

struct file {
    char path[1024], *bytes;
    size_t n;
    struct saved_head head;
};

/* All segments and snapshots of a folder. */
static int take_files(const char *folder, struct file *f, int cap)
{
    DIR *d = opendir(folder);
    int n = 0;
    for (struct dirent *x; (x = readdir(d));) {
        if (!strstr(x->d_name, ".segment") && !strstr(x->d_name, ".snapshot"))
            continue;
        assert_true(n < cap);
        snprintf(f[n].path, sizeof f[n].path, "%s/%s", folder, x->d_name);
        f[n].bytes = test_read(f[n].path, &f[n].n);
        memcpy(&f[n].head, f[n].bytes, sizeof f[n].head);
        n++;
    }
    closedir(d);
    return n;
}

/* ---- cut short or gone between finding and reading */

static void test_cut(void **state)
{
    static const char *const models[] = {"qwen35moe", "qwen3"};
    (void)state;
    int32_t ids[N + 1];
    make_ids(1, N + 1, ids);
    for (int m = 0; m < 2; m++) {
        const char *folder = test_tmp_folder("cut");
        struct file file[16];
        struct tier *t;
        struct tier_found f;
        struct qn_error err;
        uint64_t want = plain_row(models[m], ids, N + 1);
        save(models[m], folder, ids, (const int[]){300, N}, 2);
        int n_files = take_files(folder, file, 16), n_cut = 0;
        struct qn_options o = options(models[m], NULL);
        qn_engine *e = eval_open(&o);
        qn_seq *s = eval_seq(e);
        assert_int_equal(tier_open(&t, e, folder, 0, &err), 0);
        for (int i = -1; i < n_files; i++)
            for (int how = 0; how < 3; how++) { /* within the data, within its head, gone */
                bool used = i >= 0 && (strstr(file[i].path, ".segment") || file[i].head.n_ids == N);
                assert_int_equal(tier_find(t, ids, 0, N, &f), N);
                if (i >= 0 && how < 2)
                    assert_int_equal(truncate(file[i].path, how ? 100 : (off_t)file[i].head.data_at + 100), 0);
                else if (i >= 0)
                    unlink(file[i].path);
                qn_seq_clear(s);
                assert_int_equal(qn_seq_reserve(s, N + 1, &err), 0);
                state_admit(s, N);
                n_warnings = 0;
                bool good = tier_read(t, &f, 0, s);
                if (good == used || n_warnings != (used && how < 2))
                    fail_msg("%s, %s %s: %s, %d warnings", models[m], i < 0 ? "nothing" : file[i].path,
                             how < 2 ? "cut" : "gone", good ? "read" : "not read", n_warnings);
                if (n_warnings && !strstr(last_warning, "damaged: it ends at byte"))
                    fail_msg("\"%s\" does not say that it was cut", last_warning);
                tier_release(&f);
                if (good) {
                    s->n = N;
                    s->stale = false;
                    memcpy(s->ids, ids, N * sizeof *ids);
                    assert_true(append(s, ids + N, 1) == want);
                }
                n_cut += used;
                for (int k = 0; k < n_files; k++)
                    test_write(file[k].path, file[k].bytes, file[k].n);
            }
        assert_true(n_cut >= 3 * 3);
        tier_close(t);
        qn_seq_free(s);
        qn_close(e);
        for (int i = 0; i < n_files; i++)
            free(file[i].bytes);
    }
    test_tmp_folder("cut");
}

/* A sequence that gave up what it had for a file that is damaged falls back to what memory knows, with the right bits. */
static void test_fallen_back(void **state)
{
    (void)state;
    int32_t ids[N_CTX];
    struct qn_error err;
    make_ids(2, N_CTX, ids);
    uint64_t want = plain_row("qwen35", ids, N);
    for (int rewound = 0; rewound < 2; rewound++) {
        const char *folder = test_tmp_folder("fallen");
        struct file file[16];
        save("qwen35", folder, ids, (const int[]){200, 500}, 2);
        struct qn_options o = options("qwen35", folder);
        qn_engine *e = eval_open(&o);
        qn_seq *s = eval_seq(e);
        assert_int_equal(qn_seq_resume(s, ids, 201, NULL), 200);
        append(s, ids + 200, rewound ? 310 : 50);
        int n_files = take_files(folder, file, 16);
        for (int i = 0; i < n_files; i++) {
            if (strstr(file[i].path, ".snapshot") && file[i].head.n_ids == 500) {
                file[i].bytes[file[i].n - 5000] ^= 4;
                test_write(file[i].path, file[i].bytes, file[i].n);
            }
            free(file[i].bytes);
        }
        assert_int_equal(qn_seq_reserve(s, N_CTX, &err), 0);
        assert_int_equal(rewound ? qn_seq_rewind(s, 505) : qn_seq_resume(s, ids, N, NULL), 200);
        assert_int_equal(qn_seq_len(s), 200);
        assert_int_equal(n_warnings, 1);
        assert_non_null(strstr(last_warning, "it is removed"));
        assert_true(append(s, ids + 200, N - 200) == want);
        qn_seq_free(s);
        qn_close(e);
    }
    test_tmp_folder("fallen");
}

/* ---- where prompts part */

/* Each of three prompts is read by an engine of its own.  The second one finds out where it parts from the first, and keeps its
 * beginning up to there; the third one goes on from that place. */
static void try_parting(const char *model, int part, int first, const char *folder)
{
    int32_t ids[3][N_CTX];
    struct qn_kept k;
    for (int p = 0; p < 3; p++) {
        make_ids(3, N_CTX, ids[p]);
        ids[p][part] = 490 + p;
    }
    save(model, folder, ids[0], (const int[]){first, N}, 2);
    for (int p = 1; p < 3; p++) {
        struct qn_options o = options(model, folder);
        uint64_t want = plain_row(model, ids[p], N);
        qn_engine *e = eval_open(&o);
        qn_seq *s = eval_seq(e);
        int from = qn_seq_resume(s, ids[p], N, &k);
        if (k.same != part || k.is != 490 + p)
            fail_msg("%s, parting at %d, prompt %d: %d the same, then %d", model, part, p, k.same, k.is);
        if (p == 1) {
            assert_int_equal(k.was, 490);
            assert_int_equal(from, part > 512 ? 512 : first < part ? first : 0);
            append(s, ids[p] + from, part - from);
            assert_int_equal(qn_seq_keep(s), 1);
            from = part;
        } else {
            assert_true(k.was == 490 || k.was == 491);
            assert_int_equal(from, part);
            assert_int_equal(k.disk, part);
        }
        assert_true(append(s, ids[p] + from, N - from) == want);
        qn_seq_free(s);
        qn_close(e);
        assert_int_equal(n_warnings, 0);
    }
}

static void test_parting(void **state)
{
    static const char *const models[] = {"qwen35", "qwen3"};
    (void)state;
    for (int m = 0; m < 2; m++) {
        try_parting(models[m], 170, 300, test_tmp_folder("parting")); /* within the first segment */
        try_parting(models[m], 400, 300, test_tmp_folder("parting")); /* within the second */
        try_parting(models[m], 515, 300, test_tmp_folder("parting")); /* behind a multiple of 512 */
    }
    /* what other models left does not count */
    const char *folder = test_tmp_folder("parting");
    int32_t ids[N];
    struct qn_kept k;
    make_ids(3, N, ids);
    save("qwen35", folder, ids, (const int[]){N}, 1);
    struct qn_options o = options("qwen35moe", folder);
    qn_engine *e = eval_open(&o);
    qn_seq *s = eval_seq(e);
    assert_int_equal(qn_seq_resume(s, ids, N, &k), 0);
    assert_int_equal(k.same, 0);
    assert_int_equal(n_warnings, 0);
    qn_seq_free(s);
    qn_close(e);
    test_tmp_folder("parting");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        {"tier/cut", test_cut, NULL, NULL, NULL},
        {"tier/fallen_back", test_fallen_back, NULL, NULL, NULL},
        {"tier/parting", test_parting, NULL, NULL, NULL},
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests_name("tier", tests, NULL, NULL);
}
