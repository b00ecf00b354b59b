/* SPDX-License-Identifier: MIT */
/* The tokenizer's inside, shared by tok_load.c (from file to tables), tok.c (look-ups, encoding, decoding),
 * tok_merge.c (pair merging) and pretok.c (cutting text into words).  Nobody else includes it. */
#ifndef QUERN_TOK_H
#define QUERN_TOK_H

#include "text.h"

enum tok_model { TOK_BPE, TOK_SPM };
enum tok_type {
    TOK_UNDEFINED, /* treated as normal */
    TOK_NORMAL,
    TOK_UNKNOWN,
    TOK_CONTROL,
    TOK_USER_DEFINED,
    TOK_UNUSED,
    TOK_BYTE,
    TOK_N_TYPES
};

/* How a pattern cuts text into words; see pretok_next() for what each field does. */
struct pretok {
    const char *name;
    bool gpt2; /* the older form: exact-case contractions, a space may lead every kind of word, no newline rules */
    bool marks; /* marks belong to words */
    int digits; /* longest run of numbers; 0 = any */
    bool nfc; /* text is normalized first */
    bool whole_words; /* a word that is a token is taken without merging */
    bool add_bos; /* when the file has a BOS id but does not say */
};
const struct pretok *pretok_find(const char *name, size_t n); /* NULL when unknown */
const char *pretok_names(void); /* comma-separated, for messages */
/* Length of the word at the start of s, n >= 1 bytes long. */
size_t pretok_next(const struct pretok *p, const char *s, size_t n);

/* Open addressing, a power of two of slots, at most half of them taken. */
struct text_slot {
    uint32_t hash; /* of the token's spelling */
    int32_t id; /* -1 = free */
};
struct merge_slot {
    uint64_t pair; /* left id << 32 | right id */
    uint32_t rank; /* UINT32_MAX = free */
    int32_t id; /* of the merged token */
};
struct trie_slot {
    uint32_t parent, node; /* node 0 = free; the root is node 0 */
    uint32_t byte;
};

struct tok {
    enum tok_model model;
    const struct pretok *pre; /* BPE only */
    int n_vocab;
    struct tok_ids ids;
    int32_t unk; /* -1 = none */
    bool space_prefix; /* SentencePiece: a space is put in front of text */

    char *texts; /* spellings, one after another */
    size_t *text_at; /* [n_vocab + 1] offsets into texts */
    char *bytes; /* what tokens stand for */
    size_t *bytes_at; /* [n_vocab + 1] offsets into bytes */
    uint8_t *type; /* [n_vocab] enum tok_type */
    uint8_t *stop; /* [n_vocab] 1: ends a turn */
    int32_t byte_id[256]; /* token of a single byte; -1 = none */

    struct text_slot *by_text; /* [text_mask + 1] */
    size_t text_mask;
    struct merge_slot *merges; /* [merge_mask + 1], BPE only */
    size_t merge_mask;
    float *scores; /* [n_vocab], SentencePiece only */
    size_t longest; /* bytes of the longest spelling that can come from merging */

    /* Spellings of control, unknown and user-defined tokens as a tree of bytes. */
    struct trie_slot *trie; /* [trie_mask + 1] edges: (parent, byte) -> node */
    size_t trie_mask;
    int32_t *node_id; /* [n_nodes] token that ends here, -1 = none */
    uint32_t n_nodes, cap_nodes;
    bool special_first[256]; /* bytes that begin one */
};

uint64_t tok_mix(uint64_t x); /* hash of an integer key */
int32_t tok_step(const struct tok *k, uint32_t node, uint8_t byte); /* child in the trie, 0 = none */

/* Symbols of a word while its pairs are merged: a doubly linked list in one array. */
struct sym {
    int32_t prev, next; /* -1 at the ends */
    int32_t id; /* token; -1: none (SentencePiece) */
    int32_t merged; /* token of this and the next symbol together */
    uint32_t rank; /* of that merge, lower first; UINT32_MAX = no such merge */
    uint32_t start, n; /* bytes of the word */
};

/* Scratch of one tok_encode() call. */
struct encoder {
    const struct tok *tok;
    struct sym *syms; /* [cap_syms] */
    uint64_t *heap; /* [cap_heap] rank << 32 | symbol, smallest first */
    size_t n_heap, cap_syms, cap_heap;
    int32_t *ids; /* [cap_ids], owned by the caller in the end */
    size_t n_ids, cap_ids;
    struct qn_error *err;
};

bool encoder_syms(struct encoder *e, size_t n); /* room for n symbols and their merges */
/* Merges the n symbols of a word until no pair is left; symbol 0 stays the first one. */
void merge_symbols(struct encoder *e, const char *word, size_t n);

#endif
