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
    size_t slack = huge ? HUGE_PAGE : 0, all;
    if (bytes == 0)
        bytes = 1;
    if (!size_add(bytes, slack, &all))
        return NULL;
    uint8_t *p = mmap(NULL, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    if (huge) { /* what lies around whole huge pages is given back */
        size_t front = -(uintptr_t)p & (HUGE_PAGE - 1), page = (size_t)sysconf(_SC_PAGESIZE);
        size_t used = (bytes + page - 1) & ~(page - 1);
        if (front)
            munmap(p, front);
        if (front + used < all)
            munmap(p + front + used, all - front - used);
        p += front;
#ifdef MADV_HUGEPAGE
        madvise(p, bytes, MADV_HUGEPAGE);
#endif
    }
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

int mem_use_huge(void *p, size_t bytes, struct qn_error *err)
{
    bytes = (bytes + HUGE_PAGE - 1) & ~(size_t)(HUGE_PAGE - 1);
    size_t n_free = 0;
    if (bytes == 0)
        return 0;
    read_number("/proc/meminfo", "HugePages_Free:", &n_free);
#ifdef MAP_HUGETLB
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_HUGETLB | 21 << MAP_HUGE_SHIFT;
    if (mmap(p, bytes, PROT_READ | PROT_WRITE, flags, -1, 0) != MAP_FAILED)
        return 0;
#endif
    return fail(err, QN_E_MEMORY,
                "the weights need %zu huge pages of 2 MiB, the system has %zu free (sysctl vm.nr_hugepages sets aside "
                "more): %s",
                bytes / HUGE_PAGE, n_free, strerror(errno));
}

int mem_use_file(void *p, size_t bytes, int fd, size_t at, bool write, struct qn_error *err)
{
    if (bytes == 0)
        return 0;
    if (mmap(p, bytes, PROT_READ | (write ? PROT_WRITE : 0), MAP_SHARED | MAP_FIXED, fd, (off_t)at) == MAP_FAILED)
        return fail(err, QN_E_IO, "cannot map %zu bytes of a file: %s", bytes, strerror(errno));
#ifdef MADV_HUGEPAGE
    madvise(p, bytes, MADV_HUGEPAGE); /* file systems with large folios then read, and map, 2 MiB at once */
#endif
    return 0;
}

void mem_read_only(void *p, size_t bytes) { mprotect(p, bytes, PROT_READ); }

int mem_flush(void *p, size_t bytes, struct qn_error *err)
{
    return msync(p, bytes, MS_SYNC) ? fail(err, QN_E_IO, "a mapped file cannot be written: %s", strerror(errno)) : 0;
}

void mem_prefetch(void *p, size_t bytes)
{
    unsigned char there;
    if (mincore(p, 1, &there) || (there & 1))
        return;
#ifdef MADV_POPULATE_READ
    if (!madvise(p, bytes, MADV_POPULATE_READ)) /* in large folios, and mapped */
        return;
#endif
    madvise(p, bytes, MADV_WILLNEED);
}

/* Names in a memory cgroup's folder, of version 2 and of version 1. */
struct cgroup_files {
    const char *limit, *used, *inactive, *active;
};

/* What a memory cgroup still allows: its limit less what it holds, but for pages of files, which it lets go when memory is wanted. */
static size_t cgroup_left(const char *folder, const struct cgroup_files *f)
{
    char path[700];
    size_t max, used, inactive = 0, active = 0;
    snprintf(path, sizeof path, "%s/%s", folder, f->limit);
    if (!read_number(path, "", &max))
        return SIZE_MAX;
    snprintf(path, sizeof path, "%s/%s", folder, f->used);
    if (!read_number(path, "", &used))
        return SIZE_MAX;
    snprintf(path, sizeof path, "%s/memory.stat", folder);
    read_number(path, f->inactive, &inactive);
    read_number(path, f->active, &active);
    size_t files = inactive + active, held = used > files ? used - files : 0;
    return max > held ? max - held : 0;
}

/* The same for all cgroups above this process (version 2, and version 1 as mounted in containers). */
static size_t cgroup_available(void)
{
    static const struct cgroup_files v2 = {"memory.max", "memory.current", "inactive_file", "active_file"};
    static const struct cgroup_files v1 = {"memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file",
                                           "total_active_file"};
    size_t least = cgroup_left("/sys/fs/cgroup/memory", &v1);
    FILE *f = fopen("/proc/self/cgroup", "re");
    char line[512], path[600];
    while (f && fgets(line, sizeof line, f)) {
        if (strncmp(line, "0::", 3) != 0)
            continue;
        line[strcspn(line, "\n")] = 0;
        for (;;) { /* every level up to the root can hold a limit */
            snprintf(path, sizeof path, "/sys/fs/cgroup%s", line + 3);
            size_t left = cgroup_left(path, &v2);
            least = left < least ? left : least;
            char *slash = strrchr(line + 3, '/');
            if (!slash)
                break;
            *slash = 0;
        }
    }
    if (f)
        fclose(f);
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
    if (!code)
        m->id = (struct file_id){.dev = (uint64_t)st.st_dev,
                                 .ino = (uint64_t)st.st_ino,
                                 .size = (uint64_t)st.st_size,
                                 .mtime_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec};
    close(fd);
    return code;
}

void file_map_close(struct file_map *m)
{
    if (m->data)
        munmap((void *)(uintptr_t)m->data, m->size);
    *m = (struct file_map){0};
}
