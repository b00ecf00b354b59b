/* SPDX-License-Identifier: MIT */
#include "testing.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { N_PATHS = 8, PATH_BYTES = 1024 };

static const char *path_join(const char *dir, const char *name)
{
    static char paths[N_PATHS][PATH_BYTES];
    static int next;
    char *p = paths[next++ % N_PATHS];
    if (snprintf(p, PATH_BYTES, "%s/%s", dir, name) >= PATH_BYTES) {
        fprintf(stderr, "path too long: %s/%s\n", dir, name);
        abort();
    }
    return p;
}

const char *test_data(const char *name)
{
    const char *dir = getenv("QUERN_TEST_DATA");
    return path_join(dir && *dir ? dir : TEST_DATA_DIR, name);
}

const char *test_oracle(const char *name)
{
    const char *dir = getenv("QUERN_ORACLE");
    if (dir && *dir)
        return path_join(dir, name);
    printf("SKIPPED: QUERN_ORACLE is not set (%s)\n", name);
    return NULL;
}

static char tmp_dir[PATH_BYTES];
static pid_t tmp_owner; /* a forked child does not tidy up */

/* A folder with its files, and those of folders in it. */
static void remove_folder(const char *path)
{
    DIR *d = opendir(path);
    for (struct dirent *f; d && (f = readdir(d));) {
        char below[2 * PATH_BYTES];
        if (strcmp(f->d_name, ".") == 0 || strcmp(f->d_name, "..") == 0)
            continue;
        snprintf(below, sizeof below, "%s/%s", path, f->d_name);
        if (unlink(below))
            remove_folder(below);
    }
    if (d)
        closedir(d);
    rmdir(path);
}

static void tmp_remove(void)
{
    if (getpid() == tmp_owner)
        remove_folder(tmp_dir);
}

const char *test_tmp(const char *name)
{
    if (!tmp_dir[0]) {
        const char *base = getenv("TMPDIR");
        snprintf(tmp_dir, sizeof tmp_dir, "%s/quern-check-XXXXXX", base && *base ? base : "/tmp");
        if (!mkdtemp(tmp_dir)) {
            perror(tmp_dir);
            abort();
        }
        tmp_owner = getpid();
        atexit(tmp_remove);
    }
    return path_join(tmp_dir, name);
}

const char *test_tmp_folder(const char *name)
{
    const char *path = test_tmp(name);
    remove_folder(path);
    return path;
}

size_t test_folder_bytes(const char *path)
{
    size_t bytes = 0;
    DIR *d = opendir(path);
    for (struct dirent *f; d && (f = readdir(d));) {
        struct stat st;
        if (!fstatat(dirfd(d), f->d_name, &st, 0) && S_ISREG(st.st_mode))
            bytes += (size_t)st.st_size;
    }
    if (d)
        closedir(d);
    return bytes;
}

char *test_read(const char *path, size_t *size)
{
    FILE *f = fopen(path, "rb");
    char *data = NULL;
    long n = -1;
    if (f && fseek(f, 0, SEEK_END) == 0 && (n = ftell(f)) >= 0 && fseek(f, 0, SEEK_SET) == 0)
        data = malloc((size_t)n + 1);
    if (data && fread(data, 1, (size_t)n, f) != (size_t)n) {
        free(data);
        data = NULL;
    }
    if (f)
        fclose(f);
    if (!data) {
        fprintf(stderr, "cannot read %s\n", path);
        return NULL;
    }
    data[n] = 0;
    if (size)
        *size = (size_t)n;
    return data;
}

void test_write(const char *path, const void *data, size_t size)
{
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data, 1, size, f) != size || fclose(f) != 0) {
        perror(path);
        abort();
    }
}

void test_write_sparse(const char *path, const void *data, size_t size, size_t length)
{
    test_write(path, data, size);
    if (truncate(path, (off_t)length) != 0) {
        perror(path);
        abort();
    }
}

bool test_quick(void) { return getenv("QUERN_TEST_QUICK") != NULL; }
