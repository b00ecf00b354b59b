/* SPDX-License-Identifier: MIT */
/* The folder of tier.h as a list of names: who hangs on whom, how much it is, and what goes. */
#ifndef QUERN_TIER_FILES_H
#define QUERN_TIER_FILES_H

#include "base.h"

/* The number of a place, as XXH128_canonicalFromHash() would write it. */
struct place_id {
    uint64_t high, low;
};

struct tier_file {
    struct place_id place, parent; /* a snapshot hangs on the segment of its own place */
    bool snapshot;
    bool stays; /* is not removed by tier_files_shrink() */
    bool gone;
    int n_hanging; /* files that hang on this one */
    uint64_t bytes;
    int64_t used_ns;
};

struct tier_files {
    struct tier_file *file; /* [n] by place, segments first */
    size_t n;
    uint64_t bytes; /* of all; only after a counting look */
};

enum { TIER_NAME = 80 }; /* bytes that a name takes at most */
void tier_name(char *name, const struct tier_file *f);

/* What is in a folder.  Counting: sizes, times and what hangs on what too, and what killed processes left is removed; under the lock. */
int tier_files_read(struct tier_files *l, int folder, bool count, struct qn_error *err);
void tier_files_free(struct tier_files *l); /* idempotent */
/* The i-th file for a place, 0 first; NULL: there are not so many. */
struct tier_file *tier_files_find(const struct tier_files *l, struct place_id place, bool snapshot, size_t i);
/* Removes files not used since used_ns until `more` bytes fit into the budget; once, since gone files stay in the list.  False: they do
 * not; unless the system kept it from removing some, nothing was removed. */
bool tier_files_shrink(struct tier_files *l, int folder, uint64_t budget, uint64_t more, int64_t used_ns);

static inline bool place_same(struct place_id a, struct place_id b) { return a.high == b.high && a.low == b.low; }

#endif
