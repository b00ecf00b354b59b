/* SPDX-License-Identifier: MIT */
/* One line of a batch: JSON from a stranger to ids and sampling settings. */
#ifndef QUERN_REQUEST_H
#define QUERN_REQUEST_H

#include "io.h"
#include "opts.h"
#include "quern.h"

/* What all lines share. */
struct request_base {
    const struct opts *o;
    const qn_engine *e;
    struct qn_model_info info;
    char *kwargs; /* template variables of the command line, or NULL */
    bool thinking; /* with those */
    int most; /* tokens that there is memory for when nothing else is worked on */
    struct qn_sampling sampling[2]; /* defaults not thinking, thinking */
};

struct request {
    json_t *object; /* the line; strings of this struct point into it */
    json_t *id; /* borrowed from object, or NULL */
    int32_t *ids; /* [n_ids] the prompt */
    int n_ids, n_max; /* tokens to generate at most, or -1 */
    int n_prompt; /* n_ids, before anything was left out */
    int keep; /* of the ids, when others are left out */
    struct strings stop;
    struct qn_sampling sampling;
    struct qn_logit_bias *bias;
};

/* Whether a full context is shifted. */
bool request_shifts(const struct request_base *base);
/* False with a message in err when the line cannot be used; r->id is then set if it could be read. */
bool request_parse(struct request *r, const struct request_base *base, const char *line, size_t n, int index, char *err,
                   size_t cap);
void request_free(struct request *r);

#endif
