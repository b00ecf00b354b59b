/* SPDX-License-Identifier: MIT */
/* Files and JSON.  What fails here ends the program with a message, unless the name says try. */
#ifndef QUERN_IO_H
#define QUERN_IO_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* A growing text; always NUL-terminated once something was put in. */
struct text {
    char *s;
    size_t n, cap;
};
void text_put(struct text *t, const void *bytes, size_t n);
void text_free(struct text *t);

/* Writes a message to err and returns false, so that `return complain(...)` reads as one statement. */
bool complain(char *err, size_t cap, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* The whole of a file ("-" = standard input), NUL-terminated, malloc. */
char *io_read(const char *path, size_t *n);
bool io_try_read(const char *path, char **bytes, size_t *n, char *err, size_t cap);

/* A result file.  It is written beside its final place, flushed to the disk and renamed by io_commit(), so that there is
 * either the whole file or what was there before.  Devices and pipes are written directly. */
struct io_out {
    FILE *f;
    char *path, *temp; /* temp NULL: written directly */
};
void io_create(struct io_out *o, const char *path); /* "-" = standard output */
void io_put(struct io_out *o, const void *bytes, size_t n);
void io_put_at(struct io_out *o, uint64_t offset, const void *bytes, size_t n);
void io_commit(struct io_out *o);
bool io_seekable(const struct io_out *o);
/* The same in one go; false with a message in err. */
bool io_try_write(const char *path, const void *bytes, size_t n, char *err, size_t cap);

/* A JSON string of any bytes: what is not UTF-8 becomes U+FFFD.  A new reference. */
json_t *json_text(const char *bytes, size_t n);
/* Parses a whole text; on failure NULL with "line 3: ..." in err. */
json_t *json_parse(const char *bytes, size_t n, char *err, size_t cap);
/* A compact dump, malloc. */
char *json_dump(const json_t *j);

/* Ids separated by white space or commas; brackets around them are allowed.  NULL with a message in err. */
int32_t *parse_ids(const char *bytes, size_t n, int *n_ids, char *err, size_t cap);

#endif
