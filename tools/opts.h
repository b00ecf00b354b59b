/* SPDX-License-Identifier: MIT */
/* Options of every sub-command, in one table: parsing, ranges, defaults and `--help` all come from it, and a test holds the
 * man pages against it.  An option that is not in the table does not exist. */
#ifndef QUERN_OPTS_H
#define QUERN_OPTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum cmd {
    CMD_CHAT,
    CMD_RUN,
    CMD_BATCH,
    CMD_PERPLEXITY,
    CMD_LOGITS,
    CMD_TOKENIZE,
    CMD_TEMPLATE,
    CMD_INSPECT,
    CMD_BENCH,
    CMD_COUNT
};

struct strings {
    const char **v; /* [n], into argv */
    int n;
};
struct ints {
    int *v; /* [n] */
    int n;
};

/* Every option's value; the table says which of them a sub-command has.  Strings point into argv or the table. */
struct opts {
    enum cmd cmd;
    uint8_t given[160]; /* [rows of the table] set on the command line */
    bool help;

    /* model */
    const char *model;
    const char *pre, *template_file;
    const char *rope_scaling;
    double rope_scale, rope_freq_base;

    /* computation */
    int cache_ram, cache_disk, n_ctx, n_keep, n_threads, n_threads_batch, n_batch, n_ubatch, draft_max;
    const char *on_full;
    const char *numa, *type_k, *type_v, *isa, *delta, *pack_cache, *cache_dir, *spec;
    bool hugepages;

    /* generation and sampling */
    int n_predict;
    uint64_t seed;
    struct strings stop;
    bool ignore_eos;
    double temp, top_p, min_p, typical, top_n_sigma, xtc_probability, xtc_threshold;
    double dry_multiplier, dry_base;
    double repeat_penalty, presence_penalty, frequency_penalty;
    double mirostat_lr, mirostat_ent;
    int top_k, dry_allowed_length, dry_last_n, repeat_last_n, mirostat;
    struct strings dry_breakers, logit_bias;
    const char *samplers;

    /* texts and files */
    const char *prompt, *file, *session, *system, *think, *kwargs;
    const char *input, *output;
    const char *messages, *tools, *now;
    const char *save_logits, *kl_divergence;
    struct strings ids;
    int n_parallel, n_chunks, n_repeat;
    bool special, echo, json, hash, detokenize, no_generation_prompt, check, topology, kernels, bounds, barriers,
        no_limits;
    struct ints list_p, list_n, list_t, list_d, list_npl, list_ub, list_right; /* of bench */
    const char *format, *only, *plot;
};

enum opt_kind {
    OPT_FLAG,
    OPT_INT,
    OPT_REAL,
    OPT_SEED, /* uint64, or -1 or "random" for a random one */
    OPT_TEXT,
    OPT_CHOICE, /* one of the words of `choices` */
    OPT_TEXTS, /* may be repeated */
    OPT_INTS /* comma-separated */
};
enum opt_group { GROUP_OWN, GROUP_MODEL, GROUP_COMPUTE, GROUP_SAMPLING, GROUP_COUNT };

struct opt {
    const char *name; /* long name without dashes */
    const char *alias; /* other spellings with their dashes, separated by spaces, or "" */
    enum opt_kind kind;
    enum opt_group group; /* OWN: described on the sub-command's page, others on quern(1) */
    unsigned cmds; /* bit 1 << enum cmd */
    size_t at; /* offset in struct opts */
    double min, max; /* of numbers */
    const char *def; /* default as text; NULL = none; ":..." = a phrase, not a value */
    const char *arg; /* what the value is called; with the unit where there is one, after a space */
    const char *choices; /* separated by '|' */
    const char *help;
};

struct cmd_info {
    const char *name;
    const char *usage; /* after "quern NAME" */
    const char *brief; /* one line */
};
extern const struct cmd_info cmd_infos[CMD_COUNT];
extern const struct opt opt_table[];
extern const int opt_table_rows;
extern const char *const group_titles[GROUP_COUNT];

/* Row i of the table belongs to the sub-command. */
static inline bool opt_has(const struct opt *row, enum cmd cmd) { return row->cmds >> cmd & 1; }
/* The row of a sub-command with this long name or spelling ("--temp", "-t"), or NULL. */
const struct opt *opt_find(enum cmd cmd, const char *spelling, size_t len);

/* Fills in defaults, then argv[0 .. argc-1].  On wrong usage returns false with one line in err[cap]. */
bool opts_parse(struct opts *o, enum cmd cmd, int argc, char **argv, char *err, size_t cap);
void opts_free(struct opts *o);
/* The member was given on the command line: opts_given(o, offsetof(struct opts, temp)). */
bool opts_given(const struct opts *o, size_t at);
#define GIVEN(o, member) opts_given(o, offsetof(struct opts, member))
/* Which of its choices an option has, from 0 in the order of the table; 0 when the sub-command does not have it. */
int opts_choice(const struct opts *o, size_t at);
#define CHOICE(o, member) opts_choice(o, offsetof(struct opts, member))

/* "-c, --ctx-size N": every spelling, as --help and the man pages have it. */
void opt_spelling(const struct opt *row, char *out, size_t cap);
/* "0 to 1024 threads; default 0", or "" when there is nothing to say. */
void opt_facts(const struct opt *row, char *out, size_t cap);

void opts_help(FILE *f, enum cmd cmd, int width);
void opts_help_all(FILE *f, int width); /* the program's own --help */

#endif
