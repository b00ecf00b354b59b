/* SPDX-License-Identifier: MIT */
/* Hash models: tiny models whose weights, tokenizer and prompts are functions of short strings, so that tests write the
 * GGUF files themselves.  tests/data/hash/README.md has the definition, models.txt there the list of keys and tensors. */
#ifndef QUERN_HASHMODEL_H
#define QUERN_HASHMODEL_H

#include <stddef.h>
#include <stdint.h>

extern const char *const hash_models[]; /* NULL-terminated: "qwen3next", "qwen3next-mtp", ... */
extern const char *const hash_quant_types[]; /* NULL-terminated: "Q4_0", ...; besides them there are "f32" and "bf16" */

/* Builds a file in memory; type is f32, bf16 or one of hash_quant_types.  malloc; NULL (after a line on stderr) when there
 * is no such model or type. */
uint8_t *hash_model_build(const char *model, const char *type, size_t *size);

/* The same as a scratch file (see test_tmp), written once per process; aborts on failure.  The string lives for ever. */
const char *hash_model_file(const char *model, const char *type);

/* Prompt n of the goldens: ids[n]. */
void hash_prompt(int n, int32_t *ids);

uint64_t hash_splitmix64(uint64_t x);
/* w[i] = bias + scale * v(i), v in -127..127, a function of key and i. */
void hash_fill(const char *key, uint64_t n, float bias, float scale, float *w);

/* Where a hash-quantized type keeps its scale d, and which exponents make the weights' scale 2^-e. */
struct hash_quant {
    const char *name;
    int id, block, bytes;
    int d_at; /* offset of d: f16, or one E8M0 byte when d_is_e8m0 */
    int d_exponent; /* exponent field of d for a weight scale of 2^-10 */
    int m_at; /* offset of the f16 minimum, -1 = none */
    int m_exponent; /* its exponent field minus d's */
    int m_sign; /* its sign relative to d's */
    int d_is_e8m0, no_minus_128;
};
/* Blocks from key: hashed bytes with the exponents of d and m set for scale 2^-e. */
void hash_fill_blocks(const char *key, const struct hash_quant *q, uint64_t n_blocks, int e, uint8_t *blocks);

#endif
