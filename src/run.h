/* SPDX-License-Identifier: MIT */
/* The running engine: sequences with their memory, the step's scratch, and the parts of the forward step.
 *
 * A step is a flat batch of rows, cut into spans (consecutive tokens of one sequence).  The residual stream x crosses from part to
 * part; projections, norms and feed-forward see rows only, the mixers' cores walk spans.  All workers run step_run() together and
 * meet at barriers inside the parts.  Work is split over rows, heads, tiles of output rows and columns of states, never over a
 * summed dimension, so no bit depends on who computes what; nor does it on how many rows a product is given at once. */
#ifndef QUERN_RUN_H
#define QUERN_RUN_H

#include "model.h"
#include "pool.h"
#include "simd/simd.h"
#include "slab.h"

#include <stdatomic.h>

enum {
    DELTA_CHUNK = 64, /* tokens a worker takes through convolution and delta rule at a time */
    FEW_ROWS = 4, /* up to here workers repeat norm and quantization instead of waiting for each other */
    TASK_ROWS = 512, /* most output rows of a product's task; a multiple of 32 and 16 */
    TASK_COLS = 64, /* and its columns, where they are not an expert's */
    PART_COLS = 32, /* columns that a worker takes at a time where their sums go through its scratch */
    ATTN_TOKENS = 16, /* tokens of a span that an attention task takes */
    BEHIND_ROWS = DELTA_CHUNK + 1 /* tokens that the draft block may be behind the trunk */
};

/* Memory of one sequence. */
struct qn_seq {
    struct qn_engine *engine;
    int n; /* tokens evaluated */
    int32_t *ids; /* [n] they; room for n_ctx */
    /* KV cache: page b holds positions 128 b to 128 b + 127, [n_attn][n_head_kv] times keys, then values, as
     * simd/kv.h has them */
    int32_t *page; /* [n_pages] in the engine's pages; room for n_blocks */
    int n_pages;
    int32_t n_promised; /* pages beside these that it has been promised */
    int32_t slot; /* in the engine's slots: state, then conv */
    float *state; /* [n_delta][n_v_head][dim / 16][dim][16] tiles of 16 value columns */
    struct behind *behind; /* in the slot, too: what the draft block has not seen; NULL: there is no such block */
    float *conv; /* [n_delta][2 n_k_head + n_v_head][n_tap - 1][dim] inputs before the next token, oldest first */
    bool stale; /* state and conv hold what was there before; they are zero once there are tokens to compute */
    bool in_call; /* appears in the running call */
};

/* The trunk's last states, normed, at the last n positions of a sequence; the draft block has passed over those in front. */
struct behind {
    int32_t n; /* 0..BEHIND_ROWS */
    int32_t unused[CACHE_LINE / sizeof(int32_t) - 1];
    float h[]; /* [BEHIND_ROWS][n_embd] */
};

struct span {
    struct qn_seq *seq;
    int row, n; /* rows [row, row + n) of the step */
    int pos; /* of its first row */
};

/* Which experts rows go to. */
struct routing {
    int32_t *top; /* [n][n_expert_used] ids ascending */
    float *top_p; /* [n][n_expert_used] their weights */
    int32_t *start; /* [n_expert + 1] expert e's columns are start[e] .. start[e + 1] - 1 */
    int32_t *row; /* [n * n_expert_used] row of each column */
    float *p; /* [n * n_expert_used] weight of each column */
    int32_t *active; /* [n_expert] experts with columns, ascending */
    int n_active;
};

/* A worker's notes on the running step, while statistics are on. */
struct phase_clock {
    int64_t ns[QN_PHASES]; /* spent so far */
    int64_t mark; /* up to here */
    enum qn_phase now; /* what the time since belongs to */
    int n_workers; /* that ran the step */
    int64_t barriers, expert_layers, experts;
    double expert_bytes; /* weights of routed experts */
};

/* Memory of one worker. */
struct worker_scratch {
    struct phase_clock *clock;
    float *norm; /* [FEW_ROWS][widest] private copies of normed rows */
    struct act_group *act; /* [FEW_ROWS][widest / 32] */
    float *a, *b; /* [PART_COLS][TASK_ROWS] sums on their way */
    float *q, *k, *v, *gate; /* delta: [DELTA_CHUNK][dim] each, gates [8][DELTA_CHUNK] */
    float *tile; /* delta: a copy of a state's tile, or outputs that nobody wants: [max(dim, DELTA_CHUNK)][16] */
    float *router; /* [n_expert] */
    struct routing routing; /* of up to FEW_ROWS rows */
    float *attn_q, *attn_o,
        *attn_ml; /* [ATTN_TOKENS * group][head_dim] (floats, or the half of it quantized), twice that, 4 x [ATTN_TOKENS * group] */
    int *attn_vis; /* [ATTN_TOKENS * group] */
};

/* Rows of activations as the matrices want them. */
struct acts {
    const float *f; /* [n][cols] */
    const struct act_group *q; /* [n][cols / 32] */
    int n;
    int64_t cols;
};

struct step {
    int n_rows, n_spans, n_out;
    struct span *span; /* [n_ubatch] */
    int32_t *ids; /* [n_ubatch] */
    int32_t *out_row; /* [n_ubatch] rows whose logits are wanted, ascending */
    float *logits; /* [n_out][n_vocab], the caller's */
    float *
        trace; /* tests: [n_layer + 1][n_rows][n_embd] receives x in front of each layer and behind the last, or NULL */
    atomic_int bad_place; /* norm (see ctx) at which something was not a number first; INT_MAX = none */

    float *x; /* [n_ubatch][n_embd], x_stride() apart: residual stream */
    float *norm; /* [n_ubatch][n_embd] normed rows */
    struct act_group *act; /* [n_ubatch][widest / 32] */
    float *proj; /* [n_ubatch][proj_cols] projections of the mixer: qkv | z | beta | alpha, or q | k | v */
    float *mix; /* [n_ubatch][mix_cols] output of the mixer's core */
    /* While it is open how many rows will stay: projections of every delta-net layer, [n_delta][n_rows][columns].  Else NULL. */
    float *tried;
    float *tried_room; /* memory for it: n_try rows */
    int n_try; /* most rows that can be tried at once; 0 = none */

    /* for the draft block, else NULL */
    float *last; /* [n_ubatch][n_embd] the trunk's last states, normed */
    float *pair; /* [n_ubatch][2 n_embd] normed embeddings and states */
    const float *draft_in; /* [n_rows][n_embd] states that the block reads */
    float *draft_out; /* [n_embd] its own last one, normed */
    float *draft_logits; /* [n_vocab] */
    float *cos_sin; /* [n_ubatch][n_rot] */
    float *partial; /* attention of few rows: per block [head_dim + 2] for every query head */
    int *merged; /* [n_spans][n_head_kv] blocks that the worker with the first one has merged already */
    atomic_int *
        head_done; /* [n_spans][n_v_head] tiles of a state that are done; multiples of a head's tiles outside the delta rule */

    /* feed-forward */
    float *router; /* [n_ubatch][n_expert] */
    struct routing routing; /* of steps with more than FEW_ROWS rows */
    float *hidden; /* [n_ubatch * n_expert_used][n_ff_exp] */
    struct act_group *hidden_act;
    float *shared; /* [n_ubatch][n_ff or n_ff_shexp] */
    struct act_group *shared_act;
    float *shared_gate, *shared_p; /* [n_ubatch] of the shared expert: logit, weight */

    atomic_int
        *task; /* [n_task] counters of dynamically claimed tasks, CACHE_LINE apart; zero at the start of a step */
    int n_task;
};

struct qn_engine {
    struct gguf *gguf;
    struct model model;
    struct simd_ops ops;
    struct pool *pool;
    uint64_t key[2]; /* content_key() of the model, after load_key() */
    bool key_known;
    struct log_sink log;
    int n_threads, n_threads_batch, n_ctx, n_seq, n_ubatch, n_draft, n_live;
    enum kv_kind k_kind, v_kind;
    enum qn_delta_form delta;
    bool vocab_only;
    struct step step;
    bool stats_on;
    struct qn_stats stats;
    struct worker_scratch *scratch; /* [threads] */
    uint8_t *arena; /* all of the step's scratch */
    size_t arena_bytes, arena_used;
    int n_blocks; /* attention blocks of a full sequence */
    size_t kv_block_bytes, page_bytes; /* keys and values of a block: of one KV head, of all in all layers */
    size_t state_bytes, conv_bytes, behind_bytes; /* parts of a sequence's slot */
    size_t slot_bytes; /* from one slot to the next */
    struct slab pages, slots;
    uint8_t *fill; /* [pages] positions of each page that were written */
    int32_t *owner; /* [pages] slot + 1 of whose turn it is to write on in a shared page; 0 = whoever comes */
    size_t budget; /* bytes for pages and the prefix store: budget.c */
    int64_t n_pages_live, n_promised; /* pages that sequences refer to; that they were promised beside */
    size_t cache_bytes; /* budget of the prefix store */
    struct store *store; /* NULL: none */
    int keep_every; /* the store gets a snapshot of every sequence at multiples of this; 0 = it does not */
    struct text_parts *text; /* tokenizer, template: text_parts.c */
    char description[160];
};

/* ---- state.c */
/* What of a slot is a sequence's. */
static inline size_t state_size(const struct qn_engine *e) { return e->state_bytes + e->conv_bytes + e->behind_bytes; }
void state_sizes(struct qn_engine *e);
/* Reserves address space for n_seq full sequences and a prefix store of cache_bytes; sizes are there. */
int state_open(struct qn_engine *e, struct qn_error *err);
void state_close(struct qn_engine *e); /* idempotent */
/* Gives s the pages that n more tokens are written to, none of which anybody else reads there.  They were promised. */
void state_admit(struct qn_seq *s, int n);
/* Whether s has to copy its last page before it goes on in it. */
bool state_copies(const struct qn_seq *s);
/* If it does not have to, nobody else may go on there from now on. */
void state_claim(struct qn_seq *s);
/* A page of somebody else's becomes the next one of s. */
void state_share_page(struct qn_seq *s, int32_t p);
/* Without tokens, state and conv become zero, if they are not.  Nothing that can be told from outside. */
void state_settle(struct qn_seq *s);
/* A page, [page_bytes], of which the first `end` positions are wanted, and of the draft block's part the first draft_end: nothing of
 * what the others hold shows. */
void state_read_page(const struct qn_engine *e, int32_t page, int end, int draft_end, uint8_t *out);
/* What the draft block has not seen, in a state as it lies in a slot; NULL: there is no such block. */
const struct behind *state_behind(const struct qn_engine *e, const void *state);
/* All pages but the first n. */
void state_drop_pages(struct qn_seq *s, int n);
/* What was admitted behind the end of s will not be written, or was written for nothing. */
void state_retract(struct qn_seq *s);
/* Keys and values of block b of KV head h in attention layer i. */
uint8_t *state_keys(const struct qn_seq *s, int i, int h, int b);
uint8_t *state_values(const struct qn_seq *s, int i, int h, int b);
float *state_tile(const struct qn_seq *s, int i, int v_head, int slice);
float *state_conv(const struct qn_seq *s, int i);

/* ---- budget.c */
/* A page of so many bytes is charged with at least 4,096, so that a budget bounds the number of pages. */
static inline size_t budget_charge(size_t bytes) { return bytes > 4096 ? bytes : 4096; }
/* Bytes that a page is charged with: itself, the ids of its positions and the scratch of an attention over them. */
size_t budget_page_cost(const struct qn_engine *e);
size_t budget_used(const struct qn_engine *e);
/* The prefix store gives way, and memory that is not in use goes back to the system, until a piece of the slab fits; the second
 * alone. */
void budget_make_room(struct qn_engine *e, const struct slab *s, size_t bytes);
void budget_trim(struct qn_engine *e, const struct slab *s, size_t bytes);
/* So many pages more can be promised, or come into use. */
bool budget_has(const struct qn_engine *e, int64_t n_pages);
void budget_release(struct qn_seq *s); /* its promise */
/* Promises each sequence what its span needs, where that is more than it has been promised; or nothing at all. */
int budget_promise_spans(const struct qn_span *spans, int n_spans, struct qn_error *err);

/* ---- step.c */
/* What a worker carries through a step. */
struct ctx {
    struct qn_engine *e;
    struct step *s;
    struct worker *w;
    struct worker_scratch *mine;
    struct phase_clock *clock; /* NULL: statistics are off */
    int next_task; /* counters used so far, the same on every worker */
    int layer; /* for trace() */
    int n_norms; /* behind us: 2 l at the mixer of layer l, 2 l + 1 at its feed-forward part, then the last, then the head */
};

/* Allocates all scratch; sizes from the model and e's settings. */
int step_alloc(struct qn_engine *e, struct qn_error *err);
/* Bytes that step_alloc() would take. */
size_t step_bytes(struct qn_engine *e);
/* Evaluates e->step as filled in; 0 or QN_E_NUMERIC. */
int step_run(struct qn_engine *e, struct qn_error *err);
/* All workers that a step of n_rows takes do this, with counters as they are at the start of a step. */
void step_start(struct qn_engine *e, void (*part)(struct ctx *c));
/* Behind a step that was a try: the states of its spans, which have been cut to what stays. */
void step_keep(struct qn_engine *e);

/* ---- draft.c */
/* What the draft block has to know of spans that were evaluated or kept: rows of s->last at sp->row. */
void draft_follow(struct qn_engine *e, const struct span *sp);

/* ---- stats.c */
void stats_begin(struct qn_engine *e); /* around a step */
void stats_end(struct qn_engine *e);
void stats_end_keep(struct qn_engine *e); /* around step_keep() */
void stats_end_draft(struct qn_engine *e); /* around the draft block */
struct phase_clock *stats_enter(struct ctx *c); /* a worker's part of it; NULL when statistics are off */
void stats_leave(struct ctx *c);
void stats_turn(struct phase_clock *k, enum qn_phase p);
void stats_meet(struct ctx *c);
void stats_experts(struct phase_clock *k, const struct ffn_weights *f, int n_active);

/* From here on the worker's time belongs to phase p. */
static inline void phase(struct ctx *c, enum qn_phase p)
{
    if (c->clock)
        stats_turn(c->clock, p);
}

static inline void meet(struct ctx *c)
{
    if (c->clock)
        stats_meet(c);
    else
        pool_barrier(c->w);
}
static inline bool few_rows(const struct ctx *c) { return c->s->n_rows <= FEW_ROWS; }

/* Tasks 0 .. n - 1: equal contiguous shares for few rows (memory streams), claimed one by one otherwise.  Use:
 *   struct tasks t = tasks_start(c, n); for (int i; (i = tasks_next(&t)) >= 0;) ... */
struct tasks {
    atomic_int *counter; /* of each slice, lines apart; NULL: a share */
    int next, last; /* of the share, or of the piece of one that was taken last */
    struct spread spread; /* more pieces; w NULL: none */
    int each, n_slices, slice, left; /* tasks of a slice; slices, that claimed from, those not yet empty */
};
struct tasks tasks_start(struct ctx *c, int n);
/* The same with n tasks for each slice of the matrices, i n .. (i + 1) n - 1 for slice i, each of so many bytes of weights.  Workers
 * claim those of their own node's slice first, then the others'; shares follow the order of slices as workers follow that of nodes,
 * and are taken in pieces. */
struct tasks tasks_start_slices(struct ctx *c, int n, int64_t bytes);
int tasks_next(struct tasks *t);
/* Every worker calls this once; true for the last of them, which sees what the others did before. */
bool step_last(struct ctx *c);

/* Groups from row to row of quantized activations: an odd number of cache lines, so that the columns of a product do not fall
 * into the same few sets of the cache. */
static inline int64_t acts_stride(int64_t cols) { return cols / QUANT_GROUP | 1; }
/* Floats from row to row of the residual stream, for the same reason. */
static inline int64_t x_stride(const struct qn_engine *e)
{
    enum { LINE = CACHE_LINE / sizeof(float) };
    return ((e->model.hp.n_embd + LINE - 1) / LINE | 1) * LINE;
}
/* Columns for matrix m out of a set of rows. */
struct cols acts_cols(const struct acts *a, const struct mat *m);
/* Norm of all rows of x by weight w, quantized: private copies for few rows, else shared ones and a barrier. */
struct acts step_norm(struct ctx *c, const float *w);
/* The same of rows row[0..n). */
struct acts step_norm_rows(struct ctx *c, const float *w, const int32_t *row, int n);
/* Rotary angles of the rows [first, last). */
void step_angles(struct ctx *c, int64_t first, int64_t last);
/* One row of cols floats; does nothing for widths that no quantized matrix can have. */
void step_quantize(const struct ctx *c, const float *x, int64_t cols, struct act_group *out);
/* Row t of s->mix, [n_head][dim], has this head's columns: quantizes them. */
void step_head_done(struct ctx *c, int t, int head, int n_head, int dim);
/* The rows [n_rows][n_head * dim] of s->mix, quantized; behind a barrier that all heads are done at. */
struct acts step_mixed(struct ctx *c, int n_head, int dim);

/* One of several products with the same input: y[row][0..m.rows). */
struct product {
    const struct mat *m;
    float *y;
    size_t ldy;
    bool add; /* y += instead of y = */
};
/* Columns first .. first + n - 1. */
static inline struct cols some_cols(const struct cols *x, int first, int n)
{
    struct cols some = *x;
    if (x->index)
        some.index += first;
    else
        some.base = (const uint8_t *)x->base + (size_t)first * x->stride;
    some.n = n;
    return some;
}
static inline int64_t ceil_div(int64_t a, int64_t b) { return a <= 0 ? 0 : (a + b - 1) / b; }
/* Weights of 16 rows. */
static inline int64_t tile_bytes(const struct mat *m)
{
    return (int64_t)m->stride * (m->type->layout == LAYOUT_ROWS ? TILE_ROWS : 1);
}
/* All tiles of all products, split over the workers.  No barrier at its end. */
void step_products(struct ctx *c, const struct product *p, int n, const struct acts *a);

/* ---- engine.c */
int engine_check_spans(qn_engine *e, const struct qn_span *spans, int n_spans, const float *logits,
                       struct qn_error *err);
/* Adds n tokens of span sp, from its token `from` on, as one span of the step. */
void engine_add_rows(qn_engine *e, const struct qn_span *sp, int from, int n);
/* The step's spans are done: their sequences have their tokens; the draft block and the store get what they want of them. */
void engine_end_step(qn_engine *e);

/* ---- attn.c, delta.c: project, mix, and add to the residual stream; end after a barrier */
void attn_layer(struct ctx *c, const struct layer *l);
void delta_layer(struct ctx *c, const struct layer *l);
/* Brings the states and convolutions' inputs of the spans, now as long as what stays of them, behind rows that were tried. */
void delta_keep(struct ctx *c);
size_t delta_tried_floats(const struct hparams *hp); /* of one row and layer */
/* Scratch of an attention over n_ctx positions; what shorter ones do not use is not touched. */
size_t attn_partial_floats(const struct qn_engine *e, int n_ctx);
/* ---- ffn.c */
void ffn_layer(struct ctx *c, const struct layer *l);

#endif
