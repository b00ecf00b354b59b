/* SPDX-License-Identifier: MIT */
/* Writer of the hash models.  The goldens' generator (tests/data/hash/gen) compiles this file too, for hash_fill() and
 * hash_fill_blocks(): nothing here may change a byte, and check_gguf compares all files with stored hashes. */
#include "hashmodel.h"
#include "bytes.h"
#include "testing.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

const char *const hash_models[] = {"qwen3next", "qwen3next-mtp", "qwen35", "qwen35-mtp", "qwen35moe", "qwen35moe-mtp",
                                   "qwen3",     "qwen3moe",      "qwen2",  "llama",      NULL};
const char *const hash_quant_types[] = {"Q4_0",   "Q4_1",  "Q5_0",  "Q5_1",    "Q8_0",   "Q2_K",    "Q3_K",
                                        "Q4_K",   "Q5_K",  "Q6_K",  "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S",
                                        "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS",  "MXFP4",  NULL};

/* clang-format off */
static const struct hash_quant quants[] = {
    /* name, id, block, bytes, d_at, d_exponent, m_at, m_exponent, m_sign, d_is_e8m0, no_minus_128 */
    {"Q4_0", 2, 32, 18, 0, 8, -1, 0, 0, 0, 0},
    {"Q4_1", 3, 32, 20, 0, 8, 2, 3, 1, 0, 0},
    {"Q5_0", 6, 32, 22, 0, 7, -1, 0, 0, 0, 0},
    {"Q5_1", 7, 32, 24, 0, 7, 2, 4, 1, 0, 0},
    {"Q8_0", 8, 32, 34, 0, 4, -1, 0, 0, 0, 1},
    {"Q2_K", 10, 256, 84, 80, 7, 82, 0, 0, 0, 0},
    {"Q3_K", 11, 256, 110, 108, 5, -1, 0, 0, 0, 0},
    {"Q4_K", 12, 256, 144, 0, 2, 2, 3, 0, 0, 0},
    {"Q5_K", 13, 256, 176, 0, 1, 2, 4, 0, 0, 0},
    {"Q6_K", 14, 256, 210, 208, 1, -1, 0, 0, 0, 0},
    {"IQ2_XXS", 16, 256, 66, 0, 5, -1, 0, 0, 0, 0},
    {"IQ2_XS", 17, 256, 74, 0, 5, -1, 0, 0, 0, 0},
    {"IQ3_XXS", 18, 256, 98, 0, 3, -1, 0, 0, 0, 0},
    {"IQ1_S", 19, 256, 50, 0, 8, -1, 0, 0, 0, 0},
    {"IQ4_NL", 20, 32, 18, 0, 5, -1, 0, 0, 0, 0},
    {"IQ3_S", 21, 256, 110, 0, 3, -1, 0, 0, 0, 0},
    {"IQ2_S", 22, 256, 82, 0, 5, -1, 0, 0, 0, 0},
    {"IQ4_XS", 23, 256, 136, 0, 1, -1, 0, 0, 0, 0},
    {"MXFP4", 39, 32, 17, 0, 122, -1, 0, 0, 1, 0},
};
/* clang-format on */

enum { KIND_U32 = 4, KIND_I32 = 5, KIND_F32 = 6, KIND_BOOL = 7, KIND_STR = 8, KIND_ARR = 9 };
enum { TYPE_F32 = 0, TYPE_BF16 = 30, ALIGNMENT = 32 };
enum { FTYPE_F32 = 0, FTYPE_BF16 = 32, FTYPE_HASH = 1024 };

/* ---- hashes */

uint64_t hash_splitmix64(uint64_t x)
{
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

void hash_fill(const char *key, uint64_t n, float bias, float scale, float *w)
{
    uint64_t base = XXH64(key, strlen(key), 0);
    for (uint64_t i = 0; i < n; i++) {
        int v = (int8_t)(hash_splitmix64(base + i) >> 56);
        w[i] = bias + (float)(v == -128 ? -127 : v) * scale;
    }
}

void hash_fill_blocks(const char *key, const struct hash_quant *q, uint64_t n_blocks, int e, uint8_t *blocks)
{
    uint64_t base = XXH64(key, strlen(key), 0), n = n_blocks * (uint64_t)q->bytes;
    int exponent = q->d_exponent + 10 - e;
    for (uint64_t i = 0; i < n; i++)
        blocks[i] = (uint8_t)(hash_splitmix64(base + i) >> 56);
    for (uint8_t *b = blocks; b < blocks + n; b += q->bytes) {
        uint8_t *d = b + q->d_at;
        if (q->d_is_e8m0) {
            *d = (uint8_t)exponent;
            continue;
        }
        d[1] = (uint8_t)((d[1] & 0x83) | exponent << 2); /* sign and mantissa stay */
        if (q->m_at >= 0) {
            uint8_t *m = b + q->m_at;
            m[1] = (uint8_t)((m[1] & 3) | (exponent + q->m_exponent) << 2 | ((d[1] & 0x80) ^ q->m_sign << 7));
        }
        for (int k = 2; q->no_minus_128 && k < q->bytes; k++)
            if (b[k] == 0x80)
                b[k] = 0x81;
    }
}

void hash_prompt(int n, int32_t *ids)
{
    char key[32];
    snprintf(key, sizeof key, "prompt:%d", n);
    uint64_t base = XXH64(key, strlen(key), 0);
    for (int i = 0; i < n; i++)
        ids[i] = (int32_t)((hash_splitmix64(base + (uint64_t)i) >> 32) % 496);
}

/* ---- the rule-made tokenizer: 256 bytes, 240 merges, 12 special tokens, 4 unused */

enum { N_TOKENS = 512, N_MERGES = 240, N_PAIRS = 144, FIRST_SPECIAL = 496, FIRST_USER = 502, FIRST_PAD = 508 };

struct tokenizer {
    char token[N_TOKENS][24], merge[N_MERGES][16];
};

static void merge_set(struct tokenizer *t, int n, const char *a, const char *b)
{
    snprintf(t->merge[n], sizeof t->merge[n], "%s %s", a, b);
    snprintf(t->token[256 + n], sizeof t->token[n], "%s%s", a, b);
}

static void tokenizer_make(struct tokenizer *t)
{
    static const char letters[] = "etaoinshrdlu";
    static const char *const special[] = {"<|endoftext|>",  "<|im_start|>",   "<|im_end|>",      "<|fim_prefix|>",
                                          "<|fim_middle|>", "<|fim_suffix|>", "<think>",         "</think>",
                                          "<tool_call>",    "</tool_call>",   "<tool_response>", "</tool_response>"};
    int other = 256; /* where GPT-2's alphabet puts the bytes that it does not show as themselves */
    for (int b = 0; b < 256; b++) {
        bool itself = (b >= 33 && b < 127) || (b >= 161 && b < 173) || b >= 174;
        int c = itself ? b : other++;
        if (c < 128)
            snprintf(t->token[b], sizeof t->token[b], "%c", c);
        else
            snprintf(t->token[b], sizeof t->token[b], "%c%c", 0xC0 | c >> 6, 0x80 | (c & 63));
    }
    char pair[N_PAIRS][3];
    for (int i = 0; i < N_PAIRS; i++) {
        memcpy(pair[i], (char[]){letters[i / 12], letters[i % 12], 0}, 3);
        merge_set(t, i, (char[]){letters[i / 12], 0}, (char[]){letters[i % 12], 0});
    }
    for (int i = 0; i < 26; i++)
        merge_set(t, N_PAIRS + i, "\xC4\xA0", (char[]){(char)('a' + i), 0});
    for (int i = 0; i < 70; i++)
        merge_set(t, N_PAIRS + 26 + i, pair[i * 37 % N_PAIRS], pair[(i * 59 + 11) % N_PAIRS]);
    for (int i = FIRST_SPECIAL; i < FIRST_PAD; i++)
        snprintf(t->token[i], sizeof t->token[i], "%s", special[i - FIRST_SPECIAL]);
    for (int i = FIRST_PAD; i < N_TOKENS; i++)
        snprintf(t->token[i], sizeof t->token[i], "[PAD%d]", i);
}

static void put_array(struct bytes *b, uint32_t element, uint64_t n)
{
    bytes_u32(b, KIND_ARR);
    bytes_u32(b, element);
    bytes_u64(b, n);
}

static bool put_rule(struct bytes *b, const char *key)
{
    static struct tokenizer t;
    tokenizer_make(&t);
    if (strcmp(key, "tokenizer.ggml.tokens") == 0) {
        put_array(b, KIND_STR, N_TOKENS);
        for (int i = 0; i < N_TOKENS; i++)
            bytes_str(b, t.token[i]);
    } else if (strcmp(key, "tokenizer.ggml.token_type") == 0) {
        put_array(b, KIND_I32, N_TOKENS);
        for (int i = 0; i < N_TOKENS; i++)
            bytes_u32(b, i < FIRST_SPECIAL ? 1 : i < FIRST_USER ? 3 : i < FIRST_PAD ? 4 : 5);
    } else if (strcmp(key, "tokenizer.ggml.merges") == 0) {
        put_array(b, KIND_STR, N_MERGES);
        for (int i = 0; i < N_MERGES; i++)
            bytes_str(b, t.merge[i]);
    } else {
        return false;
    }
    return true;
}

/* ---- the file */

struct writer {
    struct bytes kv, infos, data;
    uint64_t n_kv, n_tensors;
    const char *salt;
    bool bf16;
    const struct hash_quant *quant; /* NULL = f32 or bf16 */
};

/* Splits off the word up to the next space; *rest is what follows it. */
static char *word(char **rest)
{
    char *w = *rest, *space = strchr(w, ' ');
    *rest = space ? space + 1 : w + strlen(w);
    if (space)
        *space = 0;
    return w;
}

static bool add_kv(struct writer *w, char *line)
{
    char *value = line;
    const char *key = word(&value), *kind = word(&value);
    struct bytes *b = &w->kv;
    bytes_str(b, key);
    w->n_kv++;
    if (strcmp(kind, "str") == 0) {
        bytes_u32(b, KIND_STR);
        bytes_str(b, value);
    } else if (strcmp(kind, "u32") == 0) {
        bytes_u32(b, KIND_U32);
        bytes_u32(b, (uint32_t)strtoul(value, NULL, 10));
    } else if (strcmp(kind, "ftype") == 0) {
        bytes_u32(b, KIND_U32);
        bytes_u32(b, w->quant ? FTYPE_HASH : w->bf16 ? FTYPE_BF16 : FTYPE_F32);
    } else if (strcmp(kind, "f32") == 0) {
        float v = strtof(value, NULL);
        bytes_u32(b, KIND_F32);
        bytes_put(b, &v, sizeof v);
    } else if (strcmp(kind, "bool") == 0) {
        bytes_u32(b, KIND_BOOL);
        bytes_put(b, value[0] == '1' ? "\1" : "\0", 1);
    } else if (strcmp(kind, "i32[]") == 0) {
        int32_t v[16];
        uint64_t n = 0;
        while (*value && n < 16)
            v[n++] = atoi(word(&value));
        put_array(b, KIND_I32, n);
        bytes_put(b, v, n * sizeof *v);
    } else {
        return strcmp(kind, "rule") == 0 && put_rule(b, key);
    }
    return true;
}

static void add_info(struct writer *w, const char *name, const uint64_t *ne, int n_dims, uint32_t type)
{
    bytes_str(&w->infos, name);
    bytes_u32(&w->infos, (uint32_t)n_dims);
    for (int d = 0; d < n_dims; d++)
        bytes_u64(&w->infos, ne[d]);
    bytes_u32(&w->infos, type);
    bytes_u64(&w->infos, w->data.n);
    w->n_tensors++;
}

/* "name values...": F32 values as they stand. */
static void add_values(struct writer *w, char *line)
{
    const char *name = word(&line);
    float v[256];
    uint64_t n = 0;
    while (*line && n < 256)
        v[n++] = strtof(word(&line), NULL);
    add_info(w, name, &n, 1, TYPE_F32);
    bytes_put(&w->data, v, n * sizeof *v);
    bytes_pad(&w->data, ALIGNMENT);
}

/* "name m|f bias scale ne0 ne1 ..": m is a matrix in the file's type, f is F32 always. */
static void add_tensor(struct writer *w, char *line)
{
    const char *name = word(&line);
    bool matrix = word(&line)[0] == 'm';
    float bias = strtof(word(&line), NULL), scale = strtof(word(&line), NULL);
    uint64_t ne[4], n = 1;
    int n_dims = 0;
    while (*line && n_dims < 4) {
        ne[n_dims] = strtoull(word(&line), NULL, 10);
        n *= ne[n_dims++];
    }
    char key[256];
    if (matrix && w->quant) {
        snprintf(key, sizeof key, "%s%s|%s", w->salt, name, w->quant->name);
        add_info(w, name, ne, n_dims, (uint32_t)w->quant->id);
        uint64_t n_blocks = n / (uint64_t)w->quant->block;
        uint8_t *blocks = bytes_grow(&w->data, n_blocks * (uint64_t)w->quant->bytes);
        hash_fill_blocks(key, w->quant, n_blocks, -ilogbf(scale), blocks);
    } else {
        bool bf16 = matrix && w->bf16;
        snprintf(key, sizeof key, "%s%s", w->salt, name);
        add_info(w, name, ne, n_dims, bf16 ? TYPE_BF16 : TYPE_F32);
        size_t at = w->data.n;
        uint8_t *p = bytes_grow(&w->data, n * sizeof(float)); /* aligned: data starts aligned and is padded */
        hash_fill(key, n, bias, scale, (float *)(void *)p);
        for (uint64_t i = 0; bf16 && i < n; i++)
            memmove(p + 2 * i, p + 4 * i + 2, 2); /* the upper halves */
        w->data.n = bf16 ? at + 2 * n : w->data.n;
    }
    bytes_pad(&w->data, ALIGNMENT);
}

/* Reads models.txt; true when the model was there and every line was understood. */
static bool read_model(struct writer *w, char *text, const char *model)
{
    bool on = false, found = false, good = true;
    for (char *line = text, *next; *line && good; line = next) {
        next = line + strcspn(line, "\n");
        if (*next)
            *next++ = 0;
        char kind = line[0], *rest = line + 2;
        if (kind == 'M') {
            on = strcmp(word(&rest), model) == 0;
            if (on)
                w->salt = strcmp(rest, "-") == 0 ? "" : rest;
            found = found || on;
        } else if (on && kind == 'K') {
            good = add_kv(w, rest);
        } else if (on && kind == 'T') {
            add_tensor(w, rest);
        } else if (on && kind == 'R') {
            add_values(w, rest);
        } else {
            good = !on;
        }
    }
    return found && good;
}

static bool choose_type(struct writer *w, const char *type)
{
    w->bf16 = strcmp(type, "bf16") == 0;
    for (size_t i = 0; i < sizeof quants / sizeof *quants; i++)
        if (strcmp(type, quants[i].name) == 0)
            w->quant = &quants[i];
    return w->quant || w->bf16 || strcmp(type, "f32") == 0;
}

uint8_t *hash_model_build(const char *model, const char *type, size_t *size)
{
    struct writer w = {0};
    struct bytes out = {0};
    char *text = test_read(test_data("hash/models.txt"), NULL);
    if (!text)
        return NULL;
    if (choose_type(&w, type) && read_model(&w, text, model)) {
        bytes_gguf_head(&out, w.n_tensors, w.n_kv);
        bytes_put(&out, w.kv.p, w.kv.n);
        bytes_put(&out, w.infos.p, w.infos.n);
        bytes_pad(&out, ALIGNMENT);
        bytes_put(&out, w.data.p, w.data.n);
        *size = out.n;
    } else {
        fprintf(stderr, "no hash model %s of type %s\n", model, type);
    }
    free(text);
    free(w.kv.p);
    free(w.infos.p);
    free(w.data.p);
    return out.p;
}

const char *hash_model_file(const char *model, const char *type)
{
    static struct made {
        char name[64];
        char *path;
    } made[128];
    static int n_made;
    char name[64];
    snprintf(name, sizeof name, "%s-%s.gguf", model, type);
    for (int i = 0; i < n_made; i++)
        if (strcmp(made[i].name, name) == 0)
            return made[i].path;
    size_t size;
    uint8_t *data = hash_model_build(model, type, &size);
    char *path = strdup(test_tmp(name));
    if (!data || !path || n_made == 128)
        abort();
    test_write(path, data, size);
    free(data);
    memcpy(made[n_made].name, name, sizeof name);
    made[n_made++].path = path;
    return path;
}
