/* SPDX-License-Identifier: MIT */
/* Writing: tokens that were picked are evaluated, one by one or, where somebody guesses what comes next, several at once.  What is
 * picked from the logits is the same either way. */
#ifndef QUERN_WRITE_H
#define QUERN_WRITE_H

#include "quern.h"

#include <stdbool.h>
#include <stddef.h>

enum drafter { DRAFT_OFF, DRAFT_NGRAM, DRAFT_MTP };

enum { WRITE_MOST = 63 }; /* guesses at once */

/* What it costs and brings to guess, learnt on the way; kept from answer to answer. */
struct write_figures {
    double cost[WRITE_MOST + 1]; /* seconds of a step with so many guesses, mean of the last ones; 0 = not known */
    double right; /* how often a guess is right whose forerunners were, mean of the last ones */
    int64_t n_guessed, n_right, n_steps, n_tokens; /* so far: guesses evaluated, those that came true, steps, tokens */
    double seconds; /* all steps */
    int since; /* tokens since guesses were tried last */
};

struct writer {
    qn_engine *e;
    qn_seq *seq;
    enum drafter drafter;
    int most; /* guesses at once */
    bool always; /* as many as that, whether or not it pays: for tests */
    int n_vocab, room; /* room: tokens that the sequence may have */
    float *rows; /* [most + 1][n_vocab] logits of the open step, or of a prompt's last token; malloc */
    const float *ahead; /* of them: [n_vocab] that the next token is to be picked from */
    int32_t span[WRITE_MOST + 1]; /* its tokens: one that was picked, then guesses */
    int n_span, n_true; /* of them; as many have been picked by now */
    double spent; /* on the open step, seconds */
    int32_t *ids; /* [cap] what the sequence has, and the next one, for the search */
    int cap;
    struct write_figures figures;
};

/* For a sequence of an engine with options.n_draft >= most, and its draft block for DRAFT_MTP; most 1..WRITE_MOST unless DRAFT_OFF. */
void write_open(struct writer *w, qn_engine *e, qn_seq *seq, enum drafter drafter, int most);
void write_close(struct writer *w); /* ends what is open, too */

/* The sequence's tokens were evaluated, with the last one's logits in w->rows; it has been promised room for so many. */
void write_begin(struct writer *w, int room);
/* Evaluates id, which was picked, unless it was guessed and so evaluated already; then w->ahead is what comes behind it. */
int write_next(struct writer *w, int32_t id, struct qn_error *err);
/* Ends what is open: the sequence holds the tokens that were given to write_next(), and may be used again. */
void write_end(struct writer *w);
int write_len(const struct writer *w); /* tokens of the sequence, with those of the open step that have been picked */
/* Tokens a second over tokens a second without guesses, as far as measured; 0 = not known. */
double write_gain(const struct writer *w);
/* "61 of 80 right, 1.25 x as fast"; false when nothing was guessed. */
bool write_describe(const struct writer *w, char *out, size_t cap);

/* The ids that came after the latest of the longest earlier occurrences of the end of ids[0..n), at least 2 tokens long: up to `most`
 * into out; returns how many. */
int write_search(const int32_t *ids, int n, int most, int32_t *out);

#endif
