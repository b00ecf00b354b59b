/* SPDX-License-Identifier: MIT */
/* Sampling parameters: neutral values, what a file or a model's card recommends, the names of the samplers, and the check
 * of ranges.  Nothing here draws; see sample.c. */
#include "sample.h"
#include "gguf.h"

#include <math.h>
#include <string.h>

/* Names as users of other engines know them; the second one is the spelling in general.sampling.sequence. */
static const struct {
    enum qn_sampler_kind kind;
    const char *name, *other;
} sampler_names[] = {
    {QN_S_PENALTIES, "penalties", "penalties"},
    {QN_S_DRY, "dry", "dry"},
    {QN_S_TOP_N_SIGMA, "top_n_sigma", "top-n-sigma"},
    {QN_S_TOP_K, "top_k", "top-k"},
    {QN_S_TYPICAL, "typ_p", "typical"},
    {QN_S_TOP_P, "top_p", "top-p"},
    {QN_S_MIN_P, "min_p", "min-p"},
    {QN_S_XTC, "xtc", "xtc"},
    {QN_S_TEMPERATURE, "temperature", "temp"},
};
enum { N_NAMES = sizeof sampler_names / sizeof sampler_names[0] };

static enum qn_sampler_kind kind_by_name(const char *s, size_t n)
{
    for (int i = 0; i < N_NAMES; i++) {
        const char *a = sampler_names[i].name, *b = sampler_names[i].other;
        if ((strlen(a) == n && memcmp(a, s, n) == 0) || (strlen(b) == n && memcmp(b, s, n) == 0))
            return sampler_names[i].kind;
    }
    return QN_S_END;
}

/* One name at a time out of names[n], separated by ';' or ','; false at the end. */
static bool next_name(const char *names, size_t n, size_t *at, const char **name, size_t *len)
{
    if (*at > n)
        return false;
    size_t end = *at;
    while (end < n && names[end] != ';' && names[end] != ',')
        end++;
    *name = names + *at;
    *len = end - *at;
    *at = end + 1;
    return true;
}

int qn_sampling_order(struct qn_sampling *p, const char *names, struct qn_error *err)
{
    enum qn_sampler_kind order[QN_SAMPLER_MAX] = {QN_S_END};
    const char *name;
    size_t at = 0, len, n = strlen(names);
    int n_order = 0;
    while (n > 0 && next_name(names, n, &at, &name, &len)) {
        enum qn_sampler_kind kind = kind_by_name(name, len);
        if (kind == QN_S_END)
            return fail(err, QN_E_ARGUMENT,
                        "sampler \"%.*s\" is unknown; known are penalties, dry, top_n_sigma, top_k, typ_p, top_p, "
                        "min_p, xtc, temperature",
                        (int)(len < 64 ? len : 64), name);
        if (n_order == QN_SAMPLER_MAX - 1)
            return fail(err, QN_E_ARGUMENT, "more than %d samplers", QN_SAMPLER_MAX - 1);
        order[n_order++] = kind;
    }
    memcpy(p->order, order, sizeof order);
    return 0;
}

static void set_neutral(struct qn_sampling *p)
{
    *p = (struct qn_sampling){
        .temperature = 1.0f,
        .top_p = 1.0f,
        .typical_p = 1.0f,
        .xtc_threshold = 0.1f,
        .min_keep = 1,
        .penalty_last_n = 64,
        .repeat_penalty = 1.0f,
        .dry_base = 1.75f,
        .dry_allowed_length = 2,
        .dry_penalty_last_n = -1,
        .dry_breakers = {"\n", ":", "\"", "*"},
        .mirostat_tau = 5.0f,
        .mirostat_eta = 0.1f,
        .order = {QN_S_PENALTIES, QN_S_DRY, QN_S_TOP_N_SIGMA, QN_S_TOP_K, QN_S_TYPICAL, QN_S_TOP_P, QN_S_MIN_P,
                  QN_S_XTC, QN_S_TEMPERATURE, QN_S_END},
    };
}

/* What the models' cards recommend. */
static const struct {
    const char *arch;
    int thinking; /* the row is for a thinking model; -1: for both */
    float temperature, top_p;
    int top_k;
    float min_p, presence;
    const char *source;
} cards[] = {
    {"qwen3", 1, 0.6f, 0.95f, 20, 0, 0, "the model card of qwen3, thinking"},
    {"qwen3", 0, 0.7f, 0.8f, 20, 0, 0, "the model card of qwen3, not thinking"},
    {"qwen3moe", 1, 0.6f, 0.95f, 20, 0, 0, "the model card of qwen3moe, thinking"},
    {"qwen3moe", 0, 0.7f, 0.8f, 20, 0, 0, "the model card of qwen3moe, not thinking"},
    {"qwen3next", -1, 0.7f, 0.8f, 20, 0, 0, "the model card of qwen3next, instruct"},
    {"qwen35", 1, 1.0f, 0.95f, 20, 0, 1.5f, "the model card of qwen35, thinking"},
    {"qwen35", 0, 0.7f, 0.8f, 20, 0, 1.5f, "the model card of qwen35, not thinking"},
    {"qwen35moe", 1, 1.0f, 0.95f, 20, 0, 1.5f, "the model card of qwen35moe, thinking"},
    {"qwen35moe", 0, 0.7f, 0.8f, 20, 0, 1.5f, "the model card of qwen35moe, not thinking"},
};

static const char *set_card(struct qn_sampling *p, const char *arch, bool thinking)
{
    for (size_t i = 0; i < sizeof cards / sizeof cards[0]; i++) {
        if (strcmp(cards[i].arch, arch) != 0 || (cards[i].thinking >= 0 && cards[i].thinking != thinking))
            continue;
        p->temperature = cards[i].temperature;
        p->top_p = cards[i].top_p;
        p->top_k = cards[i].top_k;
        p->min_p = cards[i].min_p;
        p->presence_penalty = cards[i].presence;
        return cards[i].source;
    }
    return "neutral values: neither the file nor a model card recommends any";
}

/* Reads general.sampling.*; returns how many values were found, -1 when one of them has a wrong type or range. */
static int read_file(struct qn_sampling *p, const struct gguf *g)
{
    struct qn_error err;
    const struct {
        const char *key;
        float *f;
        int *i;
    } keys[] = {
        {"general.sampling.temp", &p->temperature, NULL},
        {"general.sampling.top_k", NULL, &p->top_k},
        {"general.sampling.top_p", &p->top_p, NULL},
        {"general.sampling.min_p", &p->min_p, NULL},
        {"general.sampling.xtc_probability", &p->xtc_probability, NULL},
        {"general.sampling.xtc_threshold", &p->xtc_threshold, NULL},
        {"general.sampling.penalty_last_n", NULL, &p->penalty_last_n},
        {"general.sampling.penalty_repeat", &p->repeat_penalty, NULL},
        {"general.sampling.mirostat", NULL, &p->mirostat},
        {"general.sampling.mirostat_tau", &p->mirostat_tau, NULL},
        {"general.sampling.mirostat_eta", &p->mirostat_eta, NULL},
    };
    int n_found = 0;
    for (size_t k = 0; k < sizeof keys / sizeof keys[0]; k++) {
        int64_t v;
        int got = keys[k].f ? gguf_get_f32(g, keys[k].key, keys[k].f, &err)
                            : gguf_get_int(g, keys[k].key, INT32_MIN, INT32_MAX, &v, &err);
        if (got < 0)
            return -1;
        if (got > 0 && keys[k].i)
            *keys[k].i = (int)v;
        n_found += got;
    }
    struct gguf_str names;
    int got = gguf_get_str(g, "general.sampling.sequence", &names, &err);
    if (got < 0)
        return -1;
    if (got > 0) { /* samplers that only other engines have are left out */
        const char *name;
        size_t at = 0, len;
        int n_order = 0;
        while (next_name(names.s, names.n, &at, &name, &len)) {
            enum qn_sampler_kind kind = kind_by_name(name, len);
            if (kind != QN_S_END && n_order < QN_SAMPLER_MAX - 1)
                p->order[n_order++] = kind;
        }
        p->order[n_order] = QN_S_END;
        n_found++;
    }
    return sampling_check(p, INT32_MAX, &err) ? -1 : n_found;
}

const char *sampling_defaults(struct qn_sampling *p, const struct gguf *g, const char *arch, bool thinking)
{
    set_neutral(p);
    int n_found = g ? read_file(p, g) : 0;
    if (n_found > 0)
        return "the file's general.sampling keys";
    set_neutral(p);
    return set_card(p, arch, thinking);
}

int sampling_check(const struct qn_sampling *p, int n_vocab, struct qn_error *err)
{
    const struct {
        const char *name;
        double value, min, max;
    } ranges[] = {
        {"temperature", p->temperature, 0, 1e6},
        {"top-k", p->top_k, -1, INT32_MAX},
        {"top-p", p->top_p, 0, 1},
        {"min-p", p->min_p, 0, 1},
        {"typical", p->typical_p, 0, 1},
        {"top-n-sigma", p->top_n_sigma, -1e6, 1e6},
        {"XTC probability", p->xtc_probability, 0, 1},
        {"XTC threshold", p->xtc_threshold, 0, 1},
        {"min-keep", p->min_keep, 1, INT32_MAX},
        {"repetition penalty", p->repeat_penalty, 1e-3, 1e3},
        {"presence penalty", p->presence_penalty, -1e3, 1e3},
        {"frequency penalty", p->frequency_penalty, -1e3, 1e3},
        {"tokens that penalties look at", p->penalty_last_n, -1, INT32_MAX},
        {"DRY multiplier", p->dry_multiplier, 0, 1e3},
        {"DRY base", p->dry_base, 0, 1e3},
        {"DRY allowed length", p->dry_allowed_length, 0, INT32_MAX},
        {"tokens that DRY looks at", p->dry_penalty_last_n, -1, INT32_MAX},
        {"mirostat tau", p->mirostat_tau, 0, 1e3},
        {"mirostat eta", p->mirostat_eta, 0, 1e3},
        {"number of logit biases", p->n_bias, 0, n_vocab},
    };
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++)
        if (!(ranges[i].value >= ranges[i].min && ranges[i].value <= ranges[i].max)) /* NaN is outside, too */
            return fail(err, QN_E_ARGUMENT, "sampling: %s is %g, not within %g .. %g", ranges[i].name, ranges[i].value,
                        ranges[i].min, ranges[i].max);
    if (p->mirostat != 0 && p->mirostat != 2)
        return fail(err, QN_E_ARGUMENT, "sampling: mirostat is %d, not 0 or 2", p->mirostat);
    for (int i = 0; i < p->n_bias; i++) {
        if (p->bias[i].id < 0 || p->bias[i].id >= n_vocab)
            return fail(err, QN_E_ARGUMENT, "sampling: logit bias of token %d, the vocabulary has %d", p->bias[i].id,
                        n_vocab);
        if (isnan(p->bias[i].bias))
            return fail(err, QN_E_ARGUMENT, "sampling: the logit bias of token %d is not a number", p->bias[i].id);
    }
    for (int i = 0; i < QN_SAMPLER_MAX; i++) {
        if (p->order[i] == QN_S_END)
            return 0;
        if (p->order[i] < 0 || p->order[i] > QN_S_TEMPERATURE)
            return fail(err, QN_E_ARGUMENT, "sampling: sampler %d of the order is %d, not within 1 .. %d", i,
                        (int)p->order[i], QN_S_TEMPERATURE);
    }
    return fail(err, QN_E_ARGUMENT, "sampling: the order of samplers has no end");
}
