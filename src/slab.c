/* SPDX-License-Identifier: MIT */
/* Equal pieces of memory with counted references. */
#include "slab.h"

#include <assert.h>

bool slab_open(struct slab *s, size_t stride, size_t n, bool huge)
{
    *s = (struct slab){.stride = stride};
    if (n > INT32_MAX || !size_mul(stride, n, &s->reserved))
        return false;
    s->n = (int32_t)n;
    s->base = mem_reserve(s->reserved, huge);
    s->refs = mem_reserve(n * sizeof *s->refs, false);
    s->free = mem_reserve(n * sizeof *s->free, false);
    if (s->base && s->refs && s->free)
        return true;
    slab_close(s);
    return false;
}

void slab_close(struct slab *s)
{
    mem_release(s->base, s->reserved);
    mem_release(s->refs, (size_t)s->n * sizeof *s->refs);
    mem_release(s->free, (size_t)s->n * sizeof *s->free);
    *s = (struct slab){0};
}

int32_t slab_take(struct slab *s, bool *fresh)
{
    bool unused = s->n_free == 0;
    assert(!unused || s->n_used < s->n);
    int32_t i = unused ? s->n_used++ : s->free[--s->n_free];
    if (s->n_gone > s->n_free)
        s->n_gone = s->n_free;
    s->refs[i] = 1;
    if (fresh)
        *fresh = unused;
    return i;
}

void slab_drop(struct slab *s, int32_t i)
{
    assert(s->refs[i] > 0);
    if (--s->refs[i] == 0)
        s->free[s->n_free++] = i;
}

bool slab_discard(struct slab *s)
{
    if (!slab_has_touched(s))
        return false;
    mem_discard(slab_at(s, s->free[s->n_gone++]), s->stride);
    return true;
}
