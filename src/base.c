/* SPDX-License-Identifier: MIT */
/* Errors, memory and mapped files: the only place of src/ that asks the operating system for them. */
#include "base.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int fail(struct qn_error *err, int code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(err->text, sizeof err->text, fmt, ap);
    va_end(ap);
    for (char *p = err->text; *p; p++) /* names come from files: keep the message one line of plain text */
        if ((unsigned char)*p < ' ' || *p == 127)
            *p = '?';
    err->code = code;
    return code;
}

void log_line(const struct log_sink *log, enum qn_log_level level, const char *fmt, ...)
{
    if (!log || !log->fn)
        return;
    char line[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    log->fn(log->cookie, level, line);
}

void *mem_alloc(size_t bytes)
{
    if (bytes > SIZE_MAX - 63)
        return NULL;
    bytes = (bytes + 63) & ~(size_t)63;
    void *p = aligned_alloc(64, bytes ? bytes : 64);
    if (p)
        memset(p, 0, bytes);
    return p;
}

void mem_free(void *p) { free(p); }

void *mem_reserve(size_t bytes, bool huge)
{
    if (bytes == 0)
        bytes = 1;
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
#ifdef MADV_HUGEPAGE
    if (huge)
        madvise(p, bytes, MADV_HUGEPAGE);
#endif
    return p;
}

void mem_release(void *p, size_t bytes)
{
    if (p)
        munmap(p, bytes ? bytes : 1);
}

void mem_discard(void *p, size_t bytes)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t first = ((uintptr_t)p + page - 1) & ~(page - 1), last = ((uintptr_t)p + bytes) & ~(page - 1);
    if (last > first)
        madvise((void *)first, last - first, MADV_DONTNEED);
}

/* The number after `key` in a text file of "key value" lines (or the first number of the file when key is ""). */
static bool read_number(const char *path, const char *key, size_t *out)
{
    FILE *f = fopen(path, "re");
    if (!f)
        return false;
    char line[256];
    bool found = false;
    while (!found && fgets(line, sizeof line, f)) {
        if (strncmp(line, key, strlen(key)) != 0)
            continue;
        char *end, *at = line + strlen(key);
        unsigned long long v = strtoull(at, &end, 10);
        if (end != at) {
            *out = (size_t)v;
            found = true;
        }
    }
    fclose(f);
    return found;
}

/* What the memory cgroups above this process still allow (version 2, and version 1 as mounted in containers). */
static size_t cgroup_available(void)
{
    size_t least = SIZE_MAX, max, used;
    FILE *f = fopen("/proc/self/cgroup", "re");
    char line[512], path[700];
    while (f && fgets(line, sizeof line, f)) {
        if (strncmp(line, "0::", 3) != 0)
            continue;
        line[strcspn(line, "\n")] = 0;
        for (;;) { /* every level up to the root can hold a limit */
            snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.max", line + 3);
            bool limited = read_number(path, "", &max);
            snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.current", line + 3);
            if (limited && read_number(path, "", &used)) {
                size_t left = max > used ? max - used : 0;
                least = left < least ? left : least;
            }
            char *slash = strrchr(line + 3, '/');
            if (!slash)
                break;
            *slash = 0;
        }
    }
    if (f)
        fclose(f);
    if (read_number("/sys/fs/cgroup/memory/memory.limit_in_bytes", "", &max) &&
        read_number("/sys/fs/cgroup/memory/memory.usage_in_bytes", "", &used)) {
        size_t left = max > used ? max - used : 0;
        least = left < least ? left : least;
    }
    return least;
}

size_t mem_available(void)
{
    size_t kib, bytes = SIZE_MAX;
    if (read_number("/proc/meminfo", "MemAvailable:", &kib))
        bytes = kib * 1024;
    size_t group = cgroup_available();
    return group < bytes ? group : bytes;
}

int file_map_open(struct file_map *m, const char *path, struct qn_error *err)
{
    *m = (struct file_map){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return fail(err, QN_E_IO, "%s: %s", path, strerror(errno));
    struct stat st;
    int code = 0;
    if (fstat(fd, &st) != 0) {
        code = fail(err, QN_E_IO, "%s: %s", path, strerror(errno));
    } else if (!S_ISREG(st.st_mode)) {
        code = fail(err, QN_E_IO, "%s: not a regular file", path);
    } else if (st.st_size > 0) {
        void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
        if (p == MAP_FAILED)
            code = fail(err, QN_E_IO, "%s: cannot map %lld bytes: %s", path, (long long)st.st_size, strerror(errno));
        else
            *m = (struct file_map){.data = p, .size = (size_t)st.st_size};
    }
    close(fd);
    return code;
}

void file_map_close(struct file_map *m)
{
    if (m->data)
        munmap((void *)(uintptr_t)m->data, m->size);
    *m = (struct file_map){0};
}
