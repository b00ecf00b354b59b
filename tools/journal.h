/* SPDX-License-Identifier: MIT */
/* Finished answers of a batch, kept in OUT.part until all are there.
 *
 * The first line says which input and settings it belongs to; every other line is one answer:
 *   {"quern_part":1,"input":HASH,"lines":N,"settings":{...}}
 *   {"index":3,"xxh3":HASH of the input line,"result":{...}}
 * A line is written by one call.  After a kill only the last one can be unfinished, and is dropped. */
#ifndef QUERN_JOURNAL_H
#define QUERN_JOURNAL_H

#include "io.h"

struct journal {
    char *out, *path; /* OUT, OUT.part */
    int fd; /* locked; -1: not begun */
    int n_lines;
    const uint64_t *hashes; /* [n_lines] of the input lines, not owned */
    uint64_t input; /* hash of the whole input */
    char **results; /* [n_lines] JSON of finished answers, else NULL */
    int n_done;
    double synced; /* when the file was last flushed to the disk */
};

/* Looks for OUT.part and takes over what is in it.  Ends the program when it belongs to another input or other settings.
 * A setting whose value here is null is taken from the file.  True when there was a file. */
bool journal_resume(struct journal *j, const char *out, json_t *settings, const uint64_t *hashes, int n_lines,
                    uint64_t input);
/* Makes OUT.part unless there is one. */
void journal_begin(struct journal *j, const json_t *settings);
void journal_add(struct journal *j, int index, const json_t *result);
/* All answers are there: writes OUT in order, then removes OUT.part. */
void journal_finish(struct journal *j);
void journal_close(struct journal *j);

#endif
