/* SPDX-License-Identifier: MIT */
/* Sessions: one sequence in a file, qn_seq_save() and qn_seq_load().  Beside its own state the file has those of the last snapshots in
 * front of it that the prefix store has: where a template changes what comes behind, the sequence is resumed at one of them.
 *
 *     head      struct session_head
 *     ids       int32_t [n_ids]
 *     pieces    uint64_t [n_pieces]   XXH3 of each CONTENT_PIECE bytes of each state, then of each page
 *     note      what the caller wrote
 *     zeros     up to data_at, a multiple of 4096
 *     states    of the snapshots and of the sequence: recurrent states, then inputs of the convolutions, as they lie in memory
 *     pages     of the KV cache, up to the end of the file
 *
 * Numbers are little endian.  Everything is covered by a checksum: head_hash has what is in front of the zeros, pieces the rest. */
#ifndef QUERN_SESSION_H
#define QUERN_SESSION_H

#include <stdint.h>

enum { SESSION_VERSION = 2, SESSION_BEFORE = 3 /* most snapshots */ };

struct session_head {
    char magic[8]; /* "QUERNSES" */
    uint32_t version; /* SESSION_VERSION */
    uint32_t bits; /* QN_BITS */
    uint64_t head_hash; /* XXH3 of head, ids, pieces and note with this field zero */
    uint64_t model[2]; /* content_key() */
    uint64_t rope; /* hash of the table of frequencies and its factor */
    uint32_t k_kind, v_kind; /* types of keys and values */
    uint64_t state_bytes, page_bytes; /* of the state and the convolutions' inputs; of a page */
    uint64_t n_ids, n_pieces, note_bytes;
    uint64_t before[SESSION_BEFORE]; /* tokens in front of each snapshot, ascending, then zeros */
    uint64_t data_at;
};

#endif
