/* SPDX-License-Identifier: MIT */
/* How the packed weights get into memory: packed from the model's files, or mapped from a pack cache, which is written when it is not
 * there. */
#ifndef QUERN_LOAD_H
#define QUERN_LOAD_H

#include "packfile.h"
#include "run.h"

struct loading {
    struct qn_engine *e;
    const struct qn_options *o;
    char *path; /* of the pack cache; NULL: none */
    bool automatic; /* a cache that does not fit is rewritten */
    bool elsewhere; /* the packed weights need no memory of their own: a file has them, or huge pages set aside */
    struct pack_wanted wanted;
    struct packfile cache; /* fits: will be mapped */
    struct file_new fresh; /* or a new one */
    size_t fresh_at; /* where its data goes */
    const char *hash_dir; /* the model's key is noted there; NULL: nowhere */
    struct content_sums *sums; /* filled while packing; NULL: nobody wants them */
};

/* After model_open() and pool_open(): finds out where the weights will come from and lie. */
int load_begin(struct loading *l, struct qn_engine *e, const struct qn_options *o, struct qn_error *err);
int load_weights(struct loading *l, struct qn_error *err);
void load_end(struct loading *l); /* idempotent; what is mapped stays */
/* Afterwards e->key is content_key() of the open model, all of which is read if nobody wanted it before. */
int load_key(struct qn_engine *e, struct qn_error *err);

#endif
