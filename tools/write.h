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

/* Who guesses. */
struct guesser {
    enum drafter drafter;
    int32_t *ids; /* [cap] what a sequence has, and the next one, for the search; malloc */
    int cap;
};
/* What may come behind the tokens of s and `next`, which was picked: up to `most` ids into out; how many, or a negative code. */
int write_guess(struct guesser *g, qn_seq *s, int32_t next, int most, int32_t *out, struct qn_error *err);

/* What it costs and brings to guess, learnt on the way; kept from answer to answer. */
struct write_figures {
    /* seconds of a step with so many guesses, for each sequence, mean of the last ones; 0 = not known */
    double cost[WRITE_MOST + 1];
    double right; /* how often a guess is right whose forerunners were, mean of the last ones */
    int64_t n_guessed, n_right, n_steps, n_tokens; /* so far: guesses evaluated, those that came true, steps, tokens */
    double seconds; /* all steps */
    int since, since_plain; /* steps since there were guesses last; since there were none */
};
void write_figures_begin(struct write_figures *f);
/* How many guesses are worth it, up to `most`. */
int write_choose(const struct write_figures *f, int most);
/* What came of the guesses for one sequence in a step: so many were made, so many of the first of them were right. */
void write_guessed(struct write_figures *f, int n, int n_right);
/* Nobody knew one for a sequence in a step with guesses for others. */
void write_missed(struct write_figures *f);
/* A step of n_seq sequences, with k guesses for each, took so long for so many tokens. */
void write_stepped(struct write_figures *f, int n_seq, int k, int n_tokens, double seconds);
/* Tokens a second over tokens a second without guesses, as far as measured; 0 = not known. */
double write_gain(const struct write_figures *f);
/* "61 of 80 right, 1.25 x as fast"; false when nothing was guessed. */
bool write_describe(const struct write_figures *f, char *out, size_t cap);

struct writer {
    qn_engine *e;
    qn_seq *seq;
    struct guesser guesser;
    int most; /* guesses at once */
    bool always; /* as many as that, whether or not it pays: for tests */
    int n_vocab, room; /* room: tokens that the sequence may have */
    float *rows; /* [most + 1][n_vocab] logits of the open step, or of a prompt's last token; malloc */
    const float *ahead; /* of them: [n_vocab] that the next token is to be picked from */
    int32_t span[WRITE_MOST + 1]; /* its tokens: one that was picked, then guesses */
    int n_span, n_true; /* of them; as many have been picked by now */
    double spent; /* on the open step, seconds */
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

/* The ids that came after the latest of the longest earlier occurrences of the end of ids[0..n), at least 2 tokens long: up to `most`
 * into out; returns how many. */
int write_search(const int32_t *ids, int n, int most, int32_t *out);

#endif
