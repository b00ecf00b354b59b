/* SPDX-License-Identifier: MIT */
/* A plain table in any of the four formats, row by row. */
#ifndef QUERN_BENCH_TABLE_H
#define QUERN_BENCH_TABLE_H

#include <stdbool.h>

enum { TABLE_COLUMNS = 16 };

struct column {
    const char *title; /* for people */
    const char *key; /* csv and json */
    int width; /* of the plain table; negative: to the left, a word and not a number */
};

struct table {
    const char *format; /* table, csv, json or md */
    const struct column *columns; /* ends with a title of NULL */
    int n_rows;
};

/* One row: a text for each column; "" where there is no figure (null in json, a dash for people). */
void table_row(struct table *t, const char *const *cells);
void table_end(struct table *t);

/* Formats a number into one of 32 rotating buffers. */
const char *cell(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
