/* SPDX-License-Identifier: MIT */
/* One answer being made: tokens are picked, turned into text and held back while they could begin a stop text. */
#ifndef QUERN_GEN_H
#define QUERN_GEN_H

#include "io.h"
#include "opts.h"
#include "quern.h"

enum finish { FINISH_NOT, FINISH_STOP, FINISH_LENGTH, FINISH_INTERRUPT };

struct gen {
    const qn_engine *e;
    qn_sampler *sampler; /* not owned */
    struct strings stop; /* not owned */
    struct qn_detok detok;
    struct text held; /* text that may be the beginning of a stop text */
    int n, n_max; /* tokens picked; most of them, or -1 */
    int32_t id; /* the last one */
    int32_t think_open, think_close; /* ids of the tags when they are control tokens, else -1 */
    enum finish finish;
};

/* Begins an answer.  n_max < 0: no limit. */
void gen_begin(struct gen *g, const qn_engine *e, qn_sampler *sampler, const struct strings *stop, int n_max);
/* Picks the next token and appends what is certain of the text to out.  True: evaluate g->id to go on.  False: g->finish
 * says why not. */
bool gen_next(struct gen *g, const float *logits, struct text *out);
/* Ends an answer early; what was held back goes to out. */
void gen_finish(struct gen *g, enum finish why, struct text *out);
void gen_free(struct gen *g);

/* How many ids a and b both begin with. */
int gen_agree(const int32_t *a, int n_a, const int32_t *b, int n_b);

/* Has the sequence promised the prompt's n tokens and an answer of n_max, as far as n_ctx goes; an answer without a limit (n_max < 0)
 * has as many as there is memory for.  Returns how many tokens there will be room for, or a negative code. */
int gen_admit(qn_seq *s, int n, int n_max, int n_ctx, struct qn_error *err);

/* How many of n tokens are left out, from the `keep`th on, when `room` of them are too few: as many of the newest stay as half of what
 * the kept ones leave of the room.  *keep becomes at most three quarters of the room. */
int gen_shift(int n, int *keep, int room);
/* ids without these. */
void gen_cut(int32_t *ids, int *n, int keep, int out);

/* Places in a prompt where the prefix store gets a snapshot. */
struct marks {
    int at[3], n; /* ascending */
};
/* Fewer tokens than this are read again rather than that a snapshot is made behind them. */
enum { MARK_LEAST = 8 };
/* Adds the place behind n tokens if that is far enough from the last one, and from what is there already. */
void marks_add(struct marks *m, int there, int n);

/* Appends ids[from..n) to a sequence that has those in front, at most n_batch in a call, with a progress bar, and leaves the last
 * row's logits.  0; 1 when interrupted; or a negative code. */
int gen_prefill(qn_engine *e, qn_seq *seq, const int32_t *ids, int from, int n, const struct marks *marks, int n_batch,
                float *logits, struct qn_error *err);

/* Where a text that ends with `text` can be cut: the first stop text in it (true, *at = its begin), else the length of
 * what no stop text can begin in. */
bool stop_find(const struct strings *stop, const char *text, size_t n, size_t *at);

/* Splits an answer into thinking and the answer proper.  Feed it text, get pieces. */
struct think {
    enum { THINK_START, THINK_INSIDE, THINK_AFTER, THINK_ANSWER } state;
    struct text held; /* what may be the beginning of a tag */
};
typedef void think_piece(void *cookie, bool thinking, const char *bytes, size_t n);
/* inside: the prompt ended with an open tag. */
void think_begin(struct think *t, bool inside);
void think_put(struct think *t, const char *bytes, size_t n, think_piece *piece, void *cookie);
void think_end(struct think *t, think_piece *piece, void *cookie);

#endif
