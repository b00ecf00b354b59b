/* SPDX-License-Identifier: MIT */
/* Bytes that grow at their end, in memory, and what GGUF files are made of. */
#ifndef QUERN_BYTES_H
#define QUERN_BYTES_H

#include "src/gguf.h"

struct bytes { /* zeros: empty */
    uint8_t *p; /* [n] malloc */
    size_t n, cap;
};

/* n more bytes, to be filled in. */
uint8_t *bytes_grow(struct bytes *b, size_t n);
void bytes_put(struct bytes *b, const void *p, size_t n);
void bytes_u32(struct bytes *b, uint32_t v);
void bytes_u64(struct bytes *b, uint64_t v);
void bytes_strn(struct bytes *b, const char *s, size_t n); /* the length in front, as GGUF has strings */
void bytes_str(struct bytes *b, const char *s);
void bytes_pad(struct bytes *b, size_t alignment); /* with zeros */

/* The beginning of a GGUF file. */
void bytes_gguf_head(struct bytes *b, uint64_t n_tensors, uint64_t n_kv);
void bytes_gguf_kv(struct bytes *b, const struct gguf_kv *kv); /* as it was read; no arrays of arrays */
/* What a file says of a tensor whose data begins at offset. */
void bytes_gguf_tensor(struct bytes *b, const struct gguf_tensor *t, int type, uint64_t offset);

#endif
