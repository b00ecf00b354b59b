/* SPDX-License-Identifier: MIT */
/* Chat templates: the entry point.  Everything of one rendering lives in one struct tpl and its arena; a failure
 * anywhere comes back here by longjmp. */
#include "template.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

enum { DEPTH = 400, DEPTH_MAX = 1000 };
static const uint64_t STEPS = 20000000;
static const size_t BYTES = (size_t)256 << 20;

static void check_utf8(struct tpl *t, const char *p, size_t n, const char *what)
{
    for (size_t i = 0; i < n;) {
        utf8proc_int32_t c;
        utf8proc_ssize_t len = utf8proc_iterate((const utf8proc_uint8_t *)p + i, (utf8proc_ssize_t)(n - i), &c);
        if (len < 1) {
            fail(t->err, QN_E_TEMPLATE, "%s: invalid UTF-8 at byte %zu", what, i);
            longjmp(t->failed, 1);
        }
        i += (size_t)len;
    }
}

static void set_global(struct tpl *t, const char *name, struct val v)
{
    tpl_scope_set(t, t->globals, tpl_intern(t, name, strlen(name)), v);
}

static void set_token(struct tpl *t, const char *name, const char *text)
{
    if (!text)
        return;
    check_utf8(t, text, strlen(text), name);
    set_global(t, name, tpl_cstr(t, text));
}

static void set_variables(struct tpl *t)
{
    const struct template_args *a = t->args;
    for (const struct builtin *b = tpl_globals; b->name; b++) {
        struct func *f = tpl_alloc(t, sizeof *f);
        f->b = b;
        set_global(t, b->name, (struct val){.type = T_FUNC, .u.fn = f});
    }
    if (a->messages)
        set_global(t, "messages", tpl_from_json(t, a->messages, "messages", false));
    set_global(t, "tools", a->tools ? tpl_from_json(t, a->tools, "tools", false) : tpl_none());
    set_global(t, "documents", tpl_none());
    set_global(t, "add_generation_prompt", tpl_bool(a->add_generation_prompt));
    set_token(t, "bos_token", a->bos_token);
    set_token(t, "eos_token", a->eos_token);
    if (!a->kwargs)
        return;
    const struct dict *d = tpl_from_json(t, a->kwargs, "kwargs", true).u.d;
    for (size_t i = 0; i < d->n; i++) {
        struct val v = d->e[i].val;
        const struct str *name = d->e[i].key.u.s;
        if (v.type == T_STR && (tpl_str_is(name, "bos_token") || tpl_str_is(name, "eos_token")))
            v = tpl_strval(tpl_str(t, v.u.s->p, v.u.s->n, TPL_TEXT));
        tpl_scope_set(t, t->globals, tpl_intern(t, name->p, name->n), v);
    }
}

static int take_output(struct tpl *t, struct qn_text *out)
{
    size_t n = t->out->n;
    out->bytes = malloc(n + 1);
    out->special = malloc(n ? n : 1);
    if (!out->bytes || !out->special) {
        free(out->bytes);
        free(out->special);
        *out = (struct qn_text){NULL, NULL, 0};
        return fail(t->err, QN_E_MEMORY, "chat template: no memory for %zu bytes of text", n);
    }
    if (n) {
        memcpy(out->bytes, t->out->p, n);
        memcpy(out->special, t->out->mark, n);
    }
    out->bytes[n] = '\0';
    out->n = n;
    return 0;
}

/* Apart from template_render() so that no local of it lives across setjmp. */
static int render(struct tpl *t, const char *source, size_t n, struct qn_text *out)
{
    if (setjmp(t->failed))
        return t->err->code;
    check_utf8(t, source, n, "chat template");
    t->line = 1;
    struct node *root = tpl_parse(t, tpl_lex(t, source, n));
    t->globals = tpl_alloc(t, sizeof *t->globals);
    t->top = tpl_alloc(t, sizeof *t->top);
    t->top->parent = t->globals;
    set_variables(t);
    t->out = tpl_sbuf(t);
    tpl_run(t, root);
    return take_output(t, out);
}

int template_render(const char *source, size_t n, const struct template_args *a, struct qn_text *out,
                    struct qn_error *err)
{
    const struct template_limits *l = &a->limits;
    int depth = l->depth > DEPTH_MAX ? DEPTH_MAX : l->depth;
    struct tpl t = {.err = err,
                    .args = a,
                    .steps_max = l->steps ? l->steps : STEPS,
                    .mem_max = l->bytes ? l->bytes : BYTES,
                    .depth_max = depth > 0 ? depth : DEPTH};
    *out = (struct qn_text){NULL, NULL, 0};
    int rc = render(&t, source, n, out);
    json_decref(t.json); /* NULL is fine */
    tpl_free_all(&t);
    return rc;
}
