/* SPDX-License-Identifier: MIT */
/* From options to an open engine and its samplers: what several sub-commands share. */
#ifndef QUERN_SETUP_H
#define QUERN_SETUP_H

#include "opts.h"
#include "quern.h"

#include <jansson.h>

/* The sub-commands; each returns the exit status. */
int cmd_chat(struct opts *o);
int cmd_run(struct opts *o);
int cmd_batch(struct opts *o);
int cmd_perplexity(struct opts *o);
int cmd_logits(struct opts *o);
int cmd_tokenize(struct opts *o);
int cmd_template(struct opts *o);
int cmd_inspect(struct opts *o);
int cmd_bench(struct opts *o);
const char *bench_level(void); /* best kernel level of this machine */

/* Choices of --on-full, in the table's order. */
enum on_full { FULL_STOP, FULL_SHIFT, FULL_DROP };

/* The model's path: -m, or the demo model that belongs to this program (said on standard error once). */
const char *setup_model(struct opts *o);
bool setup_is_demo(const struct opts *o);

struct setup_size {
    int n_seq, n_ctx; /* 0: as struct qn_options has it */
    int n_threads; /* < 0: as the options say */
    bool vocab_only;
};
/* Opens the model with a progress bar, or ends the program. */
qn_engine *setup_open(struct opts *o, struct setup_size size);

/* Makes --seed random a number. */
void setup_seed(struct opts *o);
/* The model's defaults with the options laid over them.  bias is the caller's list to free().  Returns where the defaults
 * came from. */
const char *setup_sampling(struct qn_sampling *p, const struct opts *o, const qn_engine *e, bool thinking,
                           struct qn_logit_bias **bias);

/* Temperature 0: the likeliest token, so the penalties that a model's makers recommend for sampling go, unless they were
 * asked for. */
void setup_greedy(struct qn_sampling *p, const struct opts *o);

/* The template's variables: --kwargs, and enable_thinking unless think is "auto".  Malloc, or NULL for none. */
char *setup_kwargs(const struct opts *o, const char *think);
/* Whether an answer made with these variables begins with thinking. */
bool setup_thinking(const qn_engine *e, const char *kwargs);
/* "auto" resolved for the bundled model, which was trained without thinking. */
const char *setup_think(const struct opts *o);

#endif
