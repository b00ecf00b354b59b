/* SPDX-License-Identifier: MIT */
/* Lines from a person: editing and history through libedit, texts of several lines. */
#ifndef QUERN_LINE_H
#define QUERN_LINE_H

#include "io.h"

struct line_editor;
struct line_editor *line_editor_new(void); /* reads the history file */
void line_editor_free(struct line_editor *l);

/* One turn: a line; lines that end with a backslash are joined with the next; a line of three quotes begins a text that
 * another such line ends.  Ctrl-C throws away what was typed.  False at the end of input. */
bool line_read_turn(struct line_editor *l, struct text *turn);

#endif
