/* SPDX-License-Identifier: MIT */
#include "golden.h"
#include "testing.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

struct golden {
    char name[64];
    json_t *root, *arrays; /* arrays is borrowed from root */
    char *data;
    size_t size;
};

static json_t *load_json(const char *name)
{
    json_error_t err;
    json_t *root = json_load_file(test_data(name), 0, &err);
    if (!root)
        fprintf(stderr, "%s: line %d: %s\n", test_data(name), err.line, err.text);
    return root;
}

struct golden *golden_open(const char *name)
{
    struct golden *g = calloc(1, sizeof *g);
    char file[96];
    if (!g)
        return NULL;
    snprintf(g->name, sizeof g->name, "%s", name);
    snprintf(file, sizeof file, "hash/%s.json", name);
    g->root = load_json(file);
    snprintf(file, sizeof file, "hash/%s.bin", name);
    g->data = test_read(test_data(file), &g->size);
    if (!g->root || !g->data) {
        golden_close(g);
        return NULL;
    }
    g->arrays = json_object_get(g->root, "arrays");
    if (!g->arrays) /* hq_golden.json has no meta part */
        g->arrays = g->root;
    return g;
}

void golden_close(struct golden *g)
{
    if (!g)
        return;
    json_decref(g->root);
    free(g->data);
    free(g);
}

bool golden_has(const struct golden *g, const char *name) { return json_object_get(g->arrays, name) != NULL; }

int golden_shape(const struct golden *g, const char *name, size_t shape[4])
{
    json_t *dims = json_object_get(json_object_get(g->arrays, name), "shape");
    size_t n = json_array_size(dims);
    for (size_t d = 0; d < n && d < 4; d++)
        shape[d] = (size_t)json_integer_value(json_array_get(dims, d));
    return n <= 4 ? (int)n : 0;
}

/* Elements of 4 bytes of the given dtype. */
static const void *array(const struct golden *g, const char *name, const char *dtype, size_t *n)
{
    json_t *a = json_object_get(g->arrays, name);
    const char *has = json_string_value(json_object_get(a, "dtype"));
    size_t shape[4], at = (size_t)json_integer_value(json_object_get(a, "offset")), count = 1;
    int n_dims = golden_shape(g, name, shape);
    for (int d = 0; d < n_dims; d++)
        count *= shape[d];
    if (!a || !has || strcmp(has, dtype) != 0 || n_dims == 0) {
        fprintf(stderr, "golden %s: no array %s of %s\n", g->name, name, dtype);
        return NULL;
    }
    if (at % 4 != 0 || at > g->size || count > (g->size - at) / 4) {
        fprintf(stderr, "golden %s: array %s ends past the %zu bytes of the file\n", g->name, name, g->size);
        return NULL;
    }
    if (n)
        *n = count;
    return g->data + at;
}

const float *golden_f32(const struct golden *g, const char *name, size_t *n) { return array(g, name, "float32", n); }
const int32_t *golden_i32(const struct golden *g, const char *name, size_t *n) { return array(g, name, "int32", n); }

double golden_yardstick(const char *model, const char *type, const char *who, const char *what)
{
    char key[128];
    snprintf(key, sizeof key, "%s/%s", model, type);
    json_t *root = load_json("hash/hq_yardstick.json"), *entry = json_object_get(root, key);
    json_t *v = json_object_get(who ? json_object_get(entry, who) : entry, what);
    double out = json_is_number(v) ? json_number_value(v) : NAN;
    if (isnan(out))
        fprintf(stderr, "hq_yardstick.json: no %s of %s %s\n", what, key, who ? who : "");
    json_decref(root);
    return out;
}
