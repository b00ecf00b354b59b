/* SPDX-License-Identifier: MIT */
/* Saved sequences continue with the same bits in another engine; files that are damaged, cut or for something else are refused; a
 * process that is killed, or a full disk, leaves the old file or the new one. */
#include "eval.h"
#include "hashmodel.h"
#include "src/load.h"
#include "src/run.h"
#include "testing.h"

#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <xxhash.h>

#include "src/saved.h"

enum { VOCAB = 512, N_CTX = 400, MORE = 20 };

static const char *self;

static struct qn_options options(const char *file, enum qn_kv_type kv)
{
    struct qn_options o = eval_options(file, N_CTX);
    o.type_k = o.type_v = kv;
    return o;
}

/* Saves n tokens and loads them into an engine of its own. */
static void round_trip(const char *file, enum qn_kv_type kv, int n)
{
    static float want[MORE * VOCAB], got[MORE * VOCAB];
    struct qn_options o = options(file, kv);
    struct qn_error err;
    const char *path = test_tmp("trip");
    int32_t ids[N_CTX];
    char *note;
    size_t n_note;
    eval_ids(0, N_CTX, ids);
    qn_engine *e = eval_open(&o);
    qn_seq *s = eval_seq(e);
    eval_append(s, ids, n, NULL);
    if (qn_seq_save(s, path, "a\0note", 6, &err))
        fail_msg("%s", err.text);
    eval_append(s, ids + n, MORE, want);
    qn_seq_free(s);
    qn_close(e);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);

    o.n_threads = 1;
    o.n_seq = 3;
    o.n_ctx = N_CTX + 300;
    e = eval_open(&o);
    s = eval_seq(e);
    eval_append(s, ids + 7, 100, NULL); /* goes */
    if (qn_seq_load(s, path, &note, &n_note, &err))
        fail_msg("%s", err.text);
    assert_int_equal(n_note, 6);
    assert_memory_equal(note, "a\0note", 7);
    free(note);
    assert_int_equal(qn_seq_len(s), n);
    assert_memory_equal(qn_seq_ids(s), ids, (size_t)n * sizeof *ids);
    eval_append(s, ids + n, MORE, got);
    assert_memory_equal(got, want, sizeof want);
    assert_int_equal(qn_seq_load(s, path, NULL, NULL, &err), 0);
    qn_seq_free(s);
    qn_close(e);
}

static void test_round_trip(void **state)
{
    static const char *const models[] = {"qwen35moe", "qwen35", "qwen3next", "qwen3"};
    static const int lengths[] = {200, 0, 1, 128, 129, 380};
    (void)state;
    for (int m = 0; m < 4; m++)
        for (int i = 0; i < (m ? 1 : test_quick() ? 2 : 6); i++) {
            round_trip(hash_model_file(models[m], "Q8_0"), QN_KV_F16, lengths[i]);
            round_trip(hash_model_file(models[m], "Q8_0"), QN_KV_F32, lengths[i]);
            round_trip(hash_model_file(models[m], "Q8_0"), QN_KV_Q8_0, lengths[i]);
        }
}

/* A file is made of its sequence alone: nothing shows of what was in its pages before, whatever the type of keys and values. */
static void test_nothing_else(void **state)
{
    (void)state;
    const char *path[2] = {test_tmp("first"), test_tmp("second")};
    int32_t ids[N_CTX];
    eval_ids(0, N_CTX, ids);
    for (int kv = QN_KV_F16; kv <= QN_KV_IQ4_NL; kv++) {
        struct qn_options o = options(hash_model_file("qwen35", "Q8_0"), (enum qn_kv_type)kv);
        struct qn_error err;
        char *bytes[2];
        size_t n[2];
        qn_engine *e = eval_open(&o);
        qn_seq *s = eval_seq(e);
        for (int i = 0; i < 2; i++) {
            eval_append(s, ids, 150, NULL);
            assert_int_equal(qn_seq_save(s, path[i], NULL, 0, &err), 0);
            bytes[i] = test_read(path[i], &n[i]);
            qn_seq_clear(s);
            eval_append(s, ids + 9, 300, NULL);
            qn_seq_clear(s);
        }
        assert_int_equal(n[0], n[1]);
        assert_memory_equal(bytes[0], bytes[1], n[0]);
        free(bytes[0]);
        free(bytes[1]);
        qn_seq_free(s);
        qn_close(e);
    }
}

/* Snapshots in front of the end come back too: the sequence can be resumed there. */
static void test_snapshots(void **state)
{
    (void)state;
    static const int keep[] = {40, 100, 150, 190, 230};
    static float want[MORE * VOCAB], got[MORE * VOCAB];
    struct qn_options o = options(hash_model_file("qwen35", "Q8_0"), QN_KV_F16);
    struct qn_error err;
    const char *path = test_tmp("snapshots");
    int32_t ids[N_CTX];
    eval_ids(0, N_CTX, ids);
    o.cache_ram = 64 << 20;
    qn_engine *e = eval_open(&o);
    qn_seq *s = eval_seq(e);
    for (int i = 0, at = 0; i < 5; at = keep[i++]) {
        eval_append(s, ids + at, keep[i] - at, NULL);
        assert_int_equal(qn_seq_keep(s), 1);
    }
    eval_append(s, ids + 230, 20, NULL);
    assert_int_equal(qn_seq_save(s, path, NULL, 0, &err), 0);
    ids[195] = 490;
    assert_int_equal(qn_seq_resume(s, ids, 190 + MORE, NULL), 190);
    eval_append(s, ids + 190, MORE, want);
    qn_seq_free(s);
    qn_close(e);

    e = eval_open(&o);
    s = eval_seq(e);
    assert_int_equal(qn_seq_load(s, path, NULL, NULL, &err), 0);
    assert_int_equal(qn_seq_len(s), 250);
    assert_int_equal(qn_seq_resume(s, ids, 190 + MORE, NULL), 190);
    eval_append(s, ids + 190, MORE, got);
    assert_memory_equal(got, want, sizeof want);
    assert_int_equal(qn_seq_resume(s, ids, 180, NULL), 150);
    assert_int_equal(qn_seq_resume(s, ids, 120, NULL), 0); /* three are saved */
    qn_seq_free(s);
    qn_close(e);
    o.cache_ram = 0;
    e = eval_open(&o);
    s = eval_seq(e);
    assert_int_equal(qn_seq_load(s, path, NULL, NULL, &err), 0);
    assert_int_equal(qn_seq_len(s), 250);
    qn_seq_free(s);
    qn_close(e);
}

/* ---- what is refused */

struct one {
    qn_engine *e;
    qn_seq *s;
    const char *path;
    char *bytes; /* [n] */
    size_t n;
};

static struct one save_one(void)
{
    struct qn_options o = options(hash_model_file("qwen35", "Q8_0"), QN_KV_F16);
    o.cache_ram = 16 << 20;
    struct one x = {.e = eval_open(&o), .path = test_tmp("one")};
    struct qn_error err;
    int32_t ids[200];
    x.s = eval_seq(x.e);
    eval_ids(0, 200, ids);
    eval_append(x.s, ids, 150, NULL);
    assert_int_equal(qn_seq_keep(x.s), 1);
    eval_append(x.s, ids + 150, 50, NULL);
    assert_int_equal(qn_seq_save(x.s, x.path, "note", 4, &err), 0);
    x.bytes = test_read(x.path, &x.n);
    assert_non_null(x.bytes);
    return x;
}

static void end_one(struct one *x)
{
    free(x->bytes);
    qn_seq_free(x->s);
    qn_close(x->e);
}

static void refuse(const struct one *x, const char *path, int code, const char *text, const char *what, size_t at)
{
    struct qn_error err = {0};
    char *note;
    size_t n;
    int got = qn_seq_load(x->s, path, &note, &n, &err);
    if (!got || (code && got != code) || (text && !strstr(err.text, text)))
        fail_msg("%s at %zu: %d, %s", what, at, got, err.text);
    assert_null(note);
    assert_int_equal(qn_seq_len(x->s), 0);
}

static void test_damage(void **state)
{
    (void)state;
    struct one x = save_one();
    struct saved_head h;
    memcpy(&h, x.bytes, sizeof h);
    const char *path = test_tmp("damaged");
    for (int i = 0; i < (test_quick() ? 60 : 400); i++) { /* each byte of the head, then anywhere */
        size_t at = (size_t)i < sizeof h ? (size_t)i : hash_splitmix64((uint64_t)i) % (i % 3 ? x.n : h.data_at);
        x.bytes[at] ^= (char)(1 << i % 8);
        test_write(path, x.bytes, x.n);
        x.bytes[at] ^= (char)(1 << i % 8);
        refuse(&x, path, 0, NULL, "a flipped bit", at);
    }
    for (int i = 0; i < 40; i++) {
        size_t n = i < 10 ? (size_t)i * 17 : hash_splitmix64((uint64_t)i) % x.n;
        test_write(path, x.bytes, n);
        refuse(&x, path, QN_E_FORMAT, NULL, "a cut file", n);
    }
    char *longer = malloc(x.n + 1);
    assert_non_null(longer);
    memcpy(longer, x.bytes, x.n);
    longer[x.n] = 0;
    test_write(path, longer, x.n + 1);
    refuse(&x, path, QN_E_FORMAT, "damaged", "one byte more", x.n);
    free(longer);
    refuse(&x, test_tmp("nowhere"), QN_E_IO, "No such file", "no file", 0);
    refuse(&x, hash_model_file("qwen35", "Q8_0"), QN_E_FORMAT, "not a session", "a model", 0);
    test_write(path, x.bytes, x.n);
    struct qn_error err;
    assert_int_equal(qn_seq_load(x.s, path, NULL, NULL, &err), 0); /* the harness itself breaks nothing */
    end_one(&x);
}

static void test_others(void **state)
{
    (void)state;
    struct one x = save_one();
    struct qn_options same = options(hash_model_file("qwen35", "Q8_0"), QN_KV_F16);
    struct {
        struct qn_options o;
        int code;
        const char *text;
    } others[] = {{same, QN_E_ARGUMENT, "another model"},
                  {same, QN_E_ARGUMENT, "another model"},
                  {same, QN_E_ARGUMENT, "types of keys"},
                  {same, QN_E_ARGUMENT, "rope settings"},
                  {same, QN_E_NOSPACE, "200 tokens, the context holds 199"}};
    others[0].o.model = hash_model_file("qwen35moe", "Q8_0");
    others[1].o.model = hash_model_file("qwen35", "Q4_0");
    others[2].o.type_v = QN_KV_F32;
    others[3].o.rope_freq_base = 5000;
    others[4].o.n_ctx = 199;
    for (int i = 0; i < 5; i++) {
        struct one y = {.e = eval_open(&others[i].o)};
        y.s = eval_seq(y.e);
        refuse(&y, x.path, others[i].code, others[i].text, "an engine", (size_t)i);
        qn_seq_free(y.s);
        qn_close(y.e);
    }
    end_one(&x);
}

static void test_full_disk(void **state)
{
    (void)state;
    struct one x = save_one();
    struct qn_error err = {0};
    struct rlimit was, small;
    size_t n;
    getrlimit(RLIMIT_FSIZE, &was);
    small = was;
    small.rlim_cur = x.n / 2;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    int code = qn_seq_save(x.s, x.path, NULL, 0, &err);
    setrlimit(RLIMIT_FSIZE, &was);
    assert_int_equal(code, QN_E_IO);
    assert_non_null(strstr(err.text, x.path));
    assert_int_equal(qn_seq_len(x.s), 200);
    char *now = test_read(x.path, &n);
    assert_int_equal(n, x.n);
    assert_memory_equal(now, x.bytes, n);
    free(now);
    assert_int_equal(qn_seq_save(x.s, "/nowhere/x", NULL, 0, &err), QN_E_IO);
    end_one(&x);
}

/* ---- the model's key */

struct how {
    const char *name;
    int hash_model, n_threads;
    const char *dir, *pack;
};

static void get_key(const char *file, const struct how *how, uint64_t key[2])
{
    struct qn_options o = eval_options(file, 16);
    struct qn_error err;
    o.hash_model = how->hash_model;
    o.n_threads = how->n_threads;
    o.hash_dir = how->dir;
    o.pack_cache = how->pack;
    qn_engine *e = eval_open(&o);
    if (e->key_known != (how->hash_model || how->pack))
        fail_msg("%s: the key is %s at the start", how->name, e->key_known ? "known" : "not known");
    assert_int_equal(load_key(e, &err), 0);
    memcpy(key, e->key, sizeof e->key);
    qn_close(e);
}

/* However it is come by, it is the same. */
static void test_key(void **state)
{
    (void)state;
    static const char *const models[][2] = {{"qwen35moe", "Q4_K"}, {"qwen3next", "Q8_0"}, {"llama", "f32"}};
    const char *dir = test_tmp("keys");
    assert_int_equal(mkdir(dir, 0700), 0);
    for (int m = 0; m < 3; m++) {
        const char *file = hash_model_file(models[m][0], models[m][1]), *pack = m < 2 ? test_tmp("model.pack") : NULL;
        const struct how hows[] = {{.name = "first need", .n_threads = 1},
                                   {.name = "loading", .hash_model = 1, .n_threads = 3},
                                   {.name = "noting", .hash_model = 1, .n_threads = 2, .dir = dir},
                                   {.name = "noted", .hash_model = 1, .n_threads = 2, .dir = dir},
                                   {.name = "pack cache written", .n_threads = 2, .pack = pack},
                                   {.name = "pack cache mapped", .n_threads = 2, .pack = pack}};
        uint64_t want[2], got[2];
        get_key(file, &hows[0], want);
        for (int i = 1; i < (pack ? 6 : 4); i++) {
            get_key(file, &hows[i], got);
            if (memcmp(got, want, sizeof want) != 0)
                fail_msg("%s %s, %s: another key", models[m][0], models[m][1], hows[i].name);
        }
        if (pack)
            unlink(pack);
    }
}

/* Notes are used, and only for the file that they were made for, as it was then. */
static void test_key_notes(void **state)
{
    (void)state;
    const char *dir = test_tmp("notes"), *file = test_tmp("noted.gguf");
    const struct how how = {.name = "notes", .hash_model = 1, .n_threads = 1, .dir = dir};
    const uint64_t wrong[2] = {1, 2};
    uint64_t want[2], got[2];
    struct gguf *g;
    struct qn_error err;
    char note[4096];
    size_t n, n_note;
    char *bytes = test_read(hash_model_file("qwen35", "Q8_0"), &n);
    test_write(file, bytes, n);
    get_key(file, &how, want); /* makes the folder, too */
    struct stat st;
    assert_int_equal(stat(dir, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    DIR *d = opendir(dir);
    for (struct dirent *f; (f = readdir(d));)
        if (f->d_name[0] != '.')
            snprintf(note, sizeof note, "%s/%s", dir, f->d_name);
    closedir(d);
    assert_int_equal(stat(note, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);

    assert_int_equal(gguf_open(&g, file, false, &err), 0);
    assert_int_equal(content_key_note(dir, g, wrong, &err), 0);
    gguf_close(g);
    get_key(file, &how, got);
    assert_memory_equal(got, wrong, sizeof got);
    char *right = test_read(note, &n_note);
    for (size_t at = 0; at < n_note; at++) { /* damaged: computed anew, and noted */
        right[at] ^= 4;
        test_write(note, right, n_note);
        right[at] ^= 4;
        get_key(file, &how, got);
        assert_memory_equal(got, want, sizeof got);
    }
    test_write(note, right, n_note - 1);
    get_key(file, &how, got);
    assert_memory_equal(got, want, sizeof got);
    test_write(note, right, n_note);
    struct timespec times[2] = {{.tv_sec = 1000000000}, {.tv_sec = 1000000000}};
    assert_int_equal(utimensat(AT_FDCWD, file, times, 0), 0); /* touched */
    get_key(file, &how, got);
    assert_memory_equal(got, want, sizeof got);
    assert_int_equal(gguf_open(&g, file, false, &err), 0);
    assert_int_equal(content_key_note(dir, g, wrong, &err), 0);
    gguf_close(g);
    get_key(file, &how, got);
    assert_memory_equal(got, wrong, sizeof got);
    chmod(dir, 0777); /* whoever may write there may write anything */
    get_key(file, &how, got);
    assert_memory_equal(got, want, sizeof got);
    unlink(note);
    rmdir(dir);
    free(right);
    free(bytes);
}

/* A byte in the middle of a tensor, where no sample is taken. */
static void test_key_weights(void **state)
{
    (void)state;
    struct one x = save_one();
    struct qn_error err;
    const char *file = test_tmp("changed.gguf");
    uint64_t sample[2][2];
    size_t n;
    char *bytes = test_read(hash_model_file("qwen35", "Q8_0"), &n);
    struct gguf *g;
    assert_int_equal(gguf_open(&g, hash_model_file("qwen35", "Q8_0"), false, &err), 0);
    content_sample(g, sample[0]);
    const struct gguf_tensor *t = &g->tensors[0];
    for (size_t i = 0; i < g->n_tensors; i++)
        t = g->tensors[i].bytes > t->bytes ? &g->tensors[i] : t;
    bytes[(size_t)(t->data - g->parts[0].data) + t->bytes / 2] ^= 1;
    gguf_close(g);
    test_write(file, bytes, n);
    free(bytes);
    assert_int_equal(gguf_open(&g, file, false, &err), 0);
    content_sample(g, sample[1]);
    gguf_close(g);
    assert_memory_equal(sample[0], sample[1], sizeof sample[0]);
    struct qn_options o = options(file, QN_KV_F16);
    for (int i = 0; i < 2; i++) {
        o.hash_model = i;
        struct one y = {.e = eval_open(&o)};
        y.s = eval_seq(y.e);
        refuse(&y, x.path, QN_E_ARGUMENT, "another model", "one byte", (size_t)i);
        qn_seq_free(y.s);
        qn_close(y.e);
    }
    end_one(&x);
}

struct reading {
    struct content_sums *sums;
    const struct gguf *g;
};

static void read_anywhere(struct worker *w, void *arg)
{
    const struct reading *r = arg;
    uint64_t at = (uint64_t)w->id;
    for (int i = 0; i < 20; i++) {
        at = hash_splitmix64(at);
        const struct gguf_tensor *t = &r->g->tensors[at % r->g->n_tensors];
        size_t from = hash_splitmix64(at + 1) % t->bytes;
        content_sums_read(r->sums, t->data + from, hash_splitmix64(at + 2) % (t->bytes - from + 1));
    }
}

/* Tensors of several pieces, read in any order by several workers. */
static void test_key_pieces(void **state)
{
    (void)state;
    enum { N = 3 };
    static const size_t sizes[N] = {2 * (size_t)CONTENT_PIECE + 17, CONTENT_PIECE, 5};
    uint64_t want[N], got[N];
    struct gguf_tensor t[N] = {{0}};
    struct gguf g = {.path = (char *)(uintptr_t) "x", .n_tensors = N, .tensors = t};
    struct qn_error err;
    struct content_sums sums;
    struct pool *pool;
    assert_int_equal(pool_open(&pool, 3, false, NULL, &err), 0);
    uint8_t *data[N];
    for (int i = 0; i < N; i++) {
        t[i].bytes = sizes[i];
        t[i].data = data[i] = malloc(sizes[i]);
        for (size_t k = 0; k < sizes[i]; k++)
            data[i][k] = (uint8_t)(k * 7 + k / 1000);
    }
    assert_int_equal(content_sums_open(&sums, &g, &err), 0); /* heap, which must not be let go of */
    struct reading r = {.sums = &sums, .g = &g};
    pool_run(pool, 3, read_anywhere, &r);
    for (int i = 0; i < N; i++)
        content_sums_read(&sums, t[i].data, t[i].bytes);
    assert_int_equal(content_sums_end(&sums, pool, 3, got, &err), 0);
    content_sums_close(&sums);
    for (int i = 0; i < N; i++) {
        uint64_t pieces[3];
        size_t n = 0;
        for (size_t at = 0; at < sizes[i]; at += CONTENT_PIECE)
            pieces[n++] = XXH3_64bits(data[i] + at, sizes[i] - at < CONTENT_PIECE ? sizes[i] - at : CONTENT_PIECE);
        want[i] = XXH3_64bits(pieces, n * sizeof *pieces);
        free(data[i]);
    }
    assert_memory_equal(got, want, sizeof want);
    pool_close(pool);
}

/* ---- kills: a child, this program again, saves one sequence after another to the same file */

static int child_main(const char *model, const char *path)
{
    struct qn_options o = options(model, QN_KV_F16);
    struct qn_error err;
    qn_engine *e;
    qn_seq *s;
    int32_t ids[N_CTX];
    o.n_threads = 1;
    eval_ids(0, N_CTX, ids);
    if (qn_open(&e, &o, &err) || qn_seq_new(&s, e, &err))
        return 1;
    for (int n = 0;; n = n % 300 + 10) {
        struct qn_span sp = {.seq = s, .ids = ids, .n = n + 10};
        qn_seq_clear(s);
        if (qn_eval(e, &sp, 1, NULL, &err) || qn_seq_save(s, path, "x", 1, &err))
            return 1;
    }
}

static void test_kills(void **state)
{
    (void)state;
    int n_kills = test_quick() ? 4 : getenv("QUERN_LONG") ? 200 : 20, lengths = 0, last = 0;
    const char *model = hash_model_file("qwen35", "Q8_0"), *path = test_tmp("killed");
    struct qn_options o = options(model, QN_KV_F16);
    struct qn_error err;
    qn_engine *e = eval_open(&o);
    qn_seq *s = eval_seq(e);
    for (int i = 0; i < n_kills; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            execl(self, self, "child", model, path, (char *)NULL);
            _exit(127);
        }
        for (int ms = 0; i == 0 && access(path, R_OK) && ms < 20000; ms++)
            usleep(1000); /* the first one is there */
        usleep((useconds_t)(hash_splitmix64((uint64_t)i) % 300000));
        kill(pid, SIGKILL);
        int status;
        waitpid(pid, &status, 0);
        if (!WIFSIGNALED(status))
            fail_msg("the child ended by itself with status %x", (unsigned)status);
        if (qn_seq_load(s, path, NULL, NULL, &err))
            fail_msg("after kill %d: %s", i, err.text);
        lengths += qn_seq_len(s) != last;
        last = qn_seq_len(s);
    }
    assert_true(lengths > n_kills / 10); /* they did save */
    qn_seq_free(s);
    qn_close(e);
}

int main(int argc, char **argv)
{
    self = "/proc/self/exe";
    if (argc == 4 && !strcmp(argv[1], "child"))
        return child_main(argv[2], argv[3]);
    const struct CMUnitTest tests[] = {
        {"session/round_trip", test_round_trip, NULL, NULL, NULL},
        {"session/nothing_else", test_nothing_else, NULL, NULL, NULL},
        {"session/damage", test_damage, NULL, NULL, NULL},
        {"session/others", test_others, NULL, NULL, NULL},
        {"session/full_disk", test_full_disk, NULL, NULL, NULL},
        {"session/snapshots", test_snapshots, NULL, NULL, NULL},
        {"session/key", test_key, NULL, NULL, NULL},
        {"session/key_notes", test_key_notes, NULL, NULL, NULL},
        {"session/key_weights", test_key_weights, NULL, NULL, NULL},
        {"session/key_pieces", test_key_pieces, NULL, NULL, NULL},
        {"session/kills", test_kills, NULL, NULL, NULL},
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests_name("session", tests, NULL, NULL);
}
