/* SPDX-License-Identifier: MIT */
/* Slices of the weights.  Where there are several NUMA nodes, every page of every slice lies on its node (the kernel is asked through
 * move_pages), and so does the scratch of workers.  On any machine, with nodes that are only pretended, the bits stay the same. */
#include "eval.h"
#include "hashmodel.h"
#include "src/run.h"
#include "testing.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>
#include <xxhash.h>

enum { MAX_NODES = 64, N_IDS = 150 };

static qn_engine *open_model(const char *file, int n_threads, bool numa)
{
    struct qn_options o = {
        .model = file, .n_threads = n_threads, .n_ctx = 256, .n_seq = 1, .n_ubatch = 64, .no_numa = !numa};
    return eval_open(&o);
}

/* A long prompt, then ids one by one. */
static uint64_t hash_logits(qn_engine *e)
{
    qn_seq *s = eval_seq(e);
    size_t n_vocab = (size_t)e->model.hp.n_vocab;
    int32_t ids[N_IDS];
    float *logits = malloc(N_IDS * n_vocab * sizeof *logits);
    assert_non_null(logits);
    for (int i = 0; i < N_IDS; i++)
        ids[i] = (i * 37 + 11) % (int)n_vocab;
    for (int at = 0, n = N_IDS - 12; at < N_IDS; at += n, n = 1)
        eval_append(s, ids + at, n, logits + (size_t)at * n_vocab);
    uint64_t h = XXH3_64bits(logits, N_IDS * n_vocab * sizeof *logits);
    qn_seq_free(s);
    free(logits);
    return h;
}

/* ---- every matrix of a model */

typedef void (*visit_fn)(const struct model *m, const char *name, const struct mat *mat, void *arg);

static void visit_experts(const struct model *m, const char *name, const struct mat_experts *x, visit_fn fn, void *arg)
{
    for (int e = 0; x->m.rows && e < m->hp.n_expert; e++) {
        struct mat one = x->m;
        one.data += (size_t)e * x->stride;
        fn(m, name, &one, arg);
    }
}

static void visit_layer(const struct model *m, const struct layer *l, visit_fn fn, void *arg)
{
    if (l->mixer == MIXER_ATTN) {
        fn(m, "attn_q", &l->attn.q, arg);
        fn(m, "attn_k", &l->attn.k, arg);
        fn(m, "attn_v", &l->attn.v, arg);
        fn(m, "attn_output", &l->attn.out, arg);
    } else {
        fn(m, "attn_qkv", &l->delta.qkv, arg);
        fn(m, "attn_gate", &l->delta.z, arg);
        fn(m, "ssm_beta", &l->delta.beta, arg);
        fn(m, "ssm_alpha", &l->delta.alpha, arg);
        fn(m, "ssm_out", &l->delta.out, arg);
    }
    fn(m, "ffn_gate", &l->ffn.gate, arg);
    fn(m, "ffn_up", &l->ffn.up, arg);
    fn(m, "ffn_down", &l->ffn.down, arg);
    fn(m, "ffn_gate_inp", &l->ffn.router, arg);
    fn(m, "ffn_gate_inp_shexp", &l->ffn.shared_gate, arg);
    visit_experts(m, "ffn_gate_exps", &l->ffn.gate_exps, fn, arg);
    visit_experts(m, "ffn_up_exps", &l->ffn.up_exps, fn, arg);
    visit_experts(m, "ffn_down_exps", &l->ffn.down_exps, fn, arg);
}

static void visit_all(const struct model *m, visit_fn fn, void *arg)
{
    fn(m, "token_embd", &m->token_embd, arg);
    fn(m, "output", &m->output, arg);
    for (int i = 0; i < m->hp.n_layer; i++)
        visit_layer(m, &m->layer[i], fn, arg);
}

/* ---- where they lie */

/* The node of the page at p, or a negative errno. */
static int node_at(const uint8_t *p)
{
    void *page = (void *)((uintptr_t)p & ~((uintptr_t)sysconf(_SC_PAGESIZE) - 1));
    int status = -1;
    if (syscall(SYS_move_pages, 0, 1UL, &page, NULL, &status, 0) < 0)
        fail_msg("move_pages: %s", strerror(errno));
    return status;
}

struct found {
    const struct pool *pool;
    size_t bytes[MAX_NODES]; /* by the index of the slice that they are of */
    int n_mats, n_pages;
};

static void look(const struct model *m, const char *name, const struct mat *mat, void *arg)
{
    struct found *f = arg;
    if (mat->rows == 0 || mat->type->layout == LAYOUT_ROWS)
        return;
    f->n_mats++;
    for (int k = 0; k < m->n_slices; k++) {
        int64_t r0 = slice_row(mat->rows, m->n_slices, k), r1 = slice_row(mat->rows, m->n_slices, k + 1);
        struct mat s = model_slice(m, mat, k);
        const uint8_t *from = s.data + (size_t)(r0 / TILE_ROWS) * s.stride;
        const uint8_t *to = s.data + (size_t)((r1 + TILE_ROWS - 1) / TILE_ROWS) * s.stride;
        f->bytes[k] += (size_t)(to - from);
        for (const uint8_t *p = from; p < to; p += 4096, f->n_pages++)
            if (node_at(p) != pool_node(f->pool, k))
                fail_msg("%s, slice %d: rows %lld to %lld are on node %d, not %d", name, k, (long long)r0,
                         (long long)r1 - 1, node_at(p), pool_node(f->pool, k));
        if (to > from && node_at(to - 1) != pool_node(f->pool, k))
            fail_msg("%s, slice %d: row %lld is on node %d", name, k, (long long)r1 - 1, node_at(to - 1));
    }
}

static void test_placement(void **state)
{
    qn_engine *e = open_model(test_data("demo.gguf"), 0, true);
    struct found f = {.pool = e->pool};
    if (pool_n_nodes(e->pool) == 1) {
        qn_close(e);
        print_message("SKIPPED: the workers are on one NUMA node only\n");
        skip();
    }
    assert_int_equal(e->model.n_slices, pool_n_nodes(e->pool));
    visit_all(&e->model, look, &f);
    assert_true(f.n_mats > 20);
    for (int k = 0; k < e->model.n_slices; k++)
        print_message("node %d: %zu bytes of weights, of %d matrices, %d pages looked at\n", pool_node(e->pool, k),
                      f.bytes[k], f.n_mats, f.n_pages);
    hash_logits(e);
    for (int i = 0; i < e->n_threads; i++)
        if (node_at((const uint8_t *)e->scratch[i].a) != pool_node(e->pool, pool_node_of(e->pool, i)))
            fail_msg("the scratch of worker %d is on node %d", i, node_at((const uint8_t *)e->scratch[i].a));
    qn_close(e);
}

/* ---- pretended nodes: must come last */

static void same_bits(const char *name, const char *file)
{
    static const struct {
        int threads, nodes;
    } ways[] = {{2, 2}, {3, 2}, {3, 3}, {5, 4}, {8, 8}};
    qn_engine *e = open_model(file, 2, false);
    uint64_t wanted = hash_logits(e);
    assert_int_equal(e->model.n_slices, 1);
    qn_close(e);
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        topology_pretend(ways[i].threads, ways[i].nodes);
        e = open_model(file, ways[i].threads, true);
        assert_int_equal(e->model.n_slices, ways[i].nodes);
        uint64_t h = hash_logits(e);
        if (h != wanted)
            fail_msg("%s: %d workers on %d nodes: logits hash %016llx, not %016llx", name, ways[i].threads,
                     ways[i].nodes, (unsigned long long)h, (unsigned long long)wanted);
        qn_close(e);
    }
}

static void test_same_bits(void **state)
{
    static const char *const hashed[][2] = {{"qwen3next", "Q4_K"}, {"qwen35", "IQ2_S"},  {"qwen35moe", "IQ4_XS"},
                                            {"qwen35moe", "bf16"}, {"qwen3moe", "Q6_K"}, {"llama", "Q8_0"}};
    same_bits("demo", test_data("demo.gguf"));
    for (size_t i = 0; i < sizeof hashed / sizeof *hashed; i++)
        same_bits(hashed[i][0], hash_model_file(hashed[i][0], hashed[i][1]));
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        {"numa/placement", test_placement, NULL, NULL, NULL},
        {"numa/same_bits", test_same_bits, NULL, NULL, NULL},
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests_name("numa", tests, NULL, NULL);
}
