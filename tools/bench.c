/* SPDX-License-Identifier: MIT */
/* quern bench: tokens per second of reading prompts and of writing, over lists of lengths and thread counts. */
#include "setup.h"
#include "term.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench_kernels.h"

struct result {
    int n_threads, n_prompt, n_gen, n_depth;
    double *s; /* [n_repeat] seconds */
    double avg_ns, sd_ns, avg_ts, sd_ts;
};

struct bench {
    struct opts *o;
    qn_engine *e;
    qn_seq *seq;
    struct qn_model_info info;
    float *logits; /* [n_vocab] */
    int32_t *ids; /* [longest] */
    struct result *results;
    int n_results, n_tests; /* done; all */
    uint64_t random;
    struct progress bar;
};

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
        b->ids[i] = (int32_t)((next_random(&b->random) >> 32) * (uint64_t)b->info.n_vocab >> 32);
}

static void eval(struct bench *b, const int32_t *ids, int n, enum qn_logits logits)
{
    struct qn_error err;
    for (int done = 0; done < n;) {
        int take = n - done < b->o->n_batch ? n - done : b->o->n_batch;
        struct qn_span span = {
            .seq = b->seq, .ids = ids + done, .n = take, .logits = done + take == n ? logits : QN_LOGITS_NONE};
        if (qn_eval(b->e, &span, 1, b->logits, &err))
            die("%s", err.text);
        done += take;
    }
}

/* Seconds of one measurement: fresh ids, an empty sequence, filled to the depth before the clock starts. */
static double measure(struct bench *b, const struct result *r)
{
    int n = r->n_prompt + r->n_gen;
    qn_seq_clear(b->seq);
    if (r->n_depth) {
        fresh_ids(b, r->n_depth);
        eval(b, b->ids, r->n_depth, QN_LOGITS_NONE);
    }
    fresh_ids(b, n);
    double start = now_s();
    if (r->n_prompt)
        eval(b, b->ids, r->n_prompt, QN_LOGITS_LAST);
    for (int i = r->n_prompt; i < n; i++)
        eval(b, b->ids + i, 1, QN_LOGITS_LAST);
    return now_s() - start;
}

static void warm_up(struct bench *b)
{
    qn_seq_clear(b->seq);
    fresh_ids(b, 1);
    eval(b, b->ids, 1, QN_LOGITS_LAST);
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

static void summarise(struct result *r, int n_repeat)
{
    double *v = xmalloc((size_t)n_repeat * sizeof *v);
    for (int i = 0; i < n_repeat; i++)
        v[i] = r->s[i] * 1e9;
    mean_and_deviation(v, n_repeat, &r->avg_ns, &r->sd_ns);
    for (int i = 0; i < n_repeat; i++)
        v[i] = (r->n_prompt + r->n_gen) / r->s[i];
    mean_and_deviation(v, n_repeat, &r->avg_ts, &r->sd_ts);
    free(v);
}

/* ---- output: rows appear as soon as they are measured */

static void print_csv(struct bench *b, const struct result *r)
{
    if (b->n_results == 1)
        out_text(
            "model,arch,description,model_size,model_n_params,isa,n_threads,n_threads_batch,n_ubatch,type_k,type_v,"
            "delta,n_prompt,n_gen,n_depth,repetitions,avg_ns,stddev_ns,avg_ts,stddev_ts,version,bits\n");
    out_text("\"");
    for (const char *p = b->o->model; *p; p++) /* a name may hold anything */
        out_printf(*p == '"' ? "\"\"" : "%c", *p);
    out_printf("\",%s,\"%s\",%zu,%lld,%s,%d,%d,%d,%s,%s,%s,%d,%d,%d,%d,%.0f,%.0f,%.6f,%.6f,%s,%d\n", b->info.arch,
               b->info.description, b->info.bytes_weights, (long long)b->info.n_params, b->info.isa, b->info.n_threads,
               b->info.n_threads_batch, b->o->n_ubatch, b->o->type_k, b->o->type_v, b->o->delta, r->n_prompt, r->n_gen,
               r->n_depth, b->o->n_repeat, r->avg_ns, r->sd_ns, r->avg_ts, r->sd_ts, qn_version(), QN_BITS);
}

static void print_test(const struct result *r, char *out, size_t cap)
{
    int n = snprintf(out, cap, r->n_gen ? "write %d" : "read %d", r->n_gen ? r->n_gen : r->n_prompt);
    if (r->n_depth)
        snprintf(out + n, cap - (size_t)n, " after %d", r->n_depth);
}

static void print_table(struct bench *b, const struct result *r, bool md)
{
    char test[64];
    print_test(r, test, sizeof test);
    if (b->n_results == 1) {
        if (!md)
            out_printf("%s, %s\n\n", b->info.description, b->o->model);
        out_printf(md ? "| model | level | threads | test | tokens/s |\n|---|---|---:|---|---:|\n"
                      : "%-8s %8s  %-24s %20s\n",
                   "level", "threads", "test", "tokens/s");
    }
    if (md)
        out_printf("| %s | %s | %d | %s | %.2f +/- %.2f |\n", b->info.description, b->info.isa, b->info.n_threads, test,
                   r->avg_ts, r->sd_ts);
    else
        out_printf("%-8s %8d  %-24s %10.2f +/- %5.2f\n", b->info.isa, b->info.n_threads, test, r->avg_ts, r->sd_ts);
}

static void print_json(struct bench *b, const struct result *r)
{
    json_t *samples = json_array(), *j;
    for (int i = 0; i < b->o->n_repeat; i++)
        json_array_append_new(samples, json_real(r->s[i] * 1e9));
    j = json_pack("{s:s, s:s, s:s, s:I, s:I, s:s, s:i, s:i, s:i, s:s, s:s, s:i, s:i, s:i, s:f, s:f, s:f, s:f, s:o}",
                  "model", b->o->model, "arch", b->info.arch, "description", b->info.description, "model_size",
                  (json_int_t)b->info.bytes_weights, "model_n_params", (json_int_t)b->info.n_params, "isa", b->info.isa,
                  "n_threads", b->info.n_threads, "n_threads_batch", b->info.n_threads_batch, "n_ubatch",
                  b->o->n_ubatch, "type_k", b->o->type_k, "type_v", b->o->type_v, "n_prompt", r->n_prompt, "n_gen",
                  r->n_gen, "n_depth", r->n_depth, "avg_ns", r->avg_ns, "stddev_ns", r->sd_ns, "avg_ts", r->avg_ts,
                  "stddev_ts", r->sd_ts, "samples_ns", samples);
    char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
    if (!text)
        die("%s: not UTF-8, no JSON can be written", b->o->model);
    out_printf("%s%s", b->n_results == 1 ? "[\n" : ",\n", text);
    free(text);
    json_decref(j);
}

static void print_result(struct bench *b, const struct result *r)
{
    progress_end(&b->bar);
    if (!strcmp(b->o->format, "csv"))
        print_csv(b, r);
    else if (!strcmp(b->o->format, "json"))
        print_json(b, r);
    else
        print_table(b, r, !strcmp(b->o->format, "md"));
    out_flush();
}

/* ---- tests */

static void run_test(struct bench *b, int n_prompt, int n_gen, int n_depth)
{
    struct result r = {.n_prompt = n_prompt, .n_gen = n_gen, .n_depth = n_depth};
    r.s = xmalloc((size_t)b->o->n_repeat * sizeof *r.s);
    for (int i = 0; i < b->o->n_repeat; i++) {
        r.s[i] = measure(b, &r);
        char detail[64];
        snprintf(detail, sizeof detail, "%.2f tokens/s", (n_prompt + n_gen) / r.s[i]);
        progress_set(&b->bar, (b->n_results + (i + 1.0) / b->o->n_repeat) / b->n_tests, detail);
    }
    b->n_results++;
    summarise(&r, b->o->n_repeat);
    print_result(b, &r);
    free(r.s);
}

static int largest(const struct ints *list)
{
    int most = 0;
    for (int i = 0; i < list->n; i++)
        most = list->v[i] > most ? list->v[i] : most;
    return most;
}

static void open_model(struct bench *b, int n_threads)
{
    struct opts *o = b->o;
    struct qn_error err;
    int p = largest(&o->list_p), n = largest(&o->list_n), longest = p > n ? p : n, depth = largest(&o->list_d);
    b->e = setup_open(o, (struct setup_size){.n_seq = 1, .n_ctx = longest + depth, .n_threads = n_threads});
    qn_model_info(b->e, &b->info);
    if (qn_seq_new(&b->seq, b->e, &err))
        die("%s", err.text);
    b->logits = xmalloc((size_t)b->info.n_vocab * sizeof *b->logits);
    b->ids = xmalloc((size_t)(longest > depth ? longest : depth) * sizeof *b->ids);
}

static void close_model(struct bench *b)
{
    qn_seq_free(b->seq);
    qn_close(b->e);
    free(b->logits);
    free(b->ids);
}

static int count_tests(const struct opts *o)
{
    int n = 0;
    for (int i = 0; i < o->list_p.n; i++)
        n += o->list_p.v[i] > 0;
    for (int i = 0; i < o->list_n.n; i++)
        n += o->list_n.v[i] > 0;
    return n * o->list_d.n * o->list_t.n;
}

static void run_all(struct bench *b)
{
    const struct opts *o = b->o;
    for (int d = 0; d < o->list_d.n; d++) {
        for (int i = 0; i < o->list_p.n; i++)
            if (o->list_p.v[i])
                run_test(b, o->list_p.v[i], 0, o->list_d.v[d]);
        for (int i = 0; i < o->list_n.n; i++)
            if (o->list_n.v[i])
                run_test(b, 0, o->list_n.v[i], o->list_d.v[d]);
    }
}

int cmd_bench(struct opts *o)
{
    if (o->kernels)
        return bench_kernels(o->format);
    struct bench b = {.o = o, .n_tests = count_tests(o)};
    if (!b.n_tests)
        usage("bench: -p and -n leave nothing to measure");
    setup_seed(o);
    b.random = o->seed;
    for (int t = 0; t < o->list_t.n; t++) {
        open_model(&b, o->list_t.v[t]);
        progress_begin(&b.bar, "measuring");
        warm_up(&b);
        run_all(&b);
        progress_end(&b.bar);
        close_model(&b);
    }
    if (!strcmp(o->format, "json"))
        out_text("\n]\n");
    out_flush();
    return 0;
}
