/* SPDX-License-Identifier: MIT */
/* quern template: prints what a chat template makes of a conversation, and nothing else. */
#include "io.h"
#include "setup.h"
#include "term.h"

#include <stdlib.h>
#include <string.h>

static char *read_text(const char *path)
{
    size_t n;
    char *text = io_read(path, &n);
    if (strlen(text) != n)
        die("%s: holds a NUL byte", path);
    return text;
}

static char *read_json_array(const char *path)
{
    size_t n;
    char *text = io_read(path, &n), why[256];
    json_t *j = json_parse(text, n, why, sizeof why);
    if (!j)
        die("%s: %s", path, why);
    if (!json_is_array(j))
        die("%s: not a JSON array", path);
    json_decref(j);
    return text;
}

static void check_time(const char *s)
{
    static const char form[] = "0000-00-00 00:00:00";
    bool good = strlen(s) == sizeof form - 1;
    for (size_t i = 0; good && form[i]; i++)
        good = form[i] == '0' ? s[i] >= '0' && s[i] <= '9' : s[i] == form[i];
    if (!good)
        usage("--now: '%s' is not of the form 'YYYY-MM-DD HH:MM:SS'", s);
}

int cmd_template(struct opts *o)
{
    if (!o->messages)
        usage("template: --messages FILE is needed");
    if (o->now)
        check_time(o->now);
    char *kwargs = setup_kwargs(o, "auto"), *own = NULL;
    /* a template alone needs no model */
    qn_engine *e = NULL;
    if (o->template_file && !o->model)
        own = read_text(o->template_file);
    else
        e = setup_open(o, (struct setup_size){.vocab_only = true, .n_threads = -1});
    char *messages = read_json_array(o->messages), *tools = o->tools ? read_json_array(o->tools) : NULL;
    struct qn_render_args a = {
        .template_text = own,
        .messages = messages,
        .tools = tools,
        .kwargs = kwargs,
        .now = o->now,
        .add_generation_prompt = !o->no_generation_prompt,
    };
    struct qn_error err;
    struct qn_text text;
    if (qn_render(e, &a, &text, &err))
        die("%s", err.text);
    out_write(text.bytes, text.n);
    out_flush();
    qn_text_free(&text);
    qn_close(e);
    free(messages);
    free(tools);
    free(kwargs);
    free(own);
    return 0;
}
