/* SPDX-License-Identifier: MIT */
/* The samplers: filters over a list of candidates, in the order the caller chose, and one draw at the end.
 * A sampled text is the same on every machine: the generator works on integers, exp and log below use only exactly rounded
 * operations in a fixed order, and candidates are ordered totally (higher key, then lower id), so that which selection
 * algorithm runs cannot be seen.  Nothing is allocated after sampler_open(). */
#include "sample.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TAIL = 64, DRAW_TOKEN = 0, DRAW_XTC = 1 };

struct cand {
    double key; /* what select_top() orders by */
    float logit;
    int32_t id;
};

/* The last tokens seen.  data holds up to 2 x cap ids; when it is full its newer half moves to the front. */
struct history {
    int32_t *data;
    int n, cap;
};

struct qn_sampler {
    struct sampler_env env;
    struct qn_sampling p; /* bias and dry_breakers are not used: see below */
    struct qn_logit_bias *bias; /* [n_bias] */
    struct cand *cand; /* [n_vocab] */
    int n_cand;
    double max_logit; /* of the candidates; set by total_weight() */
    struct history seen;
    int32_t *mark; /* [n_vocab] counts (penalties) or repeat lengths (DRY) while one of them runs, else zero */
    int32_t *match; /* [seen.cap] DRY's suffix matches */
    uint32_t n_sampled;
    double mu; /* mirostat */
    /* DRY: text that ends a repetition */
    char breaker[QN_DRY_BREAKERS_MAX][TAIL];
    int breaker_len[QN_DRY_BREAKERS_MAX];
    int n_breakers;
    char tail[2 * TAIL]; /* last bytes of the text */
    int n_tail;
    int64_t since_break; /* tokens after the last one in which a breaker ended */
};

/* ---- portable arithmetic */

static void philox_round(uint32_t c[4], const uint32_t k[2])
{
    uint64_t a = (uint64_t)0xD2511F53u * c[0], b = (uint64_t)0xCD9E8D57u * c[2];
    uint32_t c1 = c[1], c3 = c[3];
    c[0] = (uint32_t)(b >> 32) ^ c1 ^ k[0];
    c[1] = (uint32_t)b;
    c[2] = (uint32_t)(a >> 32) ^ c3 ^ k[1];
    c[3] = (uint32_t)a;
}

/* Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3 (2011). */
double sample_uniform(uint64_t seed, uint64_t stream, uint32_t n, uint32_t draw)
{
    uint32_t c[4] = {(uint32_t)stream, (uint32_t)(stream >> 32), n, draw};
    uint32_t k[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    for (int i = 0; i < 10; i++) {
        philox_round(c, k);
        k[0] += 0x9E3779B9u;
        k[1] += 0xBB67AE85u;
    }
    uint64_t bits = (uint64_t)c[1] << 32 | c[0];
    return (double)(bits >> 11) * 0x1p-53;
}

static const double ln2_hi = 0x1.62e42feep-1, ln2_lo = 0x1.a39ef35793c76p-33; /* hi has 32 bits: k * hi is exact */

double sample_exp(double x)
{
    if (!(x >= -708.0))
        return 0.0;
    int k = (int)(x * 0x1.71547652b82fep+0 - 0.5); /* x <= 0: truncation rounds to nearest */
    double r = (x - k * ln2_hi) - k * ln2_lo;
    static const double c[] = {1.0 / 6227020800.0,
                               1.0 / 479001600.0,
                               1.0 / 39916800.0,
                               1.0 / 3628800.0,
                               1.0 / 362880.0,
                               1.0 / 40320.0,
                               1.0 / 5040.0,
                               1.0 / 720.0,
                               1.0 / 120.0,
                               1.0 / 24.0,
                               1.0 / 6.0,
                               0.5,
                               1.0};
    double y = c[0];
    for (size_t i = 1; i < sizeof c / sizeof c[0]; i++)
        y = y * r + c[i];
    y = y * r + 1.0;
    uint64_t bits = (uint64_t)(1023 + k) << 52;
    double scale;
    memcpy(&scale, &bits, sizeof scale);
    return y * scale;
}

double sample_log(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    int e = (int)(bits >> 52) - 1023;
    bits = (bits & 0xfffffffffffffu) | (uint64_t)1023 << 52;
    double m;
    memcpy(&m, &bits, sizeof m);
    if (m > 0x1.6a09e667f3bcdp+0) { /* m in (sqrt 1/2, sqrt 2] */
        m *= 0.5;
        e++;
    }
    double s = (m - 1.0) / (m + 1.0), z = s * s, y = 0.0; /* log m = 2 atanh s */
    for (int i = 21; i >= 3; i -= 2)
        y = (y + 1.0 / i) * z;
    return e * ln2_hi + (2.0 * s + (2.0 * s * y + e * ln2_lo));
}

/* ---- the candidates */

/* NaN becomes impossible, infinite the largest. */
static float bounded(float x) { return x > FLT_MAX ? FLT_MAX : x >= -FLT_MAX ? x : -INFINITY; }

static bool cand_before(const struct cand *a, const struct cand *b)
{
    return a->key > b->key || (a->key == b->key && a->id < b->id);
}

static int cand_compare(const void *a, const void *b) { return cand_before(a, b) ? -1 : 1; }

/* Lets h[i] sink in a heap of m whose root is the last in order. */
static void heap_sink(struct cand *h, int m, int i)
{
    struct cand x = h[i];
    for (int child; (child = 2 * i + 1) < m; i = child) {
        if (child + 1 < m && cand_before(&h[child], &h[child + 1]))
            child++;
        if (!cand_before(&x, &h[child]))
            break;
        h[i] = h[child];
    }
    h[i] = x;
}

/* Puts the first m candidates by key in order in front; the others follow in any order. */
static void select_top(struct qn_sampler *s, int m)
{
    struct cand *c = s->cand;
    if (m < s->n_cand) {
        for (int i = m / 2 - 1; i >= 0; i--)
            heap_sink(c, m, i);
        for (int i = m; i < s->n_cand; i++) {
            if (!cand_before(&c[i], &c[0]))
                continue;
            struct cand last = c[0];
            c[0] = c[i];
            c[i] = last;
            heap_sink(c, m, 0);
        }
    } else {
        m = s->n_cand;
    }
    qsort(c, (size_t)m, sizeof *c, cand_compare);
}

static void key_by_logit(struct qn_sampler *s)
{
    for (int i = 0; i < s->n_cand; i++)
        s->cand[i].key = s->cand[i].logit;
}

static void keep_top(struct qn_sampler *s, int m)
{
    key_by_logit(s);
    select_top(s, m);
    s->n_cand = m < s->n_cand ? m : s->n_cand;
}

/* Weight of a candidate relative to the likeliest; total_weight() has set max_logit. */
static double weight(const struct qn_sampler *s, const struct cand *c) { return sample_exp(c->logit - s->max_logit); }

static double highest(const struct qn_sampler *s)
{
    double max = s->cand[0].logit;
    for (int i = 1; i < s->n_cand; i++)
        max = s->cand[i].logit > max ? s->cand[i].logit : max;
    return max;
}

static double total_weight(struct qn_sampler *s)
{
    s->max_logit = highest(s);
    double total = 0;
    for (int i = 0; i < s->n_cand; i++)
        total += weight(s, &s->cand[i]);
    return total;
}

/* Keeps the shortest run of candidates in the order of their keys whose weights reach share * total, but min_keep.
 * Sorted is only as much as is needed. */
static void keep_share(struct qn_sampler *s, double share, double total)
{
    double sum = 0;
    for (int from = 0, to = 64; from < s->n_cand; from = to, to = to < s->n_cand / 8 ? to * 8 : s->n_cand) {
        if (to > s->n_cand)
            to = s->n_cand;
        select_top(s, to);
        for (int i = from; i < to; i++) {
            sum += weight(s, &s->cand[i]);
            if (sum >= share * total && i + 1 >= s->p.min_keep) {
                s->n_cand = i + 1;
                return;
            }
        }
    }
}

/* Keeps candidates with at least this logit, but min_keep. */
static void keep_above(struct qn_sampler *s, double least)
{
    int n = 0;
    for (int i = 0; i < s->n_cand; i++)
        n += s->cand[i].logit >= least;
    if (n < s->p.min_keep) {
        keep_top(s, s->p.min_keep);
        return;
    }
    n = 0;
    for (int i = 0; i < s->n_cand; i++)
        if (s->cand[i].logit >= least)
            s->cand[n++] = s->cand[i];
    s->n_cand = n;
}

/* ---- samplers that look back */

/* Below 1e-6 a quotient could overflow; nothing but the first candidate has a chance there. */
static bool greedy(const struct qn_sampler *s) { return s->p.temperature < 1e-6f; }

static int window(const struct qn_sampler *s, int last_n)
{
    int n = s->seen.n < s->seen.cap ? s->seen.n : s->seen.cap;
    return last_n < 0 || last_n > n ? n : last_n;
}

static void apply_penalties(struct qn_sampler *s)
{
    const struct qn_sampling *p = &s->p;
    int n = window(s, p->penalty_last_n);
    if (n == 0 || (p->repeat_penalty == 1 && p->presence_penalty == 0 && p->frequency_penalty == 0))
        return;
    const int32_t *ids = s->seen.data + s->seen.n - n;
    for (int i = 0; i < n; i++)
        s->mark[ids[i]]++;
    for (int i = 0; i < s->n_cand; i++) {
        struct cand *c = &s->cand[i];
        int count = s->mark[c->id];
        if (count == 0)
            continue;
        c->logit = c->logit > 0 ? c->logit / p->repeat_penalty : c->logit * p->repeat_penalty;
        c->logit = bounded(c->logit - ((float)count * p->frequency_penalty + p->presence_penalty));
    }
    for (int i = 0; i < n; i++)
        s->mark[ids[i]] = 0;
}

/* match[i], i >= 1: how many tokens ending i before the last one equal the last ones (the Z function, backwards). */
static void match_suffixes(const int32_t *last, int n, int32_t *match)
{
    match[0] = n;
    for (int i = 1, left = 0, right = 0; i < n; i++) { /* [left, right): the match that reaches farthest */
        int len = 0;
        if (i < right)
            len = match[i - left] < right - i ? match[i - left] : right - i;
        while (i + len < n && last[-len] == last[-(i + len)])
            len++;
        match[i] = len;
        if (i + len > right) {
            left = i;
            right = i + len;
        }
    }
}

/* DRY (p-e-w, 2024): a token that would go on repeating an earlier passage of `len` tokens loses
 * multiplier * base^(len - allowed).  A passage does not reach over a breaker. */
static void apply_dry(struct qn_sampler *s)
{
    const struct qn_sampling *p = &s->p;
    int n = window(s, p->dry_penalty_last_n);
    if (p->dry_multiplier == 0 || p->dry_base < 1 || n < 2 || s->since_break < p->dry_allowed_length)
        return;
    const int32_t *last = s->seen.data + s->seen.n - 1;
    match_suffixes(last, n, s->match);
    for (int i = 1; i < n; i++) {
        int len = s->match[i] < s->since_break ? s->match[i] : (int)s->since_break;
        int32_t next = last[-(i - 1)];
        if (len > 0 && len >= p->dry_allowed_length && len > s->mark[next])
            s->mark[next] = len;
    }
    for (int i = 0; i < s->n_cand; i++) {
        int len = s->mark[s->cand[i].id];
        if (len == 0)
            continue;
        double penalty = p->dry_multiplier;
        for (int k = p->dry_allowed_length; k < len && penalty < 1e30; k++)
            penalty *= p->dry_base;
        s->cand[i].logit = (float)(s->cand[i].logit - penalty);
    }
    for (int i = 0; i < n; i++)
        s->mark[last[-i]] = 0;
}

/* ---- samplers that filter */

static void apply_top_n_sigma(struct qn_sampler *s)
{
    double n = 0, sum = 0;
    for (int i = 0; i < s->n_cand; i++) {
        double x = s->cand[i].logit;
        if (x > -HUGE_VAL) {
            n += 1;
            sum += x;
        }
    }
    if (s->p.top_n_sigma <= 0 || n == 0)
        return;
    double mean = sum / n, square = 0;
    for (int i = 0; i < s->n_cand; i++) {
        double x = s->cand[i].logit;
        if (x > -HUGE_VAL)
            square += (x - mean) * (x - mean);
    }
    keep_above(s, highest(s) - s->p.top_n_sigma * sqrt(square / n));
}

static void apply_top_k(struct qn_sampler *s)
{
    if (s->p.top_k > 0 && s->p.top_k < s->n_cand)
        keep_top(s, s->p.top_k > s->p.min_keep ? s->p.top_k : s->p.min_keep);
}

/* Locally typical sampling (Meister et al., 2022): the candidates whose surprise is closest to the entropy. */
static void apply_typical(struct qn_sampler *s)
{
    if (s->p.typical_p >= 1)
        return;
    double total = total_weight(s), mean = 0;
    if (!(total > 0))
        return;
    for (int i = 0; i < s->n_cand; i++) {
        double w = weight(s, &s->cand[i]);
        mean += w > 0 ? w * (s->cand[i].logit - s->max_logit) : 0;
    }
    mean /= total; /* entropy = log total - mean, surprise = log total - (logit - max): log total cancels */
    for (int i = 0; i < s->n_cand; i++)
        s->cand[i].key = -fabs(mean - (s->cand[i].logit - s->max_logit));
    keep_share(s, s->p.typical_p, total);
}

static void apply_top_p(struct qn_sampler *s)
{
    if (s->p.top_p >= 1)
        return;
    double total = total_weight(s);
    key_by_logit(s);
    keep_share(s, s->p.top_p, total);
}

static void apply_min_p(struct qn_sampler *s)
{
    if (s->p.min_p < FLT_MIN)
        return;
    keep_above(s, highest(s) + sample_log(s->p.min_p));
}

/* Exclude top choices (p-e-w, 2024): with some probability all candidates above the threshold but the least likely go. */
static void apply_xtc(struct qn_sampler *s)
{
    const struct qn_sampling *p = &s->p;
    if (p->xtc_probability == 0 || p->xtc_threshold > 0.5f || s->n_cand < 2)
        return;
    if (sample_uniform(p->seed, p->stream, s->n_sampled, DRAW_XTC) >= p->xtc_probability)
        return;
    double total = total_weight(s);
    int n_above = 0;
    for (int i = 0; i < s->n_cand; i++)
        n_above += weight(s, &s->cand[i]) >= p->xtc_threshold * total;
    int n_drop = n_above - 1;
    if (n_drop <= 0 || s->n_cand - n_drop < p->min_keep)
        return;
    key_by_logit(s);
    select_top(s, n_above);
    s->n_cand -= n_drop;
    memmove(s->cand, s->cand + n_drop, (size_t)s->n_cand * sizeof *s->cand);
}

static void apply_temperature(struct qn_sampler *s)
{
    if (greedy(s)) {
        keep_top(s, 1);
        return;
    }
    if (s->p.temperature != 1)
        for (int i = 0; i < s->n_cand; i++)
            s->cand[i].logit = bounded(s->cand[i].logit / s->p.temperature);
}

/* ---- the pick */

/* Draws from what is left.  When every candidate is impossible, the first in order. */
static struct cand draw(struct qn_sampler *s)
{
    double total = total_weight(s);
    if (greedy(s) || !(s->max_logit > -HUGE_VAL)) {
        keep_top(s, 1);
        return s->cand[0];
    }
    double target = total * sample_uniform(s->p.seed, s->p.stream, s->n_sampled, DRAW_TOKEN), sum = 0;
    struct cand chosen = s->cand[0];
    for (int i = 0; i < s->n_cand && sum <= target; i++) {
        double w = weight(s, &s->cand[i]);
        if (w > 0) /* rounding may leave sum at target after the last one: then it is chosen */
            chosen = s->cand[i];
        sum += w;
    }
    return chosen;
}

/* Mirostat 2 (Basu et al., 2021): cut what is more surprising than mu bits, steer mu by the surprise of the choice. */
static struct cand draw_mirostat(struct qn_sampler *s)
{
    const double ln2 = ln2_hi + ln2_lo;
    double total = total_weight(s);
    if (total > 0) {
        double least = sample_log(total) - s->mu * ln2; /* relative to the likeliest */
        if (least > 0)
            keep_top(s, 1);
        else
            keep_above(s, s->max_logit + least);
    }
    struct cand c = draw(s);
    total = total_weight(s);
    double surprise = (sample_log(total) - (c.logit - s->max_logit)) / ln2;
    if (surprise < DBL_MAX)
        s->mu -= s->p.mirostat_eta * (surprise - s->p.mirostat_tau);
    return c;
}

static void load_candidates(struct qn_sampler *s, const float *logits)
{
    s->n_cand = s->env.n_vocab;
    for (int i = 0; i < s->n_cand; i++)
        s->cand[i] = (struct cand){.logit = bounded(logits[i]), .id = i};
    for (int i = 0; i < s->p.n_bias; i++) {
        float *x = &s->cand[s->bias[i].id].logit;
        *x = bounded(*x + s->bias[i].bias);
    }
    if (s->p.ignore_eos && s->env.is_stop)
        for (int i = 0; i < s->n_cand; i++)
            if (s->env.is_stop[i])
                s->cand[i].logit = -INFINITY;
}

static void apply(struct qn_sampler *s, enum qn_sampler_kind kind)
{
    switch (kind) {
    case QN_S_PENALTIES:
        apply_penalties(s);
        return;
    case QN_S_DRY:
        apply_dry(s);
        return;
    case QN_S_TEMPERATURE:
        apply_temperature(s);
        return;
    default:
        break;
    }
    if (s->p.mirostat)
        return;
    switch (kind) {
    case QN_S_TOP_N_SIGMA:
        apply_top_n_sigma(s);
        break;
    case QN_S_TOP_K:
        apply_top_k(s);
        break;
    case QN_S_TYPICAL:
        apply_typical(s);
        break;
    case QN_S_TOP_P:
        apply_top_p(s);
        break;
    case QN_S_MIN_P:
        apply_min_p(s);
        break;
    case QN_S_XTC:
        apply_xtc(s);
        break;
    default:
        break;
    }
}

int32_t sampler_pick(struct qn_sampler *s, const float *logits)
{
    load_candidates(s, logits);
    for (int i = 0; i < QN_SAMPLER_MAX && s->p.order[i] != QN_S_END; i++)
        apply(s, s->p.order[i]);
    struct cand c = s->p.mirostat ? draw_mirostat(s) : draw(s);
    sampler_accept(s, c.id);
    s->n_sampled++;
    return c.id;
}

/* True when the token's text completes a breaker, which may have begun in earlier tokens. */
static bool ends_breaker(struct qn_sampler *s, int32_t id)
{
    size_t n;
    const char *bytes = s->env.bytes(s->env.cookie, id, &n);
    bool found = false;
    for (size_t i = 0; i < n; i++) {
        if (s->n_tail == 2 * TAIL) {
            memcpy(s->tail, s->tail + TAIL, TAIL);
            s->n_tail = TAIL;
        }
        s->tail[s->n_tail++] = bytes[i];
        for (int b = 0; b < s->n_breakers && !found; b++) {
            int len = s->breaker_len[b];
            found = len <= s->n_tail && memcmp(s->tail + s->n_tail - len, s->breaker[b], (size_t)len) == 0;
        }
    }
    return found;
}

void sampler_accept(struct qn_sampler *s, int32_t id)
{
    if (id < 0 || id >= s->env.n_vocab || s->seen.cap == 0)
        return;
    if (s->seen.n == 2 * s->seen.cap) {
        memcpy(s->seen.data, s->seen.data + s->seen.cap, (size_t)s->seen.cap * sizeof *s->seen.data);
        s->seen.n = s->seen.cap;
    }
    s->seen.data[s->seen.n++] = id;
    s->since_break++;
    if (s->n_breakers && ends_breaker(s, id))
        s->since_break = 0;
}

/* ---- life */

static int copy_breakers(struct qn_sampler *s, struct qn_error *err)
{
    for (int i = 0; i < QN_DRY_BREAKERS_MAX && s->p.dry_breakers[i]; i++) {
        size_t len = strlen(s->p.dry_breakers[i]);
        if (len == 0 || len > TAIL)
            return fail(err, QN_E_ARGUMENT, "sampling: a DRY breaker has %zu bytes, not 1 .. %d", len, TAIL);
        memcpy(s->breaker[i], s->p.dry_breakers[i], len);
        s->breaker_len[i] = (int)len;
        s->n_breakers = s->env.bytes ? i + 1 : 0;
    }
    return 0;
}

/* Tokens that the samplers in use look back at. */
static int history_length(const struct qn_sampler *s)
{
    const struct qn_sampling *p = &s->p;
    int all = s->env.n_ctx > 0 ? s->env.n_ctx : 1, n = 0;
    if (p->repeat_penalty != 1 || p->presence_penalty != 0 || p->frequency_penalty != 0)
        n = p->penalty_last_n < 0 || p->penalty_last_n > all ? all : p->penalty_last_n;
    if (p->dry_multiplier != 0) {
        int dry = p->dry_penalty_last_n < 0 || p->dry_penalty_last_n > all ? all : p->dry_penalty_last_n;
        n = dry > n ? dry : n;
    }
    return n;
}

int sampler_open(struct qn_sampler **out, const struct sampler_env *env, const struct qn_sampling *p,
                 struct qn_error *err)
{
    *out = NULL;
    if (sampling_check(p, env->n_vocab, err))
        return err->code;
    struct qn_sampler *s = calloc(1, sizeof *s);
    if (!s)
        return fail(err, QN_E_MEMORY, "sampling: no memory");
    s->env = *env;
    s->p = *p;
    s->mu = 2.0 * p->mirostat_tau;
    if (copy_breakers(s, err))
        goto fail;
    s->seen.cap = history_length(s);
    size_t n_vocab = (size_t)env->n_vocab, n_seen = (size_t)s->seen.cap, n_bias = (size_t)p->n_bias;
    s->cand = malloc(n_vocab * sizeof *s->cand);
    s->mark = calloc(n_vocab, sizeof *s->mark);
    s->seen.data = malloc((2 * n_seen + 1) * sizeof *s->seen.data);
    s->match = malloc((n_seen + 1) * sizeof *s->match);
    s->bias = malloc((n_bias + 1) * sizeof *s->bias);
    if (!s->cand || !s->mark || !s->seen.data || !s->match || !s->bias) {
        fail(err, QN_E_MEMORY, "sampling: no memory for a vocabulary of %d", env->n_vocab);
        goto fail;
    }
    if (n_bias)
        memcpy(s->bias, p->bias, n_bias * sizeof *s->bias);
    *out = s;
    return 0;
fail:
    sampler_close(s);
    return err->code;
}

void sampler_close(struct qn_sampler *s)
{
    if (!s)
        return;
    free(s->cand);
    free(s->mark);
    free(s->seen.data);
    free(s->match);
    free(s->bias);
    free(s);
}
