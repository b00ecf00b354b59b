/* SPDX-License-Identifier: MIT */
/* Chat templates: which variables a scope hides.  Jinja decides what a name means when it compiles: a name whose first
 * mention in a scope is an assignment, and which no scope around mentions, belongs to that scope from its beginning, so a
 * variable of the same name given by the caller is not seen in there, not even by loops and macros before the assignment.
 * Mentions inside scopes within do not count, assignments under a condition hide nothing. */
#include "template_parse.h"

struct symbol {
    const struct str *name;
    bool hidden;
};

struct frame {
    struct frame *around, *next; /* next: of all frames */
    struct node *node; /* gets the list of hidden names; NULL when nothing can be assigned in here */
    struct symbol *v; /* [n] */
    size_t n, cap;
    unsigned conditions;
};

void frame_open(struct parser *p, struct node *n, bool isolated)
{
    struct frame *f = tpl_alloc(p->t, sizeof *f);
    f->node = n;
    f->around = isolated ? NULL : p->frame;
    f->next = p->frames;
    p->frames = f;
    p->frame = f;
}

struct frame *frame_swap(struct parser *p, struct frame *f)
{
    struct frame *old = p->frame;
    p->frame = f;
    return old;
}

void frame_condition(struct parser *p, int by) { p->frame->conditions += (unsigned)by; }
bool frame_conditional(const struct parser *p) { return p->frame->conditions > 0; }

static struct symbol *find(struct parser *p, const struct frame *f, const struct str *name)
{
    tpl_step(p->t, f->n / 16);
    for (size_t i = 0; i < f->n; i++)
        if (f->v[i].name == name)
            return &f->v[i];
    return NULL;
}

static void mention(struct parser *p, const struct str *name, bool hidden)
{
    struct frame *f = p->frame;
    if (find(p, f, name))
        return;
    f->v = tpl_grow(p->t, f->v, f->n, &f->cap, sizeof *f->v);
    f->v[f->n++] = (struct symbol){name, hidden};
}

void frame_load(struct parser *p, const struct str *name) { mention(p, name, false); }

void frame_store(struct parser *p, const struct node *target, bool parameter)
{
    if (target->kind == N_NAME)
        mention(p, target->name, !parameter && !frame_conditional(p));
    for (size_t i = 0; target->kind == N_TUPLE && i < target->list.n; i++)
        frame_store(p, target->list.v[i], parameter);
}

void frame_store_name(struct parser *p, const struct str *name) { mention(p, name, !frame_conditional(p)); }

void frame_finish(struct parser *p)
{
    for (struct frame *f = p->frames; f; f = f->next)
        for (size_t i = 0; i < f->n; i++) {
            bool hidden = f->v[i].hidden;
            for (struct frame *a = f->around; a && hidden; a = a->around)
                hidden = !find(p, a, f->v[i].name);
            if (!hidden || !f->node)
                continue;
            struct node *n = f->node;
            n->hidden = tpl_grow(p->t, n->hidden, n->n_hidden, &n->hidden_cap, sizeof *n->hidden);
            n->hidden[n->n_hidden++] = f->v[i].name;
        }
}
