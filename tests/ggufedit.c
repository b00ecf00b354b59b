/* SPDX-License-Identifier: MIT */
#include "ggufedit.h"
#include "bytes.h"
#include "hashmodel.h"
#include "quant/quant.h"
#include "testing.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KIND_U32 = 4, KIND_F32 = 6, KIND_STR = 8, KIND_ARR = 9, N_EXPERTS = 4 };

static void check(bool good, const char *what, const char *name)
{
    if (good)
        return;
    fprintf(stderr, "ggufedit: %s: %s\n", what, name);
    abort();
}

/* ---- reading our own files back: no checks needed */

static uint64_t take(const uint8_t **at, size_t bytes)
{
    uint64_t v = 0;
    memcpy(&v, *at, bytes);
    *at += bytes;
    return v;
}

static void take_name(const uint8_t **at, char out[EDIT_NAME])
{
    size_t n = (size_t)take(at, 8);
    check(n < EDIT_NAME, "name too long", "");
    memcpy(out, *at, n);
    out[n] = 0;
    *at += n;
}

static void skip_value(const uint8_t **at, uint32_t kind)
{
    static const uint8_t bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    if (kind == KIND_STR) {
        size_t n = (size_t)take(at, 8);
        *at += n;
    } else if (kind == KIND_ARR) {
        uint32_t element = (uint32_t)take(at, 4);
        for (uint64_t n = take(at, 8); n > 0; n--)
            skip_value(at, element);
    } else {
        *at += bytes[kind];
    }
}

static size_t bytes_of(int type, const uint64_t ne[4])
{
    const struct quant_type *q = quant_type_find(type);
    return quant_row_bytes(q, (int64_t)ne[0]) * (size_t)(ne[1] * ne[2] * ne[3]);
}

static void parse(struct edit *e, const uint8_t *image)
{
    const uint8_t *at = image + 8;
    e->n_tensors = (int)take(&at, 8);
    e->n_kv = (int)take(&at, 8);
    e->alignment = 32;
    for (int i = 0; i < e->n_kv; i++) {
        struct edit_kv *kv = &e->kv[i];
        take_name(&at, kv->key);
        kv->bytes = at;
        uint32_t kind = (uint32_t)take(&at, 4);
        skip_value(&at, kind);
        kv->n = (size_t)(at - kv->bytes);
    }
    uint64_t offset[160];
    for (int i = 0; i < e->n_tensors; i++) {
        struct edit_tensor *t = &e->tensor[i];
        take_name(&at, t->name);
        t->n_dims = (int)take(&at, 4);
        for (int d = 0; d < 4; d++)
            t->ne[d] = d < t->n_dims ? take(&at, 8) : 1;
        t->type = (int)take(&at, 4);
        offset[i] = take(&at, 8);
        t->bytes = bytes_of(t->type, t->ne);
    }
    size_t start = ((size_t)(at - image) + 31) / 32 * 32;
    for (int i = 0; i < e->n_tensors; i++)
        e->tensor[i].data = image + start + offset[i];
}

/* Images by model and type. */
static const uint8_t *image_of(const char *model, const char *type)
{
    static struct {
        char name[64];
        uint8_t *image;
    } made[64];
    static int n;
    char name[64];
    snprintf(name, sizeof name, "%s %s", model, type);
    for (int i = 0; i < n; i++)
        if (!strcmp(made[i].name, name))
            return made[i].image;
    size_t size;
    check(n < 64, "too many images", name);
    memcpy(made[n].name, name, sizeof name);
    made[n].image = hash_model_build(model, type, &size);
    check(made[n].image != NULL, "no such model", name);
    return made[n++].image;
}

/* Keeps half the experts: they are the last dimension. */
static void fewer_experts(struct edit_tensor *t)
{
    if (strstr(t->name, "_exps.weight"))
        t->ne[2] = N_EXPERTS;
    else if (strstr(t->name, "ffn_gate_inp.weight"))
        t->ne[1] = N_EXPERTS;
    t->bytes = bytes_of(t->type, t->ne);
}

/* Keeps blocks 0, 3 as 1, and 4 (nextn) as 2, with fewer experts. */
static void make_small(struct edit *e)
{
    int kept = 0, blocks = 2;
    for (int i = 0; i < e->n_tensors; i++) {
        struct edit_tensor t = e->tensor[i];
        int block, at = 0;
        if (sscanf(t.name, "blk.%d.%n", &block, &at) == 1 && at > 0) {
            if (block == 1 || block == 2)
                continue;
            snprintf(e->tensor[kept].name, EDIT_NAME, "blk.%d.%s", block == 0 ? 0 : block - 2, t.name + at);
            memcpy(t.name, e->tensor[kept].name, EDIT_NAME);
            blocks = block == 4 ? 3 : blocks;
        }
        fewer_experts(&t);
        e->tensor[kept++] = t;
    }
    e->n_tensors = kept;
    for (int i = 0; i < e->n_kv; i++) {
        char *key = e->kv[i].key, *dot = strchr(key, '.');
        if (dot && !strcmp(dot, ".block_count"))
            edit_u32(e, key, (uint32_t)blocks);
        else if (dot && !strcmp(dot, ".full_attention_interval"))
            edit_u32(e, key, 2);
        else if (dot && !strcmp(dot, ".expert_count"))
            edit_u32(e, key, N_EXPERTS);
    }
}

struct edit *edit_model(const char *model, const char *type)
{
    struct edit *e = calloc(1, sizeof *e);
    check(e != NULL, "no memory", model);
    parse(e, image_of(model, type));
    make_small(e);
    return e;
}

void edit_free(struct edit *e)
{
    for (int i = 0; i < e->n_owned; i++)
        free(e->owned[i]);
    free(e);
}

/* ---- changes */

static uint8_t *own(struct edit *e, size_t bytes)
{
    uint8_t *p = calloc(1, bytes + 1);
    check(p && e->n_owned < EDIT_OWNED, "no memory", "");
    e->owned[e->n_owned++] = p;
    return p;
}

void edit_raw(struct edit *e, const char *key, uint32_t kind, const void *v, size_t n)
{
    struct edit_kv *kv = e->kv;
    while (kv < e->kv + e->n_kv && strcmp(kv->key, key) != 0)
        kv++;
    if (kv == e->kv + e->n_kv)
        e->n_kv++;
    check(e->n_kv <= (int)(sizeof e->kv / sizeof *e->kv), "too many keys", key);
    uint8_t *p = own(e, n + 4);
    memcpy(p, &kind, 4);
    memcpy(p + 4, v, n);
    if (kv->key != key) /* make_small() passes the key itself */
        snprintf(kv->key, sizeof kv->key, "%s", key);
    kv->bytes = p;
    kv->n = n + 4;
}

void edit_u32(struct edit *e, const char *key, uint32_t v) { edit_raw(e, key, KIND_U32, &v, sizeof v); }
void edit_f32(struct edit *e, const char *key, float v) { edit_raw(e, key, KIND_F32, &v, sizeof v); }

void edit_str(struct edit *e, const char *key, const char *v)
{
    uint8_t s[256];
    uint64_t n = strlen(v);
    check(n + 8 <= sizeof s, "string too long", key);
    memcpy(s, &n, 8);
    memcpy(s + 8, v, (size_t)n);
    edit_raw(e, key, KIND_STR, s, (size_t)n + 8);
}

void edit_array(struct edit *e, const char *key, uint32_t kind, const void *v, size_t n, size_t element_bytes)
{
    uint8_t a[512];
    uint64_t count = n;
    check(12 + n * element_bytes <= sizeof a, "array too long", key);
    memcpy(a, &kind, 4);
    memcpy(a + 4, &count, 8);
    memcpy(a + 12, v, n * element_bytes);
    edit_raw(e, key, KIND_ARR, a, 12 + n * element_bytes);
}

void edit_drop_key(struct edit *e, const char *key)
{
    int i = 0;
    while (i < e->n_kv && strcmp(e->kv[i].key, key) != 0)
        i++;
    check(i < e->n_kv, "no such key", key);
    memmove(&e->kv[i], &e->kv[i + 1], (size_t)(e->n_kv - i - 1) * sizeof *e->kv);
    e->n_kv--;
}

struct edit_tensor *edit_find(struct edit *e, const char *name)
{
    for (int i = 0; i < e->n_tensors; i++)
        if (!strcmp(e->tensor[i].name, name))
            return &e->tensor[i];
    return NULL;
}

struct edit_tensor *edit_get(struct edit *e, const char *name)
{
    struct edit_tensor *t = edit_find(e, name);
    check(t != NULL, "no such tensor", name);
    return t;
}

struct edit_tensor *edit_add(struct edit *e, const char *name, int type, const uint64_t ne[4], int n_dims)
{
    check(!edit_find(e, name) && e->n_tensors < 160, "cannot add tensor", name);
    struct edit_tensor *t = &e->tensor[e->n_tensors++];
    *t = (struct edit_tensor){.type = type};
    snprintf(t->name, sizeof t->name, "%s", name);
    edit_reshape(e, t, ne, n_dims);
    return t;
}

void edit_drop(struct edit *e, const char *name)
{
    struct edit_tensor *t = edit_get(e, name);
    memmove(t, t + 1, (size_t)(e->tensor + e->n_tensors - (t + 1)) * sizeof *t);
    e->n_tensors--;
}

uint8_t *edit_reshape(struct edit *e, struct edit_tensor *t, const uint64_t ne[4], int n_dims)
{
    t->n_dims = n_dims;
    for (int d = 0; d < 4; d++)
        t->ne[d] = d < n_dims ? ne[d] : 1;
    return edit_retype(e, t, t->type);
}

uint8_t *edit_retype(struct edit *e, struct edit_tensor *t, int type)
{
    t->type = type;
    t->bytes = bytes_of(type, t->ne);
    uint8_t *p = own(e, t->bytes);
    t->data = p;
    return p;
}

void edit_convert(struct edit *e, struct edit_tensor *t, int type)
{
    uint64_t n = t->ne[0] * t->ne[1] * t->ne[2] * t->ne[3];
    const struct quant_type *from = quant_type_find(t->type);
    const uint8_t *old = t->data;
    float *values = malloc(n * sizeof *values);
    check(values != NULL, "no memory", t->name);
    from->decode(old, values, (int64_t)n / from->block);
    uint8_t *p = edit_retype(e, t, type);
    for (uint64_t i = 0; i < n; i++) {
        uint16_t half = f32_to_f16(values[i]);
        if (type == QN_F32)
            memcpy(p + 4 * i, &values[i], 4);
        else if (type == QN_F16)
            memcpy(p + 2 * i, &half, 2);
        else if (type == QN_BF16)
            memcpy(p + 2 * i, (const uint8_t *)&values[i] + 2, 2);
        else
            check(false, "cannot convert", t->name);
    }
    free(values);
}

uint8_t *edit_own(struct edit *e, struct edit_tensor *t)
{
    const uint8_t *old = t->data;
    uint8_t *p = edit_retype(e, t, t->type);
    memcpy(p, old, t->bytes);
    return p;
}

size_t edit_row_bytes(const struct edit_tensor *t)
{
    return quant_row_bytes(quant_type_find(t->type), (int64_t)t->ne[0]);
}

/* ---- commands */

static char *word(char **rest)
{
    *rest += strspn(*rest, " ");
    char *w = *rest;
    *rest += strcspn(w, " ");
    if (**rest)
        *(*rest)++ = 0;
    return w;
}

static int dims(char *rest, uint64_t ne[4])
{
    int n = 0;
    for (char *w; n < 4 && *(w = word(&rest));)
        ne[n++] = strtoull(w, NULL, 10);
    return n;
}

static void apply_one(struct edit *e, char *command)
{
    char *rest = command;
    const char *verb = word(&rest), *name = word(&rest);
    uint64_t ne[4];
    if (!strcmp(verb, "u32")) {
        edit_u32(e, name, (uint32_t)strtoul(word(&rest), NULL, 10));
    } else if (!strcmp(verb, "f32")) {
        edit_f32(e, name, strtof(word(&rest), NULL));
    } else if (!strcmp(verb, "str")) {
        edit_str(e, name, rest);
    } else if (!strcmp(verb, "nokey")) {
        edit_drop_key(e, name);
    } else if (!strcmp(verb, "drop")) {
        edit_drop(e, name);
    } else if (!strcmp(verb, "rename")) {
        struct edit_tensor *t = edit_get(e, name);
        snprintf(t->name, sizeof t->name, "%s", word(&rest));
    } else if (!strcmp(verb, "add")) {
        int n = dims(rest, ne);
        edit_add(e, name, QN_F32, ne, n);
    } else if (!strcmp(verb, "ne")) {
        int n = dims(rest, ne);
        edit_reshape(e, edit_get(e, name), ne, n);
    } else if (!strcmp(verb, "type")) {
        const struct quant_type *q = quant_type_by_name(word(&rest));
        check(q != NULL, "no such type", command);
        edit_retype(e, edit_get(e, name), (int)q->id);
    } else {
        check(false, "no such command", verb);
    }
}

void edit_apply(struct edit *e, const char *commands)
{
    char *all = strdup(commands), *save = NULL;
    for (char *one = strtok_r(all, ";", &save); one; one = strtok_r(NULL, ";", &save))
        apply_one(e, one);
    free(all);
}

/* ---- writing */

/* Keys of a part: all of them, or only the split's. */
static bool wanted(const struct edit_kv *kv, bool keys)
{
    return keys || !strncmp(kv->key, "split.", 6) || !strcmp(kv->key, "general.alignment");
}

size_t edit_write_part(const struct edit *e, const char *path, int first, int last, bool keys, bool data)
{
    size_t n_kv = 0, align = e->alignment, offset = 0, end;
    struct bytes b = {0};
    for (int i = 0; i < e->n_kv; i++)
        n_kv += wanted(&e->kv[i], keys);
    bytes_gguf_head(&b, (uint64_t)(last - first), n_kv);
    for (int i = 0; i < e->n_kv; i++)
        if (wanted(&e->kv[i], keys)) {
            bytes_str(&b, e->kv[i].key);
            bytes_put(&b, e->kv[i].bytes, e->kv[i].n);
        }
    for (int i = first; i < last; i++) {
        const struct edit_tensor *t = &e->tensor[i];
        bytes_str(&b, t->name);
        bytes_u32(&b, (uint32_t)t->n_dims);
        for (int d = 0; d < t->n_dims; d++)
            bytes_u64(&b, t->ne[d]);
        bytes_u32(&b, (uint32_t)t->type);
        bytes_u64(&b, offset);
        offset += (t->bytes + align - 1) / align * align;
    }
    size_t header = end = b.n;
    for (int i = first; i < last; i++) {
        end = (end + align - 1) / align * align + e->tensor[i].bytes;
        if (data) {
            bytes_pad(&b, align);
            bytes_put(&b, e->tensor[i].data, e->tensor[i].bytes);
        }
    }
    test_write_sparse(path, b.p, b.n, end);
    free(b.p);
    return header;
}

size_t edit_write(const struct edit *e, const char *path, bool data)
{
    return edit_write_part(e, path, 0, e->n_tensors, true, data);
}

size_t edit_offset(const struct edit *e, size_t header, int i)
{
    size_t at = header, align = e->alignment;
    for (int j = 0; j < i; j++)
        at = (at + align - 1) / align * align + e->tensor[j].bytes;
    return (at + align - 1) / align * align;
}
