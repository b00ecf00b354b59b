/* SPDX-License-Identifier: MIT */
/* Workers in adverse surroundings: whatever OpenMP grants, wherever the call comes from and however few cores there are, the
 * same logits come out, and waiting costs little.  Settings of OpenMP are read once, so each runs in a process of its own. */
#define _GNU_SOURCE
#include "ggufedit.h"
#include "hashmodel.h"
#include "quern.h"
#include "src/pool.h"
#include "testing.h"

#include <omp.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <xxhash.h>

enum { N = 40, VOCAB = 512, LIMIT_S = 300 };

static const char *file; /* the model */
static const char *self; /* this program */

static struct qn_options options(int n_threads)
{
    return (struct qn_options){.model = file, .n_threads = n_threads, .n_ctx = 128, .n_seq = 2};
}

struct life {
    qn_engine *e;
    qn_seq *s;
    uint64_t hash;
};

static void begin(struct life *l, const struct qn_options *o)
{
    struct qn_error err;
    if (qn_open(&l->e, o, &err) || qn_seq_new(&l->s, l->e, &err)) {
        fprintf(stderr, "%s\n", err.text);
        abort();
    }
    l->hash = 0;
}

static void end(struct life *l)
{
    qn_seq_free(l->s);
    qn_close(l->e);
}

/* The next n tokens; the hash takes in all their logits. */
static void advance(struct life *l, int n)
{
    struct qn_error err;
    int32_t ids[N];
    float *logits = malloc((size_t)n * VOCAB * sizeof *logits);
    for (int i = 0; i < n; i++)
        ids[i] = (int32_t)(hash_splitmix64((uint64_t)(qn_seq_len(l->s) + i)) % 490);
    struct qn_span sp = {.seq = l->s, .ids = ids, .n = n, .logits = QN_LOGITS_ALL};
    if (qn_eval(l->e, &sp, 1, logits, &err)) {
        fprintf(stderr, "%s\n", err.text);
        abort();
    }
    l->hash = XXH3_64bits_withSeed(logits, (size_t)n * VOCAB * sizeof *logits, l->hash);
    free(logits);
}

/* A prompt, then token by token. */
static void finish(struct life *l)
{
    advance(l, N - 10);
    for (int i = 0; i < 10; i++)
        advance(l, 1);
}

static uint64_t plain_run(int n_threads, bool no_numa)
{
    struct life l;
    struct qn_options o = options(n_threads);
    o.no_numa = no_numa;
    begin(&l, &o);
    finish(&l);
    end(&l);
    return l.hash;
}

static uint64_t reference(void)
{
    static uint64_t h;
    return h ? h : (h = plain_run(1, true));
}

/* ---- processes with settings of their own */

/* Runs this program as `self child THREADS` with variables "A=1 B=2" and, if one_core, on one core; returns its hash. */
static uint64_t child(int n_threads, const char *variables, bool one_core)
{
    int fd[2];
    assert_int_equal(pipe(fd), 0);
    pid_t pid = fork();
    if (pid == 0) {
        char all[256], *save = NULL, threads[16];
        snprintf(all, sizeof all, "%s", variables);
        for (char *v = strtok_r(all, " ", &save); v; v = strtok_r(NULL, " ", &save)) {
            *strchr(v, '=') = 0;
            setenv(v, v + strlen(v) + 1, 1);
        }
        cpu_set_t one;
        sched_getaffinity(0, sizeof one, &one);
        for (int cpu = 0, seen = 0; one_core && cpu < CPU_SETSIZE; cpu++)
            if (CPU_ISSET(cpu, &one) && seen++)
                CPU_CLR(cpu, &one);
        if (one_core)
            sched_setaffinity(0, sizeof one, &one);
        snprintf(threads, sizeof threads, "%d", n_threads);
        dup2(fd[1], 1);
        close(fd[0]);
        execl(self, self, "child", threads, file, (char *)NULL);
        _exit(127);
    }
    close(fd[1]);
    char text[64] = "";
    FILE *f = fdopen(fd[0], "r");
    char *got = fgets(text, sizeof text, f);
    fclose(f);
    int status = 0;
    waitpid(pid, &status, 0);
    if (!got || status != 0)
        fail_msg("%d threads, %s: status %x", n_threads, variables, (unsigned)status);
    return strtoull(text, NULL, 16);
}

static int child_main(char **argv)
{
    alarm(LIMIT_S);
    file = argv[3];
    printf("%016llx\n", (unsigned long long)plain_run(atoi(argv[2]), false));
    return 0;
}

static void test_settings(void **state)
{
    (void)state;
    static const struct {
        int threads;
        const char *variables;
        bool one_core;
    } runs[] = {
        {2, "OMP_NUM_THREADS=1", false},
        {2, "OMP_THREAD_LIMIT=1", false},
        {5, "OMP_THREAD_LIMIT=3", false},
        {8, "OMP_DYNAMIC=true", false},
        {3, "OMP_WAIT_POLICY=active", false},
        {3, "OMP_WAIT_POLICY=passive OMP_PROC_BIND=false", false},
        {2, "OMP_PROC_BIND=close OMP_PLACES=cores", false},
        {2, "OMP_STACKSIZE=256k", false},
        {3, "A=1", true},
        {0, "A=1", true},
        {0, "A=1", false},
    };
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        uint64_t h = child(runs[i].threads, runs[i].variables, runs[i].one_core);
        if (h != reference())
            fail_msg("%d threads, %s: logits hash %016llx, not %016llx", runs[i].threads, runs[i].variables,
                     (unsigned long long)h, (unsigned long long)reference());
    }
}

/* ---- callers of many kinds */

/* From inside a parallel region, where OpenMP grants one thread, or more if nesting is allowed. */
static void test_nested(void **state)
{
    (void)state;
    struct qn_options o = options(3);
    for (int levels = 1; levels <= 2; levels++) {
        struct life l;
        omp_set_max_active_levels(levels);
        begin(&l, &o); /* packed by a team of another size */
#pragma omp parallel num_threads(2)
#pragma omp single
        finish(&l);
        end(&l);
        assert_true(l.hash == reference());
    }
    omp_set_max_active_levels(1);
}

static void *whole_life(void *arg)
{
    struct life *l = arg;
    struct qn_options o = options(2);
    begin(l, &o);
    finish(l);
    end(l);
    return NULL;
}

/* Two engines, in turns and at the same time. */
static void test_two_engines(void **state)
{
    (void)state;
    struct qn_options two = options(2), three = options(3);
    struct life a, b, c[2];
    begin(&a, &two);
    begin(&b, &three);
    advance(&a, N - 10);
    advance(&b, N - 10);
    for (int i = 0; i < 10; i++) {
        advance(&a, 1);
        advance(&b, 1);
    }
    end(&a);
    end(&b);
    assert_true(a.hash == reference() && b.hash == reference());
    pthread_t thread[2];
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, whole_life, &c[i]), 0);
    for (int i = 0; i < 2; i++)
        pthread_join(thread[i], NULL);
    assert_true(c[0].hash == reference() && c[1].hash == reference());
}

/* An engine that is opened by one thread and used by others, one at a time. */
static void *rest_of_life(void *arg)
{
    struct life *l = arg;
    for (int i = 0; i < 5; i++)
        advance(l, 1);
    return NULL;
}

static void test_wandering(void **state)
{
    (void)state;
    struct qn_options o = options(2);
    struct life l;
    begin(&l, &o);
    advance(&l, N - 10);
    for (int i = 0; i < 2; i++) {
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, rest_of_life, &l), 0);
        pthread_join(thread, NULL);
    }
    end(&l);
    assert_true(l.hash == reference());
}

/* ---- more workers than cores */

static double cpu_seconds(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + 1e-6 * (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

/* Processor time of 40 single tokens: what waiting burns, on a busy machine too. */
static double cost_of(int n_threads)
{
    struct life l;
    struct qn_options o = options(n_threads);
    begin(&l, &o);
    advance(&l, 1);
    double start = cpu_seconds();
    for (int i = 0; i < 40; i++)
        advance(&l, 1);
    double cost = cpu_seconds() - start;
    end(&l);
    return cost;
}

static void test_oversubscribed(void **state)
{
    (void)state;
    int cores = (int)sysconf(_SC_NPROCESSORS_ONLN), many = 4 * cores < 32 ? 4 * cores : 32;
    double few = cost_of(cores), lots = cost_of(many);
    print_message("40 tokens: %.2f s of processor time with %d workers, %.2f s with %d\n", few, cores, lots, many);
    assert_true(plain_run(many, false) == reference());
    assert_true(lots <= 3.0 * few + 1.0);
}

/* ---- shares taken in pieces */

enum { MOST_UNITS = 4099, SPREAD_WORKERS = 6, TOGETHER = 3, ROUNDS = 200 };

struct spread_job {
    atomic_int times[TOGETHER][MOST_UNITS]; /* that somebody took a unit */
    int64_t taken[SPREAD_WORKERS];
    int n_bad, slow; /* slow: who sleeps after each piece */
};

static void take_all_of(struct worker *w, struct spread_job *job, int k, int64_t n, int64_t least)
{
    struct spread s = pool_spread(w, n, least);
    for (int64_t first, last; pool_spread_next(&s, &first, &last);) {
        job->taken[w->id] += last - first;
        for (int64_t u = first; u < last; u++)
            atomic_fetch_add(&job->times[k][u], 1);
        if (w->id == job->slow)
            usleep(20000);
    }
}

/* Several spreads between two barriers, of sizes from nothing to many, without end: the words behind them are used again. */
static void spread_worker(struct worker *w, void *arg)
{
    static const int64_t sizes[] = {0, 1, 5, 7, 100, 1000, MOST_UNITS};
    enum { N_SIZES = sizeof sizes / sizeof *sizes };
    struct spread_job *job = arg;
    for (int round = 0; round < ROUNDS; round++) {
        for (int k = 0; k < TOGETHER; k++)
            take_all_of(w, job, k, sizes[(round + k) % N_SIZES], round % 2 ? 1 : 64);
        pool_barrier(w);
        for (int k = 0; w->id == 0 && k < TOGETHER; k++)
            for (int64_t u = 0; u < MOST_UNITS; u++)
                job->n_bad += atomic_exchange(&job->times[k][u], 0) != (u < sizes[(round + k) % N_SIZES]);
        pool_barrier(w);
    }
}

static void slow_worker(struct worker *w, void *arg) { take_all_of(w, arg, 0, MOST_UNITS, 10); }

/* Everything is taken once, by the faster workers what is left of a slow one's share, on one node and on two. */
static void test_spread(void **state)
{
    (void)state;
    static struct spread_job job;
    for (int n_nodes = 1; n_nodes <= 2; n_nodes++)
        for (int n = 1; n <= SPREAD_WORKERS; n++) {
            struct pool *p;
            struct qn_error err;
            topology_pretend(SPREAD_WORKERS, n_nodes);
            assert_int_equal(pool_open(&p, n, true, NULL, &err), 0);
            job = (struct spread_job){.slow = -1};
            pool_run(p, n, spread_worker, &job);
            assert_int_equal(job.n_bad, 0);
            job = (struct spread_job){.slow = n - 1};
            pool_run(p, n, slow_worker, &job);
            for (int u = 0; u < MOST_UNITS; u++)
                assert_int_equal(job.times[0][u], 1);
            assert_true(n == 1 || job.taken[n - 1] < MOST_UNITS / n);
            pool_close(p);
        }
}

int main(int argc, char **argv)
{
    if (argc == 4 && !strcmp(argv[1], "child"))
        return child_main(argv);
    static char path[1024], program[1024];
    ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    if (n <= 0)
        return 1;
    self = program;
    struct edit *e = edit_model("qwen35moe", "Q4_K");
    snprintf(path, sizeof path, "%s", test_tmp("threads.gguf"));
    edit_write(e, path, true);
    edit_free(e);
    file = path;
    alarm(2 * LIMIT_S); /* a livelock must end */
    const struct CMUnitTest tests[] = {
        {.name = "threads/settings", .test_func = test_settings},
        {.name = "threads/nested", .test_func = test_nested},
        {.name = "threads/two_engines", .test_func = test_two_engines},
        {.name = "threads/wandering", .test_func = test_wandering},
        {.name = "threads/oversubscribed", .test_func = test_oversubscribed},
        {.name = "threads/spread", .test_func = test_spread}, /* last: it pretends nodes */
    };
    return _cmocka_run_group_tests("threads", tests, sizeof tests / sizeof *tests, NULL, NULL);
}
