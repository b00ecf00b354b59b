/* SPDX-License-Identifier: MIT */
/* Conversations in files: sessions, which have what was computed, too, and plain JSON. */
#include "chat.h"
#include "term.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- reading messages */

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

/* ---- sessions */

void chat_load_session(struct chat *c)
{
    struct qn_error err;
    char *note, text[512];
    size_t n;
    if (access(c->o->session, F_OK) && errno == ENOENT)
        return;
    if (timeline_load(&c->timeline, c->o->session, &note, &n, &err))
        die("%s", err.text);
    json_t *messages = parse_messages(c->o->session, note, n, text, sizeof text);
    free(note);
    if (!messages)
        die("%s", text);
    json_decref(c->messages);
    c->messages = messages;
    say("%s: %zu messages, %d tokens", c->o->session, json_array_size(messages), c->timeline.n);
}

bool chat_save_session(struct chat *c)
{
    struct qn_error err;
    char *note = json_dump(c->messages);
    int rc = qn_seq_save(c->timeline.seq, c->o->session, note, strlen(note), &err);
    free(note);
    if (rc)
        say("%s; the session was not saved", err.text);
    else
        say("session of %zu messages, %d tokens, saved in %s", json_array_size(c->messages),
            qn_seq_len(c->timeline.seq), c->o->session);
    return !rc;
}

/* ---- JSON */

void chat_save(struct chat *c, const char *path)
{
    char err[512];
    if (!*path && c->o->session) {
        chat_save_session(c);
        return;
    }
    if (!*path) {
        say("/save needs the name of a file");
        return;
    }
    char *dump = json_dumps(c->messages, JSON_INDENT(2));
    char *text = xprintf("%s\n", dump ? dump : "[]");
    if (io_try_write(path, text, strlen(text), err, sizeof err))
        say("%zu messages written to %s", json_array_size(c->messages), path);
    else
        say("%s", err);
    free(text);
    free(dump);
}

void chat_load(struct chat *c, const char *path)
{
    char text[512];
    struct qn_error err;
    if (!*path) {
        say("/load needs the name of a file");
        return;
    }
    json_t *loaded = read_messages(path, text, sizeof text), *old = c->messages;
    if (!loaded) {
        say("%s", text);
        return;
    }
    int cut = c->timeline.cut;
    struct prompt p;
    c->messages = loaded;
    c->timeline.cut = 0;
    if (!chat_render(c, false, 0, 0, &p, &err)) {
        say("%.200s: %s", path, err.text);
        c->messages = old;
        c->timeline.cut = cut;
        json_decref(loaded);
        return;
    }
    json_decref(old);
    chat_drop_sampler(c);
    c->sampling.stream = 0;
    interrupt_catch(true);
    int rc = p.n ? chat_read(c, p.ids, p.n, 0, &err) : 0;
    if (!c->editor)
        interrupt_catch(false);
    interrupt_clear();
    free(p.ids);
    if (rc < 0)
        say("%s", err.text);
    else
        say("%zu messages, %d tokens", json_array_size(c->messages), c->timeline.n);
}
