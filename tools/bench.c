/* SPDX-License-Identifier: MIT */
/* quern bench: tokens per second of reading prompts and of writing, over lists of lengths, depths, sequences, threads and
 * micro-batches, beside the machine's limits and a breakdown of the time. */
#include "bench.h"
#include "bench_bounds.h"
#include "bench_kernels.h"
#include "term.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct bench {
    struct opts *o;
    qn_engine *e;
    qn_seq **seq; /* [n_seq] */
    int n_seq; /* alive */
    struct qn_span *spans; /* [n_seq] */
    struct printer out;
    float *logits; /* [n_seq][n_vocab] */
    int32_t *ids; /* [most that are drawn at once] */
    struct result *results;
    int n_results, n_tests; /* done; all */
    uint64_t random;
    struct progress bar;
};

static int largest(const struct ints *list)
{
    int most = 0;
    for (int i = 0; i < list->n; i++)
        most = list->v[i] > most ? list->v[i] : most;
    return most;
}

/* splitmix64 */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static void fresh_ids(struct bench *b, int n)
{
    for (int i = 0; i < n; i++)
        b->ids[i] = (int32_t)((next_random(&b->random) >> 32) * (uint64_t)b->out.info.n_vocab >> 32);
}

static void eval_spans(struct bench *b, int n_spans)
{
    struct qn_error err;
    if (qn_eval(b->e, b->spans, n_spans, b->logits, &err))
        die("%s", err.text);
}

/* ids[0..n) to sequence i, in calls of the batch size. */
static void read_ids(struct bench *b, int i, int n, enum qn_logits logits)
{
    for (int done = 0; done < n;) {
        int take = n - done < b->o->n_batch ? n - done : b->o->n_batch;
        b->spans[0] = (struct qn_span){
            .seq = b->seq[i], .ids = b->ids + done, .n = take, .logits = done + take == n ? logits : QN_LOGITS_NONE};
        eval_spans(b, 1);
        done += take;
    }
}

/* One token to each of n_seq sequences; ids[from] is the first one's. */
static void write_ids(struct bench *b, int n_seq, int from)
{
    for (int i = 0; i < n_seq; i++)
        b->spans[i] = (struct qn_span){.seq = b->seq[i], .ids = b->ids + from + i, .n = 1, .logits = QN_LOGITS_LAST};
    eval_spans(b, n_seq);
}

/* How much deeper a filled context may be than asked for, so that it serves several measurements. */
static int slack(int depth) { return depth / 16; }

static void fill_to_depth(struct bench *b, const struct result *r)
{
    for (int i = 0; i < r->n_seq; i++) {
        int have = qn_seq_len(b->seq[i]);
        if (have >= r->n_depth && have <= r->n_depth + slack(r->n_depth))
            continue;
        qn_seq_clear(b->seq[i]);
        fresh_ids(b, r->n_depth);
        read_ids(b, i, r->n_depth, QN_LOGITS_NONE);
    }
}

/* ids[0..n) to the first sequence, with guesses of which so many % are right.  The model's own drafter, if it was asked for, guesses
 * too, so that its time is in it; what it says is replaced, since random tokens cannot be guessed. */
static void write_with_guesses(struct bench *b, const struct result *r, int n)
{
    int32_t span[64];
    struct qn_error err;
    bool drafts = !strcmp(b->o->spec, "mtp");
    for (int done = 0; done < n;) {
        int most = n - done - 1 < r->n_guesses ? n - done - 1 : r->n_guesses, keep = 1;
        if (drafts && most > 0 && qn_draft(b->seq[0], b->ids[done], most, span + 1, NULL, &err) < 0)
            die("%s", err.text);
        for (int i = 0; i <= most; i++)
            span[i] = b->ids[done + i];
        while (keep <= most && (int)(next_random(&b->random) % 100) < r->right)
            keep++;
        if (keep <= most)
            span[keep] ^= 1;
        struct qn_span try = {.seq = b->seq[0], .ids = span, .n = most + 1, .logits = QN_LOGITS_ALL};
        if (qn_try(b->e, &try, 1, b->logits, &err))
            die("%s", err.text);
        qn_commit(b->e, &keep);
        done += keep;
    }
}

static void add_stats(struct qn_stats *sum, const struct qn_stats *s)
{
    sum->steps += s->steps;
    sum->rows += s->rows;
    sum->seconds += s->seconds;
    sum->wait_least_s += s->wait_least_s;
    sum->wait_most_s += s->wait_most_s;
    sum->barriers += s->barriers;
    sum->expert_layers += s->expert_layers;
    sum->experts += s->experts;
    for (int p = 0; p < QN_PHASES; p++) {
        sum->phase_s[p] += s->phase_s[p];
        sum->bytes[p] += s->bytes[p];
        sum->int_ops[p] += s->int_ops[p];
        sum->float_ops[p] += s->float_ops[p];
    }
}

/* Seconds of one measurement: fresh ids, contexts filled to the depth before the clock starts. */
static double measure(struct bench *b, struct result *r)
{
    struct qn_stats stats;
    fill_to_depth(b, r);
    fresh_ids(b, r->n_tokens);
    qn_stats_start(b->e);
    double start = now_s();
    if (r->n_prompt)
        read_ids(b, 0, r->n_prompt, QN_LOGITS_LAST);
    if (r->n_guesses)
        write_with_guesses(b, r, r->n_gen);
    else
        for (int i = 0; i < r->n_gen; i++)
            write_ids(b, r->n_seq, i * r->n_seq);
    double s = now_s() - start;
    qn_stats(b->e, &stats);
    qn_stats_stop(b->e);
    add_stats(&r->stats, &stats);
    return s;
}

/* A micro-batch of the longest prompt and one token, not measured: all memory has been touched then, as in a program that runs. */
static void warm_up(struct bench *b)
{
    int n = largest(&b->o->list_p);
    n = n < b->o->n_ubatch ? n : b->o->n_ubatch;
    fresh_ids(b, n + 1);
    read_ids(b, 0, n, QN_LOGITS_LAST);
    write_ids(b, 1, n);
    qn_seq_clear(b->seq[0]);
}

static void mean_and_deviation(const double *v, int n, double *mean, double *sd)
{
    double sum = 0, sum2 = 0;
    for (int i = 0; i < n; i++)
        sum += v[i];
    *mean = sum / n;
    for (int i = 0; i < n; i++)
        sum2 += (v[i] - *mean) * (v[i] - *mean);
    *sd = n > 1 ? sqrt(sum2 / (n - 1)) : 0;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void summarise(struct result *r)
{
    int n = r->n_repeat;
    double *v = xmalloc((size_t)n * sizeof *v);
    for (int i = 0; i < n; i++)
        v[i] = r->s[i] * 1e9;
    mean_and_deviation(v, n, &r->avg_ns, &r->sd_ns);
    for (int i = 0; i < n; i++)
        v[i] = r->n_tokens / r->s[i];
    mean_and_deviation(v, n, &r->avg_ts, &r->sd_ts);
    qsort(v, (size_t)n, sizeof *v, by_value);
    r->median_ts = (v[n / 2] + v[(n - 1) / 2]) / 2;
    r->least_ts = v[0];
    r->most_ts = v[n - 1];
    free(v);
}

/* ---- tests */

static void run_test(struct bench *b, struct result r)
{
    r.n_ubatch = b->o->n_ubatch;
    r.n_threads = b->out.info.n_threads;
    r.n_threads_batch = b->out.info.n_threads_batch;
    r.n_tokens = (r.n_prompt + r.n_gen) * r.n_seq;
    r.n_repeat = b->o->n_repeat;
    if (!b->o->no_limits && !b->o->barriers)
        r.limits = *bench_limits(r.n_gen ? r.n_threads : r.n_threads_batch, b->out.info.isa);
    r.s = xmalloc((size_t)r.n_repeat * sizeof *r.s);
    for (int i = 0; i < r.n_repeat; i++) {
        r.s[i] = measure(b, &r);
        char detail[64];
        snprintf(detail, sizeof detail, "%.2f tokens/s", r.n_tokens / r.s[i]);
        progress_set(&b->bar, (b->n_results + (i + 1.0) / r.n_repeat) / b->n_tests, detail);
    }
    summarise(&r);
    b->results[b->n_results++] = r;
    progress_end(&b->bar);
    print_result(&b->out, &r);
}

static int max2(int a, int b) { return a > b ? a : b; }

static void open_model(struct bench *b, int n_threads, int n_ubatch)
{
    struct opts *o = b->o;
    struct qn_error err;
    int n_seq = largest(&o->list_npl), depth = largest(&o->list_d),
        longest = max2(largest(&o->list_p), largest(&o->list_n));
    o->n_ubatch = n_ubatch;
    b->e = setup_open(
        o, (struct setup_size){.n_seq = n_seq, .n_ctx = depth + slack(depth) + longest + 1, .n_threads = n_threads});
    qn_model_info(b->e, &b->out.info);
    b->out.model = o->model;
    snprintf(b->out.title, sizeof b->out.title, "%s, level %s", b->out.info.description, b->out.info.isa);
    b->seq = xmalloc((size_t)n_seq * sizeof *b->seq);
    b->spans = xmalloc((size_t)n_seq * sizeof *b->spans);
    for (b->n_seq = 0; b->n_seq < n_seq; b->n_seq++)
        if (qn_seq_new(&b->seq[b->n_seq], b->e, &err) || qn_seq_reserve(b->seq[b->n_seq], b->out.info.n_ctx, &err))
            die("%s", err.text);
    b->logits = xmalloc((size_t)max2(n_seq, o->list_right.n ? o->draft_max + 1 : 0) * (size_t)b->out.info.n_vocab *
                        sizeof *b->logits);
    b->ids = xmalloc((size_t)max2(max2(largest(&o->list_p) + 1, largest(&o->list_n) * n_seq), depth) * sizeof *b->ids);
}

static void close_model(struct bench *b)
{
    for (int i = 0; i < b->n_seq; i++)
        qn_seq_free(b->seq[i]);
    qn_close(b->e);
    free(b->seq);
    free(b->spans);
    free(b->logits);
    free(b->ids);
}

static int count_positive(const struct ints *list)
{
    int n = 0;
    for (int i = 0; i < list->n; i++)
        n += list->v[i] > 0;
    return n;
}

static int count_tests(const struct opts *o)
{
    int each = count_positive(&o->list_p) + count_positive(&o->list_n) * (o->list_npl.n + o->list_right.n);
    return each * o->list_d.n * o->list_t.n * o->list_ub.n;
}

static void run_all(struct bench *b)
{
    const struct opts *o = b->o;
    for (int d = 0; d < o->list_d.n; d++) {
        for (int i = 0; i < o->list_p.n; i++)
            if (o->list_p.v[i])
                run_test(b, (struct result){.n_prompt = o->list_p.v[i], .n_seq = 1, .n_depth = o->list_d.v[d]});
        for (int i = 0; i < o->list_n.n; i++)
            for (int s = 0; s < o->list_npl.n && o->list_n.v[i]; s++)
                run_test(
                    b, (struct result){.n_gen = o->list_n.v[i], .n_seq = o->list_npl.v[s], .n_depth = o->list_d.v[d]});
        for (int i = 0; i < o->list_n.n; i++)
            for (int s = 0; s < o->list_right.n && o->list_n.v[i]; s++)
                run_test(b, (struct result){.n_gen = o->list_n.v[i],
                                            .n_seq = 1,
                                            .n_depth = o->list_d.v[d],
                                            .n_guesses = o->draft_max,
                                            .right = o->list_right.v[s]});
    }
}

static void run_model(struct bench *b)
{
    const struct opts *o = b->o;
    b->results = xmalloc((size_t)b->n_tests * sizeof *b->results);
    for (int t = 0; t < o->list_t.n; t++)
        for (int u = 0; u < o->list_ub.n; u++) {
            open_model(b, o->list_t.v[t], o->list_ub.v[u]);
            progress_begin(&b->bar, "measuring");
            warm_up(b);
            run_all(b);
            progress_end(&b->bar);
            close_model(b);
        }
    print_end(&b->out, b->results, b->n_results);
    if (o->plot)
        plot_results(&b->out, o->plot, b->results, b->n_results);
    for (int i = 0; i < b->n_results; i++)
        free(b->results[i].s);
    free(b->results);
}

int cmd_bench(struct opts *o)
{
    if (o->bounds)
        return bench_bounds(o->format);
    if (o->kernels)
        return bench_kernels(o->format, o->only);
    struct bench b = {.o = o,
                      .n_tests = count_tests(o),
                      .out = {.format = o->format,
                              .barriers = o->barriers,
                              .type_k = o->type_k,
                              .type_v = o->type_v,
                              .delta = o->delta,
                              .show_ubatch = o->list_ub.n > 1}};
    if (!b.n_tests)
        usage("bench: -p and -n leave nothing to measure");
    if (o->plot)
        plot_check(o->plot);
    setup_seed(o);
    b.random = o->seed;
    run_model(&b);
    return 0;
}
