/* SPDX-License-Identifier: MIT */
/* quern chat: a conversation at the terminal, or one user turn a line from a pipe.
 *
 * The conversation is a JSON array of messages.  For each answer it is rendered and tokenized anew, and what the sequence or the
 * prefix store knows of it is not evaluated again.  Snapshots are made in front of the assistant's header, since many templates
 * leave out earlier thinking and so change what comes behind it, and where a prompt parts from what is known.
 *
 * Where the context is full and --on-full says so, the conversation goes on with less of it, which is read anew: either the oldest
 * turns leave the array, or some of its ids, behind the system message, are left out of the sequence.
 *
 * An answer's own ids stand for its text where the template leaves it as it was: the tokenizer might cut it otherwise, and then it would
 * have to be read again. */
#include "gen.h"
#include "line.h"
#include "setup.h"
#include "term.h"
#include "write.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct chat {
    struct opts *o;
    qn_engine *e;
    qn_seq *seq;
    qn_sampler *sampler; /* lives as long as the conversation grows; NULL: make a new one */
    struct qn_model_info info;
    struct line_editor *editor; /* NULL: not interactive */
    json_t *messages;

    const char *think; /* auto, on, off */
    char *kwargs; /* variables of the template, or NULL */
    bool thinking; /* answers begin with thinking */
    struct qn_sampling sampling;
    struct qn_logit_bias *bias;
    const char *source; /* where the sampling defaults came from */

    int32_t *past; /* [n_past] ids of the conversation, as far as they were read */
    bool *ends; /* [n_past + 1] an answer ended behind so many of them; false behind */
    int n_past, past_cap, n_prompt; /* past_cap: room there is; n_prompt: ids of the last prompt */

    enum on_full on_full;
    int keep, cut; /* the sequence has the past without the `cut` ids behind the first `keep` */
    int limit, room; /* tokens that the sequence can hold at most; that it was promised */
    int dropped; /* messages, since the last prompt was read */
    bool shifted; /* cut has grown since then */
    struct writer w;
    struct text answer, thought;
    bool thought_shown;

    struct qn_kept kept; /* of the last prompt */
    int n_read, n_written, n_again; /* tokens since the start: prompts, answers, of prompts those computed twice */
    double read_s, write_s; /* of the last answer */
    int last_read, last_written;
    bool failed; /* a turn had no answer: the exit status when not interactive */
};

/* ---- settings */

/* The next answer makes a new one, which sees the whole conversation. */
static void drop_sampler(struct chat *c)
{
    qn_sampler_free(c->sampler);
    c->sampler = NULL;
}

static void configure(struct chat *c)
{
    free(c->kwargs);
    free(c->bias);
    uint64_t stream = c->sampling.stream;
    c->kwargs = setup_kwargs(c->o, c->think);
    c->thinking = setup_thinking(c->e, c->kwargs);
    c->source = setup_sampling(&c->sampling, c->o, c->e, c->thinking, &c->bias);
    c->sampling.stream = stream;
    drop_sampler(c);
}

static void set_system(json_t *messages, const char *text)
{
    const char *role = json_string_value(json_object_get(json_array_get(messages, 0), "role"));
    if (role && !strcmp(role, "system"))
        json_array_remove(messages, 0);
    if (*text) {
        json_t *content = json_text(text, strlen(text));
        json_array_insert_new(messages, 0, json_pack("{s:s, s:o}", "role", "system", "content", content));
    }
}

static void grow_past(struct chat *c, int n)
{
    int had = c->past_cap ? c->past_cap + 1 : 0;
    if (n <= c->past_cap)
        return;
    c->past_cap = n + n / 2 + 1024;
    c->past = xrealloc(c->past, (size_t)c->past_cap * sizeof *c->past);
    c->ends = xrealloc(c->ends, ((size_t)c->past_cap + 1) * sizeof *c->ends);
    memset(c->ends + had, 0, (size_t)(c->past_cap + 1 - had) * sizeof *c->ends);
}

/* The past becomes n ids; of the ends of answers those stay that it shares with the earlier one. */
static void set_past(struct chat *c, const int32_t *ids, int n)
{
    int same = gen_agree(ids, n, c->past, c->n_past);
    grow_past(c, n);
    memset(c->ends + same + 1, 0, (size_t)(c->n_past - same) * sizeof *c->ends);
    if (n > same)
        memcpy(c->past + same, ids + same, (size_t)(n - same) * sizeof *ids);
    c->n_past = n;
}

static const char *role_of(const json_t *messages, size_t i)
{
    const char *role = json_string_value(json_object_get(json_array_get(messages, i), "role"));
    return role ? role : "";
}

/* A new conversation; the system message stays. */
static void forget(struct chat *c)
{
    json_t *first = json_array_get(c->messages, 0);
    const char *role = json_string_value(json_object_get(first, "role"));
    json_t *keep = role && !strcmp(role, "system") ? json_incref(first) : NULL;
    json_array_clear(c->messages);
    if (keep)
        json_array_append_new(c->messages, keep);
    drop_sampler(c);
    c->cut = 0;
    set_past(c, NULL, 0); /* what the sequence holds goes to the store when the next prompt comes */
    c->sampling.stream = 0;
}

/* ---- the sequence */

/* How many of the past's ids, up to the end of an answer, are the beginning of a text: *at bytes of it. */
static int known_ids(const struct chat *c, const struct qn_text *t, size_t *at)
{
    int known = 0;
    size_t n, behind = 0;
    *at = 0;
    for (int i = 0; i < c->n_past; i++, behind += n) {
        if (c->ends[i]) {
            known = i;
            *at = behind;
        }
        const char *bytes = qn_token_bytes(c->e, c->past[i], 1, &n);
        if (n > t->n - behind || memcmp(t->bytes + behind, bytes, n) != 0)
            return known;
        if (qn_token_is_control(c->e, c->past[i]) && memchr(t->special + behind, 0, n))
            return known; /* the same text, typed by somebody */
    }
    if (c->ends[c->n_past]) {
        known = c->n_past;
        *at = behind;
    }
    return known;
}

/* The text of a conversation as ids, malloc; NULL with *err filled. */
static int32_t *text_ids(const struct chat *c, const struct qn_text *t, int *n_ids, struct qn_error *err)
{
    size_t at;
    int32_t *rest;
    int n_rest, known = known_ids(c, t, &at);
    if (qn_tokenize(c->e, t->bytes + at, t->n - at, t->special + at, 0, &rest, &n_rest, err))
        return NULL;
    int32_t *ids = xmalloc((size_t)(known + n_rest + 1) * sizeof *ids);
    memcpy(ids, c->past, (size_t)known * sizeof *ids);
    memcpy(ids + known, rest, (size_t)n_rest * sizeof *ids);
    free(rest);
    *n_ids = known + n_rest;
    return ids;
}

/* The conversation as ids; NULL with *err filled. */
static int32_t *render(struct chat *c, bool prompt, int *n_ids, bool *inside, struct qn_error *err)
{
    struct qn_text text;
    char *messages = json_dump(c->messages);
    struct qn_render_args a = {.messages = messages, .kwargs = c->kwargs, .add_generation_prompt = prompt};
    int rc = qn_render(c->e, &a, &text, err);
    free(messages);
    if (rc)
        return NULL;
    int32_t *ids = text_ids(c, &text, n_ids, err);
    size_t end = text.n;
    while (end && strchr(" \n\r\t", text.bytes[end - 1]))
        end--;
    *inside = end >= 7 && !memcmp(text.bytes + end - 7, "<think>", 7);
    qn_text_free(&text);
    return ids;
}

/* How many of the prompt's ids stand in front of the assistant's header; 0 when that cannot be told, or nobody would keep them. */
static int header_at(struct chat *c, const int32_t *ids, int n)
{
    struct qn_error err;
    struct qn_cache_info cache;
    int n_before;
    bool inside;
    qn_cache_info(c->e, &cache);
    if (!cache.budget)
        return 0;
    int32_t *before = render(c, false, &n_before, &inside, &err);
    int at = before ? gen_agree(ids, n, before, n_before) : 0;
    free(before);
    return at;
}

/* What was left out for want of room, once it is clear what that costs. */
static void say_lost(struct chat *c)
{
    if (c->shifted)
        say("the context of %d positions is full: %d tokens left out behind the first %d, %d kept, %d read again",
            c->limit, c->cut, c->keep, c->kept.kept, c->last_read);
    if (c->dropped)
        say("the context of %d positions is full: the oldest %d messages dropped, %d tokens kept, %d read again",
            c->limit, c->dropped, c->kept.kept, c->last_read);
    c->shifted = false;
    c->dropped = 0;
}

/* Tokens of an answer that are to have room.  Who goes on when the context is full does with what there is. */
static int wanted(const struct chat *c, int n)
{
    return c->on_full != FULL_STOP && c->o->n_predict > qn_seq_fits(c->seq) - n ? -1 : c->o->n_predict;
}

/* Brings the sequence to the conversation's ids, but for those that are cut, and leaves the last row's logits; `header` of them stand
 * in front of the assistant's header.  0, 1 when interrupted, or negative. */
static int advance(struct chat *c, const int32_t *ids, int n, int header, struct qn_error *err)
{
    struct marks marks = {0};
    int n_view = n;
    int32_t *view = xmalloc(((size_t)n + 1) * sizeof *view);
    memcpy(view, ids, (size_t)n * sizeof *view);
    gen_cut(view, &n_view, c->keep, c->cut);
    header -= header > c->keep + c->cut ? c->cut : 0;
    double start = now_s();
    int from = qn_seq_resume(c->seq, view, n_view, &c->kept);
    int rc = c->room = gen_admit(c->seq, n_view, wanted(c, n_view), c->info.n_ctx, err);
    if (rc >= 0) {
        c->n_again += c->kept.same - from;
        if (c->on_full && c->keep < n_view) /* what stays is read once */
            marks_add(&marks, from, c->keep);
        if (c->kept.same < header)
            marks_add(&marks, from, c->kept.same);
        marks_add(&marks, from, header < n_view ? header : n_view - 1);
        rc = gen_prefill(c->e, c->seq, view, from, n_view, &marks, c->o->n_batch, c->w.rows, err);
        write_begin(&c->w, c->room);
    }
    int read = qn_seq_len(c->seq);
    c->read_s = now_s() - start;
    c->last_read = read - from;
    c->n_read += c->last_read;
    set_past(c, ids, read > c->keep ? read + c->cut : read);
    free(view);
    say_lost(c);
    return rc;
}

/* ---- a full context */

/* Takes the oldest turn out of the conversation: what is in front of the second message of the user.  False: there is but one. */
static bool drop_turn(struct chat *c)
{
    size_t n = json_array_size(c->messages), first = !strcmp(role_of(c->messages, 0), "system"), i = first + 1;
    while (i < n && strcmp(role_of(c->messages, i), "user"))
        i++;
    if (i >= n)
        return false;
    for (; i > first; i--, c->dropped++)
        json_array_remove(c->messages, first);
    return true;
}

/* How many of the conversation's first ids stay when others are cut. */
static int kept_ids(struct chat *c, const int32_t *ids, int n)
{
    struct qn_error err;
    int n_system = 0, keep = c->info.id_bos >= 0 && ids[0] == c->info.id_bos;
    bool inside;
    if (c->o->n_keep >= 0 || strcmp(role_of(c->messages, 0), "system"))
        return c->o->n_keep > n ? n : c->o->n_keep >= 0 ? c->o->n_keep : keep;
    json_t *all = c->messages;
    c->messages = json_pack("[O]", json_array_get(all, 0));
    int32_t *system = render(c, false, &n_system, &inside, &err);
    if (system)
        keep = gen_agree(ids, n, system, n_system);
    json_decref(c->messages);
    c->messages = all;
    free(system);
    return keep;
}

/* Chooses what is cut of n ids.  A cut stays where it is as long as it will do, so that what is behind it need not be read again. */
static void choose_cut(struct chat *c, int n, int room)
{
    if (n < room || c->keep + c->cut >= n)
        c->cut = 0;
    if (n - c->cut < room)
        return;
    c->cut = gen_shift(n, &c->keep, room);
    c->shifted = true;
}

/* Room that an answer of at most n_max tokens is to find, where messages can be dropped for it. */
static int answer_room(int n_max, int room) { return n_max >= 0 && n_max < room ? n_max : room / 4; }

/* The conversation as ids, made to fit with `more` ids behind it; NULL with *err filled. */
static int32_t *render_fitting(struct chat *c, bool prompt, int more, int n_max, int *n, bool *inside,
                               struct qn_error *err)
{
    int fits = qn_seq_fits(c->seq), room = c->limit = c->on_full && fits < c->info.n_ctx ? fits : c->info.n_ctx;
    int32_t *ids = render(c, prompt, n, inside, err);
    if (c->on_full == FULL_DROP)
        while (ids && *n + more + answer_room(n_max, room) > room && drop_turn(c)) {
            free(ids);
            ids = render(c, prompt, n, inside, err);
        }
    if (ids && *n && c->on_full)
        c->keep = kept_ids(c, ids, *n);
    if (ids && *n && c->on_full == FULL_SHIFT)
        choose_cut(c, *n, room);
    if (!ids || *n + more - c->cut <= room)
        return ids;
    err->code = QN_E_NOSPACE;
    snprintf(err->text, sizeof err->text, "the conversation has %d tokens, the context holds %d", *n + more, room);
    free(ids);
    return NULL;
}

/* Goes on behind an id of the answer that does not fit any more.  0; 1 when there is no room to be made, or reading was interrupted; or
 * negative. */
static int make_room(struct chat *c, int32_t id, int n_max, struct qn_error *err)
{
    int more = c->n_past - c->n_prompt + 1, n = c->n_prompt;
    bool inside;
    if (c->on_full == FULL_STOP)
        return 1;
    size_t had = json_array_size(c->messages);
    int32_t *ids;
    if (c->on_full == FULL_DROP) {
        ids = render_fitting(c, true, more, n_max, &n, &inside, err);
        if (!ids || json_array_size(c->messages) == had) {
            free(ids);
            return 1;
        }
    } else {
        ids = xmalloc((size_t)n * sizeof *ids);
        memcpy(ids, c->past, (size_t)n * sizeof *ids);
    }
    ids = xrealloc(ids, ((size_t)n + (size_t)more) * sizeof *ids);
    memcpy(ids + n, c->past + c->n_prompt, (size_t)(more - 1) * sizeof *ids);
    ids[n + more - 1] = id;
    c->n_prompt = n;
    if (c->on_full == FULL_SHIFT)
        choose_cut(c, n + more, c->room);
    int rc = advance(c, ids, n + more, n, err);
    free(ids);
    return rc;
}

/* Evaluates an id of the answer; results as make_room(). */
static int go_on(struct chat *c, int32_t id, int n_max, bool *full, struct qn_error *err)
{
    *full = write_len(&c->w) >= c->room;
    if (*full) {
        write_end(&c->w);
        return make_room(c, id, n_max, err);
    }
    int rc = write_next(&c->w, id, err);
    if (rc)
        return rc;
    grow_past(c, c->n_past + 1);
    c->past[c->n_past++] = id;
    return 0;
}

static int ensure_sampler(struct chat *c, const int32_t *ids, int n, struct qn_error *err)
{
    if (c->sampler)
        return 0;
    int rc = qn_sampler_new(&c->sampler, c->e, &c->sampling, err);
    for (int i = 0; i < n && !rc; i++)
        qn_sampler_accept(c->sampler, ids[i]);
    return rc;
}

/* ---- one answer */

static void on_piece(void *cookie, bool thinking, const char *bytes, size_t n)
{
    struct chat *c = cookie;
    text_put(thinking ? &c->thought : &c->answer, bytes, n);
    if (thinking && !c->editor)
        return; /* a pipe gets the answers only */
    if (thinking && !c->thought_shown)
        out_printf("%s%s", term_dim(), *term_dim() ? "" : "[thinking] ");
    if (!thinking && c->thought_shown)
        out_printf("%s\n%s", term_plain(), *term_dim() ? "\n" : "[answer] ");
    c->thought_shown = thinking;
    out_write(bytes, n);
    out_flush();
}

static void say_full(struct chat *c)
{
    if (c->room < c->info.n_ctx && c->o->n_predict < 0)
        say("the context is full: memory has room for %d positions and no more; /clear begins afresh", c->room);
    else
        say("the context is full: all %d positions are in use; /clear begins afresh, -c N at the start makes it larger",
            c->room);
}

/* Picks and evaluates until the answer ends. */
static enum finish generate(struct chat *c, bool inside, struct qn_error *err)
{
    struct gen g;
    struct think t;
    struct text piece = {0};
    bool full = false;
    int rc = 0;
    double start = now_s();
    gen_begin(&g, c->e, c->sampler, &c->o->stop, c->o->n_predict);
    think_begin(&t, inside);
    bool more = c->o->n_predict != 0;
    while (more) {
        more = gen_next(&g, c->w.ahead, &piece);
        if (more)
            rc = interrupted() ? 1 : go_on(c, g.id, g.n_max < 0 ? -1 : g.n_max - g.n, &full, err);
        if (rc > 0) {
            gen_finish(&g, interrupted() ? FINISH_INTERRUPT : FINISH_LENGTH, &piece);
            more = false;
        }
        think_put(&t, piece.s, piece.n, on_piece, c);
        piece.n = 0;
        more = more && !rc;
    }
    write_end(&c->w);
    think_end(&t, on_piece, c);
    c->ends[c->n_past] = !(full && interrupted()); /* else it was read anew up to anywhere */
    out_printf("%s\n", c->thought_shown ? term_plain() : "");
    out_flush();
    c->write_s = now_s() - start;
    c->last_written = g.n;
    c->n_written += g.n;
    if (rc > 0 && full && !interrupted())
        say_full(c);
    if (rc < 0)
        say("%s", err->text);
    enum finish why = rc < 0 ? FINISH_NOT : g.finish;
    text_free(&piece);
    gen_free(&g);
    return why;
}

static void print_timings(struct chat *c, enum finish why)
{
    if (!c->editor)
        return;
    char disk[40] = "";
    if (c->kept.disk)
        snprintf(disk, sizeof disk, " (%d from disk)", c->kept.disk);
    out_printf("%s[%d tokens kept%s, %d read, %.1f/s | %d written, %.1f/s | context %d of %d%s]%s\n\n", term_dim(),
               c->kept.kept, disk, c->last_read, c->last_read / (c->read_s > 0 ? c->read_s : 1), c->last_written,
               c->last_written / (c->write_s > 0 ? c->write_s : 1), qn_seq_len(c->seq), c->info.n_ctx,
               why == FINISH_INTERRUPT ? " | stopped"
               : why == FINISH_LENGTH  ? " | cut off"
                                       : "",
               term_plain());
}

static void append_answer(struct chat *c)
{
    json_t *m =
        json_pack("{s:s, s:o}", "role", "assistant", "content", json_text(c->answer.s ? c->answer.s : "", c->answer.n));
    if (c->thought.n) {
        const char *s = c->thought.s;
        size_t n = c->thought.n;
        for (; n && strchr("\r\n", s[n - 1]); n--)
            ;
        for (; n && strchr("\r\n", *s); n--)
            s++;
        json_object_set_new(m, "reasoning_content", json_text(s, n));
    }
    json_array_append_new(c->messages, m);
}

/* Answers the conversation as it stands.  False: there is no answer, and the reason has been said. */
static bool answer(struct chat *c)
{
    struct qn_error err;
    int n;
    bool inside;
    err.code = 0;
    int32_t *ids = render_fitting(c, true, 0, c->o->n_predict, &n, &inside, &err);
    if (!ids && err.code == QN_E_NOSPACE)
        say("the context is full: %s; the message was not taken; /clear begins afresh, -c N at the start makes it "
            "larger",
            err.text);
    else if (!ids)
        say("%s", err.text);
    if (!ids)
        return false;
    if (c->sampler) /* an earlier turn that is now rendered differently has been seen already, up to there */
        for (int i = gen_agree(ids, n, c->past, c->n_past); i < n; i++)
            qn_sampler_accept(c->sampler, ids[i]);
    c->n_prompt = n;
    c->answer.n = c->thought.n = 0;
    c->thought_shown = false;
    interrupt_catch(true);
    int rc = advance(c, ids, n, header_at(c, ids, n), &err);
    if (!rc && interrupted())
        rc = 1;
    if (!rc)
        rc = ensure_sampler(c, ids, n, &err);
    free(ids);
    enum finish why = FINISH_NOT;
    if (rc < 0)
        say("%s", err.text);
    else if (rc > 0)
        say("stopped while reading the prompt; the message was not taken, what was read of it is kept");
    else
        why = generate(c, inside, &err);
    if (!c->editor)
        interrupt_catch(false);
    interrupt_clear();
    if (why == FINISH_NOT)
        return false;
    append_answer(c);
    print_timings(c, why);
    return true;
}

/* False: the message was not taken. */
static bool turn(struct chat *c, const char *text, size_t n)
{
    json_array_append_new(c->messages, json_pack("{s:s, s:o}", "role", "user", "content", json_text(text, n)));
    if (answer(c))
        return true;
    json_array_remove(c->messages, json_array_size(c->messages) - 1);
    c->failed = true;
    return false;
}

/* ---- commands */

static void do_help(struct chat *c, const char *arg)
{
    out_text(
        "/help          this list\n"
        "/clear         begin a new conversation (the system message stays)\n"
        "/regen         answer the last message once more\n"
        "/edit TEXT     put TEXT in the place of the last message and answer it\n"
        "/undo          take back the last message and its answer\n"
        "/system TEXT   set the system message; without TEXT remove it\n"
        "/think on|off  think before answering, or not\n"
        "/stats         figures of this session\n"
        "/save FILE     write the conversation as JSON; without FILE, keep the session\n"
        "/load FILE     read a conversation and go on from there\n"
        "/exit          leave (so does Ctrl-D)\n"
        "A line that ends with \\ goes on in the next one; a line of three quotes (\"\"\") opens and closes a longer "
        "text.\nCtrl-C stops an answer.\n");
}

static void do_clear(struct chat *c, const char *arg)
{
    forget(c);
    say("new conversation");
}

static void do_regen(struct chat *c, const char *arg)
{
    size_t n = json_array_size(c->messages);
    json_t *last = json_array_get(c->messages, n ? n - 1 : 0);
    const char *role = json_string_value(json_object_get(last, "role"));
    if (!role || (strcmp(role, "assistant") && strcmp(role, "user"))) {
        say("there is no answer to make again");
        return;
    }
    json_t *old = !strcmp(role, "assistant") ? json_incref(last) : NULL;
    if (old)
        json_array_remove(c->messages, n - 1);
    c->sampling.stream++;
    drop_sampler(c);
    if (!answer(c)) {
        if (old)
            json_array_append(c->messages, old);
        c->failed = true;
    }
    json_decref(old);
}

/* Takes the user's last message and what follows out of the conversation; NULL when there is none. */
static json_t *take_back(struct chat *c)
{
    size_t n = json_array_size(c->messages), i = n;
    const char *role = "";
    while (i > 0 && strcmp(role, "user")) {
        role = json_string_value(json_object_get(json_array_get(c->messages, --i), "role"));
        role = role ? role : "";
    }
    if (strcmp(role, "user"))
        return NULL;
    json_t *taken = json_array();
    for (; n > i; n--) {
        json_array_append(taken, json_array_get(c->messages, i));
        json_array_remove(c->messages, i);
    }
    c->sampling.stream++;
    drop_sampler(c);
    return taken;
}

static void do_edit(struct chat *c, const char *arg)
{
    if (!*arg) {
        say("/edit needs the new text of the last message");
        return;
    }
    json_t *old = take_back(c);
    if (!old) {
        say("there is no message to change");
        return;
    }
    if (!turn(c, arg, strlen(arg)))
        json_array_extend(c->messages, old);
    json_decref(old);
}

static void do_undo(struct chat *c, const char *arg)
{
    json_t *old = take_back(c);
    if (old)
        say("taken back; %zu messages are left", json_array_size(c->messages));
    else
        say("there is no message to take back");
    json_decref(old);
}

static void do_system(struct chat *c, const char *arg)
{
    set_system(c->messages, arg);
    say("system message %s", *arg ? "set" : "removed");
}

static void do_think(struct chat *c, const char *arg)
{
    if (strcmp(arg, "on") && strcmp(arg, "off")) {
        say("/think on or /think off");
        return;
    }
    c->think = !strcmp(arg, "on") ? "on" : "off";
    configure(c);
    say("thinking %s; sampling: %s", c->think, c->source);
}

/* Why the last prompt was not kept as a whole. */
static void print_kept(const struct chat *c)
{
    const struct qn_kept *k = &c->kept;
    out_printf("last prompt    %d tokens: %d kept", k->n, k->kept);
    if (k->disk)
        out_printf(" (%d from disk)", k->disk);
    out_printf(", %d computed", k->n - k->kept);
    if (k->was >= 0 && k->is >= 0) {
        size_t n_was, n_is;
        const char *was = qn_token_bytes(c->e, k->was, 1, &n_was), *is = qn_token_bytes(c->e, k->is, 1, &n_is);
        json_t *a = json_text(was, n_was), *b = json_text(is, n_is);
        char *before = json_dumps(a, JSON_ENCODE_ANY), *now = json_dumps(b, JSON_ENCODE_ANY);
        out_printf("; it parts from what is known at token %d, %s there and %s here", k->same, before, now);
        free(before);
        free(now);
        json_decref(a);
        json_decref(b);
    }
    out_printf("\n");
}

static void print_guesses(const struct chat *c)
{
    char figures[120];
    if (write_describe(&c->w, figures, sizeof figures))
        out_printf("guesses        %s\n", figures);
}

static void do_stats(struct chat *c, const char *arg)
{
    struct qn_cache_info cache;
    struct qn_memory_info memory;
    qn_cache_info(c->e, &cache);
    qn_memory_info(c->e, &memory);
    out_printf("model          %s\n", c->info.description);
    out_printf("threads        %d, prompts %d; level %s\n", c->info.n_threads, c->info.n_threads_batch, c->info.isa);
    out_printf("context        %d of %d positions in use", qn_seq_len(c->seq), c->info.n_ctx);
    if (c->cut)
        out_printf("; %d tokens of the conversation left out", c->cut);
    out_text("\n");
    out_printf("tokens         %d read, %d of them again; %d written\n", c->n_read, c->n_again, c->n_written);
    if (c->kept.n)
        print_kept(c);
    out_printf("prefix store   %d snapshots, %.1f of %.1f MiB; %lld have left\n", cache.n_snapshots,
               (double)cache.bytes / 1048576, (double)cache.budget / 1048576, (long long)cache.n_evicted);
    if (cache.disk_budget)
        out_printf("cache folder   %.1f of %.1f MiB; %lld snapshots written, %lld read\n",
                   (double)cache.disk_bytes / 1048576, (double)cache.disk_budget / 1048576, (long long)cache.n_written,
                   (long long)cache.n_read);
    out_printf("memory         weights %.1f MiB, scratch %.1f MiB; keys, values and states %.1f of %.1f MiB\n",
               (double)c->info.bytes_weights / 1048576, (double)c->info.bytes_step / 1048576,
               (double)memory.used / 1048576, (double)memory.budget / 1048576);
    print_guesses(c);
    out_printf("sampling       %s; temperature %g, top-k %d, top-p %g, min-p %g; seed %llu, stream %llu\n", c->source,
               (double)c->sampling.temperature, c->sampling.top_k, (double)c->sampling.top_p, (double)c->sampling.min_p,
               (unsigned long long)c->sampling.seed, (unsigned long long)c->sampling.stream);
    out_flush();
}

/* The conversation and what was computed of it into the session's file.  False: the reason has been said. */
static bool save_session(struct chat *c)
{
    struct qn_error err;
    char *note = json_dump(c->messages);
    int rc = qn_seq_save(c->seq, c->o->session, note, strlen(note), &err);
    free(note);
    if (rc)
        say("%s; the session was not saved", err.text);
    else
        say("session of %zu messages, %d tokens, saved in %s", json_array_size(c->messages), qn_seq_len(c->seq),
            c->o->session);
    return !rc;
}

static void do_save(struct chat *c, const char *arg)
{
    char err[512];
    if (!*arg && c->o->session) {
        save_session(c);
        return;
    }
    if (!*arg) {
        say("/save needs the name of a file");
        return;
    }
    char *dump = json_dumps(c->messages, JSON_INDENT(2));
    char *text = xprintf("%s\n", dump ? dump : "[]");
    if (io_try_write(arg, text, strlen(text), err, sizeof err))
        say("%zu messages written to %s", json_array_size(c->messages), arg);
    else
        say("%s", err);
    free(text);
    free(dump);
}

/* A conversation from the bytes of a file, or NULL with a message in err. */
static json_t *parse_messages(const char *path, const char *bytes, size_t n_bytes, char *err, size_t cap)
{
    char why[256];
    json_t *j = json_parse(bytes, n_bytes, why, sizeof why);
    if (!j) {
        snprintf(err, cap, "%s: %s", path, why);
        return NULL;
    }
    size_t i;
    json_t *m;
    bool good = json_is_array(j);
    json_array_foreach(j, i, m) good = good && json_is_string(json_object_get(m, "role"));
    if (good)
        return j;
    snprintf(err, cap, "%s: not a JSON array of messages", path);
    json_decref(j);
    return NULL;
}

static json_t *read_messages(const char *path, char *err, size_t cap)
{
    char *bytes;
    size_t n;
    if (!io_try_read(path, &bytes, &n, err, cap))
        return NULL;
    json_t *j = parse_messages(path, bytes, n, err, cap);
    free(bytes);
    return j;
}

/* Goes on with the session if its file is there; one that cannot be used ends the program, so that it is not written over. */
static void load_session(struct chat *c)
{
    struct qn_error err;
    char *note, text[512];
    size_t n;
    if (access(c->o->session, F_OK) && errno == ENOENT)
        return;
    if (qn_seq_load(c->seq, c->o->session, &note, &n, &err))
        die("%s", err.text);
    json_t *messages = parse_messages(c->o->session, note, n, text, sizeof text);
    free(note);
    if (!messages)
        die("%s", text);
    json_decref(c->messages);
    c->messages = messages;
    set_past(c, qn_seq_ids(c->seq), qn_seq_len(c->seq));
    c->ends[c->n_past] = true;
    say("%s: %zu messages, %d tokens", c->o->session, json_array_size(messages), c->n_past);
}

static void do_load(struct chat *c, const char *arg)
{
    char text[512];
    struct qn_error err;
    if (!*arg) {
        say("/load needs the name of a file");
        return;
    }
    json_t *loaded = read_messages(arg, text, sizeof text), *old = c->messages;
    if (!loaded) {
        say("%s", text);
        return;
    }
    int n = 0, cut = c->cut;
    bool inside;
    c->messages = loaded;
    c->cut = 0;
    int32_t *ids = render_fitting(c, false, 0, 0, &n, &inside, &err);
    if (!ids) {
        say("%.200s: %s", arg, err.text);
        c->messages = old;
        c->cut = cut;
        json_decref(loaded);
        return;
    }
    json_decref(old);
    drop_sampler(c);
    c->sampling.stream = 0;
    interrupt_catch(true);
    int rc = n ? advance(c, ids, n, 0, &err) : 0;
    if (!c->editor)
        interrupt_catch(false);
    interrupt_clear();
    free(ids);
    if (rc < 0)
        say("%s", err.text);
    else
        say("%zu messages, %d tokens", json_array_size(c->messages), c->n_past);
}

static const struct {
    const char *name;
    void (*run)(struct chat *c, const char *arg); /* NULL: leave */
} commands[] = {{"/help", do_help},   {"/clear", do_clear}, {"/regen", do_regen}, {"/system", do_system},
                {"/think", do_think}, {"/edit", do_edit},   {"/undo", do_undo},   {"/stats", do_stats},
                {"/save", do_save},   {"/load", do_load},   {"/exit", NULL},      {"/quit", NULL}};

/* 1: was a command; 0: was none; -1: leave. */
static int run_command(struct chat *c, const char *line)
{
    size_t len = strcspn(line, " \t");
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        if (strlen(commands[i].name) != len || memcmp(commands[i].name, line, len))
            continue;
        if (!commands[i].run)
            return -1;
        char *arg = xstrdup(line + len + strspn(line + len, " \t"));
        for (size_t n = strlen(arg); n && strchr(" \t", arg[n - 1]);)
            arg[--n] = 0;
        commands[i].run(c, arg);
        free(arg);
        out_flush();
        return 1;
    }
    return 0;
}

/* ---- reading turns */

static void talk_terminal(struct chat *c)
{
    struct text turn_text = {0};
    interrupt_catch(true);
    while (line_read_turn(c->editor, &turn_text)) {
        int was = turn_text.s[0] == '/' ? run_command(c, turn_text.s) : 0;
        if (was < 0)
            break;
        if (was)
            continue;
        if (turn_text.s[0] == '/' && !strpbrk(turn_text.s, " \n"))
            say("%s is not a command; /help lists them", turn_text.s);
        else if (turn_text.s[strspn(turn_text.s, " \t\r\n")])
            turn(c, turn_text.s, turn_text.n);
    }
    text_free(&turn_text);
}

static void talk_pipe(struct chat *c)
{
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    while ((n = getline(&line, &cap, stdin)) > 0) {
        while (n && strchr("\r\n", line[n - 1]))
            line[--n] = 0;
        if (!n)
            continue;
        int was = line[0] == '/' && strlen(line) == (size_t)n ? run_command(c, line) : 0;
        if (was < 0)
            break;
        if (!was)
            turn(c, line, (size_t)n);
    }
    free(line);
}

int cmd_chat(struct opts *o)
{
    setup_seed(o);
    struct chat c = {
        .o = o, .messages = json_array(), .think = setup_think(o), .on_full = (enum on_full)CHOICE(o, on_full)};
    c.e = setup_open(o, (struct setup_size){.n_seq = 1, .n_ctx = o->n_ctx, .n_threads = -1});
    qn_model_info(c.e, &c.info);
    if (!c.info.has_template && !o->template_file)
        die("%s: the model has no chat template (--template-file names one; quern run continues plain text)", o->model);
    struct qn_error err;
    if (qn_seq_new(&c.seq, c.e, &err))
        die("%s", err.text);
    grow_past(&c, 1);
    write_open(&c.w, c.e, c.seq, (enum drafter)CHOICE(o, spec), o->draft_max);
    if (o->session)
        load_session(&c);
    if (o->system)
        set_system(c.messages, o->system);
    configure(&c);
    say("%s, %d threads, %s, context %d; sampling: %s; seed %llu", c.info.description, c.info.n_threads, c.info.isa,
        c.info.n_ctx, c.source, (unsigned long long)o->seed);
    if (qn_seq_fits(c.seq) < c.info.n_ctx)
        say("memory has room for %d positions of the context", qn_seq_fits(c.seq));
    if (term_in()) {
        c.editor = line_editor_new();
        say("/help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves");
        talk_terminal(&c);
        line_editor_free(c.editor);
    } else {
        talk_pipe(&c);
    }
    bool lost = o->session && !save_session(&c);
    qn_sampler_free(c.sampler);
    write_close(&c.w);
    if (o->cache_dir) /* the last answer, too, will be there */
        qn_seq_keep(c.seq);
    qn_seq_free(c.seq);
    qn_close(c.e);
    json_decref(c.messages);
    free(c.kwargs);
    free(c.bias);
    free(c.past);
    free(c.ends);
    text_free(&c.answer);
    text_free(&c.thought);
    return lost || (c.failed && !term_in()) ? 1 : 0;
}
