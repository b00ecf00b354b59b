/* SPDX-License-Identifier: MIT */
/* The delta rule against vectors of the reference implementation: outputs and last state of both forms, at every level, within
 * 1e-5 of the largest value.  A part of the vectors lies in tests/data/delta (gen_delta.py), all of them in the oracle. */
#include "simd/simd.h"
#include "testing.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <jansson.h>

enum { TILE = 16 }; /* value columns that a kernel call handles */

struct set {
    json_t *index;
    float *data;
    size_t n;
};

static void set_open(struct set *s, const char *json, const char *bin)
{
    size_t bytes;
    char *text = test_read(json, &bytes);
    assert_non_null(text);
    s->index = json_loads(text, 0, NULL);
    assert_non_null(s->index);
    free(text);
    s->data = (float *)(void *)test_read(bin, &bytes);
    assert_non_null(s->data);
    s->n = bytes / sizeof(float);
}

static void set_close(struct set *s)
{
    json_decref(s->index);
    free(s->data);
}

struct array {
    const float *x;
    int ne[3];
};

static struct array set_array(const struct set *s, const char *name, const char *field)
{
    char key[100];
    snprintf(key, sizeof(key), "%s_%s", name, field);
    json_t *e = json_object_get(s->index, key), *shape = json_object_get(e, "shape");
    size_t offset = (size_t)json_integer_value(json_object_get(e, "offset")) / sizeof(float), n = 1;
    struct array a = {.ne = {1, 1, 1}};
    assert_true(json_array_size(shape) >= 2 && json_array_size(shape) <= 3);
    for (size_t i = 0; i < json_array_size(shape); i++) {
        a.ne[i] = (int)json_integer_value(json_array_get(shape, i));
        n *= (size_t)a.ne[i];
    }
    assert_true(offset + n <= s->n);
    a.x = s->data + offset;
    return a;
}

/* max |a - b| <= 1e-5 * max |b| */
static void compare(const char *what, const char *name, const char *level, const float *a, const float *b, size_t n)
{
    float top = 0, worst = 0;
    for (size_t i = 0; i < n; i++) {
        assert_false(isnan(a[i]));
        top = fmaxf(top, fabsf(b[i]));
        worst = fmaxf(worst, fabsf(a[i] - b[i]));
    }
    assert_true(top > 0);
    if (!(worst <= 1e-5f * top))
        fail_msg("%s of %s, %s: off by %g, largest value %g", what, name, level, (double)worst, (double)top);
}

/* What the engine hands over for one head: normalised q and k, their product, and the decays, n_head apart as the gates are. */
struct head {
    float *q, *k, *kq, *decay, *s, *o;
};

static void head_prepare(struct head *h, const struct simd_ops *ops, const struct array *q, const struct array *k,
                         const struct array *g, int k_head, int v_head)
{
    int n_tok = q->ne[0], dk = q->ne[2];
    for (int t = 0; t < n_tok; t++) {
        size_t from = ((size_t)t * (size_t)q->ne[1] + (size_t)k_head) * (size_t)dk, to = (size_t)t * (size_t)dk;
        ops->l2norm(h->q + to, q->x + from, dk, 1e-6f, 1.0f / sqrtf((float)dk));
        ops->l2norm(h->k + to, k->x + from, dk, 1e-6f, 1.0f);
        h->kq[t] = ops->dot(h->q + to, h->k + to, dk);
        h->decay[t * g->ne[1]] = expf(g->x[t * g->ne[1] + v_head]);
    }
}

static void run_case(const struct set *s, const char *name, const struct simd_ops *ops, bool chunk)
{
    struct array q = set_array(s, name, "q"), k = set_array(s, name, "k"), v = set_array(s, name, "v");
    struct array g = set_array(s, name, "g"), beta = set_array(s, name, "beta"), s0 = set_array(s, name, "s0");
    struct array out = set_array(s, name, "out"), s1 = set_array(s, name, "s1");
    const int n_tok = q.ne[0], dk = q.ne[2], n_head = v.ne[1], dv = v.ne[2];
    const size_t rows = (size_t)n_tok * (size_t)dk, n_out = (size_t)(n_tok * n_head * dv);
    struct head h = {malloc(rows * 4),
                     malloc(rows * 4),
                     malloc((size_t)n_tok * 4),
                     malloc((size_t)(n_tok * n_head) * 4),
                     malloc((size_t)(n_head * dk * dv) * 4),
                     malloc(n_out * 4)};
    float *tile = malloc((size_t)(dk * TILE) * 4);
    for (int j = 0; j < n_head; j++) {
        head_prepare(&h, ops, &q, &k, &g, j * q.ne[1] / n_head, j);
        for (int c = 0; c < dv; c += TILE) {
            for (int i = 0; i < dk; i++)
                memcpy(tile + i * TILE, s0.x + (size_t)(j * dk + i) * (size_t)dv + c, sizeof(float) * TILE);
            struct delta_args a = {.s = tile, .q = h.q, .k = h.k, .kq = h.kq, .n_tok = n_tok, .dk = dk};
            a.v = v.x + j * dv + c;
            a.o = h.o + j * dv + c;
            a.decay = h.decay;
            a.g = g.x + j;
            a.beta = beta.x + j;
            a.qk_stride = (size_t)dk;
            a.v_stride = a.o_stride = (size_t)(n_head * dv);
            a.gate_stride = (size_t)n_head;
            a.kq_stride = 1;
            (chunk ? ops->delta_chunk : ops->delta_step)(&a);
            for (int i = 0; i < dk; i++)
                memcpy(h.s + (size_t)(j * dk + i) * (size_t)dv + c, tile + i * TILE, sizeof(float) * TILE);
        }
    }
    compare("output", name, ops->name, h.o, out.x, n_out);
    compare("state", name, ops->name, h.s, s1.x, (size_t)(n_head * dk * dv));
    free(h.q), free(h.k), free(h.kq), free(h.decay), free(h.s), free(h.o), free(tile);
}

/* All gdn cases of a set, at all levels. */
static void run_set(const char *json, const char *bin, bool chunk, int want)
{
    struct set s;
    set_open(&s, json, bin);
    int n = 0;
    const char *key;
    json_t *value;
    json_object_foreach(s.index, key, value)
    {
        size_t length = strlen(key);
        if (strncmp(key, "gdn_", 4) != 0 || length < 3 || strcmp(key + length - 2, "_q") != 0)
            continue;
        char name[100];
        snprintf(name, sizeof(name), "%.*s", (int)(length - 2), key);
        for (const char *const *level = simd_levels(); *level; level++) {
            struct simd_ops ops;
            assert_true(simd_init(&ops, *level));
            run_case(&s, name, &ops, chunk);
        }
        n++;
    }
    set_close(&s);
    assert_int_equal(n, want);
}

static void sample(void **state)
{
    run_set(test_data("delta/unit.json"), test_data("delta/unit.bin"), *(bool *)*state, 2);
}

static void oracle(void **state)
{
    const char *json = test_oracle("delta/unit.json");
    if (!json)
        skip();
    run_set(json, test_oracle("delta/unit.bin"), *(bool *)*state, 5);
}

int main(void)
{
    static bool step = false, chunk = true;
    const struct CMUnitTest tests[] = {
        {"delta_step/sample", sample, NULL, NULL, &step},
        {"delta_chunk/sample", sample, NULL, NULL, &chunk},
        {"delta_step/oracle", oracle, NULL, NULL, &step},
        {"delta_chunk/oracle", oracle, NULL, NULL, &chunk},
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
