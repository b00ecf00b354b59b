/* SPDX-License-Identifier: MIT */
/* The prefix store: what sequences have computed, kept by its tokens under a budget of bytes.  Model, KV types, rope settings and
 * QN_BITS are the engine's, so a store never mixes them.  qn_seq_keep(), qn_seq_resume() and qn_seq_rewind() are here. */
#ifndef QUERN_STORE_H
#define QUERN_STORE_H

#include "quern.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct store;

/* A store that holds at most `budget` bytes; NULL when there is no memory for its tables.  The engine's slabs are open, with room for
 * store_pages() and store_slots() pieces beside those of its sequences. */
struct store *store_open(struct qn_engine *e, size_t budget);
/* What leaves the store goes to a folder from here on; see tier.h. */
int store_use_folder(struct qn_engine *e, const char *folder, size_t budget, struct qn_error *err);
void store_close(struct store *st); /* NULL is fine */
size_t store_pages(const struct qn_engine *e, size_t budget);
size_t store_slots(const struct qn_engine *e, size_t budget);
/* Positions from one snapshot that is made unasked to the next: as many as have KV pages of a snapshot's size; 0 = none, since a
 * model without recurrent states can be resumed at any position. */
int store_interval(const struct qn_engine *e);

/* How many nodes refer to a page; 0 without a store. */
int32_t store_holds(const struct store *st, int32_t p);
/* Bytes of nodes, and of nodes and snapshots: what it has beside pages. */
size_t store_node_bytes(const struct store *st);
size_t store_beside_pages(const struct store *st);
/* The snapshot that was not used for longest leaves; false when there is none that may. */
bool store_give_way(struct store *st);

/* Keeps what s has computed.  False when it does not fit. */
bool store_keep(struct store *st, struct qn_seq *s);
/* The last snapshot of what s has computed that is less than `limit` tokens deep: returns its depth and where its state lies, as in a
 * slot; 0 = there is none. */
int store_before(struct store *st, const struct qn_seq *s, int limit, const uint8_t **state);

#endif
