/* SPDX-License-Identifier: MIT */
/* quern tokenize: standard input to a JSON array of ids, or ids to text.  Needs the vocabulary only. */
#include "io.h"
#include "setup.h"
#include "term.h"

#include <stdlib.h>

static void print_ids(const int32_t *ids, int n)
{
    out_text("[");
    for (int i = 0; i < n; i++)
        out_printf(i ? ",%d" : "%d", ids[i]);
    out_text("]\n");
}

static void print_text(const qn_engine *e, const int32_t *ids, int n, bool special)
{
    struct qn_model_info info;
    struct qn_detok d = {0};
    struct text buf = {0};
    char tail[16];
    qn_model_info(e, &info);
    for (int i = 0; i < n; i++) {
        size_t len;
        if (ids[i] >= info.n_vocab)
            die("standard input: id %d at position %d is not within the vocabulary of %d tokens", ids[i], i,
                info.n_vocab);
        qn_token_bytes(e, ids[i], special, &len);
        if (buf.cap < len + 16)
            buf.s = xrealloc(buf.s, buf.cap = len * 2 + 64);
        out_write(buf.s, qn_detok_put(&d, e, ids[i], special, buf.s, buf.cap));
    }
    out_write(tail, qn_detok_end(&d, tail, sizeof tail));
    text_free(&buf);
}

int cmd_tokenize(struct opts *o)
{
    qn_engine *e = setup_open(o, (struct setup_size){.vocab_only = true, .n_threads = -1});
    struct qn_error err;
    size_t n;
    int n_ids;
    char *input = io_read("-", &n), why[256];
    int32_t *ids;
    if (o->detokenize) {
        ids = parse_ids(input, n, &n_ids, why, sizeof why);
        if (!ids)
            die("standard input: %s", why);
        print_text(e, ids, n_ids, o->special);
    } else {
        if (qn_tokenize(e, input, n, NULL, o->special ? QN_TOK_SPECIAL : 0, &ids, &n_ids, &err))
            die("%s", err.text);
        print_ids(ids, n_ids);
    }
    out_flush();
    free(ids);
    free(input);
    qn_close(e);
    return 0;
}
