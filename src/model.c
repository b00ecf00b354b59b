/* SPDX-License-Identifier: MIT */
/* Binding: every tensor of the file to a named field, its shape checked; matrices become jobs that pack them straight from the
 * file into the kernels' layout.  A tensor that no field takes would change the result, so it is refused. */
#include "model.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

enum { ALIGN = 64 };

struct jobs {
    struct pack_job *job;
    void **gathered; /* copies of scattered rows, freed with the jobs */
    size_t n, cap, n_gathered;
};

struct binder {
    struct model *m;
    struct qn_error *err;
    bool *used; /* [n_tensors] */
    struct jobs *jobs;
    char name[128];
    int block; /* -1: outside of blocks */
    bool check_only; /* what is bound gets no room and no job */
};

/* A rectangle of source rows, see struct pack_job. */
struct rows_from {
    int64_t first, run, jump; /* run 0: all rows in order */
    /* They become rows [at, at + n) of a matrix of `whole` rows; whole 0: that is all.  Behind at 0, its data comes from
     * the caller. */
    int64_t at, whole;
};

static const char *name_of(struct binder *b, const char *suffix)
{
    if (b->block < 0)
        snprintf(b->name, sizeof b->name, "%s", suffix);
    else
        snprintf(b->name, sizeof b->name, "blk.%d.%s", b->block, suffix);
    return b->name;
}

static const struct gguf_tensor *find(struct binder *b, const char *suffix)
{
    const struct gguf_tensor *t = gguf_tensor_find(b->m->gguf, name_of(b, suffix));
    if (t)
        b->used[t - b->m->gguf->tensors] = true;
    return t;
}

static int missing(struct binder *b)
{
    return fail(b->err, QN_E_FORMAT, "%s: tensor %s is missing", b->m->gguf->path, b->name);
}

static int check_shape(struct binder *b, const struct gguf_tensor *t, int64_t ne0, int64_t ne1, int64_t ne2)
{
    if (t->ne[0] == ne0 && t->ne[1] == ne1 && t->ne[2] == ne2 && t->ne[3] == 1)
        return 0;
    return fail(b->err, QN_E_FORMAT, "%s: tensor %s is [%lld, %lld, %lld, %lld], the model needs [%lld, %lld, %lld, 1]",
                b->m->gguf->path, t->name, (long long)t->ne[0], (long long)t->ne[1], (long long)t->ne[2],
                (long long)t->ne[3], (long long)ne0, (long long)ne1, (long long)ne2);
}

/* Room for n floats that live as long as the model. */
static float *floats(struct model *m, int64_t n)
{
    float *p = m->floats + m->floats_used;
    m->floats_used += ((size_t)n + 15) & ~(size_t)15;
    assert(m->floats_used <= m->n_floats);
    return p;
}

/* A vector of n floats: any unquantized type; [n] or [n, 1]. */
static int bind_vector(struct binder *b, const char *suffix, int64_t n, const float **out)
{
    const struct gguf_tensor *t = find(b, suffix);
    if (!t)
        return missing(b);
    if (check_shape(b, t, n, 1, 1))
        return b->err->code;
    const struct quant_type *type = quant_type_find(t->type);
    if (type->rule != RULE_FLOAT)
        return fail(b->err, QN_E_UNSUPPORTED, "%s: tensor %s is %s, a vector must be F32, F16 or BF16",
                    b->m->gguf->path, t->name, type->name);
    float *p = floats(b->m, n);
    type->decode(t->data, p, n);
    b->m->n_params += n;
    *out = p;
    return 0;
}

static int want_vector(struct binder *b, const char *suffix, int64_t n, const float **out)
{
    return gguf_tensor_find(b->m->gguf, name_of(b, suffix)) ? bind_vector(b, suffix, n, out) : 0;
}

/* The convolution [n_tap, channels] as [channels / dim][n_tap][dim]: a head's taps lie together. */
static int bind_conv(struct binder *b, const char *suffix, int n_tap, int64_t channels, int64_t dim, const float **out)
{
    const struct gguf_tensor *t = find(b, suffix);
    if (!t)
        return missing(b);
    const struct quant_type *type = quant_type_find(t->type);
    if (check_shape(b, t, n_tap, channels, 1))
        return b->err->code;
    if (type->rule != RULE_FLOAT)
        return fail(b->err, QN_E_UNSUPPORTED, "%s: tensor %s is %s, it must be F32, F16 or BF16", b->m->gguf->path,
                    t->name, type->name);
    float *p = floats(b->m, n_tap * channels), row[8];
    for (int64_t c = 0; c < channels; c++) {
        type->decode(t->data + (size_t)c * quant_row_bytes(type, n_tap), row, n_tap);
        for (int k = 0; k < n_tap; k++)
            p[(c / dim * n_tap + k) * dim + c % dim] = row[k];
    }
    b->m->n_params += n_tap * channels;
    *out = p;
    return 0;
}

static int add_job(struct binder *b, struct pack_job job)
{
    struct jobs *j = b->jobs;
    if (j->n == j->cap) {
        size_t cap = j->cap ? j->cap * 2 : 256;
        struct pack_job *more = realloc(j->job, cap * sizeof *more);
        if (!more)
            return fail(b->err, QN_E_MEMORY, "no memory for the list of tensors");
        j->job = more;
        j->cap = cap;
    }
    j->job[j->n++] = job;
    return 0;
}

/* Scattered short runs cannot be packed in place: copy the rows first. */
static const uint8_t *gather_rows(struct binder *b, const uint8_t *src, size_t row_bytes, int64_t rows,
                                  struct rows_from from)
{
    struct jobs *j = b->jobs;
    void **list = realloc(j->gathered, (j->n_gathered + 1) * sizeof *list);
    if (!list)
        return NULL;
    j->gathered = list;
    uint8_t *copy = malloc((size_t)rows * row_bytes);
    if (!copy)
        return NULL;
    list[j->n_gathered++] = copy;
    for (int64_t r = 0; r < rows; r++)
        memcpy(copy + (size_t)r * row_bytes, src + (size_t)(r / from.run * from.jump + r % from.run) * row_bytes,
               row_bytes);
    return copy;
}

/* Takes bytes of every packed region, a whole number of cache lines. */
static uint8_t *packed_room(struct model *m, size_t bytes)
{
    uint8_t *p = m->packed + m->packed_used;
    m->packed_used += (bytes + ALIGN - 1) & ~(size_t)(ALIGN - 1);
    assert(m->packed_used <= m->slice_bytes);
    return p;
}

/* n_mat matrices [cols][rows] out of tensor t; from says which of the tensor's rows, per matrix of src_rows source rows. */
static int place(struct binder *b, const struct gguf_tensor *t, int64_t rows, int64_t n_mat, int64_t src_rows,
                 struct rows_from from, struct mat_experts *out)
{
    const struct quant_type *type = quant_type_find(t->type);
    size_t row_bytes = quant_row_bytes(type, t->ne[0]);
    bool in_order = from.run == 0, mapped = true;
    struct mat m = {.type = type, .rows = rows, .cols = t->ne[0]};
    const uint8_t *src = t->data + (size_t)from.first * row_bytes;
    b->m->n_params += rows * n_mat * t->ne[0];
    if (b->check_only) {
        *out = (struct mat_experts){.m = m};
        return 0;
    }
    if (type->layout == LAYOUT_ROWS && in_order) { /* used where it lies */
        m.data = src;
        m.stride = row_bytes;
        b->m->bytes_weights += (size_t)(rows * n_mat) * row_bytes;
        *out = (struct mat_experts){.m = m, .stride = (size_t)src_rows * row_bytes};
        return 0;
    }
    if (in_order)
        from.run = from.jump = rows;
    if (from.run % TILE_ROWS && from.run != rows) {
        src = gather_rows(b, src, row_bytes, rows, from);
        if (!src)
            return fail(b->err, QN_E_MEMORY, "%s: no memory to gather %lld rows", t->name, (long long)rows);
        from.run = from.jump = rows;
        mapped = false;
    }
    bool is_rows = type->layout == LAYOUT_ROWS;
    int n_slices = is_rows ? 1 : b->m->n_slices;
    int64_t whole = from.whole ? from.whole : rows, per_stride = is_rows ? 1 : TILE_ROWS;
    m.stride = is_rows ? row_bytes : pack_tile_bytes(type, m.cols);
    size_t mat_bytes = (size_t)((slice_most(whole, n_slices) + per_stride - 1) / per_stride) * m.stride;
    m.data = from.at ? out->m.data : packed_room(b->m, mat_bytes * (size_t)n_mat);
    b->m->bytes_weights += (size_t)((rows + per_stride - 1) / per_stride * n_mat) * m.stride;
    *out = (struct mat_experts){.m = m, .stride = mat_bytes};
    struct pack_job job = {.type = type,
                           .src = src,
                           .row_bytes = row_bytes,
                           .dst = (uint8_t *)(uintptr_t)m.data,
                           .cols = m.cols,
                           .n_mat = n_mat,
                           .rows = rows,
                           .dst_stride = m.stride,
                           .mat_stride = mat_bytes,
                           .n_slices = n_slices,
                           .slice_bytes = b->m->slice_bytes,
                           .at = from.at,
                           .whole = whole,
                           .src_stride = src_rows,
                           .run = from.run,
                           .jump = from.jump,
                           .part = t->part,
                           .mapped = mapped};
    return add_job(b, job);
}

/* A plain matrix [cols, rows]. */
static int bind_matrix(struct binder *b, const char *suffix, int64_t cols, int64_t rows, struct mat *out)
{
    const struct gguf_tensor *t = find(b, suffix);
    struct mat_experts x;
    if (!t)
        return missing(b);
    if (check_shape(b, t, cols, rows, 1) || place(b, t, rows, 1, rows, (struct rows_from){0}, &x))
        return b->err->code;
    *out = x.m;
    return 0;
}

static int bind_experts(struct binder *b, const char *suffix, int64_t cols, int64_t rows, int64_t n,
                        struct mat_experts *out)
{
    const struct gguf_tensor *t = find(b, suffix);
    if (!t)
        return missing(b);
    if (check_shape(b, t, cols, rows, n))
        return b->err->code;
    return place(b, t, rows, n, rows, (struct rows_from){0}, out);
}

static int bind_ffn(struct binder *b, struct ffn_weights *f)
{
    const struct hparams *hp = &b->m->hp;
    int64_t h = hp->n_embd;
    if (!hp->n_expert)
        return bind_matrix(b, "ffn_gate.weight", h, hp->n_ff, &f->gate) ||
                       bind_matrix(b, "ffn_up.weight", h, hp->n_ff, &f->up) ||
                       bind_matrix(b, "ffn_down.weight", hp->n_ff, h, &f->down)
                   ? b->err->code
                   : 0;
    int64_t fe = hp->n_ff_exp, n = hp->n_expert;
    if (bind_matrix(b, "ffn_gate_inp.weight", h, n, &f->router))
        return b->err->code;
    const struct gguf_tensor *fused = find(b, "ffn_gate_up_exps.weight");
    if (fused) { /* rows of an expert: gate, then up */
        if (check_shape(b, fused, h, 2 * fe, n) ||
            place(b, fused, fe, n, 2 * fe, (struct rows_from){.first = 0}, &f->gate_exps) ||
            place(b, fused, fe, n, 2 * fe, (struct rows_from){.first = fe}, &f->up_exps))
            return b->err->code;
    } else if (bind_experts(b, "ffn_gate_exps.weight", h, fe, n, &f->gate_exps) ||
               bind_experts(b, "ffn_up_exps.weight", h, fe, n, &f->up_exps)) {
        return b->err->code;
    }
    if (bind_experts(b, "ffn_down_exps.weight", fe, h, n, &f->down_exps))
        return b->err->code;
    int64_t fs = hp->n_ff_shexp;
    if (!fs)
        return 0;
    if (bind_matrix(b, "ffn_gate_shexp.weight", h, fs, &f->gate) ||
        bind_matrix(b, "ffn_up_shexp.weight", h, fs, &f->up) ||
        bind_matrix(b, "ffn_down_shexp.weight", fs, h, &f->down) ||
        bind_matrix(b, "ffn_gate_inp_shexp.weight", h, 1, &f->shared_gate))
        return b->err->code;
    return 0;
}

/* Biases and norms that the family does not have are left unbound, and so refused. */
static int bind_attn_vectors(struct binder *b, struct attn_weights *a, int64_t q_rows, int64_t kv_rows)
{
    const struct hparams *hp = &b->m->hp;
    const struct {
        const char *name;
        int64_t n;
        const float **out;
        bool known, needed;
    } v[] = {
        {"attn_q.bias", q_rows, &a->q_bias, !hp->gated, hp->qkv_bias},
        {"attn_k.bias", kv_rows, &a->k_bias, !hp->gated, hp->qkv_bias},
        {"attn_v.bias", kv_rows, &a->v_bias, !hp->gated, hp->qkv_bias},
        {"attn_q_norm.weight", hp->head_dim, &a->q_norm, hp->qk_norm, hp->qk_norm},
        {"attn_k_norm.weight", hp->head_dim, &a->k_norm, hp->qk_norm, hp->qk_norm},
    };
    for (size_t i = 0; i < sizeof v / sizeof *v; i++)
        if (v[i].known && (v[i].needed ? bind_vector : want_vector)(b, v[i].name, v[i].n, v[i].out))
            return b->err->code;
    return 0;
}

static int bind_attn(struct binder *b, struct attn_weights *a)
{
    const struct hparams *hp = &b->m->hp;
    int64_t h = hp->n_embd, q_rows = (int64_t)hp->n_head * hp->head_dim,
            kv_rows = (int64_t)hp->n_head_kv * hp->head_dim;
    int64_t q_all = q_rows * (hp->gated ? 2 : 1);
    if (bind_matrix(b, "attn_q.weight", h, q_all, &a->q) || bind_matrix(b, "attn_k.weight", h, kv_rows, &a->k) ||
        bind_matrix(b, "attn_v.weight", h, kv_rows, &a->v) ||
        bind_matrix(b, "attn_output.weight", q_rows, h, &a->out) || bind_attn_vectors(b, a, q_rows, kv_rows))
        return b->err->code;
    return 0;
}

/* attn_qkv and attn_gate, or the old form ssm_in with the rows of a key head together: q, k, its v heads, their z. */
static int bind_delta_in(struct binder *b, struct delta_weights *d)
{
    const struct hparams *hp = &b->m->hp;
    int64_t h = hp->n_embd, dim = hp->ssm_dim, key = hp->n_k_head * dim, value = hp->n_v_head * dim,
            ratio = hp->n_v_head / hp->n_k_head;
    /* where value heads are tiled there is no old form */
    const struct gguf_tensor *t = hp->v_tiled ? NULL : find(b, "ssm_in.weight");
    if (!t)
        return bind_matrix(b, "attn_qkv.weight", h, 2 * key + value, &d->qkv) ||
                       bind_matrix(b, "attn_gate.weight", h, value, &d->z)
                   ? b->err->code
                   : 0;
    int64_t jump = 2 * dim + 2 * ratio * dim;
    struct mat_experts qkv = {0}, z;
    int64_t rows[4] = {key, key, value, value}, first[4] = {0, dim, 2 * dim, 2 * dim + ratio * dim};
    int64_t at[4] = {0, key, 2 * key, 0}, whole = 2 * key + value;
    if (check_shape(b, t, h, 2 * key + 2 * value, 1))
        return b->err->code;
    for (int i = 0; i < 4; i++) { /* q, k and v become one matrix: whole tiles, since dim is a multiple of 16 */
        struct rows_from from = {.first = first[i],
                                 .run = i < 2 ? dim : ratio * dim,
                                 .jump = jump,
                                 .at = at[i],
                                 .whole = i < 3 ? whole : value};
        if (place(b, t, rows[i], 1, 0, from, i < 3 ? &qkv : &z))
            return b->err->code;
    }
    d->qkv = qkv.m;
    d->qkv.rows = whole;
    d->z = z.m;
    return 0;
}

/* Tiled value heads: ssm_beta and ssm_alpha; else ssm_ba, rows of a key head together: b of its v heads, a of its v heads. */
static int bind_delta_gates(struct binder *b, struct delta_weights *d)
{
    const struct hparams *hp = &b->m->hp;
    int64_t h = hp->n_embd, ratio = hp->n_v_head / hp->n_k_head;
    if (hp->v_tiled)
        return bind_matrix(b, "ssm_beta.weight", h, hp->n_v_head, &d->beta) ||
                       bind_matrix(b, "ssm_alpha.weight", h, hp->n_v_head, &d->alpha)
                   ? b->err->code
                   : 0;
    const struct gguf_tensor *t = find(b, "ssm_ba.weight");
    struct mat_experts beta, alpha;
    if (!t)
        return missing(b);
    if (check_shape(b, t, h, 2 * hp->n_v_head, 1) ||
        place(b, t, hp->n_v_head, 1, 0, (struct rows_from){.first = 0, .run = ratio, .jump = 2 * ratio}, &beta) ||
        place(b, t, hp->n_v_head, 1, 0, (struct rows_from){.first = ratio, .run = ratio, .jump = 2 * ratio}, &alpha))
        return b->err->code;
    d->beta = beta.m;
    d->alpha = alpha.m;
    return 0;
}

static int bind_delta(struct binder *b, struct delta_weights *d)
{
    const struct hparams *hp = &b->m->hp;
    int64_t value = (int64_t)hp->n_v_head * hp->ssm_dim, channels = 2LL * hp->n_k_head * hp->ssm_dim + value;
    if (bind_delta_in(b, d) || bind_delta_gates(b, d) || bind_matrix(b, "ssm_out.weight", value, hp->n_embd, &d->out) ||
        bind_conv(b, "ssm_conv1d.weight", hp->n_tap, channels, hp->ssm_dim, &d->conv) ||
        bind_vector(b, "ssm_a", hp->n_v_head, &d->a_log) || bind_vector(b, "ssm_dt.bias", hp->n_v_head, &d->dt_bias) ||
        bind_vector(b, "ssm_norm.weight", hp->ssm_dim, &d->norm))
        return b->err->code;
    return 0;
}

static int bind_layer(struct binder *b, struct layer *l)
{
    const struct hparams *hp = &b->m->hp;
    const char *ffn_norm = hp->n_v_head ? "post_attention_norm.weight" : "ffn_norm.weight";
    if (bind_vector(b, "attn_norm.weight", hp->n_embd, &l->mixer_norm) ||
        bind_vector(b, ffn_norm, hp->n_embd, &l->ffn_norm))
        return b->err->code;
    if (l->mixer == MIXER_ATTN ? bind_attn(b, &l->attn) : bind_delta(b, &l->delta))
        return b->err->code;
    return bind_ffn(b, &l->ffn);
}

static int bind_nextn(struct binder *b, struct nextn_block *n)
{
    int64_t h = b->m->hp.n_embd;
    n->layer.mixer = MIXER_ATTN;
    n->layer.mixer_index = b->m->n_attn;
    if (bind_layer(b, &n->layer) || bind_matrix(b, "nextn.eh_proj.weight", 2 * h, h, &n->eh_proj) ||
        bind_vector(b, "nextn.enorm.weight", h, &n->enorm) || bind_vector(b, "nextn.hnorm.weight", h, &n->hnorm) ||
        bind_vector(b, "nextn.shared_head_norm.weight", h, &n->head_norm))
        return b->err->code;
    return 0;
}

/* Which layers are attention: attention.recurrent_layers (1 = recurrent) or every interval-th. */
static int choose_mixers(struct model *m, struct qn_error *err)
{
    const struct hparams *hp = &m->hp;
    char key[64];
    const struct gguf_kv *kv = NULL;
    snprintf(key, sizeof key, "%s.attention.recurrent_layers", hp->arch);
    if (hp->n_v_head && gguf_get_ints(m->gguf, key, &kv, err) < 0)
        return err->code;
    if (kv && kv->n < (size_t)hp->n_layer)
        return fail(err, QN_E_FORMAT, "%s: key %s has %zu entries for %d layers", m->gguf->path, key, kv->n,
                    hp->n_layer);
    for (int i = 0; i < hp->n_layer; i++) {
        bool attn = hp->full_attn_interval <= 1 || (i + 1) % hp->full_attn_interval == 0;
        if (kv)
            attn = gguf_int_at(kv, (size_t)i) == 0;
        m->layer[i].mixer = attn ? MIXER_ATTN : MIXER_DELTA;
        m->layer[i].mixer_index = attn ? m->n_attn++ : m->n_delta++;
    }
    m->n_kv = m->n_attn + m->drafts;
    return 0;
}

/* Address space for everything that will be packed or converted: bounds from the tensor table. */
static int reserve(struct model *m, struct qn_error *err)
{
    size_t packed = 0, n_floats = 1024, n_slices = (size_t)m->n_slices;
    /* every matrix may grow by up to four times 15 padding rows, every slice of it by as many times 31, every tile by less than a
     * cache line */
    const size_t padding = n_slices > 1 ? 192 : 64;
    for (size_t i = 0; i < m->gguf->n_tensors; i++) {
        const struct gguf_tensor *t = &m->gguf->tensors[i];
        const struct quant_type *type = quant_type_find(t->type);
        size_t row = quant_row_bytes(type, t->ne[0]), mats = (size_t)(t->ne[2] * t->ne[3]), slack;
        if (t->ne[1] == 1 || t->ne[0] <= 8)
            n_floats += (size_t)(t->ne[0] * t->ne[1]) + 16;
        if (!size_mul(row + ALIGN, padding, &slack) || !size_mul(slack, mats, &slack) ||
            !size_add(packed, slack, &packed) ||
            !size_add(packed, t->bytes / n_slices + t->bytes / TILE_ROWS / 4 + (size_t)t->ne[1] * mats * 4, &packed))
            return fail(err, QN_E_FORMAT, "%s: tensor %s is too large", m->gguf->path, t->name);
    }
    if (!size_add(packed, HUGE_PAGE, &packed)) /* the last explicit huge page */
        return fail(err, QN_E_FORMAT, "%s: the tensors are too large", m->gguf->path);
    m->slice_bytes = n_slices > 1 ? packed & ~(size_t)(HUGE_PAGE - 1) : packed;
    if (!size_mul(m->slice_bytes, n_slices, &m->packed_bytes))
        return fail(err, QN_E_FORMAT, "%s: the tensors are too large", m->gguf->path);
    m->packed = mem_reserve(m->packed_bytes, true);
    m->n_floats = n_floats;
    m->floats = mem_reserve(n_floats * sizeof(float), false);
    if (!m->packed || !m->floats)
        return fail(err, QN_E_MEMORY, "%s: no address space for %zu bytes of weights", m->gguf->path, m->packed_bytes);
    return 0;
}

static int bind_rope(struct binder *b)
{
    struct model *m = b->m;
    const float *factors = NULL;
    b->block = -1;
    if (want_vector(b, "rope_freqs.weight", m->hp.n_rot / 2, &factors))
        return b->err->code;
    m->inv_freq = floats(m, m->hp.n_rot / 2);
    m->rope_mscale = arch_rope_table(&m->hp, factors, m->inv_freq);
    return 0;
}

static int bind_all(struct binder *b)
{
    struct model *m = b->m;
    b->block = -1;
    const struct gguf_tensor *embd = gguf_tensor_find(m->gguf, "token_embd.weight");
    if (!embd) {
        name_of(b, "token_embd.weight");
        return missing(b);
    }
    if (embd->ne[1] > INT32_MAX)
        return fail(b->err, QN_E_FORMAT, "%s: token_embd.weight has %lld rows", m->gguf->path, (long long)embd->ne[1]);
    m->hp.n_vocab = (int)embd->ne[1];
    if (bind_matrix(b, "token_embd.weight", m->hp.n_embd, m->hp.n_vocab, &m->token_embd) ||
        bind_vector(b, "output_norm.weight", m->hp.n_embd, &m->output_norm))
        return b->err->code;
    if (!gguf_tensor_find(m->gguf, "output.weight"))
        m->output = m->token_embd;
    else if (bind_matrix(b, "output.weight", m->hp.n_embd, m->hp.n_vocab, &m->output))
        return b->err->code;
    if (bind_rope(b))
        return b->err->code;
    for (b->block = 0; b->block < m->hp.n_layer; b->block++)
        if (bind_layer(b, &m->layer[b->block]))
            return b->err->code;
    for (int i = 0; i < m->hp.n_nextn; i++, b->block++) {
        b->check_only = !m->drafts || i > 0;
        if (bind_nextn(b, &m->nextn[i]))
            return b->err->code;
    }
    for (size_t i = 0; i < m->gguf->n_tensors; i++)
        if (!b->used[i])
            return fail(b->err, QN_E_UNSUPPORTED, "%s: tensor %s is not part of architecture %s as known here",
                        m->gguf->path, m->gguf->tensors[i].name, m->hp.arch);
    return 0;
}

int model_open(struct model *m, struct gguf *g, const struct rope_override *o, int n_slices, bool drafts,
               struct qn_error *err)
{
    *m = (struct model){.gguf = g, .n_slices = n_slices, .drafts = drafts};
    struct binder b = {.m = m, .err = err};
    if (arch_read(&m->hp, g, o, err))
        return err->code;
    if (drafts && m->hp.n_nextn == 0)
        return fail(err, QN_E_UNSUPPORTED, "%s: the model has no block that drafts (%s.nextn_predict_layers)", g->path,
                    m->hp.arch);
    m->layer = calloc((size_t)m->hp.n_layer, sizeof *m->layer);
    m->nextn = calloc((size_t)m->hp.n_nextn + 1, sizeof *m->nextn);
    m->jobs = calloc(1, sizeof *m->jobs);
    b.used = calloc(g->n_tensors + 1, sizeof *b.used);
    b.jobs = m->jobs;
    int code = 0;
    if (!m->layer || !m->nextn || !m->jobs || !b.used)
        code = fail(err, QN_E_MEMORY, "%s: no memory for %d layers", g->path, m->hp.n_layer);
    if (!code)
        code = choose_mixers(m, err);
    if (!code)
        code = reserve(m, err);
    if (!code)
        code = bind_all(&b);
    free(b.used);
    if (code)
        model_close(m);
    return code;
}

static void jobs_free(struct jobs *j)
{
    if (!j)
        return;
    for (size_t i = 0; i < j->n_gathered; i++)
        free(j->gathered[i]);
    free(j->gathered);
    free(j->job);
    free(j);
}

void model_close(struct model *m)
{
    jobs_free(m->jobs);
    free(m->layer);
    free(m->nextn);
    mem_release(m->packed, m->packed_bytes);
    mem_release(m->floats, m->n_floats * sizeof(float));
    *m = (struct model){0};
}

size_t model_n_jobs(const struct model *m) { return m->jobs ? m->jobs->n : 0; }

const struct pack_job *model_job(const struct model *m, size_t i) { return &m->jobs->job[i]; }

int64_t model_job_tiles(const struct pack_job *j) { return (j->rows + TILE_ROWS - 1) / TILE_ROWS * j->n_mat; }

/* Where a tile of a job comes from and goes to. */
struct spot {
    int64_t mat, row; /* first row, of the job's */
    int64_t run; /* tiles from here to the end of the matrix, or of its slice */
    uint8_t *dst;
};

static struct spot spot_of(const struct pack_job *j, int64_t tile)
{
    for (int k = 0;; k++) {
        assert(k < j->n_slices);
        int64_t slice = slice_row(j->whole, j->n_slices, k), end = slice_row(j->whole, j->n_slices, k + 1);
        int64_t first = slice > j->at ? slice : j->at, last = end < j->at + j->rows ? end : j->at + j->rows;
        int64_t tiles = last > first ? (last - first + TILE_ROWS - 1) / TILE_ROWS : 0;
        if (tile >= tiles * j->n_mat) {
            tile -= tiles * j->n_mat;
            continue;
        }
        struct spot s = {
            .mat = tile / tiles, .row = first - j->at + tile % tiles * TILE_ROWS, .run = tiles - tile % tiles};
        int64_t below = j->at + s.row - slice; /* rows of the slice in front */
        s.dst = j->dst + (size_t)k * j->slice_bytes + (size_t)s.mat * j->mat_stride +
                (size_t)(j->type->layout == LAYOUT_ROWS ? below : below / TILE_ROWS) * j->dst_stride;
        return s;
    }
}

int64_t model_job_run(const struct pack_job *j, int64_t tile)
{
    return j->n_slices > 1 ? spot_of(j, tile).run : model_job_tiles(j) - tile;
}

void model_pack_tile(const struct pack_job *j, int64_t tile)
{
    struct spot s = spot_of(j, tile);
    int n = (int)(j->rows - s.row < TILE_ROWS ? j->rows - s.row : TILE_ROWS);
    /* runs are whole tiles, or one run is the whole matrix: the tile's rows lie together */
    int64_t src_row = s.mat * j->src_stride + s.row / j->run * j->jump + s.row % j->run;
    const uint8_t *src = j->src + (size_t)src_row * j->row_bytes;
    if (j->type->layout == LAYOUT_ROWS)
        memcpy(s.dst, src, (size_t)n * j->row_bytes);
    else
        pack_tile(j->type, src, j->row_bytes, n, j->cols, s.dst);
}

const uint8_t *model_job_source(const struct pack_job *j, int64_t first, int64_t last, size_t *bytes)
{
    if (!j->mapped || j->run != j->rows || j->src_stride != j->rows || last <= first)
        return NULL;
    struct spot a = spot_of(j, first), z = spot_of(j, last - 1);
    int64_t r0 = a.mat * j->rows + a.row, r1 = z.mat * j->rows + z.row + TILE_ROWS;
    int64_t end = (z.mat + 1) * j->rows; /* a last tile may be cut */
    *bytes = (size_t)((r1 < end ? r1 : end) - r0) * j->row_bytes;
    return j->src + (size_t)r0 * j->row_bytes;
}

uint64_t model_plan(const struct model *m)
{
    uint64_t hash = m->packed_used;
    for (size_t i = 0; i < model_n_jobs(m); i++) {
        const struct pack_job *j = model_job(m, i);
        /* copies of gathered rows lie elsewhere each time */
        const uint64_t from = j->mapped ? (uint64_t)(j->src - m->gguf->parts[j->part].data) : 0;
        const uint64_t fields[] = {hash,
                                   (uint64_t)j->type->id,
                                   (uint64_t)j->part,
                                   from,
                                   j->row_bytes,
                                   (uint64_t)(spot_of(j, 0).dst - m->packed),
                                   (uint64_t)j->cols,
                                   (uint64_t)j->n_mat,
                                   (uint64_t)j->rows,
                                   j->dst_stride,
                                   (uint64_t)j->src_stride,
                                   (uint64_t)j->run,
                                   (uint64_t)j->jump};
        hash = XXH3_64bits(fields, sizeof fields);
    }
    return hash;
}

void model_row(const struct model *md, const struct mat *m, int64_t r, float *y)
{
    int k = 0;
    while (k + 1 < md->n_slices && r >= slice_row(m->rows, md->n_slices, k + 1))
        k++;
    const struct mat slice = model_slice(md, m, k);
    mat_row(&slice, r, y);
}

void model_pack_done(struct model *m)
{
    jobs_free(m->jobs);
    m->jobs = NULL;
}
