/* SPDX-License-Identifier: MIT */
/* Pair merging, the same for both models: the pair of lowest rank first, the leftmost of equal ones, until none
 * is left.  A heap and a linked list keep it at n log n for any text. */
#include "tok.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

uint64_t tok_mix(uint64_t x)
{
    x ^= x >> 32;
    x *= 0x9E3779B97F4A7C15u;
    return x ^ x >> 29;
}

bool encoder_syms(struct encoder *e, size_t n)
{
    if (n <= e->cap_syms)
        return true;
    size_t want = n + n / 2 + 64;
    struct sym *syms = realloc(e->syms, want * sizeof *syms);
    if (!syms)
        return false;
    e->syms = syms;
    uint64_t *heap = realloc(e->heap, want * 3 * sizeof *heap); /* n - 1 pairs, and two new ones per merge */
    if (!heap)
        return false;
    e->heap = heap;
    e->cap_syms = want;
    return true;
}

static void heap_push(struct encoder *e, uint64_t key)
{
    size_t i = e->n_heap++;
    while (i && e->heap[(i - 1) / 2] > key) {
        e->heap[i] = e->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    e->heap[i] = key;
}

static uint64_t heap_pop(struct encoder *e)
{
    uint64_t top = e->heap[0], key = e->heap[--e->n_heap];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < e->n_heap; i = child) {
        if (child + 1 < e->n_heap && e->heap[child + 1] < e->heap[child])
            child++;
        if (key <= e->heap[child])
            break;
        e->heap[i] = e->heap[child];
    }
    e->heap[i] = key;
    return top;
}

/* Rank of a score: the higher score first.  Scores are finite. */
static uint32_t score_rank(float score)
{
    uint32_t u;
    score += 0.0f; /* -0 and 0 are equal */
    memcpy(&u, &score, sizeof u);
    return u & 0x80000000u ? u : 0x7FFFFFFFu - u;
}

/* Looks up the pair (left, its next) and queues its merge. */
static void pair_queue(struct encoder *e, const char *word, int32_t left)
{
    const struct tok *k = e->tok;
    struct sym *a = &e->syms[left];
    a->rank = UINT32_MAX;
    if (a->next < 0)
        return;
    const struct sym *b = &e->syms[a->next];
    if (k->model == TOK_BPE) {
        uint64_t pair = (uint64_t)(uint32_t)a->id << 32 | (uint32_t)b->id;
        size_t i = tok_mix(pair) & k->merge_mask;
        while (k->merges[i].rank != UINT32_MAX && k->merges[i].pair != pair)
            i = (i + 1) & k->merge_mask;
        a->rank = k->merges[i].rank;
        a->merged = k->merges[i].id;
    } else if ((size_t)a->n + b->n <= k->longest) {
        int32_t id = tok_find(k, word + a->start, (size_t)a->n + b->n);
        if (id >= 0 && k->type[id] <= TOK_NORMAL) {
            a->rank = score_rank(k->scores[id]);
            a->merged = id;
        }
    }
    if (a->rank != UINT32_MAX)
        heap_push(e, (uint64_t)a->rank << 32 | (uint32_t)left);
}

void merge_symbols(struct encoder *e, const char *word, size_t n)
{
    e->n_heap = 0;
    for (size_t i = 0; i + 1 < n; i++)
        pair_queue(e, word, (int32_t)i);
    while (e->n_heap) {
        uint64_t key = heap_pop(e);
        int32_t left = (int32_t)(uint32_t)key;
        struct sym *a = &e->syms[left];
        if (a->rank != key >> 32)
            continue; /* one of the pair has been merged since; an equal rank would be the pair that is there now */
        struct sym *b = &e->syms[a->next];
        a->id = a->merged;
        a->n += b->n;
        a->next = b->next;
        b->rank = UINT32_MAX;
        if (b->next >= 0)
            e->syms[b->next].prev = left;
        pair_queue(e, word, left);
        if (a->prev >= 0)
            pair_queue(e, word, a->prev);
    }
}
