/* SPDX-License-Identifier: MIT */
/* Pack caches: the same bits with and without one; what is damaged, stale, foreign or cut short is refused or rewritten; nothing
 * half written stays behind; and memory while loading never holds two copies of the weights. */
#include "eval.h"
#include "ggufedit.h"
#include "hashmodel.h"
#include "src/packfile.h"
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

enum { N_IDS = 20 };

/* Two layers, f16 scales that make small numbers; several packed types would need several files. */
static const char *small_model(const char *name)
{
    static char path[4096];
    struct edit *e = edit_model("llama", "Q8_0");
    snprintf(path, sizeof path, "%s", test_tmp(name));
    edit_write(e, path, true);
    edit_free(e);
    return path;
}

static char *fresh_folder(const char *name)
{
    char *path = strdup(test_tmp(name));
    assert_non_null(path);
    assert_int_equal(mkdir(path, 0700), 0);
    return path;
}

/* Files in a folder; their names are removed when wanted, and the folder with them. */
static int count_files(const char *folder, bool and_remove)
{
    DIR *d = opendir(folder);
    int n = 0;
    assert_non_null(d);
    for (struct dirent *f; (f = readdir(d));)
        if (f->d_name[0] != '.') {
            n++;
            if (and_remove)
                unlinkat(dirfd(d), f->d_name, 0);
        }
    closedir(d);
    if (and_remove)
        rmdir(folder);
    return n;
}

static uint64_t logits_hash(const struct qn_options *o)
{
    int32_t ids[N_IDS];
    qn_engine *e = eval_open(o);
    size_t n = (size_t)N_IDS * (size_t)eval_n_vocab(e);
    float *logits = malloc(n * sizeof *logits);
    assert_non_null(logits);
    for (int i = 0; i < N_IDS; i++)
        ids[i] = (i * 37 + 5) % eval_n_vocab(e);
    eval_prompt(e, ids, N_IDS, logits);
    uint64_t hash = XXH3_64bits(logits, n * sizeof *logits);
    free(logits);
    qn_close(e);
    return hash;
}

/* ---- the same bits */

static void bits_same(void **state)
{
    static const char *const types[][2] = {
        {"qwen35moe", "Q4_K"}, {"qwen3next", "IQ4_XS"}, {"qwen35", "Q6_K"}, {"llama", "IQ2_XXS"}};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        struct qn_options o = eval_options(hash_model_file(types[i][0], types[i][1]), 64);
        char *cache = strdup(test_tmp("same.pack"));
        uint64_t plain = logits_hash(&o);
        o.pack_cache = cache;
        uint64_t writing = logits_hash(&o);
        struct stat before, after;
        assert_int_equal(stat(cache, &before), 0);
        assert_int_equal(before.st_mode & 0777, 0600);
        o.n_threads = 3;
        o.n_ubatch = 7;
        uint64_t mapped = logits_hash(&o);
        assert_int_equal(stat(cache, &after), 0);
        if (writing != plain || mapped != plain)
            fail_msg("%s %s: logits differ with a pack cache", types[i][0], types[i][1]);
        assert_true(before.st_ino == after.st_ino &&
                    before.st_mtim.tv_nsec == after.st_mtim.tv_nsec); /* not rewritten */
        unlink(cache);
        free(cache);
    }
}

/* Nothing of a model in F32 is packed: there is nothing to keep. */
static void bits_unpacked(void **state)
{
    struct qn_options o = eval_options(hash_model_file("llama", "f32"), 64);
    uint64_t plain = logits_hash(&o);
    o.pack_cache = test_tmp("f32.pack");
    assert_true(logits_hash(&o) == plain);
    assert_int_not_equal(access(o.pack_cache, F_OK), 0);
}

/* ---- heads that are wrong */

static void patch(const char *path, size_t at, const void *bytes, size_t n)
{
    int fd = open(path, O_WRONLY);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, n, (off_t)at), n);
    close(fd);
}

/* The head of a cache with changes and a checksum that agrees with them. */
static void patch_head(const char *path, struct pack_head *head, const char *image)
{
    head->head_hash = 0;
    size_t n = head->head_bytes < 1 << 20 ? head->head_bytes : sizeof *head;
    char *copy = calloc(1, n > sizeof *head ? n : sizeof *head);
    assert_non_null(copy);
    size_t old = ((const struct pack_head *)image)->head_bytes;
    memcpy(copy, image, n < old ? n : old);
    memcpy(copy, head, sizeof *head);
    head->head_hash = XXH3_64bits(copy, n);
    free(copy);
    patch(path, 0, head, sizeof *head);
}

/* Options for a small model whose pack cache has just been written, and that one's bytes, malloc. */
static struct qn_options small_cached(char **image, size_t *n)
{
    struct qn_options o = eval_options(small_model("small.gguf"), 64);
    o.pack_cache = test_tmp("small.pack");
    unlink(o.pack_cache);
    logits_hash(&o);
    *image = test_read(o.pack_cache, n);
    assert_non_null(*image);
    return o;
}

/* The cache is refused for what is in it. */
static bool is_refused(const struct qn_options *o, int *code)
{
    struct qn_error err;
    qn_engine *e;
    *code = qn_open(&e, o, &err);
    return *code == QN_E_FORMAT || *code == QN_E_UNSUPPORTED;
}

static void head_bytes_flipped(void **state)
{
    size_t n;
    char *image;
    struct qn_options o = small_cached(&image, &n);
    size_t head = ((struct pack_head *)image)->head_bytes;
    assert_true(head > sizeof(struct pack_head) && head < n);
    for (size_t i = 0; i < head; i += test_quick() ? 7 : 1) {
        char wrong = (char)(image[i] ^ 1 << i % 8);
        patch(o.pack_cache, i, &wrong, 1);
        int code;
        if (!is_refused(&o, &code))
            fail_msg("byte %zu of the head is wrong, and the result is %d", i, code);
        patch(o.pack_cache, i, image + i, 1);
    }
    logits_hash(&o);
    free(image);
}

static void head_hostile(void **state)
{
    static const uint64_t values[] = {0, 1, 4096, 1u << 31, UINT32_MAX, INT64_MAX, UINT64_MAX, UINT64_MAX / 8};
    size_t n;
    char *image;
    struct qn_options o = small_cached(&image, &n);
    for (size_t at = 8; at < sizeof(struct pack_head); at += 4)
        for (size_t v = 0; v < sizeof values / sizeof *values; v++)
            for (size_t width = 4; width <= 8; width += 4) {
                struct pack_head head;
                memcpy(&head, image, sizeof head);
                if (at + width > sizeof head)
                    continue;
                memcpy((char *)&head + at, &values[v], width);
                head.head_hash = ((struct pack_head *)image)->head_hash; /* patch_head() puts it right */
                if (!memcmp(&head, image, sizeof head))
                    continue;
                patch_head(o.pack_cache, &head, image);
                int code;
                if (!is_refused(&o, &code))
                    fail_msg("field at %zu is %llx, and the result is %d", at, (unsigned long long)values[v], code);
            }
    free(image);
}

static void head_says(void **state)
{
    size_t n;
    char *image;
    struct qn_options o = small_cached(&image, &n);
    struct pack_head head;
    memcpy(&head, image, sizeof head);
    head.layout++;
    patch_head(o.pack_cache, &head, image);
    eval_refused(&o, QN_E_UNSUPPORTED, "written by another version");
    memcpy(&head, image, sizeof head);
    head.plan++;
    patch_head(o.pack_cache, &head, image);
    eval_refused(&o, QN_E_UNSUPPORTED, "written by another version");
    free(image);
}

/* ---- files that are wrong */

static void file_cut(void **state)
{
    size_t n;
    char *image;
    struct qn_options o = small_cached(&image, &n);
    size_t head = ((struct pack_head *)image)->head_bytes;
    const size_t cuts[] = {0,    7,     8,    sizeof(struct pack_head) - 1, sizeof(struct pack_head), head - 1,
                           head, n / 2, n - 1};
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
        test_write(o.pack_cache, image, cuts[i]);
        eval_refused(&o, QN_E_FORMAT, "pack cache");
    }
    test_write_sparse(o.pack_cache, image, n, n + 1);
    eval_refused(&o, QN_E_FORMAT, "damaged");
    test_write(o.pack_cache, image, n);
    logits_hash(&o);
    free(image);
}

static void file_foreign(void **state)
{
    char *other = strdup(test_tmp("other.gguf"));
    struct qn_options o = eval_options(small_model("mine.gguf"), 64);
    size_t n, m;
    struct edit *e = edit_model("llama", "Q8_0");
    edit_str(e, "general.name", "another one");
    edit_write(e, other, true);
    edit_free(e);
    o.pack_cache = other; /* a slip: the model in place of the cache */
    char *before = test_read(other, &n);
    eval_refused(&o, QN_E_FORMAT, "not a pack cache");
    char *after = test_read(other, &m);
    assert_true(n == m && !memcmp(before, after, n));
    free(before);
    free(after);
    o.pack_cache = test_tmp("foreign.pack");
    logits_hash(&o);
    o.model = other;
    eval_refused(&o, QN_E_FORMAT, "of another model");
    o.pack_cache = "/dev/null";
    eval_refused(&o, QN_E_IO, "not a regular file");
    o.pack_cache = "/nonexistent/folder/x.pack";
    eval_refused(&o, QN_E_IO, "No such file");
    free(other);
}

static void file_writable_by_all(void **state)
{
    struct qn_options o = eval_options(small_model("open.gguf"), 64);
    char *folder = fresh_folder("open");
    o.pack_cache = test_tmp("open.pack");
    logits_hash(&o);
    assert_int_equal(chmod(o.pack_cache, 0666), 0);
    eval_refused(&o, QN_E_IO, "everybody may write");
    o.pack_cache = NULL;
    o.pack_cache_dir = folder;
    assert_int_equal(chmod(folder, 0777), 0);
    eval_refused(&o, QN_E_IO, "everybody may write");
    assert_int_equal(count_files(folder, true), 0);
    free(folder);
}

/* ---- a model that has changed since */

static void change_times(const char *path)
{
    const struct timespec times[2] = {{.tv_sec = 1000000000}, {.tv_sec = 1000000000, .tv_nsec = 7}};
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

static void stale_touched(void **state)
{
    struct qn_options o = eval_options(small_model("touched.gguf"), 64);
    char *folder = fresh_folder("touched");
    size_t n, m;
    o.pack_cache_dir = folder;
    uint64_t plain = logits_hash(&o);
    assert_int_equal(count_files(folder, false), 1);
    change_times(o.model);
    assert_true(logits_hash(&o) == plain); /* the same content: taken over */
    assert_int_equal(count_files(folder, true), 1);
    free(folder);
    o.pack_cache_dir = NULL;
    o.pack_cache = test_tmp("touched.pack");
    logits_hash(&o);
    char *before = test_read(o.pack_cache, &n);
    assert_non_null(before);
    const struct timespec times[2] = {{.tv_sec = 1}, {.tv_sec = 1}};
    assert_int_equal(utimensat(AT_FDCWD, o.model, times, 0), 0);
    assert_true(logits_hash(&o) == plain);
    char *after = test_read(o.pack_cache, &m);
    assert_true(n == m && !memcmp(before, after, n)); /* a file that was named is left alone */
    free(before);
    free(after);
}

/* One bit of one weight, with the size and even the time of the file as they were. */
static void stale_changed(void **state)
{
    struct qn_options o = eval_options(small_model("changed.gguf"), 64);
    char *folder = fresh_folder("changed"), *cache = strdup(test_tmp("changed.pack"));
    struct stat st;
    o.pack_cache = cache;
    uint64_t old = logits_hash(&o);
    o.pack_cache = NULL;
    o.pack_cache_dir = folder;
    assert_true(logits_hash(&o) == old);
    struct gguf *g;
    struct qn_error err;
    assert_int_equal(gguf_open(&g, o.model, false, &err), 0);
    const struct gguf_tensor *t = gguf_tensor_find(g, "blk.0.attn_v.weight");
    assert_non_null(t);
    size_t at = (size_t)(t->data - g->parts[0].data) + t->bytes - 3; /* behind what the key looks at */
    uint8_t weight = (uint8_t)(g->parts[0].data[at] ^ 0x40);
    gguf_close(g);
    assert_int_equal(stat(o.model, &st), 0);
    patch(o.model, at, &weight, 1);
    const struct timespec times[2] = {st.st_mtim, {.tv_sec = st.st_mtim.tv_sec + 1, .tv_nsec = st.st_mtim.tv_nsec}};
    assert_int_equal(utimensat(AT_FDCWD, o.model, times, 0), 0);
    uint64_t mapped = logits_hash(&o); /* rewritten */
    o.pack_cache_dir = NULL;
    uint64_t now = logits_hash(&o);
    assert_true(now != old && mapped == now);
    o.pack_cache = cache;
    eval_refused(&o, QN_E_FORMAT, "stale: tensor blk.0.attn_v.weight");
    assert_int_equal(count_files(folder, true), 1);
    free(folder);
    free(cache);
}

/* What lies at the place of an automatic cache and does not fit is rewritten, whatever it is. */
static void automatic_rewrites(void **state)
{
    struct qn_options o = eval_options(small_model("auto.gguf"), 64);
    char *folder = fresh_folder("auto"), path[8192] = "";
    size_t n;
    o.pack_cache_dir = folder;
    uint64_t plain = logits_hash(&o);
    DIR *d = opendir(folder);
    assert_non_null(d);
    for (struct dirent *f; (f = readdir(d));)
        if (f->d_name[0] != '.')
            snprintf(path, sizeof path, "%s/%s", folder, f->d_name);
    closedir(d);
    char *image = test_read(path, &n);
    assert_non_null(image);
    for (size_t cut = 0; cut < n; cut += n / 5 + 1) {
        test_write(path, image, cut);
        chmod(path, 0600);
        assert_true(logits_hash(&o) == plain);
        struct stat st;
        assert_true(!stat(path, &st) && (size_t)st.st_size == n);
    }
    assert_int_equal(count_files(folder, true), 1);
    free(image);
    free(folder);
}

/* ---- children: this program again, since workers do not survive a fork */

static size_t high_water(void)
{
    char line[256];
    unsigned long kib = 0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f) && sscanf(line, "VmHWM: %lu", &kib) != 1)
        ;
    if (f)
        fclose(f);
    return kib * 1024;
}

static int kill_at(void *cookie, const char *what, double share)
{
    if (!strcmp(what, (const char *)cookie))
        raise(SIGKILL);
    return 0;
}

/* Arguments: model, cache or "", the stage of loading to be killed at.  Prints how far the resident size rose while opening, without
 * the step's scratch, as 8 bytes. */
static int be_child(char **argv)
{
    struct qn_options o = eval_options(argv[0], 64);
    struct qn_error err;
    struct qn_model_info info;
    qn_engine *e;
    o.n_ubatch = 1;
    o.pack_cache = argv[1][0] ? argv[1] : NULL;
    o.progress = kill_at;
    o.cookie = argv[2];
    size_t before = high_water();
    if (qn_open(&e, &o, &err))
        return 1;
    qn_model_info(e, &info);
    double high = (double)high_water() - (double)before - (double)info.bytes_step;
    qn_close(e);
    return write(1, &high, sizeof high) != sizeof high;
}

/* *end is where its output can be read. */
static pid_t start_child(const struct qn_options *o, const char *stage, int *end)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(ends[1], 1);
        close(ends[0]);
        close(ends[1]);
        execl("/proc/self/exe", "check_packcache", "--child", o->model, o->pack_cache ? o->pack_cache : "", stage,
              (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    *end = ends[0];
    return child;
}

/* ---- writing that fails */

struct stop {
    const char *what;
    int left;
};

static int stop_at(void *cookie, const char *what, double share)
{
    struct stop *s = cookie;
    return !strcmp(what, s->what) && s->left-- == 0;
}

static void write_cancelled(void **state)
{
    struct qn_options o = eval_options(small_model("cancel.gguf"), 64);
    char *folder = fresh_folder("cancel"), path[8192];
    static const char *const stages[] = {"loading", "writing the pack cache"};
    snprintf(path, sizeof path, "%s/x.pack", folder);
    o.pack_cache = path;
    o.progress = stop_at;
    for (size_t i = 0; i < 2; i++) {
        struct stop s = {.what = stages[i]};
        o.cookie = &s;
        eval_refused(&o, QN_E_CANCELLED, "cancelled");
        assert_int_equal(count_files(folder, false), 0);
    }
    count_files(folder, true);
    free(folder);
}

static void write_killed(void **state)
{
    struct qn_options o = eval_options(small_model("killed.gguf"), 64);
    char *folder = fresh_folder("killed"), path[8192];
    snprintf(path, sizeof path, "%s/x.pack", folder);
    uint64_t plain = logits_hash(&o);
    o.pack_cache = path;
    int end;
    pid_t child = start_child(&o, "writing the pack cache", &end);
    int status;
    close(end);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    assert_int_not_equal(access(path, F_OK), 0); /* whatever else there is, it does not have the name */
    assert_true(logits_hash(&o) == plain);
    count_files(folder, true);
    free(folder);
}

static void count_warnings(void *cookie, enum qn_log_level level, const char *line)
{
    *(int *)cookie += level == QN_LOG_WARN;
}

/* A limit on the size of files stands for a full disk. */
static void write_no_room(void **state)
{
    struct qn_options o = eval_options(small_model("room.gguf"), 64);
    char *folder = fresh_folder("room"), path[8192];
    struct rlimit old, small = {.rlim_cur = 1 << 20};
    snprintf(path, sizeof path, "%s/x.pack", folder);
    uint64_t plain = logits_hash(&o);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    signal(SIGXFSZ, SIG_IGN);
    small.rlim_max = old.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    int n_warnings = 0;
    o.pack_cache = path;
    eval_refused(&o, QN_E_IO, "no room");
    assert_int_equal(count_files(folder, false), 0);
    o.pack_cache = NULL;
    o.pack_cache_dir = folder;
    o.log = count_warnings;
    o.cookie = &n_warnings;
    uint64_t without = logits_hash(&o);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_true(without == plain);
    assert_true(n_warnings > 0);
    assert_int_equal(count_files(folder, true), 0);
    free(folder);
}

/* ---- memory */

/* How much the resident size of a process of its own that opens the model grew at most beyond the size of the file. */
static double excess_mib(const struct qn_options *o, size_t file_bytes)
{
    int end;
    double high;
    pid_t child = start_child(o, "", &end);
    assert_int_equal(read(end, &high, sizeof high), sizeof high);
    close(end);
    waitpid(child, NULL, 0);
    return (high - (double)file_bytes) / (1 << 20);
}

static void memory_once(void **state)
{
    enum { FF = 1 << 17, EMBD = 256 };
    struct stat st;
    const char *path = test_tmp("large.gguf");
    struct edit *e = edit_model("llama", "Q8_0");
    edit_u32(e, "llama.feed_forward_length", FF);
    static const char *const wide[] = {"blk.0.ffn_gate.weight", "blk.0.ffn_up.weight", "blk.1.ffn_gate.weight",
                                       "blk.1.ffn_up.weight"};
    for (int i = 0; i < 4; i++)
        edit_reshape(e, edit_get(e, wide[i]), (const uint64_t[4]){EMBD, FF, 1, 1}, 2);
    edit_reshape(e, edit_get(e, "blk.0.ffn_down.weight"), (const uint64_t[4]){FF, EMBD, 1, 1}, 2);
    edit_reshape(e, edit_get(e, "blk.1.ffn_down.weight"), (const uint64_t[4]){FF, EMBD, 1, 1}, 2);
    edit_write(e, path, true);
    edit_free(e);
    assert_int_equal(stat(path, &st), 0);
    assert_true(st.st_size > 200 << 20);
    struct qn_options o = eval_options(path, 64);
    const char *const how[] = {"packed", "packed into a cache", "mapped"};
    char *cache = strdup(test_tmp("large.pack"));
    for (int i = 0; i < 3; i++) {
        o.pack_cache = i ? cache : NULL;
        double excess = excess_mib(&o, (size_t)st.st_size);
        /* two copies of a tenth would be 20 MiB more */
        if (excess > 24)
            fail_msg("%s: %.0f MiB more than the file has", how[i], excess);
    }
    unlink(cache);
    free(cache);
}

static size_t free_huge_pages(void)
{
    char line[256];
    unsigned long n = 0;
    FILE *f = fopen("/proc/meminfo", "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f) && sscanf(line, "HugePages_Free: %lu", &n) != 1)
        ;
    fclose(f);
    return n;
}

static void memory_huge(void **state)
{
    struct qn_options o = eval_options(hash_model_file("qwen35moe", "Q4_K"), 64);
    uint64_t plain = logits_hash(&o);
    o.hugepages = 1;
    if (free_huge_pages() >= 16)
        assert_true(logits_hash(&o) == plain);
    else if (free_huge_pages() == 0)
        eval_refused(&o, QN_E_MEMORY, "huge pages of 2 MiB");
    o.pack_cache = test_tmp("huge.pack");
    eval_refused(&o, QN_E_ARGUMENT, "only one of");
}

int main(int argc, char **argv)
{
    if (argc == 5 && !strcmp(argv[1], "--child"))
        return be_child(argv + 2);
    const struct CMUnitTest tests[] = {
        {"bits/same", bits_same, NULL, NULL, NULL},
        {"bits/unpacked", bits_unpacked, NULL, NULL, NULL},
        {"head/bytes_flipped", head_bytes_flipped, NULL, NULL, NULL},
        {"head/hostile", head_hostile, NULL, NULL, NULL},
        {"head/says", head_says, NULL, NULL, NULL},
        {"file/cut", file_cut, NULL, NULL, NULL},
        {"file/foreign", file_foreign, NULL, NULL, NULL},
        {"file/writable_by_all", file_writable_by_all, NULL, NULL, NULL},
        {"stale/touched", stale_touched, NULL, NULL, NULL},
        {"stale/changed", stale_changed, NULL, NULL, NULL},
        {"automatic/rewrites", automatic_rewrites, NULL, NULL, NULL},
        {"write/cancelled", write_cancelled, NULL, NULL, NULL},
        {"write/killed", write_killed, NULL, NULL, NULL},
        {"write/no_room", write_no_room, NULL, NULL, NULL},
        {"memory/once", memory_once, NULL, NULL, NULL},
        {"memory/huge", memory_huge, NULL, NULL, NULL},
    };
    return cmocka_run_group_tests_name("packcache", tests, NULL, NULL);
}
