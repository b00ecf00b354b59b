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

enum { HUGE_PAGE = 2 << 20 };
/* Address space whose pages are zero and cost nothing until touched; NULL when there is none.  huge asks for transparent
 * huge pages, and begins at the start of one. */
void *mem_reserve(size_t bytes, bool huge);
void mem_release(void *p, size_t bytes);
/* Puts explicit huge pages, or bytes of an open file from a page's start on, in the place of reserved address space from p on, the
 * start of a huge page.  On failure what was there may be gone. */
int mem_use_huge(void *p, size_t bytes, struct qn_error *err);
int mem_use_file(void *p, size_t bytes, int fd, size_t at, bool write, struct qn_error *err);
void mem_read_only(void *p, size_t bytes);
int mem_flush(void *p, size_t bytes, struct qn_error *err); /* whole pages of a mapped file to the disk */
/* Reads pages of a mapped file if the first of them is not in memory. */
void mem_prefetch(void *p, size_t bytes);
/* Gives the whole pages inside [p, p + bytes) back to the system; they read as zero afterwards. */
void mem_discard(void *p, size_t bytes);

/* Bytes this process can still take: the smaller of MemAvailable and what its cgroups leave. */
size_t mem_available(void);

/* What tells a file from its earlier self and from others, as far as the system knows. */
struct file_id {
    uint64_t dev, ino, size;
    int64_t mtime_ns;
};

/* A whole file, read-only. */
struct file_map {
    const uint8_t *data; /* [size]; NULL when size is 0 */
    size_t size;
    struct file_id id;
};
int file_map_open(struct file_map *m, const char *path, struct qn_error *err);
void file_map_close(struct file_map *m); /* idempotent */

/* A file that is there complete, on the disk and with its name, or not at all: until then it has no name, or where the file system
 * cannot do that, one that begins with path.  Mode 0600. */
struct file_new {
    int fd; /* -1: none */
    char *path, *temp;
};
/* Room for all bytes is taken at once: a full disk is an error here. */
int file_new_open(struct file_new *f, const char *path, size_t bytes, struct qn_error *err);
int file_new_write(const struct file_new *f, const void *bytes, size_t n, size_t at, struct qn_error *err);
/* Flushes and names it, in place of a file that had the name.  The descriptor stays open. */
int file_new_commit(struct file_new *f, struct qn_error *err);
int file_new_name(struct file_new *f,
                  struct qn_error *err); /* only names it: it may be torn when the system goes down */
void file_new_close(struct file_new *f); /* idempotent; what was not committed is gone */
/* A folder of one's own: made (0700) when missing, refused when others may write there. */
int folder_private(const char *path, struct qn_error *err);

/* Log through the caller's callback; a NULL log is silent. */
struct log_sink {
    void (*fn)(void *cookie, enum qn_log_level level, const char *line);
    void *cookie;
};
void log_line(const struct log_sink *log, enum qn_log_level level, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
