/* SPDX-License-Identifier: MIT */
/* From messages to ids that fit into the context: what is left out when they do not, before an answer and in the middle of one. */
#include "chat.h"
#include "gen.h"
#include "term.h"

#include <stdlib.h>
#include <string.h>

/* ---- rendering */

static bool render(const struct chat *c, json_t *messages, bool header, struct prompt *p, struct qn_error *err)
{
    struct qn_text text;
    char *dump = json_dump(messages);
    struct qn_render_args a = {.messages = dump, .kwargs = c->kwargs, .add_generation_prompt = header};
    int rc = qn_render(c->e, &a, &text, err);
    free(dump);
    if (rc)
        return false;
    p->ids = timeline_tokenize(&c->timeline, &text, &p->n, err);
    size_t end = text.n;
    while (end && strchr(" \n\r\t", text.bytes[end - 1]))
        end--;
    p->inside = end >= 7 && !memcmp(text.bytes + end - 7, "<think>", 7);
    qn_text_free(&text);
    return p->ids != NULL;
}

/* How many of the prompt's ids are those of some messages alone; `otherwise` when these cannot be rendered. */
static int shared(const struct chat *c, const struct prompt *p, json_t *messages, int otherwise)
{
    struct qn_error err;
    struct prompt alone;
    if (!render(c, messages, false, &alone, &err))
        return otherwise;
    int n = gen_agree(p->ids, p->n, alone.ids, alone.n);
    free(alone.ids);
    return n;
}

int chat_header_at(struct chat *c, const struct prompt *p)
{
    struct qn_cache_info cache;
    qn_cache_info(c->e, &cache);
    return cache.budget ? shared(c, p, c->messages, 0) : 0;
}

/* ---- a full context */

/* Takes the oldest turn out of the conversation: what is in front of the second message of the user.  False: there is but one. */
static bool drop_turn(struct chat *c)
{
    size_t n = json_array_size(c->messages), first = !strcmp(chat_role(c->messages, 0), "system"), i = first + 1;
    while (i < n && strcmp(chat_role(c->messages, i), "user"))
        i++;
    if (i >= n)
        return false;
    for (; i > first; i--, c->dropped++)
        json_array_remove(c->messages, first);
    return true;
}

/* How many of the conversation's first ids stay when others are cut. */
static int kept_ids(const struct chat *c, const struct prompt *p)
{
    if (c->o->n_keep >= 0)
        return c->o->n_keep < p->n ? c->o->n_keep : p->n;
    int bos = c->info.id_bos >= 0 && p->ids[0] == c->info.id_bos;
    if (strcmp(chat_role(c->messages, 0), "system"))
        return bos;
    json_t *system = json_pack("[O]", json_array_get(c->messages, 0));
    int keep = shared(c, p, system, bos);
    json_decref(system);
    return keep;
}

/* Room that an answer of at most n_max tokens is to find, where messages can be dropped for it. */
static int answer_room(int n_max, int room) { return n_max >= 0 && n_max < room ? n_max : room / 4; }

bool chat_render(struct chat *c, bool header, int more, int n_max, struct prompt *p, struct qn_error *err)
{
    struct timeline *t = &c->timeline;
    int room = c->limit = timeline_limit(t);
    bool good = render(c, c->messages, header, p, err);
    if (t->on_full == FULL_DROP)
        while (good && p->n + more + answer_room(n_max, room) > room && drop_turn(c)) {
            free(p->ids);
            good = render(c, c->messages, header, p, err);
        }
    if (!good)
        return false;
    if (p->n && t->on_full)
        t->keep = kept_ids(c, p);
    if (p->n && t->on_full == FULL_SHIFT && timeline_cut(t, p->n, room))
        c->shifted = true;
    if (p->n + more - t->cut <= room)
        return true;
    err->code = QN_E_NOSPACE;
    snprintf(err->text, sizeof err->text, "the conversation has %d tokens, the context holds %d", p->n + more, room);
    free(p->ids);
    return false;
}

/* What was left out, once it is clear what that costs. */
static void say_lost(struct chat *c)
{
    const struct timeline *t = &c->timeline;
    if (c->shifted)
        say("the context of %d positions is full: %d tokens left out behind the first %d, %d kept, %d read again",
            c->limit, t->cut, t->keep, t->kept.kept, t->last_read);
    if (c->dropped)
        say("the context of %d positions is full: the oldest %d messages dropped, %d tokens kept, %d read again",
            c->limit, c->dropped, t->kept.kept, t->last_read);
    c->shifted = false;
    c->dropped = 0;
}

int chat_read(struct chat *c, const int32_t *ids, int n, int header, struct qn_error *err)
{
    int rc = timeline_read(&c->timeline, ids, n, header, err);
    say_lost(c);
    return rc;
}

/* The prompt whose answer is being written, with fewer messages; false when none can be dropped. */
static bool shorter_prompt(struct chat *c, int more, int n_max, struct prompt *p, struct qn_error *err)
{
    size_t had = json_array_size(c->messages);
    if (!chat_render(c, true, more, n_max, p, err))
        return false;
    if (json_array_size(c->messages) < had)
        return true;
    free(p->ids);
    return false;
}

int chat_make_room(struct chat *c, int32_t id, int n_max, struct qn_error *err)
{
    struct timeline *t = &c->timeline;
    int written = t->n - t->n_prompt, more = written + 1;
    struct prompt p = {.n = t->n_prompt};
    if (t->on_full == FULL_STOP)
        return 1;
    if (t->on_full == FULL_DROP && !shorter_prompt(c, more, n_max, &p, err))
        return 1;
    int n = p.n + more;
    int32_t *ids = xmalloc((size_t)n * sizeof *ids);
    memcpy(ids, t->on_full == FULL_DROP ? p.ids : t->ids, (size_t)p.n * sizeof *ids);
    memcpy(ids + p.n, t->ids + t->n_prompt, (size_t)written * sizeof *ids);
    ids[n - 1] = id;
    free(p.ids);
    t->n_prompt = p.n;
    if (t->on_full == FULL_SHIFT && timeline_cut(t, n, t->room))
        c->shifted = true;
    int rc = chat_read(c, ids, n, p.n, err);
    free(ids);
    return rc;
}
