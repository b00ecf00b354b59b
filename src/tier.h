/* SPDX-License-Identifier: MIT */
/* The prefix store's second tier: a folder that keeps what the store has no room for, and what it has when the engine is closed.
 *
 * A place is the end of a beginning: so many first tokens, computed by one model with one set of types and settings.  Its number is the
 * XXH3-128 of all that.  A folder has two kinds of files (saved.h), named by the numbers of places:
 *
 *     <place>-<parent>.segment    the tokens between two places and the KV pages that they lie in; parent is zeros at position 0
 *     <place>.snapshot            the recurrent state at a place
 *     lock                        held by who adds, counts and removes
 *
 * Names tell which files hang on which, so that nobody has to read heads to know what may go: a segment stays as long as another one
 * or a snapshot hangs on it, and of what may go the least recently used (the file's time) goes first.  Several processes may use a
 * folder, with any models: bytes are counted and files removed whoever wrote them.  A file appears under its name when it is complete;
 * what a crash of the system tears is found by its checksums. */
#ifndef QUERN_TIER_H
#define QUERN_TIER_H

#include "saved.h"

struct tier;

/* budget: most bytes of files; 0 = the smaller of 16 GiB and a quarter of what is free, with what is there.  What is above it goes. */
int tier_open(struct tier **out, struct qn_engine *e, const char *folder, size_t budget, struct qn_error *err);
void tier_close(struct tier *t); /* NULL is fine */
void tier_info(const struct tier *t, struct qn_cache_info *out); /* adds its part */

/* What is to be written. */
struct tier_place {
    const int32_t *ids; /* [n] */
    int n;
    const int32_t *page; /* pages of all positions */
    const uint8_t *state; /* NULL: the model has none */
    const int *ends; /* [n_ends] ascending: where prompts may part, so that segments should end there */
    int n_ends;
    int64_t used_ns; /* when it was used last: nothing that was used since goes for it */
};
/* Writes what the folder does not have of it.  Where that fails there is a warning, the first time. */
void tier_put(struct tier *t, const struct tier_place *p);

/* What leads to a place: files whose heads were read. */
struct tier_found {
    int n; /* tokens */
    struct saved *segment; /* [n_segments] malloc, the last one first */
    int n_segments;
    struct saved snapshot; /* if the model has states */
};
/* The deepest place behind more than `above` and at most `limit` of the tokens that all files for are there, with these tokens: how
 * many lead there; 0 = none.  What is damaged is reported and removed. */
int tier_find(struct tier *t, const int32_t *ids, int above, int limit, struct tier_found *f);
void tier_release(struct tier_found *f); /* idempotent */
/* How many of ids[0..n) lead along the folder's segments, whether or not anything can be resumed there, and the next id of the prompt
 * that goes on otherwise: -1 = none.  Of many prompts that part at one place only some are looked at. */
int tier_same(const struct tier *t, const int32_t *ids, int n, int32_t *was);
/* The state, and the pages from block `first` on, into a sequence that has pages for them; their time is now.  False: one is not what
 * was written, or is gone, and there is anything in the sequence; what is damaged is reported and removed. */
bool tier_read(struct tier *t, struct tier_found *f, int first, struct qn_seq *s);

#endif
