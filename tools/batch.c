/* SPDX-License-Identifier: MIT */
/* quern batch: a file of prompts, many sequences side by side.
 *
 * Every call to the engine carries one row for each sequence that is being continued and fills up with rows of prompts that
 * are still being read; a sequence that ends makes room for the next line at once.  Where nobody reads a prompt, guesses may stand behind
 * those rows.  A beginning that prompts have in common is read once.  A line is begun when its prompt and its whole answer have been
 * promised room; until then it waits for others to end.  An answer depends on its line, the settings and its index only, never on its
 * neighbours, so a killed run can go on where it was. */
#include "gen.h"
#include "journal.h"
#include "request.h"
#include "setup.h"
#include "term.h"
#include "write.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <xxhash.h>

struct line {
    const char *s; /* in the input */
    size_t n;
};

/* Shorter beginnings that prompts have in common are read by each; so many prompts are remembered. */
enum { SHARE_LEAST = 32, RECENT = 256 };
enum { GUESSES = 64 }; /* most of all lines together */

struct slot {
    qn_seq *seq;
    int index; /* line in work, or -1 */
    struct request r;
    qn_sampler *sampler;
    struct gen g;
    struct text text;
    int n_fed; /* ids of the prompt in the sequence */
    int room; /* tokens it needs room for */
    bool waits; /* until there is memory for them */
    bool more; /* the answer goes on with g.id */
    int32_t span[WRITE_MOST + 1]; /* that, and guesses */
    int n_out; /* tokens left out where the context was full */
    int mark; /* the store gets a snapshot behind so many of them; 0 = none */
    struct slot *leader; /* reads a beginning that this one has too, and until then this one waits; or NULL */
    int shared; /* length of that beginning */
};

/* An earlier prompt. */
struct recent {
    int32_t *ids; /* [n] */
    int n;
};

struct batch {
    struct opts *o;
    qn_engine *e;
    char *input;
    struct line *lines; /* [n_lines] */
    uint64_t *hashes; /* [n_lines] */
    int n_lines, next; /* next: line to look at */
    struct request_base base;
    struct qn_logit_bias *bias[2];
    struct journal journal;
    struct slot *slots; /* [n_parallel] */
    struct qn_span *spans; /* [n_parallel] */
    struct slot **of; /* [n_parallel] the slot of each span */
    float *logits; /* [n_parallel (1 + n_guesses)][n_vocab] */
    int *keep; /* [n_parallel] tokens of each span that stay */
    int n_guesses; /* most for a line; 0: nobody guesses */
    struct guesser guesser;
    struct write_figures figures;
    int n_timed; /* lines in the steps that figures.cost is about */
    struct recent recent[RECENT];
    int n_recent; /* ever; entry i is recent[i % RECENT] */
    int64_t n_prompt, n_computed; /* ids of prompts: all, those that were read */
    int64_t n_disk; /* of the others, those that only the cache folder had */
    int n_errors, n_before; /* lines with an error; lines finished by an earlier run */
    int64_t n_tokens; /* read and written */
    int64_t n_again; /* of those read: where a context was full */
    bool said_waiting;
    struct progress bar;
};

/* ---- input */

static void split_lines(struct batch *b)
{
    size_t n, room = 0;
    b->input = io_read(b->o->input, &n);
    for (size_t at = 0; at < n;) {
        const char *end = memchr(b->input + at, '\n', n - at);
        size_t len = end ? (size_t)(end - (b->input + at)) : n - at;
        if ((size_t)b->n_lines == room) {
            room = room * 2 + 256;
            b->lines = xrealloc(b->lines, room * sizeof *b->lines);
            b->hashes = xrealloc(b->hashes, room * sizeof *b->hashes);
        }
        if (b->n_lines == 1 << 30)
            die("%s: more than 2^30 lines", b->o->input);
        b->lines[b->n_lines] = (struct line){.s = b->input + at, .n = len};
        b->hashes[b->n_lines++] = XXH3_64bits(b->input + at, len);
        at += len + 1;
    }
    if (!b->n_lines)
        die("%s: holds no lines", b->o->input);
}

static uint64_t hash_input(const struct batch *b)
{
    return XXH3_64bits(b->hashes, (size_t)b->n_lines * sizeof *b->hashes);
}

/* ---- settings: everything that can change an answer */

/* Options that change how fast an answer comes, or where it goes. */
static bool without_effect(const struct opt *row)
{
    static const char *const names[] = {"help",       "input",   "output",        "parallel",   "model",
                                        "seed",       "threads", "threads-batch", "batch-size", "ubatch-size",
                                        "numa",       "isa",     "template-file", "cache-ram",  "cache-dir",
                                        "cache-disk", "spec",    "draft-max"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(names[i], row->name))
            return true;
    return false;
}

static json_t *option_value(const struct opts *o, const struct opt *row)
{
    const void *at = (const char *)o + row->at;
    if (!o->given[row - opt_table] && (!row->def || row->def[0] == ':'))
        return json_string("default");
    switch (row->kind) {
    case OPT_FLAG:
        return json_boolean(*(const bool *)at);
    case OPT_INT:
        return json_integer(*(const int *)at);
    case OPT_REAL:
        return json_real(*(const double *)at);
    case OPT_TEXTS: {
        json_t *list = json_array();
        const struct strings *s = at;
        for (int i = 0; i < s->n; i++)
            json_array_append_new(list, json_text(s->v[i], strlen(s->v[i])));
        return list;
    }
    default: {
        const char *s = *(const char *const *)at;
        return s ? json_text(s, strlen(s)) : json_string("default");
    }
    }
}

/* Size and checksum of the file's beginning, which holds the metadata, and of its end. */
static json_t *model_mark(const char *path)
{
    enum { HEAD = 1 << 20, TAIL = 1 << 16 };
    struct stat st;
    char *buf = xmalloc(HEAD + TAIL), text[64];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st))
        die("%s: %s", path, strerror(errno));
    ssize_t head = pread(fd, buf, HEAD, 0);
    off_t from = st.st_size > TAIL ? st.st_size - TAIL : 0;
    ssize_t tail = head < 0 ? -1 : pread(fd, buf + head, TAIL, from);
    if (tail < 0)
        die("%s: %s", path, strerror(errno));
    snprintf(text, sizeof text, "%lld bytes, %016" PRIx64, (long long)st.st_size,
             XXH3_64bits(buf, (size_t)(head + tail)));
    close(fd);
    free(buf);
    return json_string(text);
}

static json_t *make_settings(struct batch *b)
{
    struct opts *o = b->o;
    json_t *j = json_object();
    char text[32];
    json_object_set_new(j, "arithmetic", json_integer(QN_BITS));
    json_object_set_new(j, "model", model_mark(setup_model(o)));
    snprintf(text, sizeof text, "%" PRIu64, o->seed);
    json_object_set_new(j, "seed", o->seed == UINT64_MAX ? json_null() : json_string(text));
    if (o->template_file) {
        size_t n;
        char *bytes = io_read(o->template_file, &n);
        snprintf(text, sizeof text, "%016" PRIx64, XXH3_64bits(bytes, n));
        free(bytes);
    } else {
        strcpy(text, "default");
    }
    json_object_set_new(j, "--template-file", json_string(text));
    for (int i = 0; i < opt_table_rows; i++)
        if (opt_has(&opt_table[i], CMD_BATCH) && !without_effect(&opt_table[i])) {
            char *key = xprintf("--%s", opt_table[i].name);
            json_object_set_new(j, key, option_value(o, &opt_table[i]));
            free(key);
        }
    /* the value in use, not the word */
    json_object_set_new(j, "--think", json_string(setup_think(o)));
    return j;
}

static void settle_seed(struct batch *b, json_t *settings)
{
    char text[32];
    const char *kept = json_string_value(json_object_get(settings, "seed"));
    if (kept)
        b->o->seed = strtoull(kept, NULL, 10);
    else
        setup_seed(b->o);
    snprintf(text, sizeof text, "%" PRIu64, b->o->seed);
    json_object_set_new(settings, "seed", json_string(text));
}

/* ---- answers */

static void record(struct batch *b, int index, const json_t *id, const struct slot *s, const char *error)
{
    static const char *const reasons[] = {[FINISH_STOP] = "stop", [FINISH_LENGTH] = "length"};
    json_t *j = json_object();
    json_object_set_new(j, "id", id ? json_deep_copy(id) : json_null());
    json_object_set_new(j, "index", json_integer(index));
    json_object_set_new(j, "text", s && s->text.n ? json_text(s->text.s, s->text.n) : json_string(""));
    json_object_set_new(j, "finish_reason", json_string(s ? reasons[s->g.finish] : "error"));
    json_object_set_new(j, "n_prompt", json_integer(s ? s->r.n_prompt : 0));
    json_object_set_new(j, "n_generated", json_integer(s ? s->g.n : 0));
    if (s && s->n_out)
        json_object_set_new(j, "n_left_out", json_integer(s->n_out));
    if (error)
        json_object_set_new(j, "error", json_text(error, strlen(error)));
    b->n_errors += error != NULL;
    journal_add(&b->journal, index, j);
    json_decref(j);
}

/* ---- common beginnings */

/* How many of the ids a prompt begins with, but for its last one, which is read anyway. */
static int agree(const struct request *r, const int32_t *ids, int n) { return gen_agree(r->ids, r->n_ids - 1, ids, n); }

/* Begins with what is kept of the prompt in s.  What it has in common with others beyond that it waits for if one of them is about to
 * read it; else it reads that itself and leaves a snapshot for the next one. */
static void share(struct batch *b, struct slot *s)
{
    struct qn_cache_info cache;
    struct qn_kept k;
    qn_cache_info(b->e, &cache);
    s->n_fed = qn_seq_resume(s->seq, s->r.ids, s->r.n_ids, &k);
    b->n_disk += k.disk;
    s->leader = NULL;
    s->mark = 0;
    if (!cache.budget)
        return;
    int best = s->n_fed + SHARE_LEAST - 1;
    if (k.same > best && k.same < s->r.n_ids)
        best = s->mark = k.same;
    for (int i = 0; i < RECENT && i < b->n_recent; i++) {
        int n = agree(&s->r, b->recent[i].ids, b->recent[i].n);
        if (n > best)
            best = s->mark = n;
    }
    for (int i = 0; i < b->o->n_parallel; i++) {
        struct slot *other = &b->slots[i];
        int n = other == s || other->index < 0 || other->waits ? 0 : agree(&s->r, other->r.ids, other->r.n_ids);
        if (n < best || n <= s->n_fed + SHARE_LEAST - 1 || other->n_fed >= n)
            continue;
        best = s->shared = n;
        s->leader = other;
        s->mark = 0;
    }
}

static void remember(struct batch *b, const struct request *r)
{
    struct recent *x = &b->recent[b->n_recent++ % RECENT];
    x->ids = xrealloc(x->ids, (size_t)r->n_ids * sizeof *x->ids);
    memcpy(x->ids, r->ids, (size_t)r->n_ids * sizeof *x->ids);
    x->n = r->n_ids;
}

/* Where s stops reading next, so that a snapshot can be made. */
static int next_stop(const struct batch *b, const struct slot *s)
{
    int stop = s->mark > s->n_fed ? s->mark : s->r.n_ids;
    for (int i = 0; i < b->o->n_parallel; i++)
        if (b->slots[i].leader == s && b->slots[i].shared < stop)
            stop = b->slots[i].shared;
    return stop;
}

/* Has s promised the room it needs; else it gives up what it has and waits for others to end. */
static void reserve(struct batch *b, struct slot *s)
{
    struct qn_error err;
    s->waits = qn_seq_reserve(s->seq, s->room, &err) != 0;
    if (!s->waits)
        return;
    qn_seq_clear(s->seq);
    s->leader = NULL;
    s->n_fed = s->mark = 0;
    for (int i = 0; i < b->o->n_parallel; i++)
        if (b->slots[i].leader == s) { /* it must not wait for one that waits for its room */
            b->slots[i].leader = NULL;
            b->slots[i].mark = b->slots[i].shared;
        }
    if (!b->said_waiting)
        say("fewer than %d side by side: %s", b->o->n_parallel, err.text);
    b->said_waiting = true;
}

/* Begins, or begins again, to read the ids of s. */
static void admit(struct batch *b, struct slot *s)
{
    share(b, s);
    reserve(b, s);
}

/* Those who wait for what s has read by now go on from there, and so may those who wait for them. */
static void wake(struct batch *b, const struct slot *s)
{
    for (int i = 0; i < b->o->n_parallel; i++) {
        struct slot *other = &b->slots[i];
        if (other->leader != s || other->shared > s->n_fed)
            continue;
        other->leader = NULL;
        struct qn_kept k;
        other->n_fed = qn_seq_resume(other->seq, other->r.ids, other->r.n_ids, &k);
        b->n_disk += k.disk;
        reserve(b, other);
        wake(b, other);
    }
}

/* s has read n more of its prompt. */
static void advance(struct batch *b, struct slot *s, int n)
{
    bool wanted = (s->n_fed += n) == s->mark;
    b->n_computed += n;
    for (int i = 0; i < b->o->n_parallel; i++)
        wanted |= b->slots[i].leader == s && b->slots[i].shared == s->n_fed;
    if (wanted)
        qn_seq_keep(s->seq);
    wake(b, s);
}

static void vacate(struct slot *s)
{
    qn_sampler_free(s->sampler);
    s->sampler = NULL;
    gen_free(&s->g);
    request_free(&s->r);
    qn_seq_clear(s->seq);
    s->index = -1;
}

/* Tokens that a request needs room for.  An answer without a limit, and one that can be shifted, does with what there is. */
static int room_for(const struct batch *b, const struct request *r)
{
    int n_ctx = b->base.info.n_ctx, most = b->base.most < n_ctx ? b->base.most : n_ctx;
    int room = r->n_max < 0 || r->n_max > n_ctx - r->n_ids ? n_ctx : r->n_ids + r->n_max;
    return room > most && most >= r->n_ids && (r->n_max < 0 || request_shifts(&b->base)) ? most : room;
}

/* Takes a line into a free slot; false when the line was settled at once. */
static bool occupy(struct batch *b, struct slot *s, int index)
{
    char why[1200];
    struct qn_error err;
    struct line *l = &b->lines[index];
    if (!request_parse(&s->r, &b->base, l->s, l->n, index, why, sizeof why)) {
        record(b, index, s->r.id, NULL, why);
        request_free(&s->r);
        return false;
    }
    if (qn_sampler_new(&s->sampler, b->e, &s->r.sampling, &err)) {
        record(b, index, s->r.id, NULL, err.text);
        request_free(&s->r);
        return false;
    }
    s->room = room_for(b, &s->r);
    if (s->room > b->base.most) {
        snprintf(why, sizeof why, "no memory for a context of %d tokens: %d would fit", s->room, b->base.most);
        record(b, index, s->r.id, NULL, why);
        qn_sampler_free(s->sampler);
        s->sampler = NULL;
        request_free(&s->r);
        return false;
    }
    for (int i = 0; i < s->r.n_ids; i++)
        qn_sampler_accept(s->sampler, s->r.ids[i]);
    gen_begin(&s->g, b->e, s->sampler, &s->r.stop, s->r.n_max);
    s->index = index;
    s->text.n = 0;
    s->n_out = s->r.n_prompt - s->r.n_ids;
    if (s->r.n_max) {
        admit(b, s);
        remember(b, &s->r);
        b->n_prompt += s->r.n_ids;
        return true;
    }
    s->g.finish = FINISH_LENGTH; /* nothing was asked for */
    record(b, index, s->r.id, s, NULL);
    vacate(s);
    return false;
}

/* The first line that waits for memory. */
static struct slot *next_waiting(const struct batch *b)
{
    struct slot *first = NULL;
    for (int i = 0; i < b->o->n_parallel; i++) {
        struct slot *s = &b->slots[i];
        if (s->index >= 0 && s->waits && (!first || s->index < first->index))
            first = s;
    }
    return first;
}

/* No line is begun while an earlier one waits for memory. */
static void fill_slots(struct batch *b)
{
    bool waiting = false;
    for (struct slot *s; (s = next_waiting(b)) && !waiting; waiting = s->waits)
        admit(b, s);
    for (int i = 0; i < b->o->n_parallel && !waiting; i++) {
        struct slot *s = &b->slots[i];
        while (s->index < 0 && b->next < b->n_lines) {
            int index = b->next++;
            if (!b->journal.results[index] && occupy(b, s, index))
                break;
        }
        waiting = s->index >= 0 && s->waits;
    }
}

/* One row for each running answer, and prompts as long as there is room. */
static int make_spans(struct batch *b)
{
    int n = 0, rows = 0;
    for (int i = 0; i < b->o->n_parallel; i++) {
        struct slot *s = &b->slots[i];
        if (s->index < 0 || s->waits || s->n_fed < s->r.n_ids)
            continue;
        b->of[n] = s;
        b->spans[n++] = (struct qn_span){.seq = s->seq, .ids = &s->g.id, .n = 1, .logits = QN_LOGITS_LAST};
        rows++;
    }
    for (int i = 0; i < b->o->n_parallel; i++) {
        struct slot *s = &b->slots[i];
        int left = s->index < 0 || s->leader || s->waits ? 0 : next_stop(b, s) - s->n_fed, room = b->o->n_ubatch - rows;
        if (left <= 0 || (room <= 0 && n))
            continue;
        int take = left < room ? left : room > 0 ? room : 1;
        b->of[n] = s;
        b->spans[n++] = (struct qn_span){.seq = s->seq,
                                         .ids = s->r.ids + s->n_fed,
                                         .n = take,
                                         .logits = s->n_fed + take == s->r.n_ids ? QN_LOGITS_LAST : QN_LOGITS_NONE};
        rows += take;
    }
    return n;
}

/* The context of s is full: it goes on with the newer half of its ids. */
static void shift(struct batch *b, struct slot *s)
{
    int n = qn_seq_len(s->seq) + 1, keep = s->r.keep, out = gen_shift(n, &keep, s->room);
    s->r.ids = xrealloc(s->r.ids, (size_t)n * sizeof *s->r.ids);
    memcpy(s->r.ids, qn_seq_ids(s->seq), (size_t)(n - 1) * sizeof *s->r.ids);
    s->r.ids[n - 1] = s->g.id;
    gen_cut(s->r.ids, &n, keep, out);
    s->r.n_ids = n;
    s->n_out += out;
    admit(b, s);
    b->n_again += n - s->n_fed;
}

/* Picks what comes behind a row of s, and behind those that follow as long as they are what was picked; how many of them that were. */
static int pick(struct batch *b, struct slot *s, const float *rows, int n_rows)
{
    int n = 0;
    do
        s->more = gen_next(&s->g, rows + (size_t)n++ * (size_t)b->base.info.n_vocab, &s->text);
    while (s->more && n < n_rows && s->g.id == s->span[n]);
    return n;
}

/* What was picked last is to be evaluated next, if there is room, or was the end. */
static void settle(struct batch *b, struct slot *s)
{
    if (s->more && qn_seq_len(s->seq) >= s->room && request_shifts(&b->base)) {
        shift(b, s);
        return;
    }
    if (s->more && qn_seq_len(s->seq) >= s->room) {
        gen_finish(&s->g, FINISH_LENGTH, &s->text);
        s->more = false;
    }
    if (s->more)
        return;
    record(b, s->index, s->r.id, s, NULL);
    vacate(s);
}

/* Puts guesses behind the rows of n answers; how many. */
static int add_guesses(struct batch *b, int n)
{
    struct qn_error err;
    int all = 0;
    if (n != b->n_timed)
        memset(b->figures.cost, 0, sizeof b->figures.cost);
    b->n_timed = n;
    int most = write_choose(&b->figures, b->n_guesses);
    for (int i = 0; i < n; i++) {
        struct slot *s = b->of[i];
        int room = s->room - qn_seq_len(s->seq) - 1;
        int got = write_guess(&b->guesser, s->seq, s->g.id, most < room ? most : room, s->span + 1, &err);
        if (got < 0)
            die("%s", err.text);
        s->span[0] = s->g.id;
        b->spans[i].ids = s->span;
        b->spans[i].n = 1 + got;
        b->spans[i].logits = QN_LOGITS_ALL;
        all += got;
    }
    return all;
}

/* What a step of n answers, with so many guesses in all, teaches about guessing. */
static void learn(struct batch *b, int n, int guessed, double seconds)
{
    int n_tokens = 0;
    for (int i = 0; i < n; i++) {
        int got = b->spans[i].n - 1;
        n_tokens += b->keep[i];
        if (got)
            write_guessed(&b->figures, got, b->keep[i] - 1);
        else if (guessed)
            write_missed(&b->figures);
    }
    write_stepped(&b->figures, n, (guessed + n - 1) / n, n_tokens, seconds);
}

/* Evaluates n spans and picks from their rows. */
static void step(struct batch *b, int n)
{
    struct qn_error err;
    bool writing = b->n_guesses > 0;
    for (int i = 0; i < n; i++)
        writing = writing && b->of[i]->n_fed == b->of[i]->r.n_ids;
    double start = now_s(), seconds;
    int guessed = writing ? add_guesses(b, n) : 0;
    if (guessed ? qn_try(b->e, b->spans, n, b->logits, &err) : qn_eval(b->e, b->spans, n, b->logits, &err))
        die("%s (%d of %d answers are in %s; the same command goes on from there)", err.text, b->journal.n_done,
            b->n_lines, b->journal.path);
    seconds = now_s() - start;
    const float *row = b->logits;
    for (int i = 0; i < n; i++) {
        struct slot *s = b->of[i];
        int n_rows = guessed ? b->spans[i].n : 1;
        b->keep[i] = b->spans[i].n;
        if (s->n_fed < s->r.n_ids)
            advance(b, s, b->spans[i].n);
        if (b->spans[i].logits != QN_LOGITS_NONE) {
            int picked = pick(b, s, row, n_rows);
            b->keep[i] = guessed ? picked : b->keep[i];
            row += (size_t)n_rows * (size_t)b->base.info.n_vocab;
            if (!guessed)
                settle(b, s);
        }
        b->n_tokens += b->keep[i];
    }
    if (guessed) {
        start = now_s();
        qn_commit(b->e, b->keep);
        seconds += now_s() - start;
    }
    for (int i = 0; i < n && guessed; i++)
        settle(b, b->of[i]);
    if (writing)
        learn(b, n, guessed, seconds);
}

static void show_progress(struct batch *b)
{
    char detail[80];
    int todo = b->n_lines - b->n_before, done = b->journal.n_done - b->n_before;
    snprintf(detail, sizeof detail, "%d of %d, %.0f tokens/s", b->journal.n_done, b->n_lines,
             (double)b->n_tokens / (now_s() - b->bar.start + 1e-9));
    progress_set(&b->bar, todo ? (double)done / todo : 1, detail);
}

static void work(struct batch *b)
{
    int n;
    progress_begin(&b->bar, "batch");
    interrupt_catch(true);
    for (fill_slots(b); (n = make_spans(b)) > 0; fill_slots(b)) {
        step(b, n);
        show_progress(b);
        if (interrupted()) {
            progress_end(&b->bar);
            die("stopped; %d of %d answers are in %s; the same command goes on from there", b->journal.n_done,
                b->n_lines, b->journal.path);
        }
    }
    progress_end(&b->bar);
    interrupt_catch(false);
}

/* How many tokens are guessed for a line at most: their rows have room in a step, and not too many are given away. */
static void choose_guesses(struct batch *b)
{
    struct opts *o = b->o;
    int rows = o->n_parallel + GUESSES < o->n_ubatch ? o->n_parallel + GUESSES : o->n_ubatch;
    int each = rows / o->n_parallel - 1;
    b->guesser.drafter = (enum drafter)CHOICE(o, spec);
    write_figures_begin(&b->figures);
    if (b->guesser.drafter == DRAFT_OFF)
        return;
    if (each < 1) {
        say("%d side by side: no guesses beside so many", o->n_parallel);
        b->guesser.drafter = DRAFT_OFF;
        o->spec = "off";
        return;
    }
    b->n_guesses = o->draft_max = o->draft_max < each ? o->draft_max : each;
}

static void open_engine(struct batch *b)
{
    struct opts *o = b->o;
    struct qn_error err;
    int left = b->n_lines - b->journal.n_done;
    if (o->n_parallel > left)
        o->n_parallel = left;
    choose_guesses(b);
    b->e = setup_open(o, (struct setup_size){.n_seq = o->n_parallel, .n_ctx = o->n_ctx, .n_threads = -1});
    b->base = (struct request_base){.o = o, .e = b->e, .kwargs = setup_kwargs(o, setup_think(o))};
    qn_model_info(b->e, &b->base.info);
    b->base.thinking = (b->base.info.has_template || o->template_file) && setup_thinking(b->e, b->base.kwargs);
    for (int t = 0; t < 2; t++)
        setup_sampling(&b->base.sampling[t], o, b->e, t, &b->bias[t]);
    size_t n = (size_t)o->n_parallel;
    b->slots = xmalloc(n * sizeof *b->slots);
    b->spans = xmalloc(n * sizeof *b->spans);
    b->of = xmalloc(n * sizeof *b->of);
    b->keep = xmalloc(n * sizeof *b->keep);
    b->logits = xmalloc(n * (size_t)(1 + b->n_guesses) * (size_t)b->base.info.n_vocab * sizeof *b->logits);
    for (int i = 0; i < o->n_parallel; i++) {
        b->slots[i].index = -1;
        if (qn_seq_new(&b->slots[i].seq, b->e, &err))
            die("%s", err.text);
    }
    b->base.most = qn_seq_fits(b->slots[0].seq);
}

static void close_all(struct batch *b)
{
    for (int i = 0; b->slots && i < b->o->n_parallel; i++) {
        qn_seq_free(b->slots[i].seq);
        text_free(&b->slots[i].text);
    }
    for (int i = 0; i < RECENT; i++)
        free(b->recent[i].ids);
    qn_close(b->e);
    journal_close(&b->journal);
    free(b->slots);
    free(b->spans);
    free(b->of);
    free(b->logits);
    free(b->keep);
    free(b->guesser.ids);
    free(b->bias[0]);
    free(b->bias[1]);
    free(b->base.kwargs);
    free(b->lines);
    free(b->hashes);
    free(b->input);
}

int cmd_batch(struct opts *o)
{
    if (!o->input || !o->output)
        usage("batch: -i FILE and -o FILE are needed");
    if (!strcmp(o->output, "-"))
        usage("batch: the answers need a file, not standard output");
    struct batch b = {.o = o};
    split_lines(&b);
    json_t *settings = make_settings(&b);
    if (journal_resume(&b.journal, o->output, settings, b.hashes, b.n_lines, hash_input(&b)))
        say("%s: %d of %d answers are there already", b.journal.path, b.journal.n_done, b.n_lines);
    b.n_before = b.journal.n_done;
    settle_seed(&b, settings);
    if (b.journal.n_done < b.n_lines) {
        open_engine(&b);
        say("%d lines, %d side by side; seed %" PRIu64, b.n_lines, o->n_parallel, o->seed);
        journal_begin(&b.journal, settings);
        work(&b);
        char disk[48] = "";
        if (b.n_disk)
            snprintf(disk, sizeof disk, " (%" PRId64 " from disk)", b.n_disk);
        say("%" PRId64 " tokens of prompts: %" PRId64 " kept%s, %" PRId64 " computed", b.n_prompt,
            b.n_prompt - b.n_computed + b.n_again, disk, b.n_computed - b.n_again);
        if (b.n_again)
            say("%" PRId64 " tokens read again where a context was full", b.n_again);
        char figures[120];
        if (write_describe(&b.figures, figures, sizeof figures))
            say("guesses: %s", figures);
    }
    journal_finish(&b.journal);
    if (b.n_errors)
        say("%s: %d of %d lines have an error in place of an answer", o->output, b.n_errors, b.n_lines);
    json_decref(settings);
    close_all(&b);
    return 0;
}
