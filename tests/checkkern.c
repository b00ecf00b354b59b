/* SPDX-License-Identifier: MIT */
/* The kernel checker's runner; what it does and how to write a test stands in checkkern.h.
 *
 *   checkkern [--seed N] [--level L] [--filter TEXT] [--bench] [--list]
 *
 * The seed is printed and reproduces a run, with any filter; 0 takes one from the clock.  Exit status 1: a test failed. */
#include "checkkern.h"

#ifdef HAVE_CONFIG_H
#include "config.h"
#endif

#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

static const struct kern_family *const family[] = {
    &kern_float_family,
    &kern_mul_family,
};

#ifdef HAVE_AVX2
void fill_c_fma(struct simd_ops *ops); /* ref.c again, compiled with hardware fma */
#endif
#ifdef HAVE_AVX512
void fill_mul_vnni_evex(struct simd_ops *ops); /* the avxvnni level with the dots of AVX-512 */
#endif

enum {
    SLOTS = 48,
    SLOT_BYTES = 8 << 20, /* most bytes of one buffer */
    CANARY = 64,
    CANARY_BYTE = 0xa5,
    LEVELS = 8,
    SHOWN = 3, /* failures shown of a test at a level */
    SAMPLES = 512,
    RATIOS = 1024,
};

struct kern kern;

static struct {
    uint8_t *arena;
    size_t page;
    struct slot {
        uint8_t *canary; /* the CANARY bytes at the side that has no guard page */
        uint8_t *data;
        size_t bytes;
    } slot[SLOTS];
    int n_slot;
    uint64_t seed, rng, place; /* place: which side lies against the guard */
    const char *test; /* running */
    int failures; /* of the running test */
    uint32_t float_mode;
    sigjmp_buf jump;
    volatile sig_atomic_t armed;
    XXH3_state_t *hash;
} run;

/* ---- random numbers */

static uint64_t mix(uint64_t *state) /* splitmix64 */
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

uint64_t kern_rand(void) { return mix(&run.rng); }
int kern_below(int n) { return (int)(kern_rand() % (uint64_t)n); }
float kern_unit(void) { return (float)(int32_t)(kern_rand() >> 40) * 0x1p-23f - 1.0f; }

static float from_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof(f));
    return f;
}

static float wide_float(void)
{
    uint32_t sign = (uint32_t)(kern_rand() & 0x80000000u);
    return from_bits(sign | (uint32_t)(kern_rand() % 0x7f800000u));
}

static float special_float(void)
{
    static const float value[] = {INFINITY, -INFINITY, NAN};
    return value[kern_below(3)];
}

void kern_floats(float *x, size_t n, enum kern_fill fill)
{
    float one = kern_unit();
    for (size_t i = 0; i < n; i++) {
        switch (fill) {
        case KERN_PLAIN:
            x[i] = 4.0f * kern_unit();
            break;
        case KERN_WIDE:
            x[i] = wide_float();
            break;
        case KERN_SMALL:
            x[i] = (float)(kern_below(9) - 4);
            break;
        case KERN_TINY: /* zeros of both signs, denormals, values around the smallest normal one */
            x[i] = from_bits((uint32_t)(kern_rand() & 0x80000000u) |
                             (kern_below(4) ? (uint32_t)kern_rand() % 0x01800000u : 0));
            break;
        case KERN_EQUAL:
            x[i] = one;
            break;
        default:
            x[i] = kern_below(16) ? 100.0f * kern_unit() : special_float();
        }
    }
}

/* ---- failures and results */

static void report(const char *what, va_list ap)
{
    if (run.failures++ >= SHOWN)
        return;
    printf("FAIL %s level %s seed %llu: ", run.test, kern.level, (unsigned long long)run.seed);
    vprintf(what, ap);
    printf("\n");
}

void kern_fail(const char *what, ...)
{
    va_list ap;
    va_start(ap, what);
    report(what, ap);
    va_end(ap);
}

static void differs(const char *what, va_list ap, size_t i, uint32_t c, uint32_t now)
{
    char text[200];
    vsnprintf(text, sizeof(text), what, ap);
    kern_fail("%s: [%zu] c %08x, here %08x", text, i, c, now);
}

static uint32_t one_nan(uint32_t u, uint32_t inf) { return (u & (inf | (inf - 1))) > inf ? inf | (inf >> 1) : u; }

static void hash_add(const void *p, size_t bytes)
{
    if (strcmp(kern.level, "c") == 0)
        XXH3_64bits_update(run.hash, p, bytes);
}

void kern_f32(const float *c, const float *now, size_t n, const char *what, ...)
{
    va_list ap;
    va_start(ap, what);
    for (size_t i = 0; i < n; i++) {
        uint32_t a, b;
        memcpy(&a, c + i, sizeof(a));
        memcpy(&b, now + i, sizeof(b));
        a = one_nan(a, 0x7f800000);
        hash_add(&a, sizeof(a));
        if (a != one_nan(b, 0x7f800000)) {
            differs(what, ap, i, a, b);
            break;
        }
    }
    va_end(ap);
}

void kern_f16(const uint16_t *c, const uint16_t *now, size_t n, const char *what, ...)
{
    va_list ap;
    va_start(ap, what);
    for (size_t i = 0; i < n; i++) {
        uint32_t a = one_nan(c[i], 0x7c00);
        hash_add(&a, sizeof(a));
        if (a != one_nan(now[i], 0x7c00)) {
            differs(what, ap, i, a, now[i]);
            break;
        }
    }
    va_end(ap);
}

void kern_bytes(const void *c, const void *now, size_t n, const char *what, ...)
{
    va_list ap;
    va_start(ap, what);
    const uint8_t *a = c, *b = now;
    hash_add(a, n);
    for (size_t i = 0; i < n; i++)
        if (a[i] != b[i]) {
            differs(what, ap, i, a[i], b[i]);
            break;
        }
    va_end(ap);
}

/* ---- memory */

static void arena_open(void)
{
    run.page = (size_t)sysconf(_SC_PAGESIZE);
    size_t step = SLOT_BYTES + 2 * run.page;
    run.arena = mmap(NULL, SLOTS * step, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (run.arena == MAP_FAILED) {
        perror("checkkern: mmap");
        exit(2);
    }
    for (size_t i = 0; i < SLOTS; i++)
        mprotect(run.arena + i * step + run.page, SLOT_BYTES, PROT_READ | PROT_WRITE);
}

static void *mem_place(size_t bytes, size_t align, bool end)
{
    if (run.n_slot == SLOTS || bytes + CANARY > SLOT_BYTES) {
        fprintf(stderr, "checkkern: %s asks for too much memory\n", run.test);
        exit(2);
    }
    struct slot *s = &run.slot[run.n_slot];
    uint8_t *base = run.arena + (size_t)run.n_slot++ * (SLOT_BYTES + 2 * run.page) + run.page;
    s->bytes = bytes;
    if (end) {
        s->data = base + ((SLOT_BYTES - bytes) & ~(align - 1));
        s->canary = s->data - CANARY;
    } else {
        s->data = base;
        s->canary = base + bytes;
    }
    memset(s->data, 0, bytes);
    memset(s->canary, CANARY_BYTE, CANARY);
    return s->data;
}

void *kern_mem(size_t bytes, size_t align) { return mem_place(bytes, align, mix(&run.place) & 1); }

struct kern_pair kern_pair(size_t bytes, size_t align)
{
    bool end = mix(&run.place) & 1;
    void *c = mem_place(bytes, align, end);
    return (struct kern_pair){c, mem_place(bytes, align, end)};
}

void kern_same(struct kern_pair p, size_t bytes) { memcpy(p.now, p.c, bytes); }

/* Control bits of the float environment. */
static uint32_t float_mode(void)
{
#if defined(__x86_64__)
    return __builtin_ia32_stmxcsr() & ~0x3fu;
#elif defined(__aarch64__)
    uint64_t x;
    __asm__ volatile("mrs %0, fpcr" : "=r"(x));
    return (uint32_t)x;
#else
    return 0;
#endif
}

void kern_reset(void)
{
    for (int i = 0; i < run.n_slot; i++)
        for (int j = 0; j < CANARY; j++)
            if (run.slot[i].canary[j] != CANARY_BYTE) {
                kern_fail("buffer %d of %zu bytes: written %s it", i, run.slot[i].bytes,
                          run.slot[i].canary < run.slot[i].data ? "before" : "after");
                break;
            }
    run.n_slot = 0;
    if (float_mode() != run.float_mode)
        kern_fail("float mode changed from %#x to %#x", (unsigned)run.float_mode, (unsigned)float_mode());
}

/* ---- bench */

static struct {
    char what[96];
    double c_ns;
} ratio[RATIOS];
static int n_ratio;

static double now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void bench_print(const char *what, double ns)
{
    char key[96];
    snprintf(key, sizeof(key), "%s %s", run.test, what);
    double c = 0;
    for (int i = 0; i < n_ratio; i++)
        if (strcmp(ratio[i].what, key) == 0)
            c = ratio[i].c_ns;
    if (c == 0 && n_ratio < RATIOS) {
        strcpy(ratio[n_ratio].what, key);
        ratio[n_ratio++].c_ns = c = ns;
    }
    printf("%-44s %-8s %12.1f ns  x %.2f\n", key, kern.level, ns, c / ns);
}

/* A sample is KERN_BATCH calls; the median of up to SAMPLES samples or 0.2 s counts, after one that warms up. */
bool kern_bench_more(const char *what)
{
    static double sample[SAMPLES], began, since;
    static int n = -2;
    double t = now_ns();
    if (n == -2)
        began = t;
    if (n >= 0)
        sample[n] = (t - since) / KERN_BATCH;
    if (++n >= SAMPLES || (n > 2 && t - began > 2e8)) {
        qsort(sample, (size_t)n, sizeof(*sample), by_size);
        bench_print(what, sample[n / 2]);
        n = -2;
        return false;
    }
    since = now_ns();
    return true;
}

/* ---- levels and tests */

struct level {
    const char *name;
    struct simd_ops ops;
};

static int levels_find(struct level *level)
{
    const char *const *name = simd_levels();
    int n_run = 0, n = 0;
    while (name[n_run])
        n_run++;
    for (int i = n_run - 1; i >= 0; i--) {
#ifdef HAVE_AVX512
        if (!strcmp(name[i], "avx512")) {
            level[n].name = "vnni-evex";
            simd_init(&level[n].ops, "avx2");
            fill_mul_vnni_evex(&level[n++].ops);
        }
#endif
        level[n].name = name[i];
        if (!simd_init(&level[n++].ops, name[i]))
            exit(2);
#ifdef HAVE_AVX2
        if (n == 1 && n_run > 1) {
            level[n].name = "c-fma";
            level[n].ops = level[0].ops;
            fill_c_fma(&level[n++].ops);
        }
#endif
    }
    return n;
}

typedef void (*kernel)(void);

static kernel op_of(const struct simd_ops *ops, size_t offset)
{
    kernel f;
    memcpy(&f, (const char *)ops + offset, sizeof(f));
    return f;
}

static void on_signal(int sig)
{
    if (!run.armed)
        _exit(128 + sig);
    siglongjmp(run.jump, sig);
}

static void signals_take(void)
{
    static const int list[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP};
    struct sigaction act = {.sa_handler = on_signal, .sa_flags = SA_NODEFER};
    for (size_t i = 0; i < sizeof(list) / sizeof(list[0]); i++)
        sigaction(list[i], &act, NULL);
}

/* True when it passed. */
static bool test_run(const struct kern_test *t, const struct level *c, const struct level *now)
{
    run.test = t->name;
    run.failures = 0;
    run.n_slot = 0;
    run.rng = XXH3_64bits_withSeed(t->name, strlen(t->name), run.seed);
    run.place = ~run.rng;
    kern = (struct kern){.c = &c->ops, .now = &now->ops, .level = now->name, .bench = kern.bench};
    uint64_t saved = simd_float_enter();
    run.float_mode = float_mode();
    int sig = sigsetjmp(run.jump, 1);
    if (sig == 0) {
        run.armed = 1;
        t->run(t->arg);
        kern_reset();
    } else {
        kern_fail("%s", strsignal(sig));
    }
    run.armed = 0;
    simd_float_leave(saved);
    fflush(stdout);
    return run.failures == 0;
}

struct options {
    const char *filter, *level;
    bool list;
};

/* One test at all levels; counts runs and failed runs. */
static void test_levels(const struct kern_test *t, const struct level *level, int n_level, const struct options *o,
                        int *n_run, int *n_bad)
{
    kernel seen[LEVELS];
    for (int i = 0; i < n_level; i++) {
        bool old = false;
        seen[i] = op_of(&level[i].ops, t->op);
        for (int j = 0; j < i; j++)
            old |= seen[j] == seen[i];
        if (old || !seen[i] || (o->level && strcmp(o->level, level[i].name) != 0))
            continue;
        ++*n_run;
        if (!test_run(t, &level[0], &level[i])) {
            ++*n_bad;
            printf("not ok %s/%s\n", t->name, level[i].name);
        }
    }
}

static void options_read(struct options *o, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(argv[i], "--bench") == 0)
            kern.bench = true;
        else if (strcmp(argv[i], "--list") == 0)
            o->list = true;
        else if (strcmp(argv[i], "--seed") == 0)
            run.seed = strtoull(value, NULL, 0), i++;
        else if (strcmp(argv[i], "--filter") == 0)
            o->filter = value, i++;
        else if (strcmp(argv[i], "--level") == 0)
            o->level = value, i++;
        else {
            fprintf(stderr, "usage: checkkern [--seed N] [--level L] [--filter TEXT] [--bench] [--list]\n");
            exit(2);
        }
    }
    if (!run.seed)
        run.seed = (uint64_t)now_ns();
}

int main(int argc, char **argv)
{
    static struct level level[LEVELS];
    struct options o = {0};
    run.seed = 20260801;
    options_read(&o, argc, argv);
    arena_open();
    signals_take();
    run.hash = XXH3_createState();
    XXH3_64bits_reset(run.hash);
    int n_level = levels_find(level), n_run = 0, n_bad = 0;
    printf("seed %llu, levels:", (unsigned long long)run.seed);
    for (int i = 0; i < n_level; i++)
        printf(" %s", level[i].name);
    printf("\n");
    for (size_t f = 0; f < sizeof(family) / sizeof(family[0]); f++)
        for (int i = 0; i < family[f]->n_test; i++) {
            const struct kern_test *t = &family[f]->test[i];
            if (o.filter && !strstr(t->name, o.filter))
                continue;
            if (o.list)
                printf("%s\n", t->name);
            else
                test_levels(t, level, n_level, &o, &n_run, &n_bad);
        }
    if (!kern.bench)
        printf("%d of %d runs passed, hash of all results of level c: %016llx\n", n_run - n_bad, n_run,
               (unsigned long long)XXH3_64bits_digest(run.hash));
    XXH3_freeState(run.hash);
    return n_bad != 0;
}
