/* SPDX-License-Identifier: MIT */
/* What every file of src/ leans on: errors, checked sizes, memory, mapped files.  Nothing here knows about models. */
#ifndef QUERN_BASE_H
#define QUERN_BASE_H

#include "quern.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Records code and text in *err and returns code, so that `return fail(...)` reads as one statement. */
int fail(struct qn_error *err, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Checked arithmetic on sizes that come from files: false when the result does not fit. */
static inline bool size_mul(size_t a, size_t b, size_t *out) { return !__builtin_mul_overflow(a, b, out); }
static inline bool size_add(size_t a, size_t b, size_t *out) { return !__builtin_add_overflow(a, b, out); }

/* Zeroed, 64-byte aligned memory in whole cache lines; NULL when there is none.  Freed with mem_free(). */
void *mem_alloc(size_t bytes);
void mem_free(void *p);

/* Address space whose pages are zero and cost nothing until touched; NULL when there is none.  huge asks for transparent
 * huge pages. */
void *mem_reserve(size_t bytes, bool huge);
void mem_release(void *p, size_t bytes);
/* Gives the whole pages inside [p, p + bytes) back to the system; they read as zero afterwards. */
void mem_discard(void *p, size_t bytes);

/* Bytes this process can still take: the smaller of MemAvailable and what its cgroups leave. */
size_t mem_available(void);

/* A whole file, read-only. */
struct file_map {
    const uint8_t *data; /* [size]; NULL when size is 0 */
    size_t size;
};
int file_map_open(struct file_map *m, const char *path, struct qn_error *err);
void file_map_close(struct file_map *m); /* idempotent */

/* Log through the caller's callback; a NULL log is silent. */
struct log_sink {
    void (*fn)(void *cookie, enum qn_log_level level, const char *line);
    void *cookie;
};
void log_line(const struct log_sink *log, enum qn_log_level level, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
