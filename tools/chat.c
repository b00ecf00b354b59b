/* SPDX-License-Identifier: MIT */
/* quern chat: a conversation at the terminal, or one user turn a line from a pipe.
 *
 * The conversation is a JSON array of messages.  For each answer it is rendered and tokenized anew, and what the sequence or the prefix
 * store knows of it is not evaluated again.
 *
 * Where the context is full and --on-full says so, the conversation goes on with less of it, which is read anew: either the oldest
 * turns leave the array, or some of its ids, behind the system message, are left out of the sequence.
 *
 * An answer's own ids stand for its text where the template leaves it as it was: the tokenizer might cut it otherwise, and then it would
 * have to be read again. */
#include "chat.h"
#include "term.h"

#include <stdlib.h>
#include <string.h>

/* ---- settings */

void chat_drop_sampler(struct chat *c)
{
    qn_sampler_free(c->sampler);
    c->sampler = NULL;
}

void chat_configure(struct chat *c)
{
    free(c->kwargs);
    free(c->bias);
    uint64_t stream = c->sampling.stream;
    c->kwargs = setup_kwargs(c->o, c->think);
    c->thinking = setup_thinking(c->e, c->kwargs);
    c->source = setup_sampling(&c->sampling, c->o, c->e, c->thinking, &c->bias);
    c->sampling.stream = stream;
    chat_drop_sampler(c);
}

/* ---- messages */

const char *chat_role(const json_t *messages, size_t i)
{
    const char *role = json_string_value(json_object_get(json_array_get(messages, i), "role"));
    return role ? role : "";
}

json_t *chat_message(const char *role, const char *text, size_t n)
{
    return json_pack("{s:s, s:o}", "role", role, "content", json_text(text, n));
}

void chat_set_system(json_t *messages, const char *text)
{
    if (!strcmp(chat_role(messages, 0), "system"))
        json_array_remove(messages, 0);
    if (*text)
        json_array_insert_new(messages, 0, chat_message("system", text, strlen(text)));
}

/* ---- reading turns */

static void talk_terminal(struct chat *c)
{
    struct text turn = {0};
    interrupt_catch(true);
    while (line_read_turn(c->editor, &turn)) {
        int was = turn.s[0] == '/' ? chat_command(c, turn.s) : 0;
        if (was < 0)
            break;
        if (was)
            continue;
        if (turn.s[0] == '/' && !strpbrk(turn.s, " \n"))
            say("%s is not a command; /help lists them", turn.s);
        else if (turn.s[strspn(turn.s, " \t\r\n")])
            chat_turn(c, turn.s, turn.n);
    }
    text_free(&turn);
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
        int was = line[0] == '/' && strlen(line) == (size_t)n ? chat_command(c, line) : 0;
        if (was < 0)
            break;
        if (!was)
            chat_turn(c, line, (size_t)n);
    }
    free(line);
}

/* ---- from begin to end */

static void begin(struct chat *c, struct opts *o)
{
    struct qn_error err;
    *c = (struct chat){.o = o, .messages = json_array(), .think = setup_think(o)};
    c->e = setup_open(o, (struct setup_size){.n_seq = 1, .n_ctx = o->n_ctx, .n_threads = -1});
    qn_model_info(c->e, &c->info);
    if (!c->info.has_template && !o->template_file)
        die("%s: the model has no chat template (--template-file names one; quern run continues plain text)", o->model);
    if (timeline_open(&c->timeline, c->e, o, &err))
        die("%s", err.text);
    if (o->session)
        chat_load_session(c);
    if (o->system)
        chat_set_system(c->messages, o->system);
    chat_configure(c);
    say("%s, %d threads, %s, context %d; sampling: %s; seed %llu", c->info.description, c->info.n_threads, c->info.isa,
        c->info.n_ctx, c->source, (unsigned long long)o->seed);
    int fits = qn_seq_fits(c->timeline.seq);
    if (fits < c->info.n_ctx)
        say("memory has room for %d positions of the context", fits);
}

static void end(struct chat *c)
{
    qn_sampler_free(c->sampler);
    timeline_close(&c->timeline);
    qn_close(c->e);
    json_decref(c->messages);
    free(c->kwargs);
    free(c->bias);
    text_free(&c->answer);
    text_free(&c->thought);
}

int cmd_chat(struct opts *o)
{
    struct chat c;
    setup_seed(o);
    begin(&c, o);
    if (term_in()) {
        c.editor = line_editor_new();
        say("/help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves");
        talk_terminal(&c);
        line_editor_free(c.editor);
    } else {
        talk_pipe(&c);
    }
    bool lost = o->session && !chat_save_session(&c);
    end(&c);
    return lost || (c.failed && !term_in()) ? 1 : 0;
}
