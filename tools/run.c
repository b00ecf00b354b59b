/* SPDX-License-Identifier: MIT */
/* quern run: plain continuation of a text.
 *
 * A session's file has the text so far, and as its note which token comes next, where one was picked and not read yet:
 * {"next": [id]} or {"next": []}.
 *
 * With a cache folder, what is known of the prompt is not read, and snapshots are made at its end and where it parts from what is known:
 * the next one that begins in the same way goes on from there. */
#include "gen.h"
#include "setup.h"
#include "term.h"
#include "write.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct run {
    struct opts *o;
    qn_engine *e;
    qn_seq *seq;
    struct writer w;
    struct qn_model_info info;
    int room; /* tokens that the sequence was promised */
    int n_read; /* tokens evaluated */
    int32_t next; /* printed, but not read yet; -1: none */
    bool torn; /* reading anew was interrupted: the sequence has only a part of the text */
};

static bool shifts(const struct run *r) { return CHOICE(r->o, on_full) == FULL_SHIFT; }

/* How many of the first ids stay when the others are shifted. */
static int kept_ids(const struct run *r, const int32_t *ids)
{
    return r->o->n_keep >= 0 ? r->o->n_keep : r->info.id_bos >= 0 && ids[0] == r->info.id_bos;
}

/* Brings the sequence to ids, and leaves the last row's logits.  0, 1 when interrupted, or negative. */
static int read_ids(struct run *r, const int32_t *ids, int n, int n_max, struct qn_kept *kept, struct qn_error *err)
{
    struct marks marks = {0};
    int from = qn_seq_resume(r->seq, ids, n, kept);
    if ((r->room = gen_admit(r->seq, n, n_max, r->info.n_ctx, err)) < 0)
        return r->room;
    if (shifts(r)) /* what stays is read once */
        marks_add(&marks, from, kept_ids(r, ids) < n ? kept_ids(r, ids) : 0);
    if (r->o->cache_dir && kept->same < n)
        marks_add(&marks, from, kept->same);
    if (r->o->session || r->o->cache_dir) /* the same prompt again begins here */
        marks_add(&marks, from, n - 1);
    int rc = gen_prefill(r->e, r->seq, ids, from, n, &marks, r->o->n_batch, r->w.rows, err);
    write_begin(&r->w, r->room);
    r->n_read += qn_seq_len(r->seq) - from;
    return rc;
}

/* What follows an id that does not fit any more: the sequence is read anew without the older half of what it holds. */
static int shift(struct run *r, int32_t id, struct qn_error *err)
{
    int n = qn_seq_len(r->seq) + 1;
    struct qn_kept kept;
    int32_t *ids = xmalloc((size_t)n * sizeof *ids);
    memcpy(ids, qn_seq_ids(r->seq), (size_t)(n - 1) * sizeof *ids);
    ids[n - 1] = id;
    int keep = kept_ids(r, ids), out = gen_shift(n, &keep, r->room);
    gen_cut(ids, &n, keep, out);
    int rc = read_ids(r, ids, n, r->room - n, &kept, err);
    if (rc >= 0)
        say("the context of %d positions is full: %d tokens left out behind the first %d, %d kept, %d read again",
            r->room, out, keep, kept.kept, qn_seq_len(r->seq) - kept.kept);
    r->torn = rc > 0;
    free(ids);
    return rc;
}

/* Evaluates an id; 1 when there is no room for it, or when reading anew was interrupted. */
static int go_on(struct run *r, int32_t id, bool *full, struct qn_error *err)
{
    *full = write_len(&r->w) >= r->room;
    if (*full) {
        write_end(&r->w);
        return shifts(r) ? shift(r, id, err) : 1;
    }
    r->n_read++;
    return write_next(&r->w, id, err);
}

/* Prints the continuation; false when it could not go on, with the reason in err. */
static bool generate(struct run *r, qn_sampler *sampler, int *n_written, struct qn_error *err)
{
    struct gen g;
    struct text piece = {0};
    int rc = 0;
    char last = '\n';
    bool full = false, more = r->o->n_predict != 0;
    gen_begin(&g, r->e, sampler, &r->o->stop, r->o->n_predict);
    while (more) {
        more = gen_next(&g, r->w.ahead, &piece);
        if (more && interrupted())
            rc = 1;
        else if (more)
            rc = go_on(r, g.id, &full, err);
        if (more && rc > 0) {
            gen_finish(&g, interrupted() ? FINISH_INTERRUPT : FINISH_LENGTH, &piece);
            more = false;
        }
        out_write(piece.s, piece.n);
        out_flush();
        if (piece.n)
            last = piece.s[piece.n - 1];
        piece.n = 0;
        more = more && !rc;
    }
    write_end(&r->w);
    if (term_out() && last != '\n')
        out_text("\n");
    out_flush();
    if (full && g.finish == FINISH_LENGTH && !shifts(r) && r->room < r->info.n_ctx && r->o->n_predict < 0)
        say("stopped: memory has room for %d positions and no more", r->room);
    else if (full && g.finish == FINISH_LENGTH && !shifts(r))
        say("stopped: the context of %d positions is full (-c N makes it larger, --on-full shift goes on)", r->room);
    *n_written = g.n;
    r->next = rc >= 0 && g.n && g.finish != FINISH_STOP ? g.id : -1;
    text_free(&piece);
    gen_free(&g);
    return rc >= 0;
}

static int32_t *read_prompt(struct run *r, struct text *text, int *n)
{
    struct opts *o = r->o;
    struct qn_error err;
    if (o->file)
        text->s = io_read(o->file, &text->n);
    else
        text_put(text, o->prompt, strlen(o->prompt));
    int32_t *ids;
    unsigned flags = QN_TOK_BOS | (o->special ? QN_TOK_SPECIAL : 0);
    if (qn_tokenize(r->e, text->s, text->n, NULL, flags, &ids, n, &err))
        die("%s: %s", o->file ? o->file : "prompt", err.text);
    if (!*n) { /* nothing to continue: begin where a text begins */
        free(ids);
        int start = r->info.id_bos >= 0 ? r->info.id_bos : r->info.id_eos;
        if (start < 0)
            die("the prompt is empty, and the model has no token that begins a text");
        ids = xmalloc(sizeof *ids);
        ids[0] = start;
        *n = 1;
    }
    return ids;
}

/* Shifts a prompt that is too long, or ends the program. */
static void fit_prompt(struct run *r, int32_t *ids, int *n)
{
    int fits = qn_seq_fits(r->seq), n_ctx = r->info.n_ctx, room = shifts(r) && fits < n_ctx ? fits : n_ctx, was = *n;
    if (*n <= room)
        return;
    if (!shifts(r))
        die("the prompt has %d tokens, the context holds %d (-c N makes it larger)", *n, n_ctx);
    int keep = kept_ids(r, ids), out = gen_shift(*n, &keep, room);
    gen_cut(ids, n, keep, out);
    say("the prompt has %d tokens, the context holds %d: %d left out behind the first %d", was, room, out, keep);
}

/* Tokens of the continuation that are to have room; a text that is shifted does with what there is. */
static int wanted(const struct run *r, int n)
{
    int fits = qn_seq_fits(r->seq);
    return shifts(r) && r->o->n_predict > fits - n ? -1 : r->o->n_predict;
}

/* ---- sessions */

/* All ids of the session's text, malloc; NULL when its file is not there. */
static int32_t *load_session(struct run *r, int *n)
{
    struct qn_error err;
    char *note, why[256];
    size_t n_note;
    if (access(r->o->session, F_OK) && errno == ENOENT)
        return NULL;
    if (qn_seq_load(r->seq, r->o->session, &note, &n_note, &err))
        die("%s", err.text);
    json_t *j = json_parse(note, n_note, why, sizeof why), *next = json_object_get(j, "next"),
           *id = json_array_get(next, 0);
    if (!json_is_array(next) || json_array_size(next) > 1 || (id && !json_is_integer(id)))
        die("%s: a session of another command", r->o->session);
    if (id && (json_integer_value(id) < 0 || json_integer_value(id) >= r->info.n_vocab))
        die("%s: token id %lld is not in the vocabulary", r->o->session, json_integer_value(id));
    *n = qn_seq_len(r->seq);
    int32_t *ids = xmalloc((size_t)(*n + 1) * sizeof *ids);
    memcpy(ids, qn_seq_ids(r->seq), (size_t)*n * sizeof *ids);
    if (id)
        ids[(*n)++] = (int32_t)json_integer_value(id);
    json_decref(j);
    free(note);
    return ids;
}

static void save_session(struct run *r)
{
    char note[64];
    struct qn_error err;
    if (r->next < 0)
        snprintf(note, sizeof note, "{\"next\": []}");
    else
        snprintf(note, sizeof note, "{\"next\": [%d]}", (int)r->next);
    if (qn_seq_save(r->seq, r->o->session, note, strlen(note), &err))
        die("%s; the session was not saved", err.text);
}

/* How much of the text was known, and how much was not. */
static void say_kept(const struct run *r, const char *file, const struct qn_kept *k)
{
    char disk[48] = "";
    if (k->disk)
        snprintf(disk, sizeof disk, " (%d from disk)", k->disk);
    say("%s: %d tokens kept%s, %d read", file, k->kept, disk, r->n_read);
}

int cmd_run(struct opts *o)
{
    if ((o->prompt && o->file) || (!o->prompt && !o->file && !o->session))
        usage("run: one of -p TEXT and -f FILE is needed, or --session FILE");
    setup_seed(o);
    struct run r = {.o = o, .next = -1};
    struct qn_error err;
    r.e = setup_open(o, (struct setup_size){.n_seq = 1, .n_ctx = o->n_ctx, .n_threads = -1});
    qn_model_info(r.e, &r.info);
    if (qn_seq_new(&r.seq, r.e, &err))
        die("%s", err.text);
    write_open(&r.w, r.e, r.seq, (enum drafter)CHOICE(o, spec), o->draft_max);

    struct qn_sampling sampling;
    struct qn_logit_bias *bias;
    qn_sampler *sampler;
    const char *source = setup_sampling(&sampling, o, r.e, false, &bias);
    if (qn_sampler_new(&sampler, r.e, &sampling, &err))
        die("%s", err.text);
    int n = 0, n_written = 0;
    struct qn_kept kept = {0};
    struct text prompt = {0};
    int32_t *ids = o->session ? load_session(&r, &n) : NULL;
    if (o->prompt || o->file) {
        free(ids);
        ids = read_prompt(&r, &prompt, &n);
    }
    if (!n)
        die("%s: nothing to go on with, and there is no prompt", o->session);
    fit_prompt(&r, ids, &n);
    say("%s, %d threads, %s; sampling: %s; seed %llu", r.info.description, r.info.n_threads, r.info.isa, source,
        (unsigned long long)o->seed);
    for (int i = 0; i < n; i++)
        qn_sampler_accept(sampler, ids[i]);

    if (o->echo)
        out_write(prompt.s, prompt.n);
    out_flush();
    interrupt_catch(true);
    double t0 = now_s();
    int rc = read_ids(&r, ids, n, wanted(&r, n), &kept, &err);
    double t1 = now_s();
    bool good = rc > 0 || (!rc && generate(&r, sampler, &n_written, &err));
    double t2 = now_s();
    if (!good)
        die("%s", err.text);
    bool stopped = interrupted();
    if (o->session && (rc > 0 || r.torn)) {
        say("%s: left as it was, the %s was not read to its end", o->session, rc > 0 ? "prompt" : "shifted text");
    } else if (o->session) {
        save_session(&r);
        say_kept(&r, o->session, &kept);
    } else if (o->cache_dir) {
        say_kept(&r, o->cache_dir, &kept);
    }
    if (o->cache_dir && rc > 0) /* what was read of an interrupted prompt need not be read again */
        qn_seq_keep(r.seq);
    if (term_err())
        say("%d tokens read, %.1f/s; %d written, %.1f/s", n - kept.kept, (n - kept.kept) / (t1 - t0), n_written,
            n_written / (t2 - t1));
    char figures[120];
    if (term_err() && write_describe(&r.w.figures, figures, sizeof figures))
        say("guesses: %s", figures);
    qn_sampler_free(sampler);
    write_close(&r.w);
    qn_seq_free(r.seq);
    qn_close(r.e);
    text_free(&prompt);
    free(ids);
    free(bias);
    return stopped ? 130 : 0;
}
