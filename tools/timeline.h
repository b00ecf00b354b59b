/* SPDX-License-Identifier: MIT */
/* The ids of a conversation and the sequence that holds them.
 *
 * The ids are those that were read and written so far.  The sequence has the same but `cut` of them behind the first `keep`, which are
 * left out where the context was full.  Messages, and what is said about any of this, are not known here. */
#ifndef QUERN_TIMELINE_H
#define QUERN_TIMELINE_H

#include "opts.h"
#include "quern.h"
#include "setup.h"
#include "write.h"

struct timeline {
    const struct opts *o; /* n_predict, n_batch, on_full, spec, draft_max, cache_dir */
    enum on_full on_full;
    qn_engine *e;
    qn_seq *seq;
    struct writer w;
    int n_ctx; /* positions of the engine's context */

    int32_t *ids; /* [n] of the conversation, as far as they were read or written */
    bool *ends; /* [n + 1] an answer ended behind so many of them; false behind */
    int n, cap, n_prompt; /* cap: room there is; n_prompt: ids of the last prompt */

    int keep, cut; /* the sequence has the ids without the `cut` behind the first `keep` */
    int room; /* tokens that the sequence was promised */

    struct qn_kept kept; /* of the last prompt */
    int n_read, n_again; /* tokens since the start: of prompts, of prompts those computed twice */
    int last_read; /* of the last prompt */
    double read_s;
};

/* The engine is not owned.  Returns 0 or a negative code. */
int timeline_open(struct timeline *t, qn_engine *e, const struct opts *o, struct qn_error *err);
void timeline_close(struct timeline *t); /* with --cache-dir, what the sequence holds is in the folder then */

/* The ids become these n; of the ends of answers those stay that are in what both begin with. */
void timeline_set(struct timeline *t, const int32_t *ids, int n);
void timeline_forget(struct timeline *t); /* what the sequence holds goes to the store when the next prompt comes */
/* Takes over a saved session's sequence, and its note; 0 or a negative code. */
int timeline_load(struct timeline *t, const char *path, char **note, size_t *n, struct qn_error *err);

/* A text as ids, malloc; NULL with *err filled.  An answer's own ids stand for its text, as far as the text is what there was. */
int32_t *timeline_tokenize(const struct timeline *t, const struct qn_text *text, int *n_ids, struct qn_error *err);

/* Tokens that the sequence can hold at most. */
int timeline_limit(const struct timeline *t);
/* Chooses what is cut of n ids that are to come, so that fewer than `room` stay.  A cut stays where it is as long as it will do, so that
 * what is behind it need not be read again.  True: it has grown. */
bool timeline_cut(struct timeline *t, int n, int room);

/* Brings the sequence to n ids, but for those that are cut, and leaves the last row's logits in w.ahead; `header` of them stand in front
 * of the assistant's header.  0, 1 when interrupted, or a negative code. */
int timeline_read(struct timeline *t, const int32_t *ids, int n, int header, struct qn_error *err);
/* One more id that was picked from w.ahead; 0 or a negative code. */
int timeline_write(struct timeline *t, int32_t id, struct qn_error *err);
bool timeline_full(const struct timeline *t); /* for timeline_write() */

#endif
