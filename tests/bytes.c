/* SPDX-License-Identifier: MIT */
#include "bytes.h"

#include <stdlib.h>
#include <string.h>

uint8_t *bytes_grow(struct bytes *b, size_t n)
{
    if (b->n + n > b->cap) {
        b->cap = 2 * (b->n + n) + 4096;
        b->p = realloc(b->p, b->cap);
        if (!b->p)
            abort();
    }
    b->n += n;
    return b->p + b->n - n;
}

void bytes_put(struct bytes *b, const void *p, size_t n)
{
    uint8_t *to = bytes_grow(b, n);
    if (n)
        memcpy(to, p, n);
}

void bytes_u32(struct bytes *b, uint32_t v) { bytes_put(b, &v, sizeof v); }
void bytes_u64(struct bytes *b, uint64_t v) { bytes_put(b, &v, sizeof v); }

void bytes_strn(struct bytes *b, const char *s, size_t n)
{
    bytes_u64(b, n);
    bytes_put(b, s, n);
}

void bytes_str(struct bytes *b, const char *s) { bytes_strn(b, s, strlen(s)); }

void bytes_pad(struct bytes *b, size_t alignment)
{
    size_t n = (alignment - b->n % alignment) % alignment;
    memset(bytes_grow(b, n), 0, n);
}

void bytes_gguf_head(struct bytes *b, uint64_t n_tensors, uint64_t n_kv)
{
    bytes_put(b, "GGUF", 4);
    bytes_u32(b, 3);
    bytes_u64(b, n_tensors);
    bytes_u64(b, n_kv);
}

void bytes_gguf_kv(struct bytes *b, const struct gguf_kv *kv)
{
    static const size_t size[] = {
        [GGUF_U8] = 1,  [GGUF_I8] = 1,   [GGUF_U16] = 2, [GGUF_I16] = 2, [GGUF_U32] = 4, [GGUF_I32] = 4,
        [GGUF_F32] = 4, [GGUF_BOOL] = 1, [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8};
    enum gguf_kind kind = kv->kind;
    bytes_str(b, kv->key);
    bytes_u32(b, kind);
    if (kind == GGUF_ARR) {
        kind = kv->element;
        bytes_u32(b, kind);
        bytes_u64(b, kv->n);
    }
    if (kind == GGUF_ARR)
        abort();
    if (kind != GGUF_STR)
        bytes_put(b, kv->data, kv->n * size[kind]);
    for (size_t i = 0; kind == GGUF_STR && i < kv->n; i++)
        bytes_strn(b, kv->strings[i].s, kv->strings[i].n);
}

void bytes_gguf_tensor(struct bytes *b, const struct gguf_tensor *t, int type, uint64_t offset)
{
    bytes_str(b, t->name);
    bytes_u32(b, (uint32_t)t->n_dims);
    for (int d = 0; d < t->n_dims; d++)
        bytes_u64(b, (uint64_t)t->ne[d]);
    bytes_u32(b, (uint32_t)type);
    bytes_u64(b, offset);
}
