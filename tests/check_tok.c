/* SPDX-License-Identifier: MIT */
/* The tokenizer: ids of the reference tokenizers (hash vocabulary here, real ones in the oracle), special tokens, streaming
 * decoding, hostile texts and hostile vocabularies. */
#include "hashmodel.h"
#include "testing.h"
#include "text.h"
#include "unicode.h"
#include "vocab.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct qn_error err;

/* ---- opening */

static struct tok *open_file(const char *path, const char *pre)
{
    struct gguf *g;
    struct tok *k = NULL;
    if (gguf_open(&g, path, true, &err) || tok_open(&k, g, pre, &err))
        fail_msg("%s", err.text);
    gguf_close(g); /* a tokenizer owns what it needs */
    return k;
}

/* NULL when it is refused: then err says why. */
static struct tok *open_vocab(const struct vocab *v, const char *pre)
{
    size_t size;
    uint8_t *file = vocab_build(v, &size);
    const char *path = test_tmp("vocab.gguf");
    struct gguf *g;
    struct tok *k;
    test_write(path, file, size);
    free(file);
    if (gguf_open(&g, path, true, &err))
        fail_msg("%s", err.text);
    int code = tok_open(&k, g, pre, &err);
    gguf_close(g);
    assert_true(code ? k == NULL && code == err.code && err.text[0] : k != NULL);
    return k;
}

static struct tok *open_bpe(const char *pre)
{
    struct vocab v;
    vocab_bpe(&v, pre);
    struct tok *k = open_vocab(&v, NULL);
    assert_non_null(k);
    vocab_free(&v);
    return k;
}

/* ---- comparing */

static int32_t *encode(const struct tok *k, const char *s, size_t n, const uint8_t *special, unsigned flags, int *n_ids)
{
    int32_t *ids;
    if (tok_encode(k, s, n, special, flags, &ids, n_ids, &err))
        fail_msg("%s", err.text);
    assert_non_null(ids);
    return ids;
}

/* The ids as tokens' spellings, joined by |. */
static const char *spell(const struct tok *k, const int32_t *ids, int n_ids)
{
    static char out[4096];
    size_t at = 0;
    out[0] = 0;
    for (int i = 0; i < n_ids; i++) {
        size_t n;
        const char *s = tok_text(k, ids[i], &n);
        assert_true(at + n + 2 < sizeof out);
        at += (size_t)snprintf(out + at, sizeof out - at, "%s%.*s", i ? "|" : "", (int)n, s);
    }
    return out;
}

static void check_spelled(const struct tok *k, const char *text, const uint8_t *special, unsigned flags,
                          const char *want)
{
    int n;
    int32_t *ids = encode(k, text, strlen(text), special, flags, &n);
    assert_string_equal(spell(k, ids, n), want);
    free(ids);
}

/* Decodes through the streaming detokenizer.  When the text is valid UTF-8, only whole characters come out on the way. */
static char *decode(const struct tok *k, const int32_t *ids, int n_ids, bool show_control, bool valid, size_t *n_out)
{
    struct qn_detok d = {0};
    size_t n = 0, cap = 64, longest;
    for (int i = 0; i < n_ids; i++) {
        tok_bytes(k, ids[i], true, &longest);
        cap += longest;
    }
    char *out = malloc(cap);
    assert_non_null(out);
    for (int i = 0; i < n_ids; i++) {
        tok_bytes(k, ids[i], true, &longest);
        n += tok_detok_put(&d, k, ids[i], show_control, out + n, longest + 8);
        assert_true(n <= cap);
        assert_true(!valid || utf8_unfinished(out, n) == 0);
    }
    n += tok_detok_end(&d, out + n, 8);
    *n_out = n;
    return out;
}

static void check_round_trip(const struct tok *k, const char *s, size_t n, unsigned flags, bool valid)
{
    int n_ids;
    size_t n_out;
    int32_t *ids = encode(k, s, n, NULL, flags, &n_ids);
    char *out = decode(k, ids, n_ids, true, valid, &n_out);
    if (n_out != n || memcmp(out, s, n) != 0)
        fail_msg("\"%.*s\" comes back as \"%.*s\"", (int)n, s, (int)n_out, out);
    free(out);
    free(ids);
}

/* One {text, ids [, ids_nfc]}: ids_nfc is what the model's own tokenizer gives. */
static void check_row(const struct tok *k, json_t *row, unsigned flags, const char *where, size_t i)
{
    json_t *text = json_object_get(row, "text"), *nfc = json_object_get(row, "ids_nfc");
    json_t *want = nfc ? nfc : json_object_get(row, "ids");
    const char *s = json_string_value(text);
    size_t n = json_string_length(text);
    int n_ids;
    if (!text || !json_is_array(want))
        fail_msg("%s: row %zu: no text or no ids", where, i);
    int32_t *ids = encode(k, s, n, NULL, flags, &n_ids);
    if (n_ids != (int)json_array_size(want))
        fail_msg("%s: row %zu: %d ids, expected %zu: \"%s\"", where, i, n_ids, json_array_size(want), s);
    for (int j = 0; j < n_ids; j++)
        if (ids[j] != json_integer_value(json_array_get(want, (size_t)j)))
            fail_msg("%s: row %zu: id %d is %d, expected %d: \"%s\"", where, i, j, ids[j],
                     (int)json_integer_value(json_array_get(want, (size_t)j)), s);
    free(ids);
    if (!nfc)
        check_round_trip(k, s, n, flags, true);
}

/* ---- ids of the reference tokenizers */

static void hash_vocabulary(const char *model, const char *file)
{
    struct tok *k = open_file(hash_model_file(model, "f32"), NULL);
    json_error_t why;
    json_t *rows = json_load_file(test_data(file), 0, &why), *row;
    size_t i;
    assert_int_equal(tok_n_vocab(k), 512);
    assert_int_equal(json_array_size(rows), 30);
    json_array_foreach(rows, i, row) check_row(k, row, QN_TOK_SPECIAL, file, i);
    json_decref(rows);
    tok_close(k);
}

static void hash_qwen2(void **state) { hash_vocabulary("qwen2", "hash/tokens_qwen2.json"); }
static void hash_qwen35(void **state) { hash_vocabulary("qwen35", "hash/tokens_qwen35.json"); }

struct oracle {
    const char *vocab, *pre, *rows;
    unsigned flags;
    int n_rows;
};

static void oracle_rows(void **state)
{
    const struct oracle *o = *state;
    if (!test_oracle(o->rows))
        skip();
    struct tok *k = open_file(test_oracle(o->vocab), o->pre);
    FILE *f = fopen(test_oracle(o->rows), "r");
    char *line = NULL;
    size_t cap = 0;
    int n = 0;
    if (!f)
        fail_msg("%s cannot be opened", test_oracle(o->rows));
    for (; getline(&line, &cap, f) > 0; n++) {
        json_t *row = json_loads(line, JSON_ALLOW_NUL, NULL);
        check_row(k, row, o->flags, o->rows, (size_t)n);
        json_decref(row);
    }
    fclose(f);
    free(line);
    tok_close(k);
    assert_int_equal(n, o->n_rows);
}

static const struct oracle oracles[] = {
    {"tokenizer/vocab-qwen2.gguf", NULL, "tokenizer/qwen2.jsonl", QN_TOK_SPECIAL, 489},
    {"tokenizer/vocab-qwen35.gguf", NULL, "tokenizer/qwen35.jsonl", QN_TOK_SPECIAL, 489},
    {"tokenizer/vocab-qwen2.gguf", "gpt2", "tokenizer/gpt2.jsonl", QN_TOK_SPECIAL, 489},
    {"tokenizer/vocab-llama-spm.gguf", NULL, "tokenizer/llama-spm.jsonl", 0, 64},
    {"demo/demo-q4_k_m.gguf", NULL, "tokenizer/small.jsonl", QN_TOK_SPECIAL, 489},
};

/* ---- merging and SentencePiece */

static void bpe_merges(void **state)
{
    struct tok *k = open_bpe("qwen2");
    check_spelled(k, "", NULL, 0, "");
    check_spelled(k, "the the", NULL, 0, "the|Ġthe");
    check_spelled(k, "thhe", NULL, 0, "th|he");
    check_spelled(k, "aaa", NULL, 0, "aa|a");
    check_spelled(k, "aaaaaaa", NULL, 0, "aaaa|aa|a");
    check_spelled(k, "\xFF\x80", NULL, 0, "ÿ|Ģ");
    check_spelled(k, "the", NULL, QN_TOK_BOS, "the");
    tok_close(k);
}

static void bpe_add_bos(void **state)
{
    struct vocab v;
    vocab_bpe(&v, "llama-bpe");
    struct tok *k = open_vocab(&v, NULL);
    assert_true(tok_ids(k).add_bos);
    check_spelled(k, "the", NULL, QN_TOK_BOS, "<s>|the");
    check_spelled(k, "", NULL, QN_TOK_BOS, "<s>");
    check_spelled(k, "the", NULL, 0, "the");
    tok_close(k);
    v.add_bos = 0;
    k = open_vocab(&v, NULL);
    assert_false(tok_ids(k).add_bos);
    tok_close(k);
    v.add_bos = 1;
    v.ids[0].key = NULL; /* no BOS to add */
    k = open_vocab(&v, NULL);
    check_spelled(k, "the", NULL, QN_TOK_BOS, "the");
    assert_int_equal(tok_ids(k).bos, -1);
    tok_close(k);
    vocab_free(&v);
}

/* llama-bpe takes a word that is a token as it is, whatever the merges say. */
static void bpe_whole_words(void **state)
{
    struct vocab v;
    vocab_bpe(&v, "llama-bpe");
    vocab_add(&v, "xyz", 1, 0);
    struct tok *k = open_vocab(&v, NULL);
    check_spelled(k, "xyz xyz", NULL, 0, "xyz|Ġ|x|y|z");
    tok_close(k);
    k = open_vocab(&v, "qwen2");
    check_spelled(k, "xyz", NULL, 0, "x|y|z");
    tok_close(k);
    vocab_free(&v);
}

static void bpe_missing_byte(void **state)
{
    struct vocab v;
    int32_t *ids;
    int n;
    vocab_bpe(&v, "qwen2");
    v.tokens['q'].s = "#q"; /* now nothing spells a q */
    v.tokens['q'].n = 2;
    struct tok *k = open_vocab(&v, NULL);
    assert_int_equal(tok_encode(k, "a q", 3, NULL, 0, &ids, &n, &err), QN_E_UNSUPPORTED);
    assert_non_null(strstr(err.text, "0x71"));
    assert_null(ids);
    assert_int_equal(n, 0);
    tok_close(k);
    vocab_free(&v);
}

static void spm_pieces(void **state)
{
    struct vocab v;
    vocab_spm(&v);
    struct tok *k = open_vocab(&v, "no such name"); /* SentencePiece has no pre-tokenizer */
    assert_non_null(k);
    check_spelled(k, "", NULL, 0, "");
    check_spelled(k, "ab", NULL, 0, "▁ab");
    check_spelled(k, "abc", NULL, 0, "▁a|bc");
    check_spelled(k, " ab", NULL, 0, "▁|▁ab");
    check_spelled(k, "a\xC3\xA9 \xFF", NULL, 0, "▁a|<0xC3>|<0xA9>|▁|<0xFF>");
    check_spelled(k, "ab", NULL, QN_TOK_BOS, "<s>|▁ab");
    check_spelled(k, "<s>ab", NULL, 0, "▁|<0x3C>|<0x73>|<0x3E>|ab");
    check_spelled(k, "<s>ab<tool>a", NULL, QN_TOK_SPECIAL, "<s>|▁ab|<tool>|▁a");
    check_round_trip(k, "ab c\n  ab", 9, 0, true);
    check_round_trip(k, " ab", 3, 0, true);
    tok_close(k);
    v.add_space_prefix = 0;
    k = open_vocab(&v, NULL);
    check_spelled(k, "ab ab", NULL, 0, "ab|▁ab");
    check_round_trip(k, " ab", 3, 0, true);
    tok_close(k);
    vocab_free(&v);
}

/* ---- special tokens */

static void special_control(void **state)
{
    struct tok *k = open_bpe("qwen2");
    check_spelled(k, "a<s>b", NULL, QN_TOK_SPECIAL, "a|<s>|b");
    check_spelled(k, "a<s>b", NULL, 0, "a|<|s|>|b");
    check_spelled(k, "<s><s></s>", NULL, QN_TOK_SPECIAL, "<s>|<s>|</s>");
    check_spelled(k, "<<s", NULL, QN_TOK_SPECIAL, "<|<|s");
    tok_close(k);
}

/* Byte by byte, over the flag. */
static void special_mask(void **state)
{
    struct tok *k = open_bpe("qwen2");
    static const uint8_t first[] = {1, 1, 1, 0, 0, 0}, part[] = {1, 1, 0, 1, 1, 1}, none[6];
    check_spelled(k, "<s><s>", first, 0, "<s>|<|s|>");
    check_spelled(k, "<s><s>", part, 0, "<|s|>|<s>");
    check_spelled(k, "<s><s>", none, QN_TOK_SPECIAL, "<|s|>|<|s|>");
    tok_close(k);
}

static void special_user_defined(void **state)
{
    struct tok *k = open_bpe("qwen2");
    static const uint8_t none[20];
    check_spelled(k, "<think>a", NULL, 0, "<think>|a");
    check_spelled(k, "<think>a", none, 0, "<think>|a");
    check_spelled(k, "<thinking>a", NULL, 0, "<thinking>|a"); /* the longest one */
    check_spelled(k, "<thinkin<think>", NULL, 0, "<|th|i|n|k|i|n|<think>");
    check_spelled(k, "[PAD]", NULL, QN_TOK_SPECIAL, "[|P|A|D|]"); /* unused ones are no special tokens */
    tok_close(k);
}

/* A control token that may not be recognised does not hide a user-defined one inside it. */
static void special_nested(void **state)
{
    struct vocab v;
    vocab_bpe(&v, "qwen2");
    vocab_add(&v, "<think><|x|>", 3, 0);
    struct tok *k = open_vocab(&v, NULL);
    check_spelled(k, "<think><|x|>", NULL, QN_TOK_SPECIAL, "<think><|x|>");
    check_spelled(k, "<think><|x|>", NULL, 0, "<think>|<|||x|||>");
    tok_close(k);
    vocab_free(&v);
}

/* Spaces at the end of a piece of text are judged without looking at the special token behind. */
static void special_cuts_text(void **state)
{
    struct tok *k = open_bpe("qwen2");
    check_spelled(k, "a  <s> the", NULL, QN_TOK_SPECIAL, "a|Ġ|Ġ|<s>|Ġthe");
    check_spelled(k, "e<s>\xCC\x81", NULL, QN_TOK_SPECIAL, "e|<s>|Ì|ģ");
    check_spelled(k, "e\xCC\x81<s>", NULL, QN_TOK_SPECIAL, "Ã|©|<s>");
    tok_close(k);
}

static void special_stop_set(void **state)
{
    static const char *const stops[] = {"</s>",       "<|im_end|>",      "<|endoftext|>", "<|eot_id|>",
                                        "<|eom_id|>", "<|end_of_text|>", "<end_of_turn>"};
    struct vocab v;
    vocab_bpe(&v, "qwen2");
    v.ids[1].id = (uint32_t)vocab_add(&v, "[eos]", 1, 0);
    v.ids[2].key = "eot", v.ids[2].id = (uint32_t)vocab_add(&v, "[eot]", 4, 0);
    v.ids[3].key = "eom", v.ids[3].id = (uint32_t)vocab_add(&v, "[eom]", 3, 0);
    for (int i = 2; i < 6; i++)
        vocab_add(&v, stops[i], 3, 0);
    vocab_add(&v, stops[6], 4, 0); /* the name alone is not enough */
    struct tok *k = open_vocab(&v, NULL);
    int n_stops = 0;
    for (int i = 0; i < tok_n_vocab(k); i++)
        n_stops += tok_is_stop(k, i);
    assert_int_equal(n_stops, 6 + 3);
    for (int i = 0; i < 7; i++)
        assert_int_equal(tok_is_stop(k, tok_find(k, stops[i], strlen(stops[i]))), i < 6);
    assert_int_equal(tok_ids(k).eos, (int32_t)v.ids[1].id);
    assert_int_equal(tok_ids(k).eot, (int32_t)v.ids[2].id);
    assert_int_equal(tok_ids(k).eom, (int32_t)v.ids[3].id);
    assert_int_equal(tok_ids(k).pad, -1);
    assert_true(tok_is_stop(k, tok_ids(k).eot));
    assert_false(tok_is_stop(k, -1) || tok_is_stop(k, tok_n_vocab(k)));
    tok_close(k);
    vocab_free(&v);
}

static void special_many(void **state)
{
    enum { N = 250000 };
    struct vocab v = {.model = "gpt2", .pre = "qwen2", .n_tokens = N, .n_types = N, .n_scores = -1, .n_merges = 0};
    char(*names)[16] = calloc(N, sizeof *names);
    v.tokens = calloc(N, sizeof *v.tokens);
    v.types = calloc(N, sizeof *v.types);
    for (int i = 0; i < N; i++) {
        v.tokens[i].s = names[i];
        v.tokens[i].n = (size_t)snprintf(names[i], sizeof names[i], "<|t%d|>", i);
        v.types[i] = 4;
    }
    struct tok *k = open_vocab(&v, NULL);
    check_spelled(k, "<|t0|><|t249999|><|t77|>", NULL, 0, "<|t0|>|<|t249999|>|<|t77|>");
    tok_close(k);
    free(v.tokens);
    free(v.types);
    free(names);
}

/* ---- tokens' bytes */

static void bytes_of_tokens(void **state)
{
    struct tok *k = open_bpe("qwen2");
    size_t n;
    const char *s = tok_bytes(k, tok_find(k, "Ġthe", 5), false, &n);
    assert_int_equal(n, 4);
    assert_memory_equal(s, " the", 4);
    for (int b = 0; b < 256; b++) {
        s = tok_bytes(k, b, false, &n);
        assert_true(n == 1 && (uint8_t)s[0] == b);
    }
    int32_t eos = tok_ids(k).eos;
    assert_true(tok_is_control(k, eos));
    tok_bytes(k, eos, false, &n);
    assert_int_equal(n, 0);
    s = tok_bytes(k, eos, true, &n);
    assert_int_equal(n, 4);
    assert_memory_equal(s, "</s>", 4);
    tok_bytes(k, tok_find(k, "<think>", 7), false, &n);
    assert_int_equal(n, 7);
    tok_bytes(k, -1, true, &n);
    assert_int_equal(n, 0);
    tok_bytes(k, tok_n_vocab(k), true, &n);
    assert_int_equal(n, 0);
    assert_int_equal(tok_find(k, "no token", 8), -1);
    assert_int_equal(tok_find(k, "", 0), -1);
    tok_close(k);
}

/* Characters come out whole: what is held back is checked put by put. */
static void detok_whole_characters(void **state)
{
    struct tok *k = open_bpe("qwen2");
    struct qn_detok d = {0};
    char out[64];
    static const uint8_t in[] = {0xF0, 0x9F, 0x98, 0x80, 'a', 0xE2, 0x82, 'b', 0xC3, 0xC3, 0xA9, 0xFF, 0xE2, 0x82};
    static const size_t n_out[] = {0, 0, 0, 4, 1, 0, 0, 3, 0, 1, 2, 1, 0, 0};
    size_t total = 0;
    for (size_t i = 0; i < sizeof in; i++) {
        size_t n = tok_detok_put(&d, k, in[i], false, out + total, 16);
        assert_int_equal(n, n_out[i]);
        total += n;
    }
    assert_int_equal(tok_detok_end(&d, out + total, 8), 2);
    assert_memory_equal(out, in, sizeof in);
    assert_int_equal(tok_detok_end(&d, out, 8), 0);
    tok_close(k);
}

static void detok_spm_space(void **state)
{
    struct vocab v;
    vocab_spm(&v);
    struct tok *k = open_vocab(&v, NULL);
    size_t n;
    const int32_t bos_first[] = {1, tok_find(k, "▁ab", 5), tok_find(k, "▁a", 4)};
    char *s = decode(k, bos_first, 3, false, true, &n);
    assert_true(n == 4 && memcmp(s, "ab a", 4) == 0);
    free(s);
    s = decode(k, bos_first, 3, true, true, &n);
    assert_true(n == 7 && memcmp(s, "<s>ab a", 7) == 0);
    free(s);
    tok_close(k);
    vocab_free(&v);
}

static uint64_t next_random(uint64_t *x) { return hash_splitmix64((*x)++); }

static void round_trip_random(void **state)
{
    static const char *const pres[] = {"gpt2", "llama-bpe"}; /* those without NFC */
    static const char *const pieces[] = {"the ",     "<s>", "<think>", "aaaa", "\n ", "\xF0\x9F\x98\x80",
                                         "\xE2\x82", "'ll"};
    uint64_t seed = 1;
    for (int p = 0; p < 2; p++) {
        struct tok *k = open_bpe(pres[p]);
        for (int i = 0; i < 5000; i++) {
            char s[300];
            size_t n = 0, want = next_random(&seed) % 256;
            while (n < want) {
                uint64_t r = next_random(&seed);
                if (r % 4) {
                    s[n++] = (char)(r >> 8);
                } else {
                    const char *piece = pieces[r / 4 % 8];
                    memcpy(s + n, piece, strlen(piece));
                    n += strlen(piece);
                }
            }
            check_round_trip(k, s, n, i % 2 ? QN_TOK_SPECIAL : 0, false);
        }
        tok_close(k);
    }
}

/* ---- texts that are slow where an algorithm is careless */

static void hostile_texts(void **state)
{
    static const char *const units[] = {"a",        " ",     "\n",     "the", "9",    "!",
                                        "\xCC\x81", "<|im_", "<think", "'",   "\xFF", "e\xCC\xA3"};
    static const char *const pres[] = {"gpt2", "qwen2", "qwen35", "llama-bpe"};
    enum { N = 1 << 18 };
    char *s = malloc(N);
    struct vocab v;
    vocab_spm(&v);
    alarm(100); /* all of it takes about a second */
    for (int p = 0; p < 5; p++) {
        struct tok *k = p < 4 ? open_bpe(pres[p]) : open_vocab(&v, NULL);
        for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
            int n_ids;
            for (size_t i = 0; i < N; i++)
                s[i] = units[u][i % strlen(units[u])];
            int32_t *ids = encode(k, s, N, NULL, QN_TOK_SPECIAL, &n_ids);
            assert_true(n_ids > N / 16 && n_ids <= N + 1);
            free(ids);
        }
        tok_close(k);
    }
    alarm(0);
    vocab_free(&v);
    free(s);
}

/* ---- vocabularies that are refused */

struct refusal {
    const char *name;
    void (*spoil)(struct vocab *v);
    bool spm;
    int code;
    const char *says[3]; /* parts of the message */
};

static void no_model(struct vocab *v) { v->model = NULL; }
static void other_model(struct vocab *v) { v->model = "bert"; }
static void no_pre(struct vocab *v) { v->pre = NULL; }
static void other_pre(struct vocab *v) { v->pre = "tekken"; }
static void no_tokens(struct vocab *v) { v->n_tokens = -1; }
static void empty_tokens(struct vocab *v) { v->n_tokens = 0; }
static void short_types(struct vocab *v) { v->n_types = 5; }
static void wrong_type(struct vocab *v) { v->types[7] = 9; }
static void negative_type(struct vocab *v) { v->types[7] = -1; }
static void short_scores(struct vocab *v) { v->n_scores = 5; }
static void no_scores(struct vocab *v) { v->n_scores = -1; }
static void nan_score(struct vocab *v) { v->scores[260] = 0.0f / 0.0f; }
static void no_merges(struct vocab *v) { v->n_merges = -1; }
static void set_merge(struct vocab *v, const char *s) { v->merges[1] = (struct vocab_str){s, strlen(s)}; }
static void merge_no_space(struct vocab *v) { set_merge(v, "he"); }
static void merge_two_spaces(struct vocab *v) { set_merge(v, "h e e"); }
static void merge_empty(struct vocab *v) { set_merge(v, ""); }
static void merge_no_left(struct vocab *v) { set_merge(v, " he"); }
static void merge_no_right(struct vocab *v) { set_merge(v, "he "); }
static void merge_unknown_left(struct vocab *v) { set_merge(v, "qq e"); }
static void merge_unknown_right(struct vocab *v) { set_merge(v, "h qq"); }
static void merge_unknown_result(struct vocab *v) { set_merge(v, "q z"); }
static void merge_not_utf8(struct vocab *v) { set_merge(v, "\xFF e"); }
static void set_token(struct vocab *v, const char *s) { v->tokens[300 - 40] = (struct vocab_str){s, strlen(s)}; }
static void twice(struct vocab *v) { set_token(v, "<think>"); }
static void not_utf8(struct vocab *v) { set_token(v, "a\xED\xA0\x80"); }
static void not_a_byte(struct vocab *v) { v->types[260] = 6; }
static void bos_outside(struct vocab *v) { v->ids[0].id = (uint32_t)v->n_tokens; }
static void eos_outside(struct vocab *v) { v->ids[1].id = UINT32_MAX; }

static const struct refusal refusals[] = {
    {"model/missing", no_model, false, QN_E_FORMAT, {"tokenizer.ggml.model", "missing"}},
    {"model/unknown", other_model, false, QN_E_UNSUPPORTED, {"bert", "gpt2", "llama"}},
    {"pre/missing", no_pre, false, QN_E_UNSUPPORTED, {"tokenizer.ggml.pre", "qwen35", "llama-bpe"}},
    {"pre/unknown", other_pre, false, QN_E_UNSUPPORTED, {"tekken", "qwen35", "llama-bpe"}},
    {"tokens/missing", no_tokens, false, QN_E_FORMAT, {"tokenizer.ggml.tokens", "missing"}},
    {"tokens/empty", empty_tokens, false, QN_E_FORMAT, {"tokenizer.ggml.tokens", "empty"}},
    {"tokens/twice", twice, false, QN_E_FORMAT, {"<think>", "260", "266"}},
    {"tokens/not_utf8", not_utf8, false, QN_E_FORMAT, {"tokenizer.ggml.tokens", "260", "UTF-8"}},
    {"token_type/length", short_types, false, QN_E_FORMAT, {"tokenizer.ggml.token_type", "5", "269"}},
    {"token_type/unknown", wrong_type, false, QN_E_FORMAT, {"tokenizer.ggml.token_type", "7", "9"}},
    {"token_type/negative", negative_type, false, QN_E_FORMAT, {"tokenizer.ggml.token_type", "7", "-1"}},
    {"token_type/no_byte", not_a_byte, true, QN_E_FORMAT, {"260", "byte", "<0x00>"}},
    {"scores/length", short_scores, true, QN_E_FORMAT, {"tokenizer.ggml.scores", "5", "269"}},
    {"scores/length_bpe", short_scores, false, QN_E_FORMAT, {"tokenizer.ggml.scores", "5", "269"}},
    {"scores/missing", no_scores, true, QN_E_FORMAT, {"tokenizer.ggml.scores", "missing"}},
    {"scores/nan", nan_score, true, QN_E_FORMAT, {"tokenizer.ggml.scores", "260"}},
    {"merges/missing", no_merges, false, QN_E_FORMAT, {"tokenizer.ggml.merges", "missing"}},
    {"merges/no_space", merge_no_space, false, QN_E_FORMAT, {"tokenizer.ggml.merges", "entry 1", "\"he\""}},
    {"merges/two_spaces", merge_two_spaces, false, QN_E_FORMAT, {"tokenizer.ggml.merges", "entry 1", "h e e"}},
    {"merges/empty", merge_empty, false, QN_E_FORMAT, {"tokenizer.ggml.merges", "entry 1"}},
    {"merges/no_left", merge_no_left, false, QN_E_FORMAT, {"tokenizer.ggml.merges", "entry 1"}},
    {"merges/no_right", merge_no_right, false, QN_E_FORMAT, {"tokenizer.ggml.merges", "entry 1"}},
    {"merges/unknown_left", merge_unknown_left, false, QN_E_FORMAT, {"entry 1", "qq e", "left"}},
    {"merges/unknown_right", merge_unknown_right, false, QN_E_FORMAT, {"entry 1", "h qq", "right"}},
    {"merges/unknown_result", merge_unknown_result, false, QN_E_FORMAT, {"entry 1", "q z", "makes"}},
    {"merges/not_utf8", merge_not_utf8, false, QN_E_FORMAT, {"tokenizer.ggml.merges", "entry 1", "left"}},
    {"ids/bos", bos_outside, false, QN_E_FORMAT, {"tokenizer.ggml.bos_token_id", "269"}},
    {"ids/eos", eos_outside, false, QN_E_FORMAT, {"tokenizer.ggml.eos_token_id", "4294967295", "269"}},
};

static void refuse(void **state)
{
    const struct refusal *r = *state;
    struct vocab v;
    if (r->spm)
        vocab_spm(&v);
    else
        vocab_bpe(&v, "qwen2");
    struct tok *k = open_vocab(&v, NULL);
    assert_non_null(k); /* right before it is spoilt */
    tok_close(k);
    r->spoil(&v);
    assert_null(open_vocab(&v, NULL));
    assert_int_equal(err.code, r->code);
    assert_non_null(strstr(err.text, "vocab.gguf"));
    for (int i = 0; i < 3 && r->says[i]; i++)
        if (!strstr(err.text, r->says[i]))
            fail_msg("\"%s\" is not in the message: %s", r->says[i], err.text);
    vocab_free(&v);
}

static void accept_oddities(void **state)
{
    struct vocab v;
    vocab_bpe(&v, "no such pattern");
    v.n_types = -1; /* all normal */
    v.tokens[267] = v.tokens[268] = (struct vocab_str){"", 0}; /* padding */
    v.merges[v.n_merges++] = (struct vocab_str){"t h", 3}; /* said twice */
    assert_null(open_vocab(&v, "nor this"));
    assert_int_equal(err.code, QN_E_ARGUMENT);
    assert_non_null(strstr(err.text, "qwen35"));
    struct tok *k = open_vocab(&v, "gpt2");
    assert_non_null(k);
    check_spelled(k, "the", NULL, 0, "the");
    check_spelled(k, "<s>", NULL, QN_TOK_SPECIAL, "<|s|>");
    tok_close(k);
    vocab_free(&v);
    tok_close(NULL);
}

int main(void)
{
    enum { N_REFUSALS = sizeof refusals / sizeof *refusals, N_ORACLES = sizeof oracles / sizeof *oracles };
    static struct CMUnitTest hostile[N_REFUSALS], goldens[N_ORACLES];
    for (int i = 0; i < N_REFUSALS; i++)
        hostile[i] = (struct CMUnitTest){refusals[i].name, refuse, NULL, NULL, (void *)(uintptr_t)&refusals[i]};
    for (int i = 0; i < N_ORACLES; i++)
        goldens[i] = (struct CMUnitTest){oracles[i].rows, oracle_rows, NULL, NULL, (void *)(uintptr_t)&oracles[i]};
    const struct CMUnitTest tests[] = {
        {"hash/qwen2", hash_qwen2, NULL, NULL, NULL},
        {"hash/qwen35", hash_qwen35, NULL, NULL, NULL},
        {"bpe/merges", bpe_merges, NULL, NULL, NULL},
        {"bpe/add_bos", bpe_add_bos, NULL, NULL, NULL},
        {"bpe/whole_words", bpe_whole_words, NULL, NULL, NULL},
        {"bpe/missing_byte", bpe_missing_byte, NULL, NULL, NULL},
        {"spm/pieces", spm_pieces, NULL, NULL, NULL},
        {"special/control", special_control, NULL, NULL, NULL},
        {"special/mask", special_mask, NULL, NULL, NULL},
        {"special/user_defined", special_user_defined, NULL, NULL, NULL},
        {"special/nested", special_nested, NULL, NULL, NULL},
        {"special/cuts_text", special_cuts_text, NULL, NULL, NULL},
        {"special/stop_set", special_stop_set, NULL, NULL, NULL},
        {"special/many", special_many, NULL, NULL, NULL},
        {"bytes/of_tokens", bytes_of_tokens, NULL, NULL, NULL},
        {"detok/whole_characters", detok_whole_characters, NULL, NULL, NULL},
        {"detok/spm_space", detok_spm_space, NULL, NULL, NULL},
        {"round_trip/random", round_trip_random, NULL, NULL, NULL},
        {"hostile/texts", hostile_texts, NULL, NULL, NULL},
        {"open/oddities", accept_oddities, NULL, NULL, NULL},
    };
    int failed = cmocka_run_group_tests_name("tokenizer refusals", hostile, NULL, NULL);
    failed += cmocka_run_group_tests_name("tokenizer", tests, NULL, NULL);
    failed += cmocka_run_group_tests_name("tokenizer oracle", goldens, NULL, NULL);
    return failed != 0;
}
