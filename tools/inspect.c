/* SPDX-License-Identifier: MIT */
/* quern inspect: what a GGUF file holds, what it needs, and whether its numbers can be right.  Reads the file itself, so that
 * it also serves for models that the engine does not run. */
#include "inspect_cache.h"
#include "inspect_topology.h"
#include "io.h"
#include "setup.h"
#include "term.h"

#include "quant/quant.h"
#include "src/gguf.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ARRAY_SHOWN = 8, TEXT_SHOWN = 120 };

struct type_sum {
    int n_tensors;
    int64_t n_weights;
    uint64_t bytes;
};

struct memory {
    int n_ctx;
    uint64_t weights, kv, state, scratch;
};

struct inspection {
    struct opts *o;
    struct gguf *g;
    struct type_sum types[QN_TYPE_LIMIT], all;
    struct memory memory;
};

static int64_t n_weights(const struct gguf_tensor *t)
{
    int64_t n = 1;
    for (int d = 0; d < GGUF_MAX_DIMS; d++)
        n *= t->ne[d];
    return n;
}

static const char *type_name(int type)
{
    const struct quant_type *t = quant_type_find(type);
    return t ? t->name : "unknown";
}

static const char *format_bytes(uint64_t n, char *out, size_t cap)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double v = (double)n;
    int u = 0;
    while (v >= 1024 && u < 4) {
        v /= 1024;
        u++;
    }
    snprintf(out, cap, u ? "%.1f %s" : "%.0f %s", v, units[u]);
    return out;
}

static void sum_types(struct inspection *s)
{
    for (size_t i = 0; i < s->g->n_tensors; i++) {
        const struct gguf_tensor *t = &s->g->tensors[i];
        struct type_sum *sums[2] = {&s->types[t->type], &s->all};
        for (int k = 0; k < 2; k++) {
            sums[k]->n_tensors++;
            sums[k]->n_weights += n_weights(t);
            sums[k]->bytes += t->bytes;
        }
    }
}

/* ---- memory */

static int64_t arch_int(const struct gguf *g, const char *name, int64_t absent)
{
    struct gguf_str arch;
    struct qn_error err;
    char key[256];
    int64_t v = absent;
    if (gguf_get_str(g, "general.architecture", &arch, &err) != 1)
        return absent;
    snprintf(key, sizeof key, "%.*s.%s", (int)(arch.n < 100 ? arch.n : 100), arch.s, name);
    return gguf_get_int(g, key, 0, INT32_MAX, &v, &err) == 1 ? v : absent;
}

static const struct gguf_tensor *layer_tensor(const struct gguf *g, int64_t layer, const char *name)
{
    char key[128];
    snprintf(key, sizeof key, "blk.%d.%s", (int)layer, name);
    return gguf_tensor_find(g, key);
}

static void layer_memory(const struct gguf *g, int64_t layer, struct memory *m, size_t k_bytes, size_t v_bytes)
{
    const struct gguf_tensor *k = layer_tensor(g, layer, "attn_k.weight"), *v = layer_tensor(g, layer, "attn_v.weight");
    const struct gguf_tensor *conv = layer_tensor(g, layer, "ssm_conv1d.weight");
    uint64_t positions = ((uint64_t)m->n_ctx + 127) / 128 * 128; /* the cache grows by blocks of 128 */
    if (k && v)
        m->kv += positions * ((uint64_t)k->ne[1] * k_bytes + (uint64_t)v->ne[1] * v_bytes);
    if (conv) {
        m->state += (uint64_t)(conv->ne[0] - 1) * (uint64_t)conv->ne[1] * sizeof(float);
        m->state +=
            (uint64_t)arch_int(g, "ssm.inner_size", 0) * (uint64_t)arch_int(g, "ssm.state_size", 0) * sizeof(float);
    }
}

/* Rows of a step are as wide as the widest product of a layer; a few of them are alive at once. */
static uint64_t scratch_estimate(const struct gguf *g)
{
    enum { ROWS = 512, ALIVE = 4 };
    int64_t widest = arch_int(g, "embedding_length", 0), used = arch_int(g, "expert_used_count", 1);
    for (size_t i = 0; i < g->n_tensors; i++) {
        const struct gguf_tensor *t = &g->tensors[i];
        if (strncmp(t->name, "blk.", 4))
            continue;
        int64_t wide = t->ne[2] > 1 ? t->ne[1] * used : t->ne[1]; /* experts: only those in use have rows */
        widest = wide > widest ? wide : widest;
    }
    return (uint64_t)widest * ROWS * ALIVE * sizeof(float);
}

static void measure_memory(struct inspection *s)
{
    const struct gguf *g = s->g;
    struct memory *m = &s->memory;
    int64_t trained = arch_int(g, "context_length", 4096), n_layer = arch_int(g, "block_count", 0);
    m->n_ctx = s->o->n_ctx ? s->o->n_ctx : (int)(trained < 1 << 30 ? trained : 1 << 30);
    m->weights = s->all.bytes;
    n_layer -= arch_int(g, "nextn_predict_layers", 0);
    for (int64_t i = 0; i < n_layer && i < 4096; i++)
        layer_memory(g, i, m, 2, 2);
    m->scratch = g->n_tensors ? scratch_estimate(g) : 0;
}

/* ---- metadata */

static const char *kind_name(enum gguf_kind kind)
{
    static const char *const names[] = {"u8",   "i8",  "u16", "i16", "u32", "i32", "f32",
                                        "bool", "str", "arr", "u64", "i64", "f64"};
    return (size_t)kind < sizeof names / sizeof *names ? names[kind] : "?";
}

static bool is_float(enum gguf_kind kind) { return kind == GGUF_F32 || kind == GGUF_F64; }

static json_t *element_json(const struct gguf_kv *kv, enum gguf_kind kind, size_t i)
{
    if (kind == GGUF_STR)
        return json_text(kv->strings[i].s, kv->strings[i].n);
    if (is_float(kind)) {
        double v = gguf_float_at(kv, i);
        return isfinite(v) ? json_real(v) : json_null();
    }
    int64_t v = gguf_int_at(kv, i);
    return kind == GGUF_BOOL ? json_boolean(v != 0) : json_integer(v);
}

static json_t *value_json(const struct gguf_kv *kv)
{
    if (kv->kind != GGUF_ARR)
        return element_json(kv, kv->kind, 0);
    json_t *list = json_array();
    for (size_t i = 0; i < kv->n && (i < ARRAY_SHOWN || kv->n <= 64); i++)
        json_array_append_new(list, element_json(kv, kv->element, i));
    if (kv->n <= 64)
        return list;
    return json_pack("{s:s, s:I, s:o}", "array_of", kind_name(kv->element), "n", (json_int_t)kv->n, "first", list);
}

/* One line of plain text. */
static void print_string(struct gguf_str v)
{
    size_t n = v.n < TEXT_SHOWN ? v.n : TEXT_SHOWN;
    while (n < v.n && n && ((unsigned char)v.s[n] & 0xc0) == 0x80) /* not within a character */
        n--;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)v.s[i];
        if (c == '\n')
            out_text("\\n");
        else if (c < ' ' || c == 127)
            out_printf("\\x%02x", c);
        else
            out_write(&v.s[i], 1);
    }
    if (n < v.n)
        out_printf("... (%zu bytes)", v.n);
}

static void print_element(const struct gguf_kv *kv, enum gguf_kind kind, size_t i)
{
    if (kind == GGUF_STR)
        print_string(kv->strings[i]);
    else if (is_float(kind))
        out_printf("%.9g", gguf_float_at(kv, i));
    else if (kind == GGUF_BOOL)
        out_text(gguf_int_at(kv, i) ? "true" : "false");
    else
        out_printf("%" PRId64, gguf_int_at(kv, i));
}

static void print_metadata(const struct gguf *g)
{
    out_text("\nMetadata\n");
    for (size_t k = 0; k < g->n_kv; k++) {
        const struct gguf_kv *kv = &g->kv[k];
        bool array = kv->kind == GGUF_ARR;
        out_printf("  %-44s %-5s ", kv->key, kind_name(array ? kv->element : kv->kind));
        if (array)
            out_printf("[%zu] ", kv->n);
        for (size_t i = 0; i < kv->n && i < ARRAY_SHOWN; i++) {
            out_text(i ? ", " : "");
            print_element(kv, array ? kv->element : kv->kind, i);
        }
        out_text(kv->n > ARRAY_SHOWN ? ", ...\n" : "\n");
    }
}

/* ---- text */

static void print_shape(const struct gguf_tensor *t, char *out, size_t cap)
{
    size_t n = 0;
    for (int d = 0; d < t->n_dims && n < cap; d++)
        n += (size_t)snprintf(out + n, cap - n, d ? " x %" PRId64 : "%" PRId64, t->ne[d]);
}

static void print_tensors(const struct gguf *g)
{
    char bytes[32], shape[100];
    out_text("\nTensors\n");
    for (size_t i = 0; i < g->n_tensors; i++) {
        const struct gguf_tensor *t = &g->tensors[i];
        print_shape(t, shape, sizeof shape);
        out_printf("  %-44s %-8s %-24s %12s\n", t->name, type_name(t->type), shape,
                   format_bytes(t->bytes, bytes, sizeof bytes));
    }
}

static void print_types(const struct inspection *s)
{
    char bytes[32];
    out_text("\nTypes\n");
    for (int i = 0; i < QN_TYPE_LIMIT; i++) {
        const struct type_sum *t = &s->types[i];
        if (t->n_tensors)
            out_printf("  %-8s %5d tensors %14" PRId64 " weights %12s %6.2f %%\n", type_name(i), t->n_tensors,
                       t->n_weights, format_bytes(t->bytes, bytes, sizeof bytes),
                       100.0 * (double)t->bytes / (double)(s->all.bytes ? s->all.bytes : 1));
    }
}

static void print_memory(const struct inspection *s)
{
    const struct memory *m = &s->memory;
    const struct {
        const char *what;
        uint64_t bytes;
    } rows[] = {{"weights", m->weights},
                {"KV cache (f16)", m->kv},
                {"recurrent states", m->state},
                {"scratch, about", m->scratch},
                {"together", m->weights + m->kv + m->state + m->scratch}};
    char bytes[32];
    out_printf("\nMemory for one sequence of %d positions\n", m->n_ctx);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        out_printf("  %-20s %12s\n", rows[i].what, format_bytes(rows[i].bytes, bytes, sizeof bytes));
}

static void print_head(const struct inspection *s)
{
    char bytes[32];
    const struct gguf *g = s->g;
    struct gguf_str v;
    struct qn_error err;
    size_t size = 0;
    for (int i = 0; i < g->n_parts; i++)
        size += g->parts[i].size;
    out_printf("file          %s (%d part%s, %s)\n", g->path, g->n_parts, g->n_parts == 1 ? "" : "s",
               format_bytes(size, bytes, sizeof bytes));
    static const char *const keys[][2] = {{"architecture", "general.architecture"}, {"name", "general.name"}};
    for (int i = 0; i < 2; i++)
        if (gguf_get_str(g, keys[i][1], &v, &err) == 1) {
            out_printf("%-14s", keys[i][0]);
            print_string(v);
            out_text("\n");
        }
    out_printf("tensors       %zu, %" PRId64 " weights", g->n_tensors, s->all.n_weights);
    if (s->all.n_weights)
        out_printf(", %.2f bits a weight", 8.0 * (double)s->all.bytes / (double)s->all.n_weights);
    out_text("\n");
}

/* ---- JSON */

static json_t *tensor_json(const struct gguf_tensor *t)
{
    json_t *shape = json_array();
    for (int d = 0; d < t->n_dims; d++)
        json_array_append_new(shape, json_integer(t->ne[d]));
    return json_pack("{s:s, s:s, s:o, s:I, s:i}", "name", t->name, "type", type_name(t->type), "shape", shape, "bytes",
                     (json_int_t)t->bytes, "part", t->part);
}

static void add_bytes(json_t *j, const char *key, uint64_t n)
{
    json_object_set_new(j, key, json_integer((json_int_t)n));
}

static json_t *all_json(const struct inspection *s)
{
    const struct gguf *g = s->g;
    json_t *j = json_object(), *meta = json_object(), *tensors = json_array(), *types = json_object();
    json_t *memory = json_object();
    json_object_set_new(j, "file", json_text(g->path, strlen(g->path)));
    json_object_set_new(j, "n_parts", json_integer(g->n_parts));
    for (size_t i = 0; i < g->n_kv; i++)
        json_object_set_new_nocheck(meta, g->kv[i].key, value_json(&g->kv[i]));
    for (size_t i = 0; i < g->n_tensors; i++)
        json_array_append_new(tensors, tensor_json(&g->tensors[i]));
    for (int i = 0; i < QN_TYPE_LIMIT; i++)
        if (s->types[i].n_tensors)
            json_object_set_new(types, type_name(i),
                                json_pack("{s:i, s:I, s:I}", "tensors", s->types[i].n_tensors, "weights",
                                          (json_int_t)s->types[i].n_weights, "bytes", (json_int_t)s->types[i].bytes));
    add_bytes(memory, "n_ctx", (uint64_t)s->memory.n_ctx);
    add_bytes(memory, "weights", s->memory.weights);
    add_bytes(memory, "kv", s->memory.kv);
    add_bytes(memory, "state", s->memory.state);
    add_bytes(memory, "scratch", s->memory.scratch);
    json_object_set_new(j, "metadata", meta);
    json_object_set_new(j, "tensors", tensors);
    json_object_set_new(j, "types", types);
    json_object_set_new(j, "n_weights", json_integer(s->all.n_weights));
    json_object_set_new(j, "memory", memory);
    return j;
}

/* ---- check */

struct finding {
    int64_t n_values, n_scales; /* not finite; impossible */
    int64_t row; /* the first one, -1 = none */
};

/* No trained weight has a scale beyond this; a flipped exponent bit has. */
static const float SCALE_LIMIT = 10000;

static bool good_scale(float v) { return fabsf(v) <= SCALE_LIMIT; }

static int64_t bad_scales(const struct quant_type *type, const uint8_t *row, int64_t n_blocks)
{
    struct quant_group group;
    int64_t bad = 0;
    for (int64_t b = 0; b < n_blocks; b++)
        for (int i = 0; i < type->block / QUANT_GROUP; i++) {
            type->group(row + b * type->block_bytes, i, &group);
            for (int h = 0; h < 2; h++)
                if (!good_scale(group.d[h] * (float)group.sub[h]) || !good_scale(group.d[h]) ||
                    !good_scale(group.m[h])) {
                    bad++;
                    break;
                }
        }
    return bad;
}

static struct finding check_tensor(const struct gguf_tensor *t, float *values)
{
    const struct quant_type *type = quant_type_find(t->type);
    struct finding f = {.row = -1};
    int64_t cols = t->ne[0], rows = cols ? n_weights(t) / cols : 0, n_blocks = cols / type->block;
    size_t row_bytes = quant_row_bytes(type, cols);
    for (int64_t r = 0; r < rows; r++) {
        const uint8_t *row = t->data + (size_t)r * row_bytes;
        int64_t bad = 0, bad_scale = type->group ? bad_scales(type, row, n_blocks) : 0;
        type->decode(row, values, n_blocks);
        for (int64_t c = 0; c < cols; c++)
            bad += !isfinite(values[c]);
        if ((bad || bad_scale) && f.row < 0)
            f.row = r;
        f.n_values += bad;
        f.n_scales += bad_scale;
    }
    return f;
}

/* Returns the number of tensors that are wrong; with list, adds them to it, else prints them. */
static int check_all(const struct gguf *g, json_t *list)
{
    struct progress bar;
    int n_wrong = 0;
    int64_t widest = 1;
    for (size_t i = 0; i < g->n_tensors; i++)
        widest = g->tensors[i].ne[0] > widest ? g->tensors[i].ne[0] : widest;
    float *values = xmalloc((size_t)widest * sizeof *values);
    progress_begin(&bar, "checking");
    for (size_t i = 0; i < g->n_tensors; i++) {
        const struct gguf_tensor *t = &g->tensors[i];
        struct finding f = check_tensor(t, values);
        progress_set(&bar, (double)(i + 1) / (double)g->n_tensors, t->name);
        if (f.row < 0)
            continue;
        n_wrong++;
        if (list)
            json_array_append_new(list, json_pack("{s:s, s:s, s:I, s:I, s:I}", "name", t->name, "type",
                                                  type_name(t->type), "first_row", (json_int_t)f.row, "not_finite",
                                                  (json_int_t)f.n_values, "impossible_scales", (json_int_t)f.n_scales));
        else
            out_printf("%s (%s): row %" PRId64 " is the first with an error; %" PRId64
                       " values are not finite, %" PRId64 " groups have an impossible scale\n",
                       t->name, type_name(t->type), f.row, f.n_values, f.n_scales);
    }
    progress_end(&bar);
    free(values);
    return n_wrong;
}

static int inspect_json(struct inspection *s)
{
    int n_wrong = 0;
    json_t *j = all_json(s);
    if (s->o->check) {
        json_t *list = json_array();
        n_wrong = check_all(s->g, list);
        json_object_set_new(j, "errors", list);
    }
    char *text = json_dumps(j, JSON_INDENT(1));
    if (!text)
        die("out of memory");
    out_printf("%s\n", text);
    free(text);
    json_decref(j);
    return n_wrong;
}

static int inspect_text(struct inspection *s)
{
    if (s->o->check) {
        int n_wrong = check_all(s->g, NULL);
        out_printf("%zu tensors with %" PRId64 " weights checked: %d with errors\n", s->g->n_tensors, s->all.n_weights,
                   n_wrong);
        return n_wrong;
    }
    print_head(s);
    print_metadata(s->g);
    print_tensors(s->g);
    print_types(s);
    print_memory(s);
    return 0;
}

int cmd_inspect(struct opts *o)
{
    struct inspection s = {.o = o};
    struct qn_error err;
    if (o->topology)
        return inspect_topology(o);
    if (!o->model)
        usage("inspect: which file?");
    if (is_pack_cache(o->model))
        return inspect_pack_cache(o);
    if (gguf_open(&s.g, o->model, false, &err))
        die("%s", err.text);
    sum_types(&s);
    measure_memory(&s);
    int n_wrong = o->json ? inspect_json(&s) : inspect_text(&s);
    out_flush();
    gguf_close(s.g);
    return n_wrong ? 1 : 0;
}
