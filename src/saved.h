/* SPDX-License-Identifier: MIT */
/* Files with what was computed of sequences: sessions, and the pieces that the cache folder is made of.
 *
 *     head      struct saved_head
 *     ids       int32_t [n_ids]         tokens from position `from` on
 *     pieces    uint64_t [n_pieces]     XXH3 of each CONTENT_PIECE bytes of each state, then of each page
 *     note      what the caller wrote
 *     zeros     up to data_at, a multiple of 4096
 *     states    recurrent states, then inputs of the convolutions, as they lie in memory
 *     pages     of the KV cache, those that the ids' positions lie in, up to the end of the file
 *
 * A session (session.c) begins at position 0, has the last snapshots in front of its end as states, then its own, all pages, and a
 * note.  A segment (tier.c) is a run of tokens behind its parent's, with its pages; a snapshot has all ids up to its place, and the
 * state there.  Numbers are little endian.  Everything is covered by a checksum: head_hash has what is in front of the zeros, pieces
 * the rest. */
#ifndef QUERN_SAVED_H
#define QUERN_SAVED_H

#include "base.h"

enum { SAVED_VERSION = 3, SAVED_BEFORE = 3 /* most snapshots beside a session's end */ };

struct saved_head {
    char magic[8]; /* of its kind */
    uint32_t version; /* SAVED_VERSION */
    uint32_t bits; /* QN_BITS */
    uint64_t head_hash; /* XXH3 of head, ids, pieces and note with this field zero */
    uint64_t model[2]; /* content_key() */
    uint64_t rope; /* hash of the table of frequencies and its factor */
    uint32_t k_kind, v_kind; /* types of keys and values */
    uint64_t delta; /* form of the delta rule */
    uint64_t state_bytes, page_bytes; /* of the state and the convolutions' inputs; of a page */
    uint64_t back; /* pages begin with that of so many positions in front of `from`: 1 where a draft block is behind */
    uint64_t from, n_ids, n_pieces, note_bytes;
    uint64_t before[SAVED_BEFORE]; /* session: tokens in front of each snapshot, ascending, then zeros */
    uint64_t parent[2]; /* segment: the place that it hangs on, zeros at position 0 */
    uint64_t data_at;
};

struct saved_kind {
    char magic[8];
    const char *name; /* with its article, for messages */
    bool has_states, has_pages;
};
extern const struct saved_kind saved_session, saved_segment, saved_snapshot;

/* What goes into a file beside its head. */
struct saved_data {
    const int32_t *ids; /* [n_ids] */
    const void *note; /* [note_bytes] */
    const uint8_t *const *part; /* [states and pages] */
};

/* The head of a file of this engine's, after load_key(): parent and hash are left to the caller and saved_write(). */
struct saved_head saved_head_for(const struct qn_engine *e, const struct saved_kind *kind,
                                 const struct saved_head *counts);
int saved_n_states(const struct saved_kind *kind, const struct saved_head *h);
int saved_first_page(const struct saved_head *h); /* block of the first one */
int saved_n_pages(const struct saved_kind *kind, const struct saved_head *h);
size_t saved_bytes(const struct saved_kind *kind, const struct saved_head *h); /* of the file */
/* Opens f and writes all of the file; to be committed, or named, and closed. */
int saved_write(struct file_new *f, struct qn_engine *e, const char *path, const struct saved_kind *kind,
                struct saved_head *h, const struct saved_data *d, struct qn_error *err);

/* A file that is read.  It is not mapped: what somebody else cuts short meanwhile is an error then, and no signal. */
struct saved {
    const struct saved_kind *kind;
    char *path;
    int fd; /* -1: closed until it is read on */
    size_t size;
    uint8_t *tables; /* [data_at] all in front of the data, malloc */
    struct saved_head head;
    const int32_t *ids; /* [n_ids] in the vocabulary */
    const char *note; /* [note_bytes] */
};
/* Opens a file, checks head and tables and that they are for this engine: QN_E_FORMAT for what is of another kind or damaged,
 * QN_E_UNSUPPORTED for another version of the format or of the arithmetic, QN_E_ARGUMENT for another model or other settings,
 * QN_E_NOSPACE for more positions than a sequence has.  The data is not looked at. */
int saved_open(struct saved *s, struct qn_engine *e, const char *path, const struct saved_kind *kind,
               struct qn_error *err);
void saved_close(struct saved *s); /* idempotent */
void saved_rest(struct saved *s); /* gives up its descriptor, of which a process has few */
/* Parts [first, first + n) into memory, out[i] having room for one.  QN_E_FORMAT when they are not what was once written; then there is
 * anything in that memory. */
int saved_read(struct saved *s, struct qn_engine *e, int first, int n, uint8_t *const *out, struct qn_error *err);

#endif
