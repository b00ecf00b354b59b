/* SPDX-License-Identifier: MIT */
/* libFuzzer target: any bytes as text for fixed vocabularies, and any lines as a vocabulary.  Beside what the sanitizers
 * see, text must come back byte for byte where nothing normalizes it. */
#define _GNU_SOURCE
#include "text.h"
#include "vocab.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct tok *open_vocab(const struct vocab *v)
{
    char path[64];
    size_t size;
    struct qn_error err;
    struct gguf *g;
    struct tok *k = NULL;
    uint8_t *file = vocab_build(v, &size);
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    if (fd < 0 || write(fd, file, size) != (ssize_t)size)
        abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (gguf_open(&g, path, true, &err) == 0) {
        if (tok_open(&k, g, NULL, &err) && (k || !err.text[0]))
            abort();
        gguf_close(g);
    }
    close(fd);
    free(file);
    return k;
}

static void check_text(const struct tok *k, const char *s, size_t n, unsigned flags, const uint8_t *mask, bool exact)
{
    int32_t *ids;
    int n_ids;
    struct qn_error err;
    struct qn_detok d = {0};
    if (tok_encode(k, s, n, mask, flags, &ids, &n_ids, &err)) {
        if (ids || !err.text[0])
            abort();
        return;
    }
    size_t cap = 64, at = 0, len;
    for (int i = 0; i < n_ids; i++) {
        if (ids[i] < 0 || ids[i] >= tok_n_vocab(k))
            abort();
        tok_bytes(k, ids[i], true, &len);
        cap += len;
    }
    char *out = malloc(cap);
    if (!out)
        abort();
    for (int i = 0; i < n_ids; i++) {
        tok_bytes(k, ids[i], true, &len);
        at += tok_detok_put(&d, k, ids[i], true, out + at, len + 8);
    }
    at += tok_detok_end(&d, out + at, 8);
    if (at > cap || (exact && (at != n || memcmp(out, s, n) != 0)))
        abort();
    free(out);
    free(ids);
}

/* Lines up to an empty one: "m..." is a merge, any other first character is the token's type; then comes the text. */
static void check_vocab(const char *s, size_t n, bool spm)
{
    struct vocab v;
    vocab_bpe(&v, "gpt2");
    v.model = spm ? "llama" : "gpt2";
    if (spm)
        v.n_tokens = v.n_types = 0, v.ids[0].key = NULL;
    while (n) {
        const char *end = memchr(s, '\n', n);
        size_t len = end ? (size_t)(end - s) : n;
        if (len && s[0] == 'm' && v.n_merges < VOCAB_ROOM) {
            v.merges[v.n_merges++] = (struct vocab_str){s + 1, len - 1};
        } else if (len && v.n_tokens < VOCAB_ROOM) {
            v.scores[v.n_tokens] = -(float)(s[0] / 8);
            v.tokens[v.n_tokens] = (struct vocab_str){s + 1, len - 1};
            v.types[v.n_tokens++] = s[0] & 7;
            v.n_types = v.n_tokens;
        }
        n -= end ? len + 1 : len;
        s += end ? len + 1 : len;
        if (!len)
            break;
    }
    v.n_scores = v.n_tokens;
    struct tok *k = open_vocab(&v);
    vocab_free(&v);
    if (k)
        check_text(k, s, n, QN_TOK_SPECIAL | QN_TOK_BOS, NULL, false);
    tok_close(k);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    enum { N_PRES = 4 };
    static const char *const pres[N_PRES] = {"gpt2", "llama-bpe", "qwen2", "qwen35"};
    static struct tok *fixed[N_PRES + 1];
    struct vocab v;
    for (int p = 0; p <= N_PRES && !fixed[p]; p++) {
        if (p < N_PRES)
            vocab_bpe(&v, pres[p]);
        else
            vocab_spm(&v);
        fixed[p] = open_vocab(&v);
        if (!fixed[p])
            abort();
        vocab_free(&v);
    }
    if (size < 2)
        return 0;
    unsigned which = data[0] % (N_PRES + 3), flags = data[1] & 1 ? QN_TOK_SPECIAL : 0;
    const char *s = (const char *)data + 2;
    size -= 2;
    if (which > N_PRES) {
        check_vocab(s, size, which == N_PRES + 2);
        return 0;
    }
    uint8_t *mask = data[1] & 2 ? malloc(size + 1) : NULL;
    for (size_t i = 0; mask && i < size; i++)
        mask[i] = (i * data[1] / 16) & 1;
    /* SentencePiece puts a space in front of every stretch of text and takes only the first one back; it spells a space
     * like U+2581, so that this character comes back as one. */
    bool exact = which < 2 || (which == N_PRES && !memchr(s, '<', size) && !memchr(s, 0xE2, size));
    check_text(fixed[which], s, size, flags, mask, exact);
    free(mask);
    return 0;
}
