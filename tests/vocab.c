/* SPDX-License-Identifier: MIT */
#include "vocab.h"
#include "bytes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KIND_U32 = 4, KIND_I32 = 5, KIND_F32 = 6, KIND_BOOL = 7, KIND_STR = 8, KIND_ARR = 9 };

static void put_key(struct bytes *o, const char *name, uint32_t kind)
{
    char key[128];
    snprintf(key, sizeof key, "tokenizer.ggml.%s", name);
    bytes_str(o, key);
    bytes_u32(o, kind);
}

static void put_array(struct bytes *o, const char *name, uint32_t kind, int n)
{
    put_key(o, name, KIND_ARR);
    bytes_u32(o, kind);
    bytes_u64(o, (uint64_t)n);
}

static int put_strings(struct bytes *o, const char *name, const struct vocab_str *s, int n)
{
    if (n < 0)
        return 0;
    put_array(o, name, KIND_STR, n);
    for (int i = 0; i < n; i++)
        bytes_strn(o, s[i].s, s[i].n);
    return 1;
}

static int put_text(struct bytes *o, const char *name, const char *s)
{
    if (!s)
        return 0;
    put_key(o, name, KIND_STR);
    bytes_str(o, s);
    return 1;
}

static int put_bool(struct bytes *o, const char *name, int v)
{
    uint8_t b = v > 0;
    if (v < 0)
        return 0;
    put_key(o, name, KIND_BOOL);
    bytes_put(o, &b, 1);
    return 1;
}

uint8_t *vocab_build(const struct vocab *v, size_t *size)
{
    struct bytes o = {0};
    uint64_t n_kv = 0;
    bytes_gguf_head(&o, 0, 0); /* the number of keys is written at the end */
    n_kv += (uint64_t)put_text(&o, "model", v->model);
    n_kv += (uint64_t)put_text(&o, "pre", v->pre);
    n_kv += (uint64_t)put_strings(&o, "tokens", v->tokens, v->n_tokens);
    n_kv += (uint64_t)put_strings(&o, "merges", v->merges, v->n_merges);
    if (v->n_types >= 0) {
        put_array(&o, "token_type", KIND_I32, v->n_types);
        bytes_put(&o, v->types, (size_t)v->n_types * sizeof *v->types);
        n_kv++;
    }
    if (v->n_scores >= 0) {
        put_array(&o, "scores", KIND_F32, v->n_scores);
        bytes_put(&o, v->scores, (size_t)v->n_scores * sizeof *v->scores);
        n_kv++;
    }
    for (int i = 0; i < VOCAB_IDS && v->ids[i].key; i++, n_kv++) {
        char name[64];
        snprintf(name, sizeof name, "%s_token_id", v->ids[i].key);
        put_key(&o, name, KIND_U32);
        bytes_u32(&o, v->ids[i].id);
    }
    n_kv += (uint64_t)put_bool(&o, "add_bos_token", v->add_bos);
    n_kv += (uint64_t)put_bool(&o, "add_space_prefix", v->add_space_prefix);
    memcpy(o.p + 16, &n_kv, sizeof n_kv);
    bytes_pad(&o, 32);
    *size = o.n;
    return o.p;
}

int vocab_add(struct vocab *v, const char *text, int type, float score)
{
    int id = v->n_tokens++;
    v->tokens[id] = (struct vocab_str){text, strlen(text)};
    v->types[id] = type;
    v->scores[id] = score;
    v->n_types = v->n_tokens;
    return id;
}

static void vocab_new(struct vocab *v, const char *model, const char *pre)
{
    *v = (struct vocab){.model = model, .pre = pre, .n_merges = -1, .n_scores = -1, .add_bos = -1};
    v->add_space_prefix = -1;
    v->tokens = calloc(VOCAB_ROOM, sizeof *v->tokens);
    v->merges = calloc(VOCAB_ROOM, sizeof *v->merges);
    v->types = calloc(VOCAB_ROOM, sizeof *v->types);
    v->scores = calloc(VOCAB_ROOM, sizeof *v->scores);
    if (!v->tokens || !v->merges || !v->types || !v->scores)
        abort();
}

/* 256..: th he the Ġt Ġthe aa aaaa; then <s> </s> <|im_end|> (control), <think> <thinking> (user-defined), [PAD] (unused). */
void vocab_bpe(struct vocab *v, const char *pre)
{
    static char spelled[256][3];
    static const char *const merges[] = {"t h", "h e", "th e", "\u0120 t", "\u0120 the", "a a", "aa aa"};
    static const char *const merged[] = {"th", "he", "the", "\u0120t", "\u0120the", "aa", "aaaa"};
    unsigned next = 0x100;
    vocab_new(v, "gpt2", pre);
    for (unsigned b = 0; b < 256; b++) {
        unsigned c = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174 ? b : next++;
        spelled[b][0] = (char)(c < 0x80 ? c : 0xC0 | c >> 6);
        spelled[b][1] = (char)(c < 0x80 ? 0 : 0x80 | (c & 0x3F));
        vocab_add(v, spelled[b], 1, 0);
    }
    v->n_merges = 0;
    for (size_t i = 0; i < sizeof merges / sizeof *merges; i++) {
        v->merges[v->n_merges++] = (struct vocab_str){merges[i], strlen(merges[i])};
        vocab_add(v, merged[i], 1, 0);
    }
    v->ids[0].key = "bos", v->ids[0].id = (uint32_t)vocab_add(v, "<s>", 3, 0);
    v->ids[1].key = "eos", v->ids[1].id = (uint32_t)vocab_add(v, "</s>", 3, 0);
    vocab_add(v, "<|im_end|>", 3, 0);
    vocab_add(v, "<think>", 4, 0);
    vocab_add(v, "<thinking>", 4, 0);
    vocab_add(v, "[PAD]", 5, 0);
}

/* 0..2: <unk> <s> </s>; 3..258: bytes; 259..: \u2581 a b c ab \u2581a \u2581ab abc bc (normal), <tool> (user-defined). */
void vocab_spm(struct vocab *v)
{
    static char bytes[256][7];
    vocab_new(v, "llama", "default");
    vocab_add(v, "<unk>", 2, 0);
    vocab_add(v, "<s>", 3, 0);
    vocab_add(v, "</s>", 3, 0);
    for (int b = 0; b < 256; b++) {
        snprintf(bytes[b], sizeof bytes[b], "<0x%02X>", (unsigned)b);
        vocab_add(v, bytes[b], 6, 0);
    }
    vocab_add(v, "\u2581", 1, -100);
    vocab_add(v, "a", 1, -101);
    vocab_add(v, "b", 1, -102);
    vocab_add(v, "c", 1, -103);
    vocab_add(v, "ab", 1, -2);
    vocab_add(v, "\u2581a", 1, -3);
    vocab_add(v, "\u2581ab", 1, -4);
    vocab_add(v, "abc", 1, -6);
    vocab_add(v, "bc", 1, -1);
    vocab_add(v, "<tool>", 4, 0);
    v->n_scores = v->n_tokens;
    v->ids[0].key = "bos", v->ids[0].id = 1;
    v->ids[1].key = "eos", v->ids[1].id = 2;
    v->ids[2].key = "unknown", v->ids[2].id = 0;
}

void vocab_free(struct vocab *v)
{
    free(v->tokens);
    free(v->merges);
    free(v->types);
    free(v->scores);
    *v = (struct vocab){0};
}
