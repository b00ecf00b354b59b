/* SPDX-License-Identifier: MIT */
/* GGUF reader: maps all parts of a model, checks every count, length and offset once, and then gives typed access.
 * Files are data from strangers: nothing in here trusts them, and every refusal names file, key or tensor and both values.
 * Strings and data point into the maps and live until gguf_close(). */
#ifndef QUERN_GGUF_H
#define QUERN_GGUF_H

#include "base.h"

enum gguf_kind {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STR,
    GGUF_ARR,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64
};

struct gguf_str {
    const char *s; /* not NUL-terminated, may hold any byte */
    size_t n;
};

struct gguf_kv {
    const char *key; /* NUL-terminated */
    enum gguf_kind kind; /* of the value; GGUF_ARR for arrays */
    enum gguf_kind element; /* of an array's elements */
    size_t n; /* elements; 1 for scalars */
    const uint8_t *data; /* unaligned, little endian */
    struct gguf_str *strings; /* [n] for GGUF_STR scalars and arrays, else NULL */
};

enum { GGUF_MAX_DIMS = 4 };
struct gguf_tensor {
    const char *name; /* NUL-terminated */
    int type; /* enum qn_type of quant/quant.h */
    int n_dims;
    int64_t ne[GGUF_MAX_DIMS]; /* ne[0] is the contiguous one; unused ones are 1 */
    const uint8_t *data; /* in the map, aligned as the file says */
    size_t bytes;
    int part; /* index of the file it came from */
};

struct gguf {
    char *path; /* of the first part, for messages */
    int n_parts;
    struct file_map *parts; /* [n_parts] */
    size_t n_kv, n_tensors;
    struct gguf_kv *kv; /* [n_kv] in file order */
    struct gguf_tensor *tensors; /* [n_tensors] in file order, part by part */
    void *index; /* name look-up, private */
};

/* Opens path and, for a split model, its sibling parts.  With vocab_only the tensor tables are checked, but parts other
 * than the first are not opened and tensor data need not be there. */
int gguf_open(struct gguf **out, const char *path, bool vocab_only, struct qn_error *err);
void gguf_close(struct gguf *g); /* NULL is fine */

const struct gguf_kv *gguf_find(const struct gguf *g, const char *key);
const struct gguf_tensor *gguf_tensor_find(const struct gguf *g, const char *name);

/* Typed look-ups: 1 = found and stored, 0 = absent (out unchanged), negative = wrong type or range (err filled).
 * Any integer kind serves an integer, any float or integer kind a float. */
int gguf_get_int(const struct gguf *g, const char *key, int64_t min, int64_t max, int64_t *out, struct qn_error *err);
int gguf_get_f32(const struct gguf *g, const char *key, float *out, struct qn_error *err);
int gguf_get_bool(const struct gguf *g, const char *key, bool *out, struct qn_error *err);
int gguf_get_str(const struct gguf *g, const char *key, struct gguf_str *out, struct qn_error *err);
/* Arrays: *kv is the entry, checked to be an array of strings, or of any integer kind, or of floats. */
int gguf_get_strings(const struct gguf *g, const char *key, const struct gguf_kv **kv, struct qn_error *err);
int gguf_get_ints(const struct gguf *g, const char *key, const struct gguf_kv **kv, struct qn_error *err);
int gguf_get_floats(const struct gguf *g, const char *key, const struct gguf_kv **kv, struct qn_error *err);
int64_t gguf_int_at(const struct gguf_kv *kv, size_t i);
double gguf_float_at(const struct gguf_kv *kv, size_t i);

#endif
