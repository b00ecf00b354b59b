/* SPDX-License-Identifier: MIT */
/* GGUF reader: see gguf.h.  Every part is walked once, front to back, by a reader that knows how much is left; a count is
 * compared with the bytes that its entries need at least before anything is allocated for them, so memory stays within a
 * small multiple of the file.  After that the tensors' extents are sorted and checked against the file and each other. */
#include "gguf.h"
#include "quant/quant.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>
#include <xxhash.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "values are read as the file has them: little endian");

enum {
    MAX_KEY_BYTES = 65535,
    MAX_NAME_BYTES = 64,
    MAX_KEYS = 1 << 16,
    MAX_TENSORS = 1 << 20,
    MAX_PARTS = 1024,
    MIN_ALIGNMENT = 8,
    MAX_ALIGNMENT = 1 << 20,
    DEFAULT_ALIGNMENT = 32,
    MIN_KV_BYTES = 8 + 1 + 4 + 1, /* length, name, kind, value */
    MIN_TENSOR_BYTES = 8 + 1 + 4 + 8 + 4 + 8 /* length, name, n_dims, one dimension, type, offset */
};

/* Bytes of a scalar; 0 for the kinds without a fixed size. */
static const uint8_t kind_bytes[] = {
    [GGUF_U8] = 1,   [GGUF_I8] = 1,  [GGUF_U16] = 2, [GGUF_I16] = 2, [GGUF_U32] = 4, [GGUF_I32] = 4, [GGUF_F32] = 4,
    [GGUF_BOOL] = 1, [GGUF_STR] = 0, [GGUF_ARR] = 0, [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8};

static const char *const kind_name[] = {
    [GGUF_U8] = "u8",   [GGUF_I8] = "i8",   [GGUF_U16] = "u16",   [GGUF_I16] = "i16",    [GGUF_U32] = "u32",
    [GGUF_I32] = "i32", [GGUF_F32] = "f32", [GGUF_BOOL] = "bool", [GGUF_STR] = "string", [GGUF_ARR] = "array",
    [GGUF_U64] = "u64", [GGUF_I64] = "i64", [GGUF_F64] = "f64"};

enum { N_KINDS = GGUF_F64 + 1 };

/* ---- name look-up: open addressing over XXH3, entries are indices into an array whose elements start with the name */

struct name_index {
    uint32_t *slot; /* [mask + 1] index + 1; 0 = free */
    size_t mask;
};

struct index {
    struct name_index kv, tensors;
};

static const char *name_at(const void *items, size_t stride, size_t i)
{
    return *(const char *const *)(const void *)((const char *)items + i * stride);
}

/* The slot that holds name, or the free one where it belongs. */
static uint32_t *index_slot(const struct name_index *x, const void *items, size_t stride, const char *name)
{
    size_t at = XXH3_64bits(name, strlen(name)) & x->mask;
    while (x->slot[at] && strcmp(name_at(items, stride, x->slot[at] - 1), name) != 0)
        at = (at + 1) & x->mask;
    return &x->slot[at];
}

static bool index_init(struct name_index *x, size_t n)
{
    size_t size = 8;
    while (size < 2 * n)
        size *= 2;
    x->slot = calloc(size, sizeof *x->slot);
    x->mask = size - 1;
    return x->slot != NULL;
}

/* ---- reader */

struct reader {
    const char *path;
    const uint8_t *data;
    size_t size, at;
    char place[300]; /* what is being read, for messages */
    struct qn_error *err;
};

static int no_memory(struct reader *r, size_t bytes)
{
    return fail(r->err, QN_E_MEMORY, "%s: no memory for %zu bytes (%s)", r->path, bytes, r->place);
}

static size_t left(const struct reader *r) { return r->size - r->at; }

/* The next n bytes; NULL (and the error recorded) when the file ends before. */
static const uint8_t *take(struct reader *r, uint64_t n)
{
    if (n > left(r)) {
        fail(r->err, QN_E_FORMAT, "%s: truncated in %s: %llu bytes wanted at offset %zu, the file has %zu bytes",
             r->path, r->place, (unsigned long long)n, r->at, r->size);
        return NULL;
    }
    const uint8_t *p = r->data + r->at;
    r->at += n;
    return p;
}

static int take_u32(struct reader *r, uint32_t *out)
{
    const uint8_t *p = take(r, 4);
    if (!p)
        return QN_E_FORMAT;
    memcpy(out, p, 4);
    return 0;
}

static int take_u64(struct reader *r, uint64_t *out)
{
    const uint8_t *p = take(r, 8);
    if (!p)
        return QN_E_FORMAT;
    memcpy(out, p, 8);
    return 0;
}

static int take_str(struct reader *r, struct gguf_str *out)
{
    uint64_t n;
    int e = take_u64(r, &n);
    if (e)
        return e;
    const uint8_t *p = take(r, n);
    if (!p)
        return QN_E_FORMAT;
    *out = (struct gguf_str){.s = (const char *)p, .n = (size_t)n};
    return 0;
}

/* A key or tensor name: a copy, NUL-terminated, of valid UTF-8 without NUL. */
static int take_name(struct reader *r, size_t max, const char **out)
{
    struct gguf_str s;
    int e = take_str(r, &s);
    if (e)
        return e;
    if (s.n == 0 || s.n > max)
        return fail(r->err, QN_E_FORMAT, "%s: %s: name of %zu bytes, 1..%zu are allowed", r->path, r->place, s.n, max);
    for (size_t i = 0; i < s.n;) {
        utf8proc_int32_t c;
        utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)s.s + i, (utf8proc_ssize_t)(s.n - i), &c);
        if (n <= 0)
            return fail(r->err, QN_E_FORMAT, "%s: %s: the name is not valid UTF-8 at byte %zu of %zu (%02x)", r->path,
                        r->place, i, s.n, (unsigned char)s.s[i]);
        if (c == 0)
            return fail(r->err, QN_E_FORMAT, "%s: %s: NUL in the name at byte %zu of %zu", r->path, r->place, i, s.n);
        i += (size_t)n;
    }
    char *copy = malloc(s.n + 1);
    if (!copy)
        return no_memory(r, s.n + 1);
    memcpy(copy, s.s, s.n);
    copy[s.n] = 0;
    *out = copy;
    return 0;
}

/* ---- metadata */

static int take_kind(struct reader *r, enum gguf_kind *out)
{
    uint32_t kind;
    int e = take_u32(r, &kind);
    if (e)
        return e;
    if (kind >= N_KINDS)
        return fail(r->err, QN_E_FORMAT, "%s: %s: value type %u, known are 0..%d", r->path, r->place, kind,
                    N_KINDS - 1);
    *out = (enum gguf_kind)kind;
    return 0;
}

static int take_strings(struct reader *r, struct gguf_kv *kv)
{
    kv->strings = calloc(kv->n ? kv->n : 1, sizeof *kv->strings);
    if (!kv->strings)
        return no_memory(r, kv->n * sizeof *kv->strings);
    int e = 0;
    for (size_t i = 0; i < kv->n && !e; i++)
        e = take_str(r, &kv->strings[i]);
    return e;
}

static int take_scalars(struct reader *r, struct gguf_kv *kv, enum gguf_kind kind)
{
    kv->data = take(r, (uint64_t)kv->n * kind_bytes[kind]);
    if (!kv->data)
        return QN_E_FORMAT;
    for (size_t i = 0; kind == GGUF_BOOL && i < kv->n; i++)
        if (kv->data[i] > 1)
            return fail(r->err, QN_E_FORMAT, "%s: %s: bool %zu is %d, not 0 or 1", r->path, r->place, i, kv->data[i]);
    return 0;
}

static int take_array_head(struct reader *r, struct gguf_kv *kv)
{
    int e = take_kind(r, &kv->element);
    if (e)
        return e;
    if (kv->element == GGUF_ARR)
        return fail(r->err, QN_E_FORMAT, "%s: %s: an array of arrays (type %d in type %d) is not supported", r->path,
                    r->place, GGUF_ARR, GGUF_ARR);
    uint64_t n;
    if ((e = take_u64(r, &n)))
        return e;
    size_t each = kv->element == GGUF_STR ? 8 : kind_bytes[kv->element];
    if (n > left(r) / each)
        return fail(r->err, QN_E_FORMAT, "%s: %s: array of %llu %s elements at offset %zu, only %zu bytes are left",
                    r->path, r->place, (unsigned long long)n, kind_name[kv->element], r->at, left(r));
    kv->n = (size_t)n;
    return 0;
}

static int take_kv(struct reader *r, struct gguf_kv *kv, size_t i, size_t n_kv)
{
    snprintf(r->place, sizeof r->place, "key %zu of %zu", i + 1, n_kv);
    int e = take_name(r, MAX_KEY_BYTES, &kv->key);
    if (e)
        return e;
    snprintf(r->place, sizeof r->place, "key %.256s", kv->key);
    if ((e = take_kind(r, &kv->kind)))
        return e;
    kv->n = 1;
    kv->element = kv->kind;
    if (kv->kind == GGUF_ARR && (e = take_array_head(r, kv)))
        return e;
    return kv->element == GGUF_STR ? take_strings(r, kv) : take_scalars(r, kv, kv->element);
}

/* ---- one part */

struct part {
    struct gguf_kv *kv;
    struct gguf_tensor *tensors;
    uint64_t *offsets; /* [n_tensors] of the tensors, within the data */
    size_t n_kv, n_tensors;
    struct name_index kv_index;
};

static void part_free(struct part *p)
{
    for (size_t i = 0; p->kv && i < p->n_kv; i++) {
        free((char *)(uintptr_t)p->kv[i].key);
        free(p->kv[i].strings);
    }
    for (size_t i = 0; p->tensors && i < p->n_tensors; i++)
        free((char *)(uintptr_t)p->tensors[i].name);
    free(p->kv);
    free(p->tensors);
    free(p->offsets);
    free(p->kv_index.slot);
    *p = (struct part){0};
}

/* Magic, version and counts; allocates the tables. */
static int read_header(struct reader *r, struct part *p)
{
    uint32_t version;
    uint64_t n_tensors, n_kv;
    snprintf(r->place, sizeof r->place, "the header");
    const uint8_t *magic = take(r, 4);
    if (!magic)
        return QN_E_FORMAT;
    if (memcmp(magic, "GGUF", 4) != 0)
        return fail(r->err, QN_E_FORMAT, "%s: not a GGUF file: it starts with %02x %02x %02x %02x, not 47 47 55 46",
                    r->path, magic[0], magic[1], magic[2], magic[3]);
    int e = take_u32(r, &version);
    if (e)
        return e;
    if (version > 0xffff && (version & 0xffff) == 0)
        return fail(r->err, QN_E_UNSUPPORTED,
                    "%s: a big-endian GGUF file (version %u when swapped): only little endian is read", r->path,
                    __builtin_bswap32(version));
    if (version != 2 && version != 3)
        return fail(r->err, QN_E_UNSUPPORTED, "%s: GGUF version %u, versions 2 and 3 are supported", r->path, version);
    if ((e = take_u64(r, &n_tensors)) || (e = take_u64(r, &n_kv)))
        return e;
    if (n_kv > MAX_KEYS || n_kv > left(r) / MIN_KV_BYTES)
        return fail(r->err, QN_E_FORMAT, "%s: the header counts %llu keys: %d are allowed, and %zu bytes are left",
                    r->path, (unsigned long long)n_kv, MAX_KEYS, left(r));
    if (n_tensors > MAX_TENSORS || n_tensors > left(r) / MIN_TENSOR_BYTES)
        return fail(r->err, QN_E_FORMAT, "%s: the header counts %llu tensors: %d are allowed, and %zu bytes are left",
                    r->path, (unsigned long long)n_tensors, MAX_TENSORS, left(r));
    p->n_kv = (size_t)n_kv;
    p->n_tensors = (size_t)n_tensors;
    p->kv = calloc(p->n_kv + 1, sizeof *p->kv);
    p->tensors = calloc(p->n_tensors + 1, sizeof *p->tensors);
    p->offsets = calloc(p->n_tensors + 1, sizeof *p->offsets);
    if (!p->kv || !p->tensors || !p->offsets || !index_init(&p->kv_index, p->n_kv))
        return no_memory(r, p->n_kv * sizeof *p->kv + p->n_tensors * sizeof *p->tensors);
    return 0;
}

static int read_kvs(struct reader *r, struct part *p)
{
    for (size_t i = 0; i < p->n_kv; i++) {
        int e = take_kv(r, &p->kv[i], i, p->n_kv);
        if (e)
            return e;
        uint32_t *slot = index_slot(&p->kv_index, p->kv, sizeof *p->kv, p->kv[i].key);
        if (*slot)
            return fail(r->err, QN_E_FORMAT, "%s: key %.256s is there twice: entries %u and %zu", r->path, p->kv[i].key,
                        *slot, i + 1);
        *slot = (uint32_t)i + 1;
    }
    return 0;
}

/* Dimensions and type, hence the size of the data. */
static int take_shape(struct reader *r, struct gguf_tensor *t)
{
    uint32_t n_dims, type;
    int e = take_u32(r, &n_dims);
    if (e)
        return e;
    if (n_dims < 1 || n_dims > GGUF_MAX_DIMS)
        return fail(r->err, QN_E_FORMAT, "%s: %s: %u dimensions, 1..%d are allowed", r->path, r->place, n_dims,
                    GGUF_MAX_DIMS);
    t->n_dims = (int)n_dims;
    size_t n = 1;
    for (int d = 0; d < GGUF_MAX_DIMS; d++) {
        uint64_t ne = 1;
        if (d < t->n_dims && (e = take_u64(r, &ne)))
            return e;
        if (ne < 1 || ne > INT32_MAX)
            return fail(r->err, QN_E_FORMAT, "%s: %s: dimension %d is %llu, 1..%d are allowed", r->path, r->place, d,
                        (unsigned long long)ne, INT32_MAX);
        t->ne[d] = (int64_t)ne;
        if (!size_mul(n, (size_t)ne, &n))
            return fail(r->err, QN_E_FORMAT, "%s: %s: %d dimensions up to %llu: the number of elements overflows",
                        r->path, r->place, t->n_dims, (unsigned long long)ne);
    }
    if ((e = take_u32(r, &type)))
        return e;
    const struct quant_type *b = type < QN_TYPE_LIMIT ? quant_type_find((int)type) : NULL;
    if (!b)
        return fail(r->err, QN_E_UNSUPPORTED, "%s: %s: unknown tensor type %u", r->path, r->place, type);
    t->type = (int)type;
    if (t->ne[0] % b->block != 0)
        return fail(r->err, QN_E_FORMAT, "%s: %s: rows of %lld elements, %s has blocks of %d", r->path, r->place,
                    (long long)t->ne[0], b->name, b->block);
    if (!size_mul(n / (size_t)b->block, (size_t)b->block_bytes, &t->bytes))
        return fail(r->err, QN_E_FORMAT, "%s: %s: %zu elements of %s: the number of bytes overflows", r->path, r->place,
                    n, b->name);
    return 0;
}

static int read_tensors(struct reader *r, struct part *p, size_t alignment)
{
    for (size_t i = 0; i < p->n_tensors; i++) {
        struct gguf_tensor *t = &p->tensors[i];
        snprintf(r->place, sizeof r->place, "tensor %zu of %zu", i + 1, p->n_tensors);
        int e = take_name(r, MAX_NAME_BYTES, &t->name);
        if (e)
            return e;
        snprintf(r->place, sizeof r->place, "tensor %s", t->name);
        if ((e = take_shape(r, t)) || (e = take_u64(r, &p->offsets[i])))
            return e;
        if (p->offsets[i] % alignment != 0)
            return fail(r->err, QN_E_FORMAT, "%s: %s: offset %llu is not a multiple of the alignment %zu", r->path,
                        r->place, (unsigned long long)p->offsets[i], alignment);
    }
    return 0;
}

/* ---- data extents */

struct extent {
    uint64_t first, last; /* [first, last) in the file */
    const struct gguf_tensor *t;
};

static int extent_order(const void *a, const void *b)
{
    const struct extent *x = a, *y = b;
    return (x->first > y->first) - (x->first < y->first);
}

/* Places every tensor in the file; with vocab_only what lies outside gets no data. */
static int locate(struct reader *r, struct part *p, size_t alignment, struct extent *x, bool vocab_only)
{
    uint64_t start = (r->at + alignment - 1) / alignment * alignment;
    for (size_t i = 0; i < p->n_tensors; i++) {
        struct gguf_tensor *t = &p->tensors[i];
        x[i].t = t;
        if (__builtin_add_overflow(start, p->offsets[i], &x[i].first) ||
            __builtin_add_overflow(x[i].first, (uint64_t)t->bytes, &x[i].last))
            return fail(r->err, QN_E_FORMAT, "%s: tensor %s: offset %llu and %zu bytes overflow", r->path, t->name,
                        (unsigned long long)p->offsets[i], t->bytes);
        if (x[i].last <= r->size)
            t->data = r->data + x[i].first;
        else if (!vocab_only)
            return fail(r->err, QN_E_FORMAT,
                        "%s: tensor %s: its data ends at byte %llu, the file has %zu (truncated or wrong offset)",
                        r->path, t->name, (unsigned long long)x[i].last, r->size);
    }
    return 0;
}

static int read_extents(struct reader *r, struct part *p, size_t alignment, bool vocab_only)
{
    struct extent *x = calloc(p->n_tensors + 1, sizeof *x);
    if (!x)
        return no_memory(r, p->n_tensors * sizeof *x);
    int e = locate(r, p, alignment, x, vocab_only);
    if (!e)
        qsort(x, p->n_tensors, sizeof *x, extent_order);
    for (size_t i = 1; i < p->n_tensors && !e; i++)
        if (x[i].first < x[i - 1].last)
            e = fail(r->err, QN_E_FORMAT, "%s: tensor %s at byte %llu overlaps tensor %s, which ends at %llu", r->path,
                     x[i].t->name, (unsigned long long)x[i].first, x[i - 1].t->name, (unsigned long long)x[i - 1].last);
    free(x);
    return e;
}

/* ---- typed look-ups */

static bool is_integer(enum gguf_kind k) { return k <= GGUF_I32 || k == GGUF_U64 || k == GGUF_I64; }
static bool is_float(enum gguf_kind k) { return k == GGUF_F32 || k == GGUF_F64; }

/* Element i of an integer or bool entry; false when a u64 does not fit. */
static bool int_element(const struct gguf_kv *kv, size_t i, int64_t *out)
{
    const uint8_t *p = kv->data + i * kind_bytes[kv->element];
    union {
        int8_t i8;
        uint16_t u16;
        int16_t i16;
        uint32_t u32;
        int32_t i32;
        int64_t i64;
    } v;
    memcpy(&v, p, kind_bytes[kv->element]);
    switch (kv->element) {
    case GGUF_I8:
        *out = v.i8;
        return true;
    case GGUF_U16:
        *out = v.u16;
        return true;
    case GGUF_I16:
        *out = v.i16;
        return true;
    case GGUF_U32:
        *out = v.u32;
        return true;
    case GGUF_I32:
        *out = v.i32;
        return true;
    case GGUF_U64:
    case GGUF_I64:
        *out = v.i64;
        return kv->element == GGUF_I64 || v.i64 >= 0;
    default:
        *out = *p;
        return true;
    }
}

int64_t gguf_int_at(const struct gguf_kv *kv, size_t i)
{
    int64_t v;
    return int_element(kv, i, &v) ? v : INT64_MAX;
}

double gguf_float_at(const struct gguf_kv *kv, size_t i)
{
    float f;
    double d;
    switch (kv->element) {
    case GGUF_F32:
        memcpy(&f, kv->data + i * sizeof f, sizeof f);
        return (double)f;
    case GGUF_F64:
        memcpy(&d, kv->data + i * sizeof d, sizeof d);
        return d;
    default:
        return (double)gguf_int_at(kv, i);
    }
}

static int wrong_kind(const char *path, const struct gguf_kv *kv, const char *wanted, struct qn_error *err)
{
    bool array = kv->kind == GGUF_ARR;
    return fail(err, QN_E_FORMAT, "%s: key %.256s is %s%s, not %s", path, kv->key, array ? "an array of " : "of type ",
                kind_name[kv->element], wanted);
}

static const struct gguf_kv *kv_find(const struct name_index *x, const struct gguf_kv *kv, const char *key)
{
    uint32_t i = *index_slot(x, kv, sizeof *kv, key);
    return i ? &kv[i - 1] : NULL;
}

/* An integer entry, range checked: the look-up of gguf_get_int() before there is a struct gguf. */
static int int_value(const char *path, const struct gguf_kv *kv, int64_t min, int64_t max, int64_t *out,
                     struct qn_error *err)
{
    int64_t v;
    if (!kv)
        return 0;
    if (!is_integer(kv->kind))
        return wrong_kind(path, kv, "an integer", err);
    if (!int_element(kv, 0, &v))
        return fail(err, QN_E_FORMAT, "%s: key %.256s is %llu, %lld..%lld are allowed", path, kv->key,
                    (unsigned long long)v, (long long)min, (long long)max);
    if (v < min || v > max)
        return fail(err, QN_E_FORMAT, "%s: key %.256s is %lld, %lld..%lld are allowed", path, kv->key, (long long)v,
                    (long long)min, (long long)max);
    *out = v;
    return 1;
}

const struct gguf_kv *gguf_find(const struct gguf *g, const char *key)
{
    const struct index *x = g->index;
    return kv_find(&x->kv, g->kv, key);
}

const struct gguf_tensor *gguf_tensor_find(const struct gguf *g, const char *name)
{
    const struct index *x = g->index;
    uint32_t i = *index_slot(&x->tensors, g->tensors, sizeof *g->tensors, name);
    return i ? &g->tensors[i - 1] : NULL;
}

int gguf_get_int(const struct gguf *g, const char *key, int64_t min, int64_t max, int64_t *out, struct qn_error *err)
{
    return int_value(g->path, gguf_find(g, key), min, max, out, err);
}

int gguf_get_f32(const struct gguf *g, const char *key, float *out, struct qn_error *err)
{
    const struct gguf_kv *kv = gguf_find(g, key);
    if (!kv)
        return 0;
    if (!is_float(kv->kind) && !is_integer(kv->kind))
        return wrong_kind(g->path, kv, "a number", err);
    float v = (float)gguf_float_at(kv, 0);
    if (!isfinite(v))
        return fail(err, QN_E_FORMAT, "%s: key %.256s is %g, a finite number was expected", g->path, key,
                    gguf_float_at(kv, 0));
    *out = v;
    return 1;
}

int gguf_get_bool(const struct gguf *g, const char *key, bool *out, struct qn_error *err)
{
    const struct gguf_kv *kv = gguf_find(g, key);
    if (!kv)
        return 0;
    if (kv->kind != GGUF_BOOL)
        return wrong_kind(g->path, kv, "a bool", err);
    *out = kv->data[0];
    return 1;
}

int gguf_get_str(const struct gguf *g, const char *key, struct gguf_str *out, struct qn_error *err)
{
    const struct gguf_kv *kv = gguf_find(g, key);
    if (!kv)
        return 0;
    if (kv->kind != GGUF_STR)
        return wrong_kind(g->path, kv, "a string", err);
    *out = kv->strings[0];
    return 1;
}

static bool is_string(enum gguf_kind k) { return k == GGUF_STR; }
static bool is_int_or_bool(enum gguf_kind k) { return is_integer(k) || k == GGUF_BOOL; }

static int get_array(const struct gguf *g, const char *key, bool (*fits)(enum gguf_kind), const char *wanted,
                     const struct gguf_kv **out, struct qn_error *err)
{
    const struct gguf_kv *kv = gguf_find(g, key);
    if (!kv)
        return 0;
    if (kv->kind != GGUF_ARR || !fits(kv->element))
        return wrong_kind(g->path, kv, wanted, err);
    *out = kv;
    return 1;
}

int gguf_get_strings(const struct gguf *g, const char *key, const struct gguf_kv **kv, struct qn_error *err)
{
    return get_array(g, key, is_string, "an array of strings", kv, err);
}

int gguf_get_ints(const struct gguf *g, const char *key, const struct gguf_kv **kv, struct qn_error *err)
{
    return get_array(g, key, is_int_or_bool, "an array of integers", kv, err);
}

int gguf_get_floats(const struct gguf *g, const char *key, const struct gguf_kv **kv, struct qn_error *err)
{
    return get_array(g, key, is_float, "an array of floats", kv, err);
}

/* ---- opening */

static int part_alignment(struct reader *r, const struct part *p, size_t *out)
{
    int64_t v = DEFAULT_ALIGNMENT;
    int e =
        int_value(r->path, kv_find(&p->kv_index, p->kv, "general.alignment"), MIN_ALIGNMENT, MAX_ALIGNMENT, &v, r->err);
    if (e < 0)
        return e;
    if (v & (v - 1))
        return fail(r->err, QN_E_FORMAT, "%s: key general.alignment is %lld, not a power of two", r->path,
                    (long long)v);
    *out = (size_t)v;
    return 0;
}

/* Maps and reads one file.  On failure *p may be half filled; the caller frees it. */
static int part_read(struct part *p, struct file_map *map, const char *path, bool vocab_only, struct qn_error *err)
{
    struct reader r = {.path = path, .err = err};
    size_t alignment = DEFAULT_ALIGNMENT;
    int e = file_map_open(map, path, err);
    if (e)
        return e;
    r.data = map->data;
    r.size = map->size;
    if ((e = read_header(&r, p)) || (e = read_kvs(&r, p)) || (e = part_alignment(&r, p, &alignment)) ||
        (e = read_tensors(&r, p, alignment)))
        return e;
    return read_extents(&r, p, alignment, vocab_only);
}

struct split {
    int64_t no, count, tensors; /* this part, 0-based; parts; tensors of all parts, -1 = no such key */
};

static int split_read(struct split *s, const struct part *p, const char *path, struct qn_error *err)
{
    *s = (struct split){.no = 0, .count = 1, .tensors = -1};
    const struct name_index *x = &p->kv_index;
    int e = int_value(path, kv_find(x, p->kv, "split.count"), 0, MAX_PARTS, &s->count, err);
    if (e < 0)
        return e;
    if (s->count == 0) /* written by some tools for a file that is not split */
        s->count = 1;
    if ((e = int_value(path, kv_find(x, p->kv, "split.no"), 0, s->count - 1, &s->no, err)) < 0)
        return e;
    e = int_value(path, kv_find(x, p->kv, "split.tensors.count"), 0, MAX_TENSORS, &s->tensors, err);
    return e < 0 ? e : 0;
}

enum { SUFFIX_BYTES = sizeof "-00001-of-00003.gguf" - 1 };

/* The path of part no (0-based), made from the path of any part; NULL when path does not end as a part's name does.
 * malloc. */
static char *sibling(const char *path, int64_t no, int64_t count)
{
    char tail[40];
    size_t n = strlen(path);
    char *out = malloc(n + sizeof tail);
    if (!out)
        return NULL;
    unsigned a, b;
    int used = 0;
    const char *end = n >= SUFFIX_BYTES ? path + n - SUFFIX_BYTES : "";
    if (sscanf(end, "-%5u-of-%5u.gguf%n", &a, &b, &used) != 2 || used != SUFFIX_BYTES) {
        free(out);
        return NULL;
    }
    snprintf(tail, sizeof tail, "-%05d-of-%05d.gguf", (int)no + 1, (int)count);
    memcpy(out, path, n - SUFFIX_BYTES);
    memcpy(out + n - SUFFIX_BYTES, tail, strlen(tail) + 1);
    return out;
}

/* Part 0 must be opened, under the name that it was split into. */
static int split_check_first(const struct split *s, const char *path, struct qn_error *err)
{
    if (s->count == 1)
        return 0;
    char *first = sibling(path, 0, s->count), *self = sibling(path, s->no, s->count);
    int e = 0;
    if (s->no != 0)
        e = fail(err, QN_E_ARGUMENT, "%s: this is part %d of %d (split.no %d): open the first one, %s", path,
                 (int)s->no + 1, (int)s->count, (int)s->no, first ? first : "named -00001-of-NNNNN.gguf");
    else if (!self || strcmp(self, path) != 0)
        e = fail(err, QN_E_FORMAT, "%s: split.count is %d, so the name must end in -00001-of-%05d.gguf", path,
                 (int)s->count, (int)s->count);
    else if (s->tensors < 0)
        e = fail(err, QN_E_FORMAT, "%s: split.count is %d, but key split.tensors.count is missing", path,
                 (int)s->count);
    free(first);
    free(self);
    return e;
}

/* Moves the tensors of p to the end of g's. */
static int append_tensors(struct gguf *g, struct part *p, int part, struct qn_error *err)
{
    struct gguf_tensor *all = realloc(g->tensors, (g->n_tensors + p->n_tensors + 1) * sizeof *all);
    if (!all)
        return fail(err, QN_E_MEMORY, "%s: no memory for %zu tensors", g->path, g->n_tensors + p->n_tensors);
    g->tensors = all;
    for (size_t i = 0; i < p->n_tensors; i++) {
        all[g->n_tensors] = p->tensors[i];
        all[g->n_tensors++].part = part;
    }
    p->n_tensors = 0;
    return 0;
}

static int read_sibling(struct gguf *g, const struct split *whole, int no, struct qn_error *err)
{
    struct part p = {0};
    struct split s;
    char *path = sibling(g->path, no, whole->count);
    if (!path)
        return fail(err, QN_E_MEMORY, "%s: no memory for the name of part %d", g->path, no + 1);
    int e = part_read(&p, &g->parts[g->n_parts++], path, false, err);
    if (e == QN_E_IO) {
        char why[sizeof err->text];
        memcpy(why, err->text, sizeof why);
        e = fail(err, QN_E_IO, "part %d of %d of the model is missing: %.900s", no + 1, (int)whole->count, why);
    }
    if (!e)
        e = split_read(&s, &p, path, err);
    if (!e && s.no != no)
        e = fail(err, QN_E_FORMAT, "%s: key split.no is %d, %d was expected in this part", path, (int)s.no, no);
    if (!e && s.count != whole->count)
        e = fail(err, QN_E_FORMAT, "%s: key split.count is %d, the first part has %d", path, (int)s.count,
                 (int)whole->count);
    if (!e && s.tensors >= 0 && s.tensors != whole->tensors)
        e = fail(err, QN_E_FORMAT, "%s: key split.tensors.count is %lld, the first part has %lld", path,
                 (long long)s.tensors, (long long)whole->tensors);
    if (!e)
        e = append_tensors(g, &p, no, err);
    part_free(&p);
    free(path);
    return e;
}

static int index_tensors(struct gguf *g, struct qn_error *err)
{
    struct index *x = g->index;
    if (!index_init(&x->tensors, g->n_tensors))
        return fail(err, QN_E_MEMORY, "%s: no memory for an index of %zu tensors", g->path, g->n_tensors);
    for (size_t i = 0; i < g->n_tensors; i++) {
        uint32_t *slot = index_slot(&x->tensors, g->tensors, sizeof *g->tensors, g->tensors[i].name);
        if (*slot)
            return fail(err, QN_E_FORMAT, "%s: tensor %s is there twice: entries %u and %zu (parts %d and %d)", g->path,
                        g->tensors[i].name, *slot, i + 1, g->tensors[*slot - 1].part + 1, g->tensors[i].part + 1);
        *slot = (uint32_t)i + 1;
    }
    return 0;
}

/* Takes over the metadata and tensors of the first part. */
static int adopt_first(struct gguf *g, struct part *p, struct qn_error *err)
{
    struct index *x = g->index;
    x->kv = p->kv_index;
    g->kv = p->kv;
    g->n_kv = p->n_kv;
    p->kv_index.slot = NULL;
    p->kv = NULL;
    return append_tensors(g, p, 0, err);
}

static int open_parts(struct gguf *g, bool vocab_only, struct qn_error *err)
{
    struct part p = {0};
    struct split s;
    int e = part_read(&p, &g->parts[g->n_parts++], g->path, vocab_only, err);
    if (!e && !(e = split_read(&s, &p, g->path, err)))
        e = split_check_first(&s, g->path, err);
    if (!e)
        e = adopt_first(g, &p, err);
    part_free(&p);
    if (e || s.count == 1 || vocab_only)
        return e;
    struct file_map *parts = realloc(g->parts, (size_t)s.count * sizeof *parts);
    if (!parts)
        return fail(err, QN_E_MEMORY, "%s: no memory for %d parts", g->path, (int)s.count);
    g->parts = parts;
    for (int no = 1; no < s.count && !e; no++)
        e = read_sibling(g, &s, no, err);
    if (!e && (int64_t)g->n_tensors != s.tensors)
        e = fail(err, QN_E_FORMAT, "%s: key split.tensors.count is %lld, the %d parts hold %zu tensors", g->path,
                 (long long)s.tensors, (int)s.count, g->n_tensors);
    return e;
}

int gguf_open(struct gguf **out, const char *path, bool vocab_only, struct qn_error *err)
{
    *out = NULL;
    struct gguf *g = calloc(1, sizeof *g);
    int e = 0;
    if (!g || !(g->path = strdup(path)) || !(g->parts = calloc(1, sizeof *g->parts)) ||
        !(g->index = calloc(1, sizeof(struct index))))
        e = fail(err, QN_E_MEMORY, "%s: no memory", path);
    if (!e)
        e = open_parts(g, vocab_only, err);
    if (!e)
        e = index_tensors(g, err);
    if (e) {
        gguf_close(g);
        return e;
    }
    *out = g;
    return 0;
}

void gguf_close(struct gguf *g)
{
    if (!g)
        return;
    struct index *x = g->index;
    struct part all = {.kv = g->kv, .n_kv = g->n_kv, .tensors = g->tensors, .n_tensors = g->n_tensors};
    part_free(&all);
    for (int i = 0; i < g->n_parts; i++)
        file_map_close(&g->parts[i]);
    if (x) {
        free(x->kv.slot);
        free(x->tensors.slot);
    }
    free(x);
    free(g->parts);
    free(g->path);
    free(g);
}
