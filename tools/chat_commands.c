/* SPDX-License-Identifier: MIT */
/* What a person can say to chat itself: lines that begin with a slash. */
#include "chat.h"
#include "term.h"

#include <stdlib.h>
#include <string.h>

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

/* ---- the conversation */

static void do_clear(struct chat *c, const char *arg)
{
    bool system = !strcmp(chat_role(c->messages, 0), "system");
    for (size_t n = json_array_size(c->messages); n > system; n--)
        json_array_remove(c->messages, n - 1);
    chat_drop_sampler(c);
    timeline_forget(&c->timeline);
    c->sampling.stream = 0;
    say("new conversation");
}

static void do_regen(struct chat *c, const char *arg)
{
    size_t n = json_array_size(c->messages), last = n ? n - 1 : 0;
    bool answered = !strcmp(chat_role(c->messages, last), "assistant");
    if (!answered && strcmp(chat_role(c->messages, last), "user")) {
        say("there is no answer to make again");
        return;
    }
    json_t *old = answered ? json_incref(json_array_get(c->messages, last)) : NULL;
    if (old)
        json_array_remove(c->messages, last);
    c->sampling.stream++;
    chat_drop_sampler(c);
    if (!chat_answer(c)) {
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
    while (i > 0 && strcmp(chat_role(c->messages, i - 1), "user"))
        i--;
    if (i == 0)
        return NULL;
    i--;
    json_t *taken = json_array();
    for (; n > i; n--) {
        json_array_append(taken, json_array_get(c->messages, i));
        json_array_remove(c->messages, i);
    }
    c->sampling.stream++;
    chat_drop_sampler(c);
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
    if (!chat_turn(c, arg, strlen(arg)))
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
    chat_set_system(c->messages, arg);
    say("system message %s", *arg ? "set" : "removed");
}

static void do_think(struct chat *c, const char *arg)
{
    if (strcmp(arg, "on") && strcmp(arg, "off")) {
        say("/think on or /think off");
        return;
    }
    c->think = !strcmp(arg, "on") ? "on" : "off";
    chat_configure(c);
    say("thinking %s; sampling: %s", c->think, c->source);
}

/* ---- figures */

/* Why the last prompt was not kept as a whole. */
static void print_kept(const struct chat *c)
{
    const struct qn_kept *k = &c->timeline.kept;
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
    if (write_describe(&c->timeline.w.figures, figures, sizeof figures))
        out_printf("guesses        %s\n", figures);
}

static void do_stats(struct chat *c, const char *arg)
{
    const struct timeline *t = &c->timeline;
    struct qn_cache_info cache;
    struct qn_memory_info memory;
    qn_cache_info(c->e, &cache);
    qn_memory_info(c->e, &memory);
    out_printf("model          %s\n", c->info.description);
    out_printf("threads        %d, prompts %d; level %s\n", c->info.n_threads, c->info.n_threads_batch, c->info.isa);
    out_printf("context        %d of %d positions in use", qn_seq_len(t->seq), c->info.n_ctx);
    if (t->cut)
        out_printf("; %d tokens of the conversation left out", t->cut);
    out_text("\n");
    out_printf("tokens         %d read, %d of them again; %d written\n", t->n_read, t->n_again, c->n_written);
    if (t->kept.n)
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

/* ---- the table */

static const struct {
    const char *name;
    void (*run)(struct chat *c, const char *arg); /* NULL: leave */
} commands[] = {{"/help", do_help},   {"/clear", do_clear}, {"/regen", do_regen}, {"/system", do_system},
                {"/think", do_think}, {"/edit", do_edit},   {"/undo", do_undo},   {"/stats", do_stats},
                {"/save", chat_save}, {"/load", chat_load}, {"/exit", NULL},      {"/quit", NULL}};

int chat_command(struct chat *c, const char *line)
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
