/* SPDX-License-Identifier: MIT */
/* Cache folders, for tests: engines that have one, what lies in it, and what was warned of. */
#ifndef QUERN_FOLDER_H
#define QUERN_FOLDER_H

#include "src/quern.h"

/* One worker, f16 keys and values, ample memory, and a folder (NULL: none) of ample size; warnings are counted from now on. */
struct qn_options folder_options(const char *file, int n_ctx, const char *folder);
enum { FOLDER_AMPLE = 64 << 20 }; /* bytes */

extern int folder_warnings;
extern char folder_warning[600]; /* the last one */

enum { FOLDER_NAMES = 400 };
struct folder_content {
    int n_segments, n_snapshots, n_others; /* others: neither these nor the lock */
    size_t bytes;
    char name[FOLDER_NAMES][256]; /* of the first segments and snapshots */
};
/* Fails the test where somebody else could read a file. */
struct folder_content folder_look(const char *folder);
/* A static buffer. */
char *folder_path(const char *folder, const char *name);

#endif
