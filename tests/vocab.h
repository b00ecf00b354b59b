/* SPDX-License-Identifier: MIT */
/* Builds small GGUF files that hold a tokenizer and nothing else, right or wrong ones. */
#ifndef QUERN_TESTS_VOCAB_H
#define QUERN_TESTS_VOCAB_H

#include <stddef.h>
#include <stdint.h>

struct vocab_str {
    const char *s;
    size_t n;
};

enum { VOCAB_IDS = 4 };
struct vocab {
    const char *model, *pre; /* NULL = key left out */
    struct vocab_str *tokens; /* [n_tokens] */
    int32_t *types; /* [n_types] */
    float *scores; /* [n_scores] */
    struct vocab_str *merges; /* [n_merges] */
    int n_tokens, n_types, n_scores, n_merges; /* -1 = key left out */
    struct {
        const char *key; /* "bos" for tokenizer.ggml.bos_token_id; NULL = none */
        uint32_t id;
    } ids[VOCAB_IDS];
    int add_bos, add_space_prefix; /* -1 = key left out */
};

/* A byte-level BPE vocabulary: ids 0..255 are the bytes, then come more tokens (see vocab.c).  The caller may change the
 * arrays, which have room for VOCAB_ROOM entries, and frees them with vocab_free(). */
enum { VOCAB_ROOM = 600 };
void vocab_bpe(struct vocab *v, const char *pre);
/* A SentencePiece vocabulary with all byte tokens. */
void vocab_spm(struct vocab *v);
void vocab_free(struct vocab *v);
int vocab_add(struct vocab *v, const char *text, int type, float score); /* returns the id; text is not copied */

uint8_t *vocab_build(const struct vocab *v, size_t *size); /* the file; malloc */

#endif
