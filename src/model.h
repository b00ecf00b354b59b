/* SPDX-License-Identifier: MIT */
/* A model as data: hyper-parameters, and per layer the two parts (mixer and ffn) with every weight bound to a named field.
 * What differs between architectures is a field here, set in arch.c; nothing else asks for an architecture's name. */
#ifndef QUERN_MODEL_H
#define QUERN_MODEL_H

#include "gguf.h"
#include "quant/quant.h"

enum mixer_kind { MIXER_ATTN, MIXER_DELTA };
enum rope_scaling { ROPE_NONE, ROPE_LINEAR, ROPE_YARN };

struct hparams {
    char arch[32];
    char name[128]; /* general.name, "" when absent */
    int n_vocab, n_embd;
    int n_layer; /* of the trunk: without nextn blocks */
    int n_nextn; /* blocks after the trunk */
    int n_ctx_train;
    float eps; /* of every RMS norm */

    /* attention */
    int n_head, n_head_kv, head_dim;
    bool gated; /* attn_q rows of a head: head_dim query, head_dim gate */
    bool qk_norm; /* queries and keys are normed per head */
    bool qkv_bias; /* biases must be there; without it, and not gated, they may be */

    /* rope */
    int n_rot; /* rotated dimensions of a head */
    bool rope_neox; /* pairs (i, i + n_rot / 2), else (2 i, 2 i + 1) */
    float freq_base;
    enum rope_scaling scaling;
    float rope_factor; /* context extension, 1 = none */
    int rope_ctx_orig;
    float yarn_beta_fast, yarn_beta_slow;

    /* feed-forward */
    int n_ff; /* dense */
    int n_expert, n_expert_used; /* 0 = dense */
    int n_ff_exp, n_ff_shexp; /* 0 = no shared expert */

    /* gated delta-net; all 0 without */
    int ssm_dim; /* of a head's keys and values */
    int n_k_head, n_v_head;
    int n_tap; /* of the causal convolution */
    bool v_tiled; /* value head n uses key head n % n_k_head, else n / (n_v_head / n_k_head) */
    int full_attn_interval; /* layer i is attention iff (i + 1) % interval == 0; 0 or 1: every layer */
};

/* Matrices of all experts: expert e starts stride bytes after e - 1. */
struct mat_experts {
    struct mat m; /* of expert 0 */
    size_t stride;
};

struct attn_weights {
    struct mat q, k, v, out;
    const float *q_bias, *k_bias, *v_bias; /* [rows of the matrix] or NULL */
    const float *q_norm, *k_norm; /* [head_dim] or NULL */
};

struct delta_weights {
    struct mat qkv; /* rows: q heads, k heads, v heads */
    struct mat z; /* [n_v_head * dim] output gate */
    struct mat beta, alpha; /* [n_v_head], rows in the order of the value heads */
    struct mat out;
    const float *conv; /* [channels / dim][n_tap][dim], last tap = current token */
    const float *a_log; /* [n_v_head] -exp(A_log) */
    const float *dt_bias; /* [n_v_head] */
    const float *norm; /* [dim] */
};

struct ffn_weights {
    struct mat gate, up, down; /* dense, or the shared expert; rows 0 when there is none */
    struct mat router; /* [n_expert]; rows 0: no routed experts */
    struct mat_experts gate_exps, up_exps, down_exps;
    struct mat shared_gate; /* 1 row; rows 0: the shared expert counts fully */
};

struct layer {
    enum mixer_kind mixer;
    int mixer_index; /* among the layers with the same mixer: KV cache or state slot */
    const float *mixer_norm, *ffn_norm; /* [n_embd] */
    union {
        struct attn_weights attn;
        struct delta_weights delta;
    };
    struct ffn_weights ffn;
};

/* The draft block of a checkpoint with multi-token prediction: from the trunk's last state at a position and the token behind it to
 * the token behind that. */
struct nextn_block {
    struct layer layer; /* attention; its keys and values are those of one more attention layer */
    struct mat eh_proj; /* [2 n_embd] to [n_embd]: normed embedding, normed state */
    const float *enorm, *hnorm, *head_norm; /* [n_embd] */
};

struct model {
    struct gguf *gguf; /* borrowed */
    struct hparams hp;
    struct mat token_embd, output;
    const float *output_norm;
    struct layer *layer; /* [n_layer] */
    struct nextn_block *nextn; /* [n_nextn] */
    bool drafts; /* nextn[0] has its weights; else the blocks were only checked */
    int n_attn, n_delta; /* layers of each kind in the trunk */
    int n_kv; /* layers that have keys and values: attention, and nextn[0] if it drafts */
    float *inv_freq; /* [n_rot / 2] after scaling */
    float rope_mscale; /* factor of cosines and sines */
    int64_t n_params;
    size_t bytes_weights; /* of all tensors, as held in memory */

    /* All packed matrices: a region for every slice, slice_bytes apart, with slice i of each matrix at the same place in region i */
    uint8_t *packed;
    int n_slices; /* of every matrix: one for each NUMA node that workers are on */
    size_t slice_bytes, packed_bytes; /* address space of a region, of all */
    size_t packed_used; /* of each region */
    struct jobs *jobs; /* how the packed matrices get there; NULL once it is done */
    float *floats; /* converted 1-d tensors and transposed convolutions */
    size_t n_floats, floats_used;
};

/* How the matrices get into memory; filled while binding, worked off by model_pack_tile(). */
struct pack_job {
    const struct quant_type *type;
    const uint8_t *src; /* first row in the file */
    size_t row_bytes;
    uint8_t *dst;
    int64_t cols;
    int64_t n_mat; /* matrices one after another in dst, each a whole number of tiles */
    int64_t rows; /* of each */
    size_t dst_stride; /* bytes from tile to tile, or row to row */
    size_t mat_stride; /* bytes from matrix to matrix */
    /* with slices: dst is that of a matrix of `whole` rows, of which these are rows [at, at + rows) */
    int n_slices;
    size_t slice_bytes;
    int64_t at, whole;
    int64_t src_stride; /* source rows from matrix to matrix */
    int64_t run, jump; /* rows are taken in runs of `run` rows, `jump` source rows apart */
    int part; /* of the model's files */
    bool mapped; /* src points into the file */
};

struct rope_override {
    float freq_base, factor; /* 0 = the file's */
    const char *scaling; /* NULL = the file's */
};

/* Reads hyper-parameters: qn_error names the key. */
int arch_read(struct hparams *hp, const struct gguf *g, const struct rope_override *o, struct qn_error *err);
/* Fills inv_freq [n_rot / 2] and returns the factor of cosines and sines. */
float arch_rope_table(const struct hparams *hp, const float *factors, float *inv_freq);

/* The first row of slice k out of n: equal slices of whole pairs of tiles, so that a group of 32 outputs lies in one. */
static inline int64_t slice_row(int64_t rows, int n, int k)
{
    int64_t pair = 2 * TILE_ROWS, row = (rows + pair - 1) / pair * k / n * pair;
    return row < rows ? row : rows;
}
/* Rows of the largest slice. */
static inline int64_t slice_most(int64_t rows, int n)
{
    int64_t pair = 2 * TILE_ROWS, most = ((rows + pair - 1) / pair + n - 1) / n * pair;
    return most < rows ? most : rows;
}
/* Matrix m for products and look-ups of rows in slice k. */
static inline struct mat model_slice(const struct model *md, const struct mat *m, int k)
{
    struct mat s = *m;
    if (k > 0 && m->type->layout != LAYOUT_ROWS)
        s.data += (size_t)k * md->slice_bytes - (size_t)(slice_row(m->rows, md->n_slices, k) / TILE_ROWS) * m->stride;
    return s;
}
/* y[0..cols) = row r. */
void model_row(const struct model *md, const struct mat *m, int64_t r, float *y);

/* Binds every tensor to its field.  Afterwards model_pack_tile() must run once for every tile of every job.
 * Quantized matrices are packed in n_slices slices. */
int model_open(struct model *m, struct gguf *g, const struct rope_override *o, int n_slices, bool drafts,
               struct qn_error *err);
void model_close(struct model *m); /* idempotent */
size_t model_n_jobs(const struct model *m);
const struct pack_job *model_job(const struct model *m, size_t i);
/* Tiles are counted slice by slice, and within a slice matrix by matrix. */
int64_t model_job_tiles(const struct pack_job *j);
/* How many tiles from this one on were rows one after another: of one matrix and slice when there are slices. */
int64_t model_job_run(const struct pack_job *j, int64_t tile);
void model_pack_tile(const struct pack_job *j, int64_t tile);
/* The bytes of the mapped file that tiles [first, last) of one run were packed from, if they lie together; else NULL. */
const uint8_t *model_job_source(const struct pack_job *j, int64_t first, int64_t last, size_t *bytes);
/* A hash of all jobs: which rows of the files go where.  Equal plans, equal files and equal QUANT_LAYOUT give equal packed bytes. */
uint64_t model_plan(const struct model *m);
/* Drops the list of jobs and the copies of rows that they were packed from. */
void model_pack_done(struct model *m);

#endif
