/* SPDX-License-Identifier: MIT */
/* The stored reference results of the hash models: named arrays in <name>.bin, described by <name>.json, both in
 * tests/data/hash.  Names, e.g. p65_last_logits, are explained in the README there. */
#ifndef QUERN_GOLDEN_H
#define QUERN_GOLDEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct golden;

/* name: an architecture, e.g. "qwen35", or "hq_golden".  NULL, after a line on stderr, when the files are not there or do
 * not fit together. */
struct golden *golden_open(const char *name);
void golden_close(struct golden *g); /* NULL is fine */

/* An array and its number of elements (n may be NULL).  NULL, after a line on stderr, when there is none of this name and
 * type. */
const float *golden_f32(const struct golden *g, const char *name, size_t *n);
const int32_t *golden_i32(const struct golden *g, const char *name, size_t *n);
/* Does not complain. */
bool golden_has(const struct golden *g, const char *name);
/* The array's dimensions, slowest first; returns their number, 0 when there is no such array. */
int golden_shape(const struct golden *g, const char *name, size_t shape[4]);

/* A number of hq_yardstick.json, e.g. ("qwen35", "Q4_0", "ml", "kld_deq"); who NULL: of the entry itself.  NaN, after a line
 * on stderr, when there is none. */
double golden_yardstick(const char *model, const char *type, const char *who, const char *what);

#endif
