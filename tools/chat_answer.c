/* SPDX-License-Identifier: MIT */
/* One answer: its prompt is read, tokens are picked until it ends, and it becomes a message.  Thinking is shown at a terminal only. */
#include "chat.h"
#include "gen.h"
#include "term.h"

#include <stdlib.h>
#include <string.h>

static int ensure_sampler(struct chat *c, const struct prompt *p, struct qn_error *err)
{
    if (c->sampler)
        return 0;
    int rc = qn_sampler_new(&c->sampler, c->e, &c->sampling, err);
    for (int i = 0; i < p->n && !rc; i++)
        qn_sampler_accept(c->sampler, p->ids[i]);
    return rc;
}

/* Reads the prompt, and has a sampler that saw it.  0, 1 when interrupted, or negative. */
static int read_prompt(struct chat *c, const struct prompt *p, struct qn_error *err)
{
    struct timeline *t = &c->timeline;
    if (c->sampler) /* an earlier turn that is now rendered differently has been seen already, up to there */
        for (int i = gen_agree(p->ids, p->n, t->ids, t->n); i < p->n; i++)
            qn_sampler_accept(c->sampler, p->ids[i]);
    t->n_prompt = p->n;
    int rc = chat_read(c, p->ids, p->n, chat_header_at(c, p), err);
    if (rc)
        return rc;
    return interrupted() ? 1 : ensure_sampler(c, p, err);
}

/* ---- writing */

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
    int room = c->timeline.room;
    if (room < c->info.n_ctx && c->o->n_predict < 0)
        say("the context is full: memory has room for %d positions and no more; /clear begins afresh", room);
    else
        say("the context is full: all %d positions are in use; /clear begins afresh, -c N at the start makes it larger",
            room);
}

/* Evaluates an id of the answer; results as chat_make_room().  *full: there was no room for it as things were. */
static int go_on(struct chat *c, int32_t id, int n_max, bool *full, struct qn_error *err)
{
    *full = timeline_full(&c->timeline);
    if (!*full)
        return timeline_write(&c->timeline, id, err);
    write_end(&c->timeline.w);
    return chat_make_room(c, id, n_max, err);
}

/* Picks and evaluates until the answer ends. */
static enum finish generate(struct chat *c, bool inside, struct qn_error *err)
{
    struct timeline *t = &c->timeline;
    struct gen g;
    struct think think;
    struct text piece = {0};
    bool full = false;
    int rc = 0;
    double start = now_s();
    gen_begin(&g, c->e, c->sampler, &c->o->stop, c->o->n_predict);
    think_begin(&think, inside);
    bool more = c->o->n_predict != 0;
    while (more) {
        more = gen_next(&g, t->w.ahead, &piece);
        if (more)
            rc = interrupted() ? 1 : go_on(c, g.id, g.n_max < 0 ? -1 : g.n_max - g.n, &full, err);
        if (rc > 0) {
            gen_finish(&g, interrupted() ? FINISH_INTERRUPT : FINISH_LENGTH, &piece);
            more = false;
        }
        think_put(&think, piece.s, piece.n, on_piece, c);
        piece.n = 0;
        more = more && !rc;
    }
    write_end(&t->w);
    think_end(&think, on_piece, c);
    t->ends[t->n] = !(full && interrupted()); /* else it was read anew up to anywhere */
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

/* ---- behind it */

static void print_timings(struct chat *c, enum finish why)
{
    const struct timeline *t = &c->timeline;
    if (!c->editor)
        return;
    char disk[40] = "";
    if (t->kept.disk)
        snprintf(disk, sizeof disk, " (%d from disk)", t->kept.disk);
    out_printf("%s[%d tokens kept%s, %d read, %.1f/s | %d written, %.1f/s | context %d of %d%s]%s\n\n", term_dim(),
               t->kept.kept, disk, t->last_read, t->last_read / (t->read_s > 0 ? t->read_s : 1), c->last_written,
               c->last_written / (c->write_s > 0 ? c->write_s : 1), qn_seq_len(t->seq), c->info.n_ctx,
               why == FINISH_INTERRUPT ? " | stopped"
               : why == FINISH_LENGTH  ? " | cut off"
                                       : "",
               term_plain());
}

static void append_answer(struct chat *c)
{
    json_t *m = chat_message("assistant", c->answer.s ? c->answer.s : "", c->answer.n);
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

bool chat_answer(struct chat *c)
{
    struct qn_error err = {.code = 0};
    struct prompt p;
    if (!chat_render(c, true, 0, c->o->n_predict, &p, &err)) {
        if (err.code == QN_E_NOSPACE)
            say("the context is full: %s; the message was not taken; /clear begins afresh, -c N at the start makes it "
                "larger",
                err.text);
        else
            say("%s", err.text);
        return false;
    }
    c->answer.n = c->thought.n = 0;
    c->thought_shown = false;
    interrupt_catch(true);
    int rc = read_prompt(c, &p, &err);
    free(p.ids);
    enum finish why = FINISH_NOT;
    if (rc < 0)
        say("%s", err.text);
    else if (rc > 0)
        say("stopped while reading the prompt; the message was not taken, what was read of it is kept");
    else
        why = generate(c, p.inside, &err);
    if (!c->editor)
        interrupt_catch(false);
    interrupt_clear();
    if (why == FINISH_NOT)
        return false;
    append_answer(c);
    print_timings(c, why);
    return true;
}

bool chat_turn(struct chat *c, const char *text, size_t n)
{
    json_array_append_new(c->messages, chat_message("user", text, n));
    if (chat_answer(c))
        return true;
    json_array_remove(c->messages, json_array_size(c->messages) - 1);
    c->failed = true;
    return false;
}
