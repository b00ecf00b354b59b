/* SPDX-License-Identifier: MIT */
/* The GGUF reader: files that are right (the hash models, compared with stored hashes; a split one), and files that are
 * wrong in every way we know, each with the message that it must give. */
#include "bytes.h"
#include "gguf.h"
#include "gguf_walk.h"
#include "golden.h"
#include "hashmodel.h"
#include "quant/quant.h"
#include "testing.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

/* ---- a small file, with the places that the cases below overwrite */

enum mark {
    M_END, /* no patch */
    M_MAGIC,
    M_VERSION,
    M_N_TENSORS,
    M_N_KV,
    M_KEY_LENGTH, /* of general.architecture */
    M_KEY, /* its first byte */
    M_VALUE_LENGTH, /* its value */
    M_ALIGNMENT_KIND,
    M_ALIGNMENT,
    M_BOOL_KEY, /* first byte of a.flag */
    M_BOOL_KIND,
    M_BOOL,
    M_LIST_KEY, /* first byte of a.list: i32[3] */
    M_LIST_ELEMENT,
    M_LIST_N,
    M_WORDS_N, /* a.words: string[2] */
    M_WORD_LENGTH, /* its second string */
    M_BOOLS, /* a.bools: bool[2], first value */
    M_ONE_LENGTH, /* w.one: F32 [4, 2] */
    M_ONE_NAME,
    M_ONE_DIMS,
    M_ONE_NE0,
    M_ONE_NE1,
    M_ONE_TYPE,
    M_ONE_OFFSET,
    M_TWO_NAME, /* w.two: Q4_0 [64, 2] */
    M_TWO_NE0,
    M_TWO_TYPE,
    M_TWO_OFFSET,
    M_SIX_NE0, /* w.six: F16 [2, 2, 2] */
    M_SIX_NE1,
    M_SIX_NE2,
    M_SIX_OFFSET,
    M_COUNT
};

struct image {
    uint8_t data[2048];
    size_t n, at[M_COUNT];
    size_t header; /* bytes in front of the padding */
};

static void put(struct image *m, const void *p, size_t n)
{
    assert_true(m->n + n <= sizeof m->data);
    memcpy(m->data + m->n, p, n);
    m->n += n;
}

static void put_u32(struct image *m, enum mark mark, uint32_t v)
{
    m->at[mark] = m->n;
    put(m, &v, sizeof v);
}

static void put_u64(struct image *m, enum mark mark, uint64_t v)
{
    m->at[mark] = m->n;
    put(m, &v, sizeof v);
}

static void put_str(struct image *m, enum mark length, enum mark bytes, const char *s)
{
    put_u64(m, length, strlen(s));
    m->at[bytes] = m->n;
    put(m, s, strlen(s));
}

static void put_tensor(struct image *m, enum mark length, enum mark name, enum mark n_dims, enum mark ne0,
                       enum mark type, const char *text, int dims, const uint64_t *ne, uint32_t id, uint64_t offset)
{
    put_str(m, length, name, text);
    put_u32(m, n_dims, (uint32_t)dims);
    for (int d = 0; d < dims; d++)
        put_u64(m, ne0 ? (enum mark)(ne0 + d) : M_END, ne[d]);
    put_u32(m, type, id);
    put_u64(m, M_END, offset);
}

static void image_make_kv(struct image *m)
{
    put_str(m, M_KEY_LENGTH, M_KEY, "general.architecture");
    put_u32(m, M_END, GGUF_STR);
    put_str(m, M_VALUE_LENGTH, M_END, "llama");
    put_str(m, M_END, M_END, "general.alignment");
    put_u32(m, M_ALIGNMENT_KIND, GGUF_U32);
    put_u32(m, M_ALIGNMENT, 32);
    put_str(m, M_END, M_BOOL_KEY, "a.flag");
    put_u32(m, M_BOOL_KIND, GGUF_BOOL);
    m->at[M_BOOL] = m->n;
    put(m, "\1", 1);
    put_str(m, M_END, M_LIST_KEY, "a.list");
    put_u32(m, M_END, GGUF_ARR);
    put_u32(m, M_LIST_ELEMENT, GGUF_I32);
    put_u64(m, M_LIST_N, 3);
    put(m, (int32_t[]){7, -8, 9}, 12);
    put_str(m, M_END, M_END, "a.words");
    put_u32(m, M_END, GGUF_ARR);
    put_u32(m, M_END, GGUF_STR);
    put_u64(m, M_WORDS_N, 2);
    put_str(m, M_END, M_END, "first");
    put_str(m, M_WORD_LENGTH, M_END, "second");
    put_str(m, M_END, M_END, "a.bools");
    put_u32(m, M_END, GGUF_ARR);
    put_u32(m, M_END, GGUF_BOOL);
    put_u64(m, M_END, 2);
    m->at[M_BOOLS] = m->n;
    put(m, "\0\1", 2);
}

static struct image image_make(void)
{
    struct image m = {0};
    m.at[M_MAGIC] = 0;
    put(&m, "GGUF", 4);
    put_u32(&m, M_VERSION, 3);
    put_u64(&m, M_N_TENSORS, 3);
    put_u64(&m, M_N_KV, 6);
    image_make_kv(&m);
    /* data: w.one 32 bytes at 0, w.two 72 bytes at 32, w.six 16 bytes at 128 */
    put_tensor(&m, M_ONE_LENGTH, M_ONE_NAME, M_ONE_DIMS, M_ONE_NE0, M_ONE_TYPE, "w.one", 2, (uint64_t[]){4, 2}, QN_F32,
               0);
    m.at[M_ONE_OFFSET] = m.n - 8;
    put_tensor(&m, M_END, M_TWO_NAME, M_END, M_TWO_NE0, M_END, "w.two", 2, (uint64_t[]){64, 2}, QN_Q4_0, 32);
    m.at[M_TWO_OFFSET] = m.n - 8;
    m.at[M_TWO_TYPE] = m.n - 12;
    put_tensor(&m, M_END, M_END, M_END, M_SIX_NE0, M_END, "w.six", 3, (uint64_t[]){2, 2, 2}, QN_F16, 128);
    m.at[M_SIX_OFFSET] = m.n - 8;
    m.header = m.n;
    while (m.n % 32)
        put(&m, "", 1);
    for (uint8_t i = 0; i < 144; i++)
        put(&m, &i, 1);
    return m;
}

/* ---- refusals */

enum { N_PATCHES = 3, N_WORDS = 4 };
struct refusal {
    const char *name;
    struct {
        enum mark mark;
        int width; /* bytes */
        uint64_t value;
    } patch[N_PATCHES];
    int code;
    const char *words[N_WORDS]; /* that the message must hold, besides the file's name */
};

#define HUGE_COUNT ((uint64_t)1 << 62)
#define A_LIST     0x7473696c2e61 /* the bytes of "a.list" */
#define W_ONE      0x656e6f2e77 /* the bytes of "w.one" */
/* clang-format off */
static const struct refusal refusals[] = {
    {"refuse/magic", {{M_MAGIC, 1, 'X'}}, QN_E_FORMAT, {"not a GGUF file", "58 47 55 46", "47 47 55 46"}},
    {"refuse/version_0", {{M_VERSION, 4, 0}}, QN_E_UNSUPPORTED, {"version 0", "2 and 3"}},
    {"refuse/version_1", {{M_VERSION, 4, 1}}, QN_E_UNSUPPORTED, {"version 1", "2 and 3"}},
    {"refuse/version_4", {{M_VERSION, 4, 4}}, QN_E_UNSUPPORTED, {"version 4", "2 and 3"}},
    {"refuse/big_endian", {{M_VERSION, 4, 0x03000000}}, QN_E_UNSUPPORTED, {"big-endian", "version 3"}},
    {"refuse/kv_count_huge", {{M_N_KV, 8, HUGE_COUNT}}, QN_E_FORMAT, {"4611686018427387904 keys", "65536", "bytes are left"}},
    {"refuse/kv_count_past_end", {{M_N_KV, 8, 1000}}, QN_E_FORMAT, {"1000 keys", "bytes are left"}},
    {"refuse/kv_count_one_more", {{M_N_KV, 8, 7}}, QN_E_FORMAT, {"tensor 1 of 3", "truncated", "bytes wanted"}},
    {"refuse/tensor_count_huge", {{M_N_TENSORS, 8, HUGE_COUNT}}, QN_E_FORMAT, {"4611686018427387904 tensors", "1048576"}},
    {"refuse/tensor_count_past_end", {{M_N_TENSORS, 8, 1000}}, QN_E_FORMAT, {"1000 tensors", "bytes are left"}},
    {"refuse/key_length_zero", {{M_KEY_LENGTH, 8, 0}}, QN_E_FORMAT, {"key 1 of 6", "name of 0 bytes", "1..65535"}},
    {"refuse/key_length_past_end", {{M_KEY_LENGTH, 8, 5000}}, QN_E_FORMAT, {"key 1 of 6", "5000 bytes", "offset 32", "the file has"}},
    {"refuse/key_length_overflow", {{M_KEY_LENGTH, 8, UINT64_MAX}}, QN_E_FORMAT, {"key 1 of 6", "18446744073709551615 bytes"}},
    {"refuse/key_nul", {{M_KEY, 1, 0}}, QN_E_FORMAT, {"key 1 of 6", "NUL", "byte 0 of 20"}},
    {"refuse/key_not_utf8", {{M_KEY, 1, 0xff}}, QN_E_FORMAT, {"key 1 of 6", "UTF-8", "byte 0 of 20", "ff"}},
    {"refuse/key_twice", {{M_BOOL_KEY, 6, A_LIST}}, QN_E_FORMAT, {"key a.list", "twice", "entries 3 and 4"}},
    {"refuse/value_kind", {{M_BOOL_KIND, 4, 13}}, QN_E_FORMAT, {"key a.flag", "type 13", "0..12"}},
    {"refuse/value_length", {{M_VALUE_LENGTH, 8, 4000}}, QN_E_FORMAT, {"key general.architecture", "4000 bytes", "the file has"}},
    {"refuse/bool_value", {{M_BOOL, 1, 2}}, QN_E_FORMAT, {"key a.flag", "bool 0 is 2", "0 or 1"}},
    {"refuse/bool_array_value", {{M_BOOLS, 1, 7}}, QN_E_FORMAT, {"key a.bools", "bool 0 is 7"}},
    {"refuse/array_of_arrays", {{M_LIST_ELEMENT, 4, GGUF_ARR}}, QN_E_FORMAT, {"key a.list", "array of arrays"}},
    {"refuse/array_element_kind", {{M_LIST_ELEMENT, 4, 99}}, QN_E_FORMAT, {"key a.list", "type 99"}},
    {"refuse/array_count_past_end", {{M_LIST_N, 8, 1000}}, QN_E_FORMAT, {"key a.list", "1000 i32 elements", "bytes are left"}},
    {"refuse/array_count_overflow", {{M_LIST_N, 8, HUGE_COUNT}}, QN_E_FORMAT, {"key a.list", "4611686018427387904 i32"}},
    {"refuse/strings_count_past_end", {{M_WORDS_N, 8, 500}}, QN_E_FORMAT, {"key a.words", "500 string elements", "bytes are left"}},
    {"refuse/strings_count_overflow", {{M_WORDS_N, 8, UINT64_MAX}}, QN_E_FORMAT, {"key a.words", "18446744073709551615 string"}},
    {"refuse/string_length", {{M_WORD_LENGTH, 8, UINT64_MAX - 7}}, QN_E_FORMAT, {"key a.words", "18446744073709551608 bytes"}},
    {"refuse/alignment_24", {{M_ALIGNMENT, 4, 24}}, QN_E_FORMAT, {"key general.alignment is 24", "power of two"}},
    {"refuse/alignment_0", {{M_ALIGNMENT, 4, 0}}, QN_E_FORMAT, {"key general.alignment is 0", "8..1048576"}},
    {"refuse/alignment_huge", {{M_ALIGNMENT, 4, 0x80000000}}, QN_E_FORMAT, {"key general.alignment is 2147483648", "8..1048576"}},
    {"refuse/alignment_kind", {{M_ALIGNMENT_KIND, 4, GGUF_F32}}, QN_E_FORMAT, {"key general.alignment", "f32", "integer"}},
    {"refuse/alignment_of_offsets", {{M_ALIGNMENT, 4, 64}}, QN_E_FORMAT, {"tensor w.two", "offset 32", "alignment 64"}},
    {"refuse/tensor_name_length", {{M_ONE_LENGTH, 8, 65}}, QN_E_FORMAT, {"tensor 1 of 3", "name of 65 bytes", "1..64"}},
    {"refuse/tensor_name_past_end", {{M_ONE_LENGTH, 8, 10000}}, QN_E_FORMAT, {"tensor 1 of 3", "10000 bytes", "the file has"}},
    {"refuse/tensor_name_nul", {{M_ONE_NAME, 1, 0}}, QN_E_FORMAT, {"tensor 1 of 3", "NUL", "byte 0 of 5"}},
    {"refuse/tensor_name_not_utf8", {{M_ONE_NAME, 1, 0x80}}, QN_E_FORMAT, {"tensor 1 of 3", "UTF-8", "byte 0 of 5", "80"}},
    {"refuse/tensor_twice", {{M_TWO_NAME, 5, W_ONE}}, QN_E_FORMAT, {"tensor w.one", "twice", "entries 1 and 2"}},
    {"refuse/dims_0", {{M_ONE_DIMS, 4, 0}}, QN_E_FORMAT, {"tensor w.one", "0 dimensions", "1..4"}},
    {"refuse/dims_5", {{M_ONE_DIMS, 4, 5}}, QN_E_FORMAT, {"tensor w.one", "5 dimensions", "1..4"}},
    {"refuse/dimension_0", {{M_ONE_NE1, 8, 0}}, QN_E_FORMAT, {"tensor w.one", "dimension 1 is 0", "1..2147483647"}},
    {"refuse/dimension_negative", {{M_ONE_NE0, 8, UINT64_MAX}}, QN_E_FORMAT, {"tensor w.one", "dimension 0 is 18446744073709551615"}},
    {"refuse/dimension_2^31", {{M_ONE_NE0, 8, 0x80000000}}, QN_E_FORMAT, {"tensor w.one", "dimension 0 is 2147483648"}},
    {"refuse/elements_overflow", {{M_SIX_NE0, 8, INT32_MAX}, {M_SIX_NE1, 8, INT32_MAX}, {M_SIX_NE2, 8, INT32_MAX}},
        QN_E_FORMAT, {"tensor w.six", "number of elements overflows", "2147483647"}},
    {"refuse/bytes_overflow", {{M_SIX_NE0, 8, INT32_MAX}, {M_SIX_NE1, 8, INT32_MAX}, {M_SIX_NE2, 8, 3}},
        QN_E_FORMAT, {"tensor w.six", "number of bytes overflows", "F16"}},
    {"refuse/extent_overflow", {{M_SIX_OFFSET, 8, UINT64_MAX - 31}}, QN_E_FORMAT, {"tensor w.six", "18446744073709551584", "overflow"}},
    {"refuse/type_q4_2", {{M_ONE_TYPE, 4, 4}}, QN_E_UNSUPPORTED, {"tensor w.one", "type 4"}},
    {"refuse/type_64", {{M_ONE_TYPE, 4, 64}}, QN_E_UNSUPPORTED, {"tensor w.one", "type 64"}},
    {"refuse/type_huge", {{M_TWO_TYPE, 4, UINT32_MAX}}, QN_E_UNSUPPORTED, {"tensor w.two", "type 4294967295"}},
    {"refuse/row_not_whole_blocks", {{M_TWO_NE0, 8, 65}}, QN_E_FORMAT, {"tensor w.two", "rows of 65", "Q4_0 has blocks of 32"}},
    {"refuse/offset_unaligned", {{M_TWO_OFFSET, 8, 33}}, QN_E_FORMAT, {"tensor w.two", "offset 33", "alignment 32"}},
    {"refuse/offset_past_end", {{M_SIX_OFFSET, 8, 160}}, QN_E_FORMAT, {"tensor w.six", "ends at byte", "the file has"}},
    {"refuse/offset_overlap", {{M_TWO_OFFSET, 8, 0}}, QN_E_FORMAT, {"tensor w.", "overlaps tensor w.", "ends at"}},
    {"refuse/data_past_end", {{M_SIX_NE2, 8, 3}}, QN_E_FORMAT, {"tensor w.six", "ends at byte", "the file has"}},
};
/* clang-format on */

static void expect_refusal(const char *path, bool vocab_only, int code, const char *const *words, int n_words)
{
    struct qn_error err = {0};
    struct gguf *g = (void *)&err;
    int e = gguf_open(&g, path, vocab_only, &err);
    if (e == 0) {
        gguf_close(g);
        fail_msg("%s was opened", path);
    }
    assert_null(g);
    if (e != code || err.code != code)
        fail_msg("code %d (err.code %d), wanted %d: %s", e, err.code, code, err.text);
    if (strchr(err.text, '\n') || !strstr(err.text, ".gguf"))
        fail_msg("not one line that names the file: %s", err.text);
    for (int i = 0; i < n_words && words[i]; i++)
        if (!strstr(err.text, words[i]))
            fail_msg("no \"%s\" in: %s", words[i], err.text);
}

static void refuse(void **state)
{
    const struct refusal *c = *state;
    struct image m = image_make();
    assert_non_null(c->words[0]);
    for (int i = 0; i < N_PATCHES && c->patch[i].width; i++)
        memcpy(m.data + m.at[c->patch[i].mark], &c->patch[i].value, (size_t)c->patch[i].width);
    const char *path = test_tmp("refuse.gguf");
    test_write(path, m.data, m.n);
    expect_refusal(path, false, c->code, c->words, N_WORDS);
}

static struct gguf *must_open(const char *path, bool vocab_only)
{
    struct qn_error err;
    struct gguf *g;
    if (gguf_open(&g, path, vocab_only, &err))
        fail_msg("%s", err.text);
    return g;
}

static struct gguf *open_image(const struct image *m, bool vocab_only)
{
    const char *path = test_tmp("image.gguf");
    test_write(path, m->data, m->n);
    return must_open(path, vocab_only);
}

static void accept_image(void **state)
{
    (void)state;
    struct image m = image_make();
    for (uint32_t version = 2; version <= 3; version++) {
        memcpy(m.data + m.at[M_VERSION], &version, 4);
        struct gguf *g = open_image(&m, false);
        assert_int_equal(g->n_kv, 6);
        assert_int_equal(g->n_tensors, 3);
        assert_int_equal(g->n_parts, 1);
        const struct gguf_tensor *t = gguf_tensor_find(g, "w.two");
        assert_non_null(t);
        assert_int_equal(t->type, QN_Q4_0);
        assert_int_equal(t->n_dims, 2);
        assert_int_equal(t->ne[0], 64);
        assert_int_equal(t->ne[1], 2);
        assert_int_equal(t->ne[2], 1);
        assert_int_equal(t->ne[3], 1);
        assert_int_equal(t->bytes, 72);
        for (int i = 0; i < 72; i++)
            assert_int_equal(t->data[i], 32 + i);
        assert_int_equal(gguf_tensor_find(g, "w.six")->data[0], 128);
        assert_null(gguf_tensor_find(g, "w.seven"));
        assert_int_not_equal(gguf_walk(g), 0);
        gguf_close(g);
    }
}

/* Tensors may lie in any order, with gaps. */
static void accept_any_order(void **state)
{
    (void)state;
    struct image m = image_make();
    uint64_t one = 128, six = 0;
    memcpy(m.data + m.at[M_ONE_OFFSET], &one, 8);
    memcpy(m.data + m.at[M_SIX_OFFSET], &six, 8);
    m.n += 16; /* w.one has 32 bytes */
    struct gguf *g = open_image(&m, false);
    assert_int_equal(gguf_tensor_find(g, "w.one")->data[0], 128);
    assert_int_equal(gguf_tensor_find(g, "w.six")->data[0], 0);
    gguf_close(g);
}

/* Every prefix is refused; one that holds the whole header is enough for a vocabulary. */
static void truncate_everywhere(void **state)
{
    (void)state;
    struct image m = image_make();
    const char *path = test_tmp("short.gguf");
    for (size_t n = 0; n < m.n; n++) {
        test_write(path, m.data, n);
        /* counts are compared with the bytes that are left before their entries are read */
        struct qn_error err = {0};
        struct gguf *g;
        assert_int_equal(gguf_open(&g, path, false, &err), QN_E_FORMAT);
        if (!strstr(err.text, "truncated") && !strstr(err.text, "bytes are left"))
            fail_msg("cut at %zu: %s", n, err.text);
        if (n < m.header)
            expect_refusal(path, true, QN_E_FORMAT, NULL, 0);
        else
            gguf_close(must_open(path, true));
    }
}

static void truncate_with_numbers(void **state)
{
    (void)state;
    struct image m = image_make();
    const char *path = test_tmp("short.gguf");
    char size[32];
    test_write(path, m.data, 6);
    expect_refusal(path, false, QN_E_FORMAT, (const char *[]){"the header", "4 bytes", "offset 4", "has 6 bytes"}, 4);
    size_t n = m.at[M_WORD_LENGTH] + 10;
    test_write(path, m.data, n);
    snprintf(size, sizeof size, "the file has %zu bytes", n);
    expect_refusal(path, false, QN_E_FORMAT, (const char *[]){"key a.words", "6 bytes wanted", size}, 3);
    test_write(path, m.data, m.at[M_TWO_TYPE] + 3);
    expect_refusal(path, false, QN_E_FORMAT, (const char *[]){"tensor w.two", "4 bytes wanted"}, 2);
    test_write(path, m.data, m.n - 1);
    snprintf(size, sizeof size, "ends at byte %zu, the file has %zu", m.n, m.n - 1);
    expect_refusal(path, false, QN_E_FORMAT, (const char *[]){"tensor w.six", size}, 2);
}

/* Whatever the bytes are: an error or a file whose every value can be read. */
static void random_flips(void **state)
{
    (void)state;
    enum { ROUNDS = 20000 };
    const uint64_t seed = 20260815;
    const char *path = test_tmp("flip.gguf");
    int opened = 0;
    for (uint64_t i = 0; i < ROUNDS; i++) {
        struct image m = image_make();
        uint64_t r = hash_splitmix64(seed + i);
        for (int k = 0; k <= (int)(r >> 62); k++) {
            uint64_t x = hash_splitmix64(r + (uint64_t)k);
            /* half of the flips set a byte to a value that tends to matter */
            static const uint8_t often[] = {0, 1, 4, 8, 9, 0x7f, 0x80, 0xff};
            m.data[x % m.header] = x >> 63 ? often[x >> 40 & 7] : (uint8_t)(x >> 48);
        }
        if (hash_splitmix64(r) % 4 == 0)
            m.n = hash_splitmix64(r + 99) % m.n;
        test_write(path, m.data, m.n);
        for (int vocab_only = 0; vocab_only < 2; vocab_only++) {
            struct qn_error err = {0};
            struct gguf *g;
            if (gguf_open(&g, path, vocab_only, &err) == 0) {
                if (gguf_walk(g) == 0)
                    fail_msg("seed %llu round %llu: a name is not found, or a value lies outside",
                             (unsigned long long)seed, (unsigned long long)i);
                gguf_close(g);
                opened++;
            } else if (!err.text[0]) {
                fail_msg("seed %llu round %llu: no message", (unsigned long long)seed, (unsigned long long)i);
            }
        }
    }
    assert_in_range(opened, 100, 2 * ROUNDS - 100); /* both outcomes were seen */
}

static void no_file(void **state)
{
    (void)state;
    expect_refusal(test_tmp("missing.gguf"), false, QN_E_IO, (const char *[]){"No such file"}, 1);
}

/* ---- typed look-ups */

/* One key of every kind, and arrays. */
static struct gguf *open_values(void)
{
    struct image m = {0};
    static const uint64_t big = UINT64_MAX;
    static const int64_t small = INT64_MIN;
    static const double pi = 3.25;
    static const float half = 0.5f, nan_bits[1] = {__builtin_nanf("")};
    put(&m, "GGUF", 4);
    put_u32(&m, M_VERSION, 3);
    put_u64(&m, M_N_TENSORS, 0);
    put_u64(&m, M_N_KV, 15);
    const struct {
        const char *key;
        uint32_t kind;
        const void *p;
        size_t n;
    } scalar[] = {{"u8", GGUF_U8, "\xfe", 1},
                  {"i8", GGUF_I8, "\xfe", 1},
                  {"u16", GGUF_U16, "\xfe\xff", 2},
                  {"i16", GGUF_I16, "\xfe\xff", 2},
                  {"u32", GGUF_U32, "\xfe\xff\xff\xff", 4},
                  {"i32", GGUF_I32, "\xfe\xff\xff\xff", 4},
                  {"f32", GGUF_F32, &half, 4},
                  {"nan", GGUF_F32, nan_bits, 4},
                  {"bool", GGUF_BOOL, "\1", 1},
                  {"u64", GGUF_U64, &big, 8},
                  {"i64", GGUF_I64, &small, 8},
                  {"f64", GGUF_F64, &pi, 8}};
    for (size_t i = 0; i < sizeof scalar / sizeof *scalar; i++) {
        put_str(&m, M_END, M_END, scalar[i].key);
        put_u32(&m, M_END, scalar[i].kind);
        put(&m, scalar[i].p, scalar[i].n);
    }
    put_str(&m, M_END, M_END, "str");
    put_u32(&m, M_END, GGUF_STR);
    put_str(&m, M_END, M_END, "text");
    put_str(&m, M_END, M_END, "floats");
    put_u32(&m, M_END, GGUF_ARR);
    put_u32(&m, M_END, GGUF_F32);
    put_u64(&m, M_END, 2);
    put(&m, (float[]){1.5f, -2}, 8);
    put_str(&m, M_END, M_END, "empty");
    put_u32(&m, M_END, GGUF_ARR);
    put_u32(&m, M_END, GGUF_STR);
    put_u64(&m, M_END, 0);
    return open_image(&m, false);
}

static void expect_int(const struct gguf *g, const char *key, int64_t want)
{
    struct qn_error err;
    int64_t v = 0;
    if (gguf_get_int(g, key, INT64_MIN, INT64_MAX, &v, &err) != 1 || v != want)
        fail_msg("%s is %lld, wanted %lld", key, (long long)v, (long long)want);
}

static void get_scalars(void **state)
{
    (void)state;
    struct gguf *g = open_values();
    struct qn_error err;
    float f;
    bool b;
    struct gguf_str s;
    expect_int(g, "u8", 254);
    expect_int(g, "i8", -2);
    expect_int(g, "u16", 65534);
    expect_int(g, "i16", -2);
    expect_int(g, "u32", 4294967294);
    expect_int(g, "i32", -2);
    expect_int(g, "i64", INT64_MIN);
    assert_int_equal(gguf_get_f32(g, "f32", &f, &err), 1);
    assert_true(f == 0.5f);
    assert_int_equal(gguf_get_f32(g, "f64", &f, &err), 1);
    assert_true(f == 3.25f);
    assert_int_equal(gguf_get_f32(g, "i8", &f, &err), 1);
    assert_true(f == -2.0f);
    assert_int_equal(gguf_get_bool(g, "bool", &b, &err), 1);
    assert_true(b);
    assert_int_equal(gguf_get_str(g, "str", &s, &err), 1);
    assert_int_equal(s.n, 4);
    assert_memory_equal(s.s, "text", 4);
    gguf_close(g);
}

static void get_arrays(void **state)
{
    (void)state;
    struct gguf *g = open_values();
    struct qn_error err;
    const struct gguf_kv *kv;
    assert_int_equal(gguf_get_floats(g, "floats", &kv, &err), 1);
    assert_int_equal(kv->n, 2);
    assert_true(gguf_float_at(kv, 0) == 1.5 && gguf_float_at(kv, 1) == -2);
    assert_int_equal(gguf_get_strings(g, "empty", &kv, &err), 1);
    assert_int_equal(kv->n, 0);
    gguf_close(g);
    struct image m = image_make();
    g = open_image(&m, false);
    assert_int_equal(gguf_get_ints(g, "a.list", &kv, &err), 1);
    assert_int_equal(kv->n, 3);
    assert_true(gguf_int_at(kv, 0) == 7 && gguf_int_at(kv, 1) == -8 && gguf_int_at(kv, 2) == 9);
    assert_int_equal(gguf_get_ints(g, "a.bools", &kv, &err), 1);
    assert_true(gguf_int_at(kv, 0) == 0 && gguf_int_at(kv, 1) == 1);
    assert_int_equal(gguf_get_strings(g, "a.words", &kv, &err), 1);
    assert_int_equal(kv->strings[1].n, 6);
    assert_memory_equal(kv->strings[1].s, "second", 6);
    gguf_close(g);
}

static void expect_text(int e, const struct qn_error *err, const char *a, const char *b)
{
    assert_int_equal(e, QN_E_FORMAT);
    if (!strstr(err->text, a) || !strstr(err->text, b))
        fail_msg("no \"%s\" and \"%s\" in: %s", a, b, err->text);
}

static void get_refusals(void **state)
{
    (void)state;
    struct gguf *g = open_values();
    struct qn_error err;
    int64_t i = 77;
    float f = 77;
    bool b = true;
    struct gguf_str s = {0};
    const struct gguf_kv *kv = NULL;
    expect_text(gguf_get_int(g, "u8", 0, 253, &i, &err), &err, "key u8 is 254", "0..253");
    expect_text(gguf_get_int(g, "i8", -1, 9, &i, &err), &err, "key i8 is -2", "-1..9");
    expect_text(gguf_get_int(g, "u64", 0, INT64_MAX, &i, &err), &err, "key u64 is 18446744073709551615", "0..");
    expect_text(gguf_get_int(g, "f32", 0, 9, &i, &err), &err, "key f32 is of type f32", "an integer");
    expect_text(gguf_get_int(g, "bool", 0, 9, &i, &err), &err, "key bool is of type bool", "an integer");
    expect_text(gguf_get_int(g, "floats", 0, 9, &i, &err), &err, "array of f32", "an integer");
    expect_text(gguf_get_f32(g, "nan", &f, &err), &err, "key nan is", "finite");
    expect_text(gguf_get_f32(g, "str", &f, &err), &err, "key str is of type string", "a number");
    expect_text(gguf_get_bool(g, "u8", &b, &err), &err, "key u8 is of type u8", "a bool");
    expect_text(gguf_get_str(g, "empty", &s, &err), &err, "array of string", "a string");
    expect_text(gguf_get_strings(g, "str", &kv, &err), &err, "key str is of type string", "an array of strings");
    expect_text(gguf_get_ints(g, "floats", &kv, &err), &err, "array of f32", "an array of integers");
    expect_text(gguf_get_floats(g, "empty", &kv, &err), &err, "array of string", "an array of floats");
    assert_int_equal(gguf_get_int(g, "absent", 0, 9, &i, &err), 0);
    assert_int_equal(gguf_get_f32(g, "absent", &f, &err), 0);
    assert_int_equal(gguf_get_bool(g, "absent", &b, &err), 0);
    assert_int_equal(gguf_get_str(g, "absent", &s, &err), 0);
    assert_int_equal(gguf_get_strings(g, "absent", &kv, &err), 0);
    assert_true(i == 77 && f == 77 && b && !s.s && !kv); /* nothing was stored */
    assert_null(gguf_find(g, "absent"));
    gguf_close(g);
}

/* ---- the hash models: bytes as stored, and read back */

static json_t *load_hashes(const char *name)
{
    json_error_t err;
    json_t *j = json_load_file(test_data(name), 0, &err);
    if (!j)
        fail_msg("%s: %s", test_data(name), err.text);
    return j;
}

static void expect_xxh64(json_t *want, const void *p, size_t n, const char *what, const char *name)
{
    char hex[17];
    snprintf(hex, sizeof hex, "%016llx", (unsigned long long)XXH64(p, n, 0));
    if (!json_is_string(want) || strcmp(json_string_value(want), hex) != 0)
        fail_msg("%s %s: xxh64 %s, stored %s", what, name, hex,
                 json_is_string(want) ? json_string_value(want) : "none");
}

/* Returns the number of tensors whose own hash was stored and equal. */
static size_t check_model(json_t *hashes, const char *model, const char *type)
{
    char name[64];
    size_t size, n_equal = 0;
    snprintf(name, sizeof name, "%s-%s", model, type);
    json_t *entry = json_object_get(hashes, name), *tensors = json_object_get(entry, "tensors");
    uint8_t *data = hash_model_build(model, type, &size);
    assert_non_null(data);
    assert_int_equal(size, json_integer_value(json_object_get(entry, "size")));
    expect_xxh64(json_object_get(entry, "file"), data, size, "file", name);
    const char *path = test_tmp("model.gguf");
    test_write(path, data, size);
    free(data);
    struct gguf *g = must_open(path, false);
    struct gguf_str arch;
    struct qn_error err;
    assert_int_equal(gguf_get_str(g, "general.architecture", &arch, &err), 1);
    assert_memory_equal(arch.s, model, arch.n);
    for (size_t i = 0; tensors && i < g->n_tensors; i++, n_equal++)
        expect_xxh64(json_object_get(tensors, g->tensors[i].name), g->tensors[i].data, g->tensors[i].bytes, name,
                     g->tensors[i].name);
    assert_true(!tensors || g->n_tensors == json_object_size(tensors));
    assert_true(g->tensors[g->n_tensors - 1].data + g->tensors[g->n_tensors - 1].bytes <= g->parts[0].data + size);
    gguf_close(g);
    return n_equal;
}

static void hash_files_plain(void **state)
{
    (void)state;
    json_t *hashes = load_hashes("hash/xxh64.json");
    size_t files = 0, tensors = 0;
    for (int i = 0; hash_models[i]; i++) {
        tensors += check_model(hashes, hash_models[i], "f32");
        check_model(hashes, hash_models[i], "bf16");
        files += 2;
    }
    assert_int_equal(files, json_object_size(hashes));
    assert_in_range(tensors, 500, 5000);
    json_decref(hashes);
}

static void hash_files_quantized(void **state)
{
    (void)state;
    json_t *hashes = load_hashes("hash/hq_xxh64.json");
    size_t files = 0;
    for (int i = 0; hash_quant_types[i]; i++, files += 2) {
        check_model(hashes, "qwen35", hash_quant_types[i]);
        check_model(hashes, "qwen35moe", hash_quant_types[i]);
    }
    assert_int_equal(files, json_object_size(hashes));
    json_decref(hashes);
}

static void hash_prompts(void **state)
{
    (void)state;
    struct golden *g = golden_open("qwen3");
    assert_non_null(g);
    static const int lengths[] = {1, 7, 64, 65, 130, 200};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        char name[16];
        int32_t ids[200];
        size_t n;
        snprintf(name, sizeof name, "p%d_ids", lengths[i]);
        const int32_t *want = golden_i32(g, name, &n);
        assert_non_null(want);
        assert_int_equal(n, lengths[i]);
        hash_prompt(lengths[i], ids);
        assert_memory_equal(ids, want, n * sizeof *ids);
    }
    size_t n, shape[4];
    assert_non_null(golden_f32(g, "p65_last_logits", &n));
    assert_int_equal(n, 512);
    assert_int_equal(golden_shape(g, "p7_hidden", shape), 3);
    assert_true(shape[0] == 5 && shape[1] == 7 && shape[2] == 256);
    assert_false(golden_has(g, "p66_last_logits"));
    golden_close(g);
    assert_true(golden_yardstick("qwen35", "Q4_0", "ml", "kld_deq") > 0);
}

/* ---- split models */

enum { N_PARTS = 3 };

struct part_spec {
    int no, count, tensors; /* what the keys say */
    bool duplicate; /* repeat the first part's first tensor */
};

static void put_int(struct bytes *b, const char *key, enum gguf_kind kind, int32_t v)
{
    bytes_str(b, key);
    bytes_u32(b, kind);
    bytes_put(b, &v, kind == GGUF_U16 ? 2 : 4);
}

static bool in_part(const struct part_spec *spec, int part, size_t i)
{
    return (int)(i % N_PARTS) == part || (spec->duplicate && i == 0);
}

/* Part `part` of g, tensors dealt out in turn. */
static void write_part(const struct gguf *g, const char *path, int part, const struct part_spec *spec)
{
    struct bytes b = {0};
    uint64_t n_tensors = 0, offset = 0;
    for (size_t i = 0; i < g->n_tensors; i++)
        n_tensors += in_part(spec, part, i);
    bytes_gguf_head(&b, n_tensors, (part == 0 ? g->n_kv : 0) + 3);
    for (size_t i = 0; part == 0 && i < g->n_kv; i++)
        bytes_gguf_kv(&b, &g->kv[i]);
    put_int(&b, "split.no", GGUF_U16, spec->no);
    put_int(&b, "split.count", GGUF_U16, spec->count);
    put_int(&b, "split.tensors.count", GGUF_I32, spec->tensors);
    for (size_t i = 0; i < g->n_tensors; i++)
        if (in_part(spec, part, i)) {
            bytes_gguf_tensor(&b, &g->tensors[i], g->tensors[i].type, offset);
            offset += (g->tensors[i].bytes + 31) / 32 * 32;
        }
    for (size_t i = 0; i < g->n_tensors; i++)
        if (in_part(spec, part, i)) {
            bytes_pad(&b, 32);
            bytes_put(&b, g->tensors[i].data, g->tensors[i].bytes);
        }
    test_write(path, b.p, b.n);
    free(b.p);
}

static const char *part_path(int part)
{
    char name[64];
    snprintf(name, sizeof name, "split-%05d-of-%05d.gguf", part + 1, N_PARTS);
    return test_tmp(name);
}

/* All three parts; change, when not NULL, replaces the keys of part `which`. */
static void write_split(int which, const struct part_spec *change)
{
    struct gguf *g = must_open(hash_model_file("qwen35", "IQ1_S"), false);
    for (int part = 0; part < N_PARTS; part++) {
        struct part_spec spec = {.no = part, .count = N_PARTS, .tensors = (int)g->n_tensors};
        if (change && part == which) {
            spec = *change;
            if (spec.tensors == 0)
                spec.tensors = (int)g->n_tensors;
        }
        write_part(g, part_path(part), part, &spec);
    }
    gguf_close(g);
}

static void split_open(void **state)
{
    (void)state;
    write_split(0, NULL);
    struct gguf *whole = must_open(hash_model_file("qwen35", "IQ1_S"), false), *g = must_open(part_path(0), false);
    assert_int_equal(g->n_parts, N_PARTS);
    assert_int_equal(g->n_tensors, whole->n_tensors);
    assert_int_equal(g->n_kv, whole->n_kv + 3);
    for (size_t i = 0; i < whole->n_tensors; i++) {
        const struct gguf_tensor *a = &whole->tensors[i], *b = gguf_tensor_find(g, a->name);
        assert_non_null(b);
        assert_int_equal(b->part, i % N_PARTS);
        assert_int_equal(b->bytes, a->bytes);
        assert_memory_equal(b->data, a->data, a->bytes);
    }
    for (size_t i = 0; i < whole->n_kv; i++)
        for (size_t k = 0; k < whole->kv[i].n; k++)
            assert_true(gguf_walk_value(&whole->kv[i], k) == gguf_walk_value(gguf_find(g, whole->kv[i].key), k));
    gguf_close(g);
    gguf_close(whole);
}

static void split_vocab_only(void **state)
{
    (void)state;
    write_split(0, NULL);
    assert_int_equal(unlink(part_path(2)), 0);
    struct gguf *g = must_open(part_path(0), true);
    assert_int_equal(g->n_parts, 1);
    assert_non_null(gguf_find(g, "tokenizer.ggml.tokens"));
    gguf_close(g);
}

static void split_not_the_first(void **state)
{
    (void)state;
    write_split(0, NULL);
    const char *const words[] = {"part 2 of 3", "open the first", "split-00001-of-00003.gguf"};
    expect_refusal(part_path(1), false, QN_E_ARGUMENT, words, 3);
    expect_refusal(part_path(1), true, QN_E_ARGUMENT, words, 3);
}

static void split_part_missing(void **state)
{
    (void)state;
    write_split(0, NULL);
    assert_int_equal(unlink(part_path(1)), 0);
    expect_refusal(part_path(0), false, QN_E_IO,
                   (const char *[]){"part 2 of 3", "missing", "split-00002-of-00003.gguf"}, 3);
}

static void split_renamed(void **state)
{
    (void)state;
    write_split(0, NULL);
    const char *other = test_tmp("other.gguf");
    assert_int_equal(rename(part_path(0), other), 0);
    expect_refusal(other, false, QN_E_FORMAT, (const char *[]){"split.count is 3", "-00001-of-00003.gguf"}, 2);
}

static void split_wrong_keys(void **state)
{
    (void)state;
    static const struct {
        int part;
        struct part_spec spec;
        const char *words[N_WORDS];
    } cases[] = {
        {1, {2, 3, 0, false}, {"split-00002-of", "split.no is 2", "1 was expected"}},
        {2, {2, 4, 0, false}, {"split-00003-of", "split.count is 4", "has 3"}},
        {1, {1, 3, 5, false}, {"split-00002-of", "split.tensors.count is 5", "first part has"}},
        {1, {3, 3, 0, false}, {"split-00002-of", "split.no is 3", "0..2"}},
        {0, {0, 5000, 0, false}, {"split-00001-of", "split.count is 5000", "0..1024"}},
        {0, {0, 2, 0, false}, {"split-00001-of-00003", "split.count is 2", "-00001-of-00002.gguf"}},
        {2, {2, 3, 0, true}, {"tensor token_embd.weight", "twice", "parts 1 and 3"}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_split(cases[i].part, &cases[i].spec);
        if (cases[i].spec.duplicate) { /* keep the total right, so that the name is what is wrong */
            struct gguf *g = must_open(hash_model_file("qwen35", "IQ1_S"), false);
            int n = (int)g->n_tensors + 1;
            for (int part = 0; part < N_PARTS; part++)
                write_part(g, part_path(part), part, &(struct part_spec){part, N_PARTS, n, part == 2});
            gguf_close(g);
        }
        expect_refusal(part_path(0), false, QN_E_FORMAT, cases[i].words, N_WORDS);
    }
}

static void split_wrong_total(void **state)
{
    (void)state;
    struct gguf *g = must_open(hash_model_file("qwen35", "IQ1_S"), false);
    for (int part = 0; part < N_PARTS; part++)
        write_part(g, part_path(part), part, &(struct part_spec){part, N_PARTS, (int)g->n_tensors + 2, false});
    char has[64], says[64];
    snprintf(says, sizeof says, "split.tensors.count is %zu", g->n_tensors + 2);
    snprintf(has, sizeof has, "hold %zu tensors", g->n_tensors);
    gguf_close(g);
    expect_refusal(part_path(0), false, QN_E_FORMAT, (const char *[]){says, has}, 2);
}

/* A later part is as untrusted as the first. */
static void split_truncated_part(void **state)
{
    (void)state;
    write_split(0, NULL);
    const char *path = part_path(2);
    size_t size;
    char *data = test_read(path, &size);
    assert_non_null(data);
    test_write(path, data, size - 64);
    free(data);
    expect_refusal(part_path(0), false, QN_E_FORMAT,
                   (const char *[]){"split-00003-of-00003.gguf", "tensor ", "ends at byte"}, 3);
}

int main(void)
{
    enum { N_REFUSALS = sizeof refusals / sizeof *refusals };
    static struct CMUnitTest hostile[N_REFUSALS];
    for (int i = 0; i < N_REFUSALS; i++)
        hostile[i] = (struct CMUnitTest){refusals[i].name, refuse, NULL, NULL, (void *)(uintptr_t)&refusals[i]};
    const struct CMUnitTest tests[] = {
        {"open/image", accept_image, NULL, NULL, NULL},
        {"open/any_order", accept_any_order, NULL, NULL, NULL},
        {"open/no_file", no_file, NULL, NULL, NULL},
        {"truncate/everywhere", truncate_everywhere, NULL, NULL, NULL},
        {"truncate/with_numbers", truncate_with_numbers, NULL, NULL, NULL},
        {"flip/random", random_flips, NULL, NULL, NULL},
        {"get/scalars", get_scalars, NULL, NULL, NULL},
        {"get/arrays", get_arrays, NULL, NULL, NULL},
        {"get/refusals", get_refusals, NULL, NULL, NULL},
        {"split/open", split_open, NULL, NULL, NULL},
        {"split/vocab_only", split_vocab_only, NULL, NULL, NULL},
        {"split/not_the_first", split_not_the_first, NULL, NULL, NULL},
        {"split/part_missing", split_part_missing, NULL, NULL, NULL},
        {"split/renamed", split_renamed, NULL, NULL, NULL},
        {"split/wrong_keys", split_wrong_keys, NULL, NULL, NULL},
        {"split/wrong_total", split_wrong_total, NULL, NULL, NULL},
        {"split/truncated_part", split_truncated_part, NULL, NULL, NULL},
        {"hash/files_plain", hash_files_plain, NULL, NULL, NULL},
        {"hash/files_quantized", hash_files_quantized, NULL, NULL, NULL},
        {"hash/prompts", hash_prompts, NULL, NULL, NULL},
    };
    int failed = cmocka_run_group_tests_name("gguf refusals", hostile, NULL, NULL);
    failed += cmocka_run_group_tests_name("gguf", tests, NULL, NULL);
    return failed != 0;
}
