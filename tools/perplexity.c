/* SPDX-License-Identifier: MIT */
/* quern perplexity: how well a model predicts a text, and how far its predictions are from another model's.
 *
 * The text is cut into chunks of n_ctx tokens, the rest is dropped, and each begins with an empty context; where the model
 * adds BOS it takes the place of a chunk's first token.  Positions n_ctx / 2 .. n_ctx - 2 are scored. */
#include "predictions.h"
#include "setup.h"
#include "term.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct divergence {
    float *kl; /* [n] per scored position, for the percentiles */
    double sum, sum2;
    double nll_base, ratio, ratio2; /* sums: nll of the file, nll - nll of the file, its square */
    int64_t n_same; /* positions where both models' likeliest tokens agree */
};

struct scoring {
    struct opts *o;
    qn_engine *e;
    qn_seq *seq;
    struct qn_model_info info;
    int n_ctx, n_chunk;
    const int32_t *tokens; /* [n_chunk][n_ctx] */
    int32_t *chunk; /* [n_ctx] the chunk in work */
    float *rows; /* [n_ubatch][n_vocab] */
    int64_t n;
    double nll, nll2; /* sums over the scored positions */
    struct io_out *save; /* or NULL */
    uint16_t *scratch;
    struct predictions *base; /* or NULL */
    struct divergence d;
};

struct row {
    const float *logits;
    float max;
    double log_sum; /* log of the sum of exp(logits - max) */
    int top;
    double nll;
};

static void measure_row(struct row *r, int n_vocab, int32_t token)
{
    r->max = r->logits[0];
    r->top = 0;
    for (int i = 1; i < n_vocab; i++)
        if (r->logits[i] > r->max) {
            r->max = r->logits[i];
            r->top = i;
        }
    double sum = 0;
    for (int i = 0; i < n_vocab; i++)
        sum += (double)expf(r->logits[i] - r->max);
    r->log_sum = log(sum);
    r->nll = (double)r->max + r->log_sum - (double)r->logits[token];
}

/* KL divergence of the model from the file's predictions; what the file says is rarer than e^-16 is left out. */
static void compare_row(struct scoring *s, const struct row *r, int32_t token)
{
    float scale, min;
    const uint16_t *u = predictions_next(s->base, &scale, &min);
    double kl = 0, log_z = (double)r->max + r->log_sum;
    int top = 0;
    for (int i = 0; i < s->info.n_vocab; i++) {
        float lp = min + scale * (float)u[i];
        if (u[i] > u[top])
            top = i;
        if (lp > -16)
            kl += (double)expf(lp) * ((double)lp - ((double)r->logits[i] - log_z));
    }
    double nll_base = -(double)(min + scale * (float)u[token]), ratio = r->nll - nll_base;
    s->d.kl[s->n] = (float)kl;
    s->d.sum += kl;
    s->d.sum2 += kl * kl;
    s->d.nll_base += nll_base;
    s->d.ratio += ratio;
    s->d.ratio2 += ratio * ratio;
    s->d.n_same += r->logits[top] == r->max; /* equal logits are equally likely */
}

static void score_row(struct scoring *s, const float *logits, int32_t token)
{
    struct row r = {.logits = logits};
    measure_row(&r, s->info.n_vocab, token);
    if (s->save)
        predictions_write_row(s->save, logits, s->info.n_vocab, r.max, r.log_sum, s->scratch);
    if (s->base)
        compare_row(s, &r, token);
    s->n++;
    s->nll += r.nll;
    s->nll2 += r.nll * r.nll;
}

static void eval(struct scoring *s, int from, int n, enum qn_logits logits)
{
    struct qn_error err;
    struct qn_span span = {.seq = s->seq, .ids = s->chunk + from, .n = n, .logits = logits};
    if (qn_eval(s->e, &span, 1, s->rows, &err))
        die("%s", err.text);
}

/* The last token of a chunk only serves as an answer, so it is not evaluated. */
static void score_chunk(struct scoring *s, int c)
{
    int first = predictions_first(s->n_ctx), end = s->n_ctx - 1;
    memcpy(s->chunk, s->tokens + (size_t)c * (size_t)s->n_ctx, (size_t)s->n_ctx * sizeof *s->chunk);
    if (s->info.add_bos && s->info.id_bos >= 0)
        s->chunk[0] = s->info.id_bos;
    qn_seq_clear(s->seq);
    eval(s, 0, first, QN_LOGITS_NONE);
    for (int j = first; j < end;) {
        int n = end - j < s->o->n_ubatch ? end - j : s->o->n_ubatch;
        eval(s, j, n, QN_LOGITS_ALL);
        for (int i = 0; i < n; i++)
            score_row(s, s->rows + (size_t)i * (size_t)s->info.n_vocab, s->chunk[j + i + 1]);
        j += n;
    }
}

/* Standard error of the mean of n values with these sums. */
static double mean_error(double sum, double sum2, int64_t n)
{
    double mean = sum / (double)n, var = sum2 / (double)n - mean * mean;
    return n > 1 && var > 0 ? sqrt(var / (double)(n - 1)) : 0;
}

static void print_running(struct scoring *s, int c)
{
    double n = (double)s->n;
    if (s->base && !c)
        out_text("chunk        PPL  ln(PPL ratio)     mean KL  same top\n");
    if (s->base)
        out_printf("%5d %10.4f %14.5f %11.6f %8.3f%%\n", c + 1, exp(s->nll / n), s->d.ratio / n, s->d.sum / n,
                   100 * (double)s->d.n_same / n);
    else
        out_printf("[%d]%.4f%s", c + 1, exp(s->nll / n), c + 1 < s->n_chunk ? "," : "\n");
    out_flush();
}

static void score_all(struct scoring *s)
{
    struct progress bar;
    progress_begin(&bar, "perplexity");
    double start = now_s();
    bool show_bar = s->o->json || !term_out(); /* else the running estimate shows how far it is */
    for (int c = 0; c < s->n_chunk; c++) {
        score_chunk(s, c);
        if (!s->o->json)
            print_running(s, c);
        char detail[64];
        snprintf(detail, sizeof detail, "%d of %d, %.0f tokens/s", c + 1, s->n_chunk,
                 (double)s->n_ctx * (c + 1) / (now_s() - start));
        if (show_bar)
            progress_set(&bar, (double)(c + 1) / s->n_chunk, detail);
    }
    progress_end(&bar);
}

/* ---- results */

static int by_size(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Of n sorted values, interpolated between neighbours. */
static double percentile(const float *v, int64_t n, double share)
{
    double at = share * (double)(n - 1);
    int64_t i = (int64_t)at;
    if (i + 1 >= n)
        return (double)v[n - 1];
    return (double)v[i] + (at - (double)i) * ((double)v[i + 1] - (double)v[i]);
}

static const struct {
    const char *label, *key;
    double share;
} percentiles[] = {{"99.9 %", "kl_p99_9", .999},
                   {"99 %", "kl_p99", .99},
                   {"95 %", "kl_p95", .95},
                   {"90 %", "kl_p90", .90},
                   {"median", "kl_median", .5}};

static void print_divergence(struct scoring *s)
{
    struct divergence *d = &s->d;
    double n = (double)s->n, ratio = exp(d->ratio / n);
    out_printf("\nPPL of the file              %12.6f\n", exp(d->nll_base / n));
    out_printf("PPL ratio                    %12.6f +/- %.6f\n", ratio, ratio * mean_error(d->ratio, d->ratio2, s->n));
    out_printf("mean KL divergence           %12.6f +/- %.6f\n", d->sum / n, mean_error(d->sum, d->sum2, s->n));
    out_printf("KL divergence, maximum       %12.6f\n", (double)d->kl[s->n - 1]);
    for (size_t i = 0; i < sizeof percentiles / sizeof *percentiles; i++)
        out_printf("KL divergence, %-6s        %12.6f\n", percentiles[i].label,
                   percentile(d->kl, s->n, percentiles[i].share));
    out_printf("same likeliest token         %11.3f%%\n", 100 * (double)d->n_same / n);
}

static void add_real(json_t *j, const char *key, double v)
{
    json_object_set_new(j, key, isfinite(v) ? json_real(v) : json_null());
}

static void print_json(struct scoring *s)
{
    struct divergence *d = &s->d;
    double n = (double)s->n, nll = s->nll / n;
    json_t *j = json_object();
    add_real(j, "ppl", exp(nll));
    add_real(j, "ppl_error", exp(nll) * mean_error(s->nll, s->nll2, s->n));
    add_real(j, "nll", nll);
    json_object_set_new(j, "n_scored", json_integer(s->n));
    json_object_set_new(j, "n_ctx", json_integer(s->n_ctx));
    json_object_set_new(j, "n_chunks", json_integer(s->n_chunk));
    if (s->base) {
        add_real(j, "ppl_base", exp(d->nll_base / n));
        add_real(j, "ppl_ratio", exp(d->ratio / n));
        add_real(j, "ppl_ratio_error", exp(d->ratio / n) * mean_error(d->ratio, d->ratio2, s->n));
        add_real(j, "kl_mean", d->sum / n);
        add_real(j, "kl_error", mean_error(d->sum, d->sum2, s->n));
        add_real(j, "kl_max", (double)d->kl[s->n - 1]);
        for (size_t i = 0; i < sizeof percentiles / sizeof *percentiles; i++)
            add_real(j, percentiles[i].key, percentile(d->kl, s->n, percentiles[i].share));
        add_real(j, "same_top", (double)d->n_same / n);
    }
    char *text = json_dump(j);
    out_printf("%s\n", text);
    free(text);
    json_decref(j);
}

static void print_result(struct scoring *s)
{
    if (s->base)
        qsort(s->d.kl, (size_t)s->n, sizeof *s->d.kl, by_size);
    if (s->o->json) {
        print_json(s);
        return;
    }
    double ppl = exp(s->nll / (double)s->n);
    if (s->base)
        print_divergence(s);
    out_printf("Final estimate: PPL = %.4f +/- %.5f (%lld positions)\n", ppl, ppl * mean_error(s->nll, s->nll2, s->n),
               (long long)s->n);
}

/* ---- the text */

static void tokenize_file(struct scoring *s)
{
    struct qn_error err;
    size_t n;
    int n_ids;
    int32_t *ids;
    char *text = io_read(s->o->file, &n);
    if (qn_tokenize(s->e, text, n, NULL, QN_TOK_BOS, &ids, &n_ids, &err))
        die("%s: %s", s->o->file, err.text);
    free(text);
    s->n_chunk = n_ids / s->n_ctx;
    if (!s->n_chunk)
        die("%s: %d tokens, one chunk needs %d (-c N makes chunks shorter)", s->o->file, n_ids, s->n_ctx);
    s->tokens = ids;
}

static void take_base(struct scoring *s)
{
    if (s->base->n_vocab != s->info.n_vocab)
        die("%s: made with a vocabulary of %d tokens, %s has %d", s->base->path, s->base->n_vocab, s->o->model,
            s->info.n_vocab);
    s->n_chunk = s->base->n_chunk;
    s->tokens = s->base->tokens;
    s->d.kl = xmalloc((size_t)s->n_chunk * (size_t)predictions_scored(s->n_ctx) * sizeof *s->d.kl);
}

int cmd_perplexity(struct opts *o)
{
    struct predictions base;
    struct io_out save;
    if (!o->file == !o->kl_divergence)
        usage("perplexity: one of -f FILE and --kl-divergence FILE is needed");
    if (o->kl_divergence && o->save_logits)
        usage("perplexity: --save-logits and --kl-divergence exclude each other");
    struct scoring s = {.o = o, .n_ctx = o->n_ctx};
    if (o->kl_divergence) {
        predictions_open(&base, o->kl_divergence);
        if (GIVEN(o, n_ctx) && o->n_ctx != base.n_ctx)
            die("%s: made with chunks of %d tokens, -c says %d", o->kl_divergence, base.n_ctx, o->n_ctx);
        s.base = &base;
        s.n_ctx = base.n_ctx;
    }
    s.e = setup_open(o, (struct setup_size){.n_seq = 1, .n_ctx = s.n_ctx, .n_threads = -1});
    struct qn_error err;
    qn_model_info(s.e, &s.info);
    if (qn_seq_new(&s.seq, s.e, &err) || qn_seq_reserve(s.seq, s.n_ctx, &err))
        die("%s", err.text);
    if (s.base)
        take_base(&s);
    else
        tokenize_file(&s);
    if (o->n_chunks >= 0 && o->n_chunks < s.n_chunk)
        s.n_chunk = o->n_chunks;
    if (!s.n_chunk)
        usage("--chunks: 0 leaves nothing to score");
    s.chunk = xmalloc((size_t)s.n_ctx * sizeof *s.chunk);
    s.rows = xmalloc((size_t)o->n_ubatch * (size_t)s.info.n_vocab * sizeof *s.rows);
    if (o->save_logits) {
        io_create(&save, o->save_logits);
        s.save = &save;
        s.scratch = xmalloc(predictions_row_bytes(s.info.n_vocab));
        predictions_write_head(&save, s.n_ctx, s.info.n_vocab, s.n_chunk, s.tokens);
    }
    score_all(&s);
    if (s.save)
        io_commit(&save);
    print_result(&s);
    out_flush();
    qn_seq_free(s.seq);
    qn_close(s.e);
    if (s.base)
        predictions_close(&base);
    else
        free((void *)s.tokens);
    free(s.chunk);
    free(s.rows);
    free(s.scratch);
    free(s.d.kl);
    return 0;
}
