/* SPDX-License-Identifier: MIT */
/* UTF-8, the classes of all code points, NFC, and how patterns cut text into words.  The expected values come from the
 * reference tokenizers' library: tests/gen_unicode.py, tests/gen_pretok.py. */
#include "testing.h"
#include "tok.h"
#include "unicode.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static size_t encode(uint32_t c, char *out)
{
    uint8_t *o = (uint8_t *)out;
    if (c < 0x80)
        return o[0] = (uint8_t)c, 1;
    size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--, c >>= 6)
        o[i] = (uint8_t)(0x80 | (c & 0x3F));
    o[0] = (uint8_t)((0xF00 >> n) | c);
    return n;
}

static void classes_all_code_points(void **state)
{
    static uint8_t expected[0x110000];
    FILE *f = fopen(test_data("unicode_classes.txt"), "r");
    char line[128];
    int n_ranges = 0;
    assert_non_null(f);
    assert_non_null(fgets(line, sizeof line, f));
    while (fgets(line, sizeof line, f)) {
        unsigned first, last, class, nfc;
        assert_int_equal(sscanf(line, "%x %x %u %u", &first, &last, &class, &nfc), 4);
        assert_true(first <= last && last < 0x110000);
        memset(expected + first, (int)(class | nfc << 3), last - first + 1);
        n_ranges++;
    }
    fclose(f);
    assert_true(n_ranges > 1000);
    for (uint32_t c = 0; c < 0x110000; c++)
        if ((uni_class(c) | uni_nfc(c) << 3) != expected[c])
            fail_msg("U+%04X: class %d nfc %d, expected %d %d", c, uni_class(c), uni_nfc(c), expected[c] & 7,
                     expected[c] >> 3);
    assert_int_equal(uni_class('a'), UNI_LETTER);
    assert_int_equal(uni_class(' '), UNI_SPACE);
    assert_int_equal(uni_class(UNI_INVALID), UNI_OTHER);
    assert_int_equal(uni_class(UINT32_MAX), UNI_OTHER);
}

static void utf8_all_code_points(void **state)
{
    for (uint32_t c = 0; c < 0x110000; c++) {
        char s[5] = {0};
        uint32_t cp;
        size_t n = encode(c, s), len = utf8_decode(s, n, &cp);
        bool surrogate = c >= 0xD800 && c < 0xE000;
        if (len != (surrogate ? 1 : n) || cp != (surrogate ? UNI_INVALID : c))
            fail_msg("U+%04X: length %zu, U+%04X", c, len, cp);
        for (size_t k = 1; k < n && !surrogate; k++)
            if (utf8_unfinished(s, k) != k || utf8_decode(s, k, &cp) != 1 || cp != UNI_INVALID)
                fail_msg("U+%04X: %zu bytes of it", c, k);
        assert_int_equal(utf8_unfinished(s, n), 0);
    }
}

static void utf8_invalid(void **state)
{
    static const char *const bad[] = {"\x80",         "\xBF",         "\xC0\x80",     "\xC1\xBF",     "\xE0\x9F\xBF",
                                      "\xED\xA0\x80", "\xF0\x8F\xBF", "\xF4\x90\x80", "\xF5\x80\x80", "\xFF",
                                      "\xC3(",        "\xE2\x82(",    "\xF0\x9F\x98("};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        uint32_t cp;
        assert_int_equal(utf8_decode(bad[i], strlen(bad[i]), &cp), 1);
        assert_int_equal(cp, UNI_INVALID);
        assert_int_equal(utf8_unfinished(bad[i], strlen(bad[i])), 0);
    }
    assert_int_equal(utf8_unfinished("a\xF0\x9F\x98", 4), 3);
    assert_int_equal(utf8_unfinished("\xE2\x82\xAC\xE2", 4), 1);
    assert_int_equal(utf8_unfinished("", 0), 0);
}

static void check_nfc(const char *in, size_t n_in, const char *want, size_t n_want)
{
    struct qn_error err;
    char *out;
    size_t n;
    assert_int_equal(uni_normalize(in, n_in, &out, &n, &err), 0);
    const char *got = out ? out : in;
    n = out ? n : n_in;
    if (n != n_want || memcmp(got, want, n) != 0)
        fail_msg("NFC of \"%.*s\" is \"%.*s\", expected \"%.*s\"", (int)n_in, in, (int)n, got, (int)n_want, want);
    free(out);
}

static json_t *golden;

static void nfc_golden(void **state)
{
    json_t *list = json_object_get(golden, "nfc"), *row;
    size_t i;
    assert_true(json_array_size(list) > 300);
    json_array_foreach(list, i, row)
    {
        json_t *in = json_array_get(row, 0), *out = json_array_get(row, 1);
        check_nfc(json_string_value(in), json_string_length(in), json_string_value(out), json_string_length(out));
        check_nfc(json_string_value(out), json_string_length(out), json_string_value(out), json_string_length(out));
    }
}

/* Only valid stretches are normalized; what is invalid stays and keeps its neighbours apart. */
static void nfc_invalid(void **state)
{
    static const char in[] = "e\xCC\x81\xFF\xCC\x81"
                             "e\xCC\x81\xCC",
                      out[] = "\xC3\xA9\xFF\xCC\x81\xC3\xA9\xCC";
    check_nfc(in, sizeof in - 1, out, sizeof out - 1);
    check_nfc("\xFF\xFE", 2, "\xFF\xFE", 2);
    check_nfc("", 0, "", 0);
}

/* A million marks in the worst order. */
static void nfc_many_marks(void **state)
{
    enum { N = 250000 };
    char *s = malloc(4 * N), *want = malloc(4 * N);
    for (size_t i = 0; i < N; i++) {
        memcpy(s + 4 * i, "\xCC\x94\xCC\xA3", 4); /* classes 230 and 220 */
        memcpy(want + 2 * i, "\xCC\xA3", 2);
        memcpy(want + 2 * N + 2 * i, "\xCC\x94", 2);
    }
    alarm(100);
    check_nfc(s, 4 * N, want, 4 * N);
    alarm(0);
    free(s);
    free(want);
}

static void pretok_golden(void **state)
{
    json_t *list = json_object_get(golden, "words"), *row;
    size_t i;
    assert_true(json_array_size(list) > 300);
    json_array_foreach(list, i, row)
    {
        const char *pre = json_string_value(json_object_get(row, "pre"));
        const struct pretok *p = pretok_find(pre, strlen(pre));
        json_t *text = json_object_get(row, "text"), *lengths = json_object_get(row, "lengths");
        const char *s = json_string_value(text);
        size_t n = json_string_length(text), at = 0, w = 0;
        assert_non_null(p);
        for (; at < n; w++) {
            size_t len = pretok_next(p, s + at, n - at), want = (size_t)json_integer_value(json_array_get(lengths, w));
            if (len != want)
                fail_msg("%s: row %zu: word %zu has %zu bytes, expected %zu: \"%s\"", pre, i, w, len, want, s + at);
            at += len;
        }
        assert_int_equal(w, json_array_size(lengths));
    }
}

static void pretok_names_known(void **state)
{
    static const char *const names[] = {"gpt2", "gpt-2", "qwen2", "qwen35", "llama-bpe", "llama3", "llama-v3"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        assert_non_null(pretok_find(names[i], strlen(names[i])));
        assert_non_null(strstr(pretok_names(), names[i]));
    }
    assert_null(pretok_find("qwen", 4));
    assert_null(pretok_find("", 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        {"unicode/classes_all_code_points", classes_all_code_points, NULL, NULL, NULL},
        {"utf8/all_code_points", utf8_all_code_points, NULL, NULL, NULL},
        {"utf8/invalid", utf8_invalid, NULL, NULL, NULL},
        {"nfc/golden", nfc_golden, NULL, NULL, NULL},
        {"nfc/invalid", nfc_invalid, NULL, NULL, NULL},
        {"nfc/many_marks", nfc_many_marks, NULL, NULL, NULL},
        {"pretok/golden", pretok_golden, NULL, NULL, NULL},
        {"pretok/names", pretok_names_known, NULL, NULL, NULL},
    };
    json_error_t why;
    golden = json_load_file(test_data("pretok.json"), JSON_ALLOW_NUL, &why);
    if (!golden) {
        fprintf(stderr, "%s: %s\n", test_data("pretok.json"), why.text);
        return 1;
    }
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    json_decref(golden);
    return failed;
}
