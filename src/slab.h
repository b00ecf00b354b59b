/* SPDX-License-Identifier: MIT */
/* Equal pieces of one reserved stretch of address space, with counted references.  Pages of KV caches and recurrent states come from
 * such slabs.  Pieces that were given back are handed out first, so memory grows to the most that was ever in use at once; it goes
 * back to the system when the slab is closed, and by slab_discard(). */
#ifndef QUERN_SLAB_H
#define QUERN_SLAB_H

#include "base.h"

struct slab {
    uint8_t *base; /* [n][stride] */
    size_t stride; /* bytes of a piece; 0 is allowed */
    int32_t n;
    int32_t n_used; /* pieces from here on were never handed out and are zero */
    int32_t n_free;
    int32_t *free; /* [n_free] given back, the last one on top */
    int32_t n_gone; /* of these, the ones at the bottom whose memory went back to the system */
    int32_t *refs; /* [n] */
    size_t reserved; /* bytes of address space */
};

/* False when there is no address space, also when n pieces cannot be counted; huge asks for transparent huge pages. */
bool slab_open(struct slab *s, size_t stride, size_t n, bool huge);
void slab_close(struct slab *s); /* idempotent */
/* A piece with one reference.  Slabs are opened with as many as can be in use: there always is one.  A piece that was in use before
 * holds what it held; *fresh tells (may be NULL). */
int32_t slab_take(struct slab *s, bool *fresh);
void slab_drop(struct slab *s, int32_t i); /* one reference less */
/* The memory of one piece that is not in use goes back to the system; false when there is none. */
bool slab_discard(struct slab *s);
/* The next piece to be taken is in memory already. */
static inline bool slab_has_touched(const struct slab *s) { return s->n_free > s->n_gone; }
static inline void slab_share(struct slab *s, int32_t i) { s->refs[i]++; }
static inline uint8_t *slab_at(const struct slab *s, int32_t i) { return s->base + (size_t)i * s->stride; }

#endif
