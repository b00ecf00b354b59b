/* SPDX-License-Identifier: MIT */
/* Architectures: which keys a file must have, what they mean, and the few fields in which the families differ.  The only file that
 * knows architectures by name.  A key that would change the result and is not understood here is refused. */
#include "model.h"
#include "simd/kv.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    A_DELTA = 1, /* gated delta-net layers between attention layers */
    A_GATED = 2, /* attention output gate in attn_q */
    A_MOE = 4, /* routed experts */
    A_SHARED = 8, /* shared expert */
    A_NORM_ROPE = 16, /* rope pairs are adjacent (permuted rows) */
    A_V_TILED = 32, /* value heads in tiled order */
    A_QK_NORM = 64, /* norms of queries and keys */
    A_QKV_BIAS = 128 /* biases of queries, keys and values */
};

struct arch {
    const char *name;
    unsigned flags;
};

static const struct arch archs[] = {
    {"qwen3next", A_DELTA | A_GATED | A_QK_NORM | A_MOE | A_SHARED},
    {"qwen35", A_DELTA | A_GATED | A_QK_NORM | A_V_TILED},
    {"qwen35moe", A_DELTA | A_GATED | A_QK_NORM | A_MOE | A_SHARED | A_V_TILED},
    {"qwen3", A_QK_NORM},
    {"qwen3moe", A_QK_NORM | A_MOE},
    {"qwen2", A_QKV_BIAS},
    {"llama", A_NORM_ROPE},
};
enum { N_ARCHS = sizeof archs / sizeof *archs };

/* Keys that change the result when they have another value than the neutral one, which is all we compute. */
static const struct {
    const char *key;
    double neutral;
} fixed_keys[] = {
    {"attention.sliding_window", 0},
    {"attention.causal", 1},
    {"attention.scale", 0},
    {"attention.max_alibi_bias", 0},
    {"attention.clamp_kqv", 0},
    {"attn_logit_softcapping", 0},
    {"final_logit_softcapping", 0},
    {"logit_scale", 1},
    {"residual_scale", 1},
    {"embedding_scale", 1},
    {"expert_gating_func", 1}, /* 1 = softmax */
    {"expert_group_count", 0},
    {"expert_group_used_count", 0},
    {"expert_weights_scale", 1},
    {"expert_weights_norm", 1}, /* the chosen experts' weights sum to 1 */
    {"leading_dense_block_count", 0},
    {"use_parallel_residual", 0},
    {"rope.scale_linear", 1},
    {"rope.scaling.attn_factor", 1}, /* what it means beside yarn's own factor, writers do not agree on */
    {"rope.scaling.yarn_attn_factor", 1},
    {"rope.scaling.yarn_ext_factor", 1},
    {"rope.scaling.yarn_log_multiplier", 0},
};

struct reader {
    const struct gguf *g;
    const char *arch;
    struct qn_error *err;
    char key[128];
};

static const char *key_of(struct reader *r, const char *suffix)
{
    snprintf(r->key, sizeof r->key, "%s.%s", r->arch, suffix);
    return r->key;
}

/* A required integer within [min, max]. */
static int need_int(struct reader *r, const char *suffix, int64_t min, int64_t max, int *out)
{
    int64_t v = 0;
    int got = gguf_get_int(r->g, key_of(r, suffix), min, max, &v, r->err);
    if (got < 0)
        return got;
    if (got == 0)
        return fail(r->err, QN_E_FORMAT, "%s: key %s is missing", r->g->path, r->key);
    *out = (int)v;
    return 0;
}

/* An optional integer; *out keeps its value when the key is absent. */
static int want_int(struct reader *r, const char *suffix, int64_t min, int64_t max, int *out)
{
    int64_t v = *out;
    int got = gguf_get_int(r->g, key_of(r, suffix), min, max, &v, r->err);
    *out = (int)v;
    return got < 0 ? got : 0;
}

static int want_f32(struct reader *r, const char *suffix, float *out)
{
    int got = gguf_get_f32(r->g, key_of(r, suffix), out, r->err);
    return got < 0 ? got : 0;
}

static int need_f32(struct reader *r, const char *suffix, float *out)
{
    int got = gguf_get_f32(r->g, key_of(r, suffix), out, r->err);
    if (got == 0)
        return fail(r->err, QN_E_FORMAT, "%s: key %s is missing", r->g->path, r->key);
    return got < 0 ? got : 0;
}

static int read_eps(struct reader *r, float *eps)
{
    if (need_f32(r, "attention.layer_norm_rms_epsilon", eps))
        return r->err->code;
    if (*eps <= 0.0f || *eps > 1.0f)
        return fail(r->err, QN_E_FORMAT, "%s: key %s is %g, above 0 and up to 1 are allowed", r->g->path, r->key,
                    (double)*eps);
    return 0;
}

static int check_fixed_keys(struct reader *r)
{
    for (size_t i = 0; i < sizeof fixed_keys / sizeof *fixed_keys; i++) {
        const struct gguf_kv *kv = gguf_find(r->g, key_of(r, fixed_keys[i].key));
        if (!kv)
            continue;
        float v = NAN;
        bool b = false;
        if (kv->kind == GGUF_BOOL ? gguf_get_bool(r->g, r->key, &b, r->err) < 0
                                  : gguf_get_f32(r->g, r->key, &v, r->err) < 0)
            return r->err->code;
        double value = kv->kind == GGUF_BOOL ? (double)b : (double)v;
        if (value != fixed_keys[i].neutral)
            return fail(r->err, QN_E_UNSUPPORTED, "%s: key %s is %g, only %g is supported", r->g->path, r->key, value,
                        fixed_keys[i].neutral);
    }
    return 0;
}

static int read_attention(struct reader *r, struct hparams *hp, const struct arch *a)
{
    if (need_int(r, "attention.head_count", 1, 4096, &hp->n_head))
        return r->err->code;
    hp->n_head_kv = hp->n_head;
    hp->head_dim = hp->n_embd / hp->n_head;
    if (want_int(r, "attention.head_count_kv", 1, 4096, &hp->n_head_kv) ||
        want_int(r, "attention.key_length", 1, 65536, &hp->head_dim))
        return r->err->code;
    int value_len = hp->head_dim;
    if (want_int(r, "attention.value_length", 1, 65536, &value_len))
        return r->err->code;
    if (value_len != hp->head_dim)
        return fail(r->err, QN_E_UNSUPPORTED, "%s: attention.key_length is %d but attention.value_length %d",
                    r->g->path, hp->head_dim, value_len);
    if (hp->head_dim % 16 || hp->head_dim > MAX_HEAD_DIM)
        return fail(r->err, QN_E_UNSUPPORTED, "%s: attention head size %d is not a multiple of 16 up to %d", r->g->path,
                    hp->head_dim, MAX_HEAD_DIM);
    if (hp->n_head % hp->n_head_kv)
        return fail(r->err, QN_E_FORMAT, "%s: attention.head_count %d is not a multiple of head_count_kv %d",
                    r->g->path, hp->n_head, hp->n_head_kv);
    hp->gated = a->flags & A_GATED;
    hp->qk_norm = a->flags & A_QK_NORM;
    hp->qkv_bias = a->flags & A_QKV_BIAS;
    return 0;
}

static int read_rope(struct reader *r, struct hparams *hp, const struct arch *a)
{
    hp->rope_neox = !(a->flags & A_NORM_ROPE);
    hp->n_rot = hp->head_dim;
    hp->freq_base = 10000.0f;
    hp->rope_factor = 1.0f;
    hp->rope_ctx_orig = hp->n_ctx_train;
    hp->yarn_beta_fast = 32.0f;
    hp->yarn_beta_slow = 1.0f;
    /* where families differ from the general default, a missing key would be a silent error */
    if ((a->flags & A_DELTA ? need_int : want_int)(r, "rope.dimension_count", 2, hp->head_dim, &hp->n_rot) ||
        (a->flags & A_NORM_ROPE ? want_f32 : need_f32)(r, "rope.freq_base", &hp->freq_base) ||
        want_f32(r, "rope.scaling.factor", &hp->rope_factor) ||
        want_int(r, "rope.scaling.original_context_length", 1, INT32_MAX, &hp->rope_ctx_orig) ||
        want_f32(r, "rope.scaling.yarn_beta_fast", &hp->yarn_beta_fast) ||
        want_f32(r, "rope.scaling.yarn_beta_slow", &hp->yarn_beta_slow))
        return r->err->code;
    if (hp->n_rot % 2)
        return fail(r->err, QN_E_FORMAT, "%s: rope.dimension_count %d is odd", r->g->path, hp->n_rot);
    struct gguf_str kind = {0};
    int got = gguf_get_str(r->g, key_of(r, "rope.scaling.type"), &kind, r->err);
    if (got < 0)
        return got;
    if (got == 0 || (kind.n == 4 && !memcmp(kind.s, "none", 4)))
        hp->scaling = got == 0 && hp->rope_factor != 1.0f ? ROPE_LINEAR : ROPE_NONE;
    else if (kind.n == 6 && !memcmp(kind.s, "linear", 6))
        hp->scaling = ROPE_LINEAR;
    else if (kind.n == 4 && !memcmp(kind.s, "yarn", 4))
        hp->scaling = ROPE_YARN;
    else
        return fail(r->err, QN_E_UNSUPPORTED, "%s: %s is \"%.*s\", known are none, linear, yarn", r->g->path, r->key,
                    (int)(kind.n > 40 ? 40 : kind.n), kind.s);
    return 0;
}

static int override_rope(struct hparams *hp, const struct rope_override *o, struct qn_error *err)
{
    if (o->scaling) {
        if (!strcmp(o->scaling, "none"))
            hp->scaling = ROPE_NONE;
        else if (!strcmp(o->scaling, "linear"))
            hp->scaling = ROPE_LINEAR;
        else if (!strcmp(o->scaling, "yarn"))
            hp->scaling = ROPE_YARN;
        else
            return fail(err, QN_E_ARGUMENT, "rope scaling \"%s\" is not one of none, linear, yarn", o->scaling);
    }
    if (o->freq_base != 0.0f)
        hp->freq_base = o->freq_base;
    if (o->factor != 0.0f) {
        hp->rope_factor = o->factor;
        if (hp->scaling == ROPE_NONE && !o->scaling)
            hp->scaling = ROPE_LINEAR;
    }
    return 0;
}

static int check_rope(const struct hparams *hp, const struct rope_override *o, const char *path, struct qn_error *err)
{
    if (!(hp->freq_base > 0.0f) || !isfinite(hp->freq_base))
        return fail(err, o->freq_base != 0.0f ? QN_E_ARGUMENT : QN_E_FORMAT, "%s: rope.freq_base is %g", path,
                    (double)hp->freq_base);
    if (!(hp->rope_factor > 0.0f) || !isfinite(hp->rope_factor))
        return fail(err, o->factor != 0.0f ? QN_E_ARGUMENT : QN_E_FORMAT, "%s: rope.scaling.factor is %g", path,
                    (double)hp->rope_factor);
    if (hp->scaling != ROPE_YARN)
        return 0;
    if (!(hp->yarn_beta_fast > 0.0f) || !(hp->yarn_beta_slow > 0.0f))
        return fail(err, QN_E_FORMAT, "%s: rope.scaling.yarn_beta_fast is %g, yarn_beta_slow is %g", path,
                    (double)hp->yarn_beta_fast, (double)hp->yarn_beta_slow);
    if (!(hp->freq_base > 1.0f))
        return fail(err, QN_E_FORMAT, "%s: rope.freq_base is %g, yarn needs more than 1", path, (double)hp->freq_base);
    return 0;
}

static int read_experts(struct reader *r, struct hparams *hp, const struct arch *a)
{
    if (!(a->flags & A_MOE)) {
        int n = 0;
        if (want_int(r, "expert_count", 0, INT32_MAX, &n))
            return r->err->code;
        if (n)
            return fail(r->err, QN_E_UNSUPPORTED, "%s: key %s is %d, architecture %s has no experts here", r->g->path,
                        r->key, n, hp->arch);
        return need_int(r, "feed_forward_length", 1, 1 << 24, &hp->n_ff);
    }
    if (need_int(r, "expert_count", 1, 65536, &hp->n_expert) ||
        need_int(r, "expert_used_count", 1, 65536, &hp->n_expert_used) ||
        need_int(r, "expert_feed_forward_length", 1, 1 << 24, &hp->n_ff_exp))
        return r->err->code;
    if (hp->n_expert_used > hp->n_expert)
        return fail(r->err, QN_E_FORMAT, "%s: expert_used_count %d is more than expert_count %d", r->g->path,
                    hp->n_expert_used, hp->n_expert);
    if (a->flags & A_SHARED)
        return want_int(r, "expert_shared_feed_forward_length", 1, 1 << 24, &hp->n_ff_shexp);
    return 0;
}

static int read_delta(struct reader *r, struct hparams *hp, const struct arch *a)
{
    hp->full_attn_interval = 1;
    if (!(a->flags & A_DELTA))
        return 0;
    int inner = 0;
    hp->full_attn_interval = 4;
    if (need_int(r, "ssm.conv_kernel", 2, 8, &hp->n_tap) || need_int(r, "ssm.state_size", 1, 65536, &hp->ssm_dim) ||
        need_int(r, "ssm.group_count", 1, 65536, &hp->n_k_head) ||
        need_int(r, "ssm.time_step_rank", 1, 65536, &hp->n_v_head) ||
        need_int(r, "ssm.inner_size", 1, 1 << 28, &inner) ||
        want_int(r, "full_attention_interval", 1, 65536, &hp->full_attn_interval))
        return r->err->code;
    if (hp->ssm_dim % 16 || hp->ssm_dim > 256)
        return fail(r->err, QN_E_UNSUPPORTED, "%s: ssm.state_size %d is not a multiple of 16 up to 256", r->g->path,
                    hp->ssm_dim);
    if (inner != hp->n_v_head * hp->ssm_dim)
        return fail(r->err, QN_E_FORMAT, "%s: ssm.inner_size is %d, time_step_rank %d times state_size %d is %d",
                    r->g->path, inner, hp->n_v_head, hp->ssm_dim, hp->n_v_head * hp->ssm_dim);
    if (hp->n_v_head % hp->n_k_head)
        return fail(r->err, QN_E_FORMAT, "%s: ssm.time_step_rank %d is not a multiple of ssm.group_count %d",
                    r->g->path, hp->n_v_head, hp->n_k_head);
    hp->v_tiled = a->flags & A_V_TILED;
    return 0;
}

static const struct arch *find_arch(const struct gguf *g, struct qn_error *err)
{
    struct gguf_str name = {0};
    int got = gguf_get_str(g, "general.architecture", &name, err);
    if (got < 0)
        return NULL;
    if (got == 0) {
        fail(err, QN_E_FORMAT, "%s: key general.architecture is missing", g->path);
        return NULL;
    }
    char known[200] = "";
    for (int i = 0; i < N_ARCHS; i++) {
        if (strlen(archs[i].name) == name.n && !memcmp(archs[i].name, name.s, name.n))
            return &archs[i];
        size_t used = strlen(known);
        snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", archs[i].name);
    }
    fail(err, QN_E_UNSUPPORTED, "%s: architecture \"%.*s\" is not supported; known are %s", g->path,
         (int)(name.n > 40 ? 40 : name.n), name.s, known);
    return NULL;
}

int arch_read(struct hparams *hp, const struct gguf *g, const struct rope_override *o, struct qn_error *err)
{
    *hp = (struct hparams){0};
    const struct arch *a = find_arch(g, err);
    if (!a)
        return err->code;
    struct reader r = {.g = g, .arch = a->name, .err = err};
    snprintf(hp->arch, sizeof hp->arch, "%s", a->name);
    struct gguf_str name = {0};
    if (gguf_get_str(g, "general.name", &name, err) < 0)
        return err->code;
    snprintf(hp->name, sizeof hp->name, "%.*s", (int)(name.n > 120 ? 120 : name.n), name.s ? name.s : "");

    int blocks = 0;
    if (check_fixed_keys(&r) || need_int(&r, "block_count", 1, 4096, &blocks) ||
        want_int(&r, "nextn_predict_layers", 0, 4096, &hp->n_nextn) ||
        need_int(&r, "context_length", 1, INT32_MAX, &hp->n_ctx_train) ||
        need_int(&r, "embedding_length", 16, 1 << 20, &hp->n_embd) || read_eps(&r, &hp->eps))
        return err->code;
    if (hp->n_embd % 16)
        return fail(err, QN_E_UNSUPPORTED, "%s: embedding_length %d is not a multiple of 16", g->path, hp->n_embd);
    if (hp->n_nextn >= blocks)
        return fail(err, QN_E_FORMAT, "%s: nextn_predict_layers is %d of block_count %d", g->path, hp->n_nextn, blocks);
    hp->n_layer = blocks - hp->n_nextn;
    if (read_attention(&r, hp, a) || read_rope(&r, hp, a) || override_rope(hp, o, err) ||
        check_rope(hp, o, g->path, err) || read_experts(&r, hp, a) || read_delta(&r, hp, a))
        return err->code;
    return 0;
}

/* Dimension pair at which YaRN's wavelength makes n_turns over the original context (arXiv 2309.00071, section 3.2). */
static double yarn_pair(const struct hparams *hp, double n_turns)
{
    return hp->n_rot * log(hp->rope_ctx_orig / (n_turns * 2.0 * 3.14159265358979323846)) /
           (2.0 * log((double)hp->freq_base));
}

float arch_rope_table(const struct hparams *hp, const float *factors, float *inv_freq)
{
    int n = hp->n_rot / 2;
    double low = 0.0, high = 0.0;
    if (hp->scaling == ROPE_YARN) {
        low = floor(yarn_pair(hp, hp->yarn_beta_fast));
        high = ceil(yarn_pair(hp, hp->yarn_beta_slow));
        low = low < 0.0 ? 0.0 : low;
        high = high > hp->n_rot - 1 ? hp->n_rot - 1 : high;
        if (high == low)
            high += 0.001;
    }
    for (int i = 0; i < n; i++) {
        float f = 1.0f / (float)pow((double)hp->freq_base, (double)((float)(2 * i) / (float)hp->n_rot));
        if (factors)
            f /= factors[i];
        if (hp->scaling == ROPE_LINEAR) {
            f /= hp->rope_factor;
        } else if (hp->scaling == ROPE_YARN) { /* high frequencies as trained, low ones interpolated, a ramp between */
            float ramp = (float)((i - low) / (high - low));
            ramp = ramp < 0.0f ? 0.0f : ramp > 1.0f ? 1.0f : ramp;
            f = f / hp->rope_factor * ramp + f * (1.0f - ramp);
        }
        inv_freq[i] = f;
    }
    if (hp->scaling != ROPE_YARN)
        return 1.0f;
    return hp->rope_factor > 1.0f ? (float)(0.1 * log((double)hp->rope_factor) + 1.0) : 1.0f;
}
