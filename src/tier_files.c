/* SPDX-License-Identifier: MIT */
/* Names, sizes and times of a cache folder's files, and their removal; see tier.h for what they are. */
#include "tier_files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void tier_name(char *name, const struct tier_file *f)
{
    unsigned long long p[4] = {f->place.high, f->place.low, f->parent.high, f->parent.low};
    if (f->snapshot)
        snprintf(name, TIER_NAME, "%016llx%016llx.snapshot", p[0], p[1]);
    else
        snprintf(name, TIER_NAME, "%016llx%016llx-%016llx%016llx.segment", p[0], p[1], p[2], p[3]);
}

/* 16 digits as tier_name() writes them. */
static bool read_digits(const char **at, uint64_t *out)
{
    *out = 0;
    for (int i = 0; i < 16; i++, (*at)++) {
        const char *digits = "0123456789abcdef", *d = **at ? strchr(digits, **at) : NULL;
        if (!d)
            return false;
        *out = *out << 4 | (uint64_t)(d - digits);
    }
    return true;
}

/* 0: a file of ours; 1: one that is still being written, or never was to its end; -1: none of ours. */
static int read_name(const char *name, struct tier_file *f)
{
    *f = (struct tier_file){0};
    const char *at = name;
    if (!read_digits(&at, &f->place.high) || !read_digits(&at, &f->place.low))
        return -1;
    f->snapshot = *at != '-';
    f->parent = f->place;
    if (!f->snapshot && (at++, !read_digits(&at, &f->parent.high) || !read_digits(&at, &f->parent.low) ||
                                   place_same(f->parent, f->place)))
        return -1;
    const char *end = f->snapshot ? ".snapshot" : ".segment";
    if (strncmp(at, end, strlen(end)) != 0)
        return -1;
    at += strlen(end);
    return *at == 0 ? 0 : *at == '.' ? 1 : -1;
}

static int by_place(const void *a, const void *b)
{
    const struct tier_file *x = a, *y = b;
    if (x->place.high != y->place.high)
        return x->place.high < y->place.high ? -1 : 1;
    if (x->place.low != y->place.low)
        return x->place.low < y->place.low ? -1 : 1;
    return x->snapshot - y->snapshot;
}

static bool append(struct tier_files *l, size_t *cap, const struct tier_file *f)
{
    if (l->n == *cap) {
        size_t more = *cap ? 2 * *cap : 256;
        struct tier_file *grown = realloc(l->file, more * sizeof *grown);
        if (!grown)
            return false;
        l->file = grown;
        *cap = more;
    }
    l->file[l->n++] = *f;
    return true;
}

/* Everybody on whom f hangs has n more to carry. */
static void hang(struct tier_files *l, const struct tier_file *f, int n)
{
    struct tier_file *on;
    for (size_t i = 0; (on = tier_files_find(l, f->parent, false, i)); i++)
        on->n_hanging += n;
}

int tier_files_read(struct tier_files *l, int folder, bool count, struct qn_error *err)
{
    *l = (struct tier_files){0};
    int fd = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), code = 0;
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    if (!d) {
        code = fail(err, QN_E_IO, "the cache folder cannot be read: %s", strerror(errno));
        if (fd >= 0)
            close(fd);
        return code;
    }
    size_t cap = 0;
    for (struct dirent *x; !code && (x = readdir(d));) {
        struct tier_file f;
        struct stat st;
        int what = read_name(x->d_name, &f);
        if (what == 1 && count)
            unlinkat(folder, x->d_name, 0);
        if (what != 0)
            continue;
        if (count) {
            if (fstatat(folder, x->d_name, &st, AT_SYMLINK_NOFOLLOW) || !S_ISREG(st.st_mode))
                continue;
            f.bytes = (uint64_t)st.st_size;
            f.used_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
            l->bytes += f.bytes;
        }
        if (!append(l, &cap, &f))
            code = fail(err, QN_E_MEMORY, "no memory for the list of a cache folder");
    }
    closedir(d);
    if (l->n)
        qsort(l->file, l->n, sizeof *l->file, by_place);
    for (size_t i = 0; count && i < l->n; i++)
        hang(l, &l->file[i], 1);
    return code;
}

void tier_files_free(struct tier_files *l)
{
    free(l->file);
    *l = (struct tier_files){0};
}

struct tier_file *tier_files_find(const struct tier_files *l, struct place_id place, bool snapshot, size_t i)
{
    const struct tier_file want = {.place = place, .snapshot = snapshot};
    size_t first = 0, end = l->n;
    while (first < end) {
        size_t middle = first + (end - first) / 2;
        if (by_place(&l->file[middle], &want) < 0)
            first = middle + 1;
        else
            end = middle;
    }
    for (; first < l->n && by_place(&l->file[first], &want) == 0; first++)
        if (!l->file[first].gone && i-- == 0)
            return &l->file[first];
    return NULL;
}

/* What goes next; NULL: nothing may. */
static struct tier_file *least_used(const struct tier_files *l, int64_t used_ns)
{
    struct tier_file *least = NULL;
    for (size_t i = 0; i < l->n; i++) {
        struct tier_file *f = &l->file[i];
        if (!f->gone && !f->stays && !f->n_hanging && f->used_ns < used_ns && (!least || f->used_ns < least->used_ns))
            least = f;
    }
    return least;
}

bool tier_files_shrink(struct tier_files *l, int folder, uint64_t budget, uint64_t more, int64_t used_ns)
{
    uint64_t left = l->bytes;
    if (more > budget)
        return false;
    while (left > budget - more) {
        struct tier_file *f = least_used(l, used_ns);
        if (!f)
            return false;
        hang(l, f, -1);
        f->gone = true;
        left -= f->bytes;
    }
    for (size_t i = 0; i < l->n; i++) {
        char name[TIER_NAME];
        tier_name(name, &l->file[i]);
        if (l->file[i].gone && (unlinkat(folder, name, 0) == 0 || errno == ENOENT))
            l->bytes -= l->file[i].bytes;
    }
    return l->bytes <= budget - more;
}
