/* SPDX-License-Identifier: MIT */
/* quern chat, in parts: chat.c begins, ends and reads turns; chat_prompt.c makes ids of the messages, and makes them fit; chat_answer.c
 * answers; chat_commands.c has what begins with a slash; chat_files.c sessions and conversations in files.  The sequence is the
 * timeline's. */
#ifndef QUERN_CHAT_H
#define QUERN_CHAT_H

#include "io.h"
#include "line.h"
#include "opts.h"
#include "quern.h"
#include "timeline.h"

struct chat {
    struct opts *o;
    qn_engine *e;
    struct qn_model_info info;
    struct line_editor *editor; /* NULL: not interactive */
    json_t *messages;
    struct timeline timeline;

    const char *think; /* auto, on, off */
    char *kwargs; /* variables of the template, or NULL */
    bool thinking; /* answers begin with thinking */
    struct qn_sampling sampling;
    struct qn_logit_bias *bias;
    const char *source; /* where the sampling defaults came from */
    qn_sampler *sampler; /* lives as long as the conversation grows; NULL: make a new one */

    /* what was left out where the context was full, to be said once the rest has been read */
    int limit; /* tokens that the sequence could hold at most */
    int dropped; /* messages */
    bool shifted; /* more was cut */

    struct text answer, thought;
    bool thought_shown;
    int n_written; /* tokens since the start */
    int last_written; /* of the last answer */
    double write_s;
    bool failed; /* a turn had no answer: the exit status when not interactive */
};

/* ---- chat.c */

void chat_configure(struct chat *c); /* the settings follow c->think */
void chat_drop_sampler(struct chat *c); /* the next answer makes a new one, which sees the whole conversation */
const char *chat_role(const json_t *messages, size_t i); /* "" when there is none */
json_t *chat_message(const char *role, const char *text, size_t n);
void chat_set_system(json_t *messages, const char *text); /* "": none */

/* ---- chat_prompt.c */

struct prompt {
    int32_t *ids; /* [n] malloc */
    int n;
    bool inside; /* it ends with the tag that opens thinking */
};

/* The conversation as ids, made to fit with `more` ids behind it and, where messages can be dropped for that, with room for n_max more;
 * with the assistant's header if asked for.  False with *err filled. */
bool chat_render(struct chat *c, bool header, int more, int n_max, struct prompt *p, struct qn_error *err);
/* How many of the prompt's ids stand in front of the assistant's header; 0 when that cannot be told, or nobody would keep them. */
int chat_header_at(struct chat *c, const struct prompt *p);
/* timeline_read(), and a word on what was left out. */
int chat_read(struct chat *c, const int32_t *ids, int n, int header, struct qn_error *err);
/* Goes on behind an id of the answer that does not fit any more; n_max as chat_render().  0; 1 when there is no room to be made, or reading
 * was interrupted; or negative. */
int chat_make_room(struct chat *c, int32_t id, int n_max, struct qn_error *err);

/* ---- chat_answer.c */

bool chat_answer(struct chat *c); /* false: there is no answer, and the reason has been said */
bool chat_turn(struct chat *c, const char *text, size_t n); /* false: the message was not taken */

/* ---- chat_commands.c */

int chat_command(struct chat *c, const char *line); /* 1: was a command; 0: was none; -1: leave */

/* ---- chat_files.c */

/* Goes on with the session if its file is there; one that cannot be used ends the program, so that it is not written over. */
void chat_load_session(struct chat *c);
bool chat_save_session(struct chat *c); /* false: the reason has been said */
void chat_save(struct chat *c, const char *path); /* the conversation as JSON */
void chat_load(struct chat *c, const char *path);

#endif
