/* SPDX-License-Identifier: MIT */
/* New files that appear whole or not at all, and folders that only their owner writes to; see base.h. */
#define _GNU_SOURCE
#include "base.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int system_error(const struct file_new *f, const char *what, struct qn_error *err)
{
    return fail(err, QN_E_IO, "%s: %s: %s", f->path, what, strerror(errno));
}

/* The folder that path lies in, malloc. */
static char *folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (!slash)
        return strdup(".");
    return slash == path ? strdup("/") : strndup(path, (size_t)(slash - path));
}

/* A file without a name; where that does not exist, one with a name that nobody else has. */
static int open_temporary(struct file_new *f)
{
    char *folder = folder_of(f->path);
    size_t cap = strlen(f->path) + sizeof ".XXXXXX";
    if (folder)
        f->fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    free(folder);
    if (f->fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT && errno != EINVAL))
        return f->fd;
    f->temp = malloc(cap);
    if (!f->temp)
        return -1;
    snprintf(f->temp, cap, "%s.XXXXXX", f->path);
    f->fd = mkostemp(f->temp, O_CLOEXEC);
    if (f->fd < 0) {
        free(f->temp);
        f->temp = NULL;
    }
    return f->fd;
}

int file_new_open(struct file_new *f, const char *path, size_t bytes, struct qn_error *err)
{
    *f = (struct file_new){.fd = -1, .path = strdup(path)};
    if (!f->path)
        return fail(err, QN_E_MEMORY, "%s: no memory for a name", path);
    int code = 0;
    if (open_temporary(f) < 0) {
        code = system_error(f, "cannot be made", err);
    } else if ((errno = posix_fallocate(f->fd, 0, (off_t)bytes)) != 0) {
        char what[80];
        snprintf(what, sizeof what, "no room for %.0f MiB", (double)bytes / (1 << 20));
        code = system_error(f, what, err);
    }
    if (code)
        file_new_close(f);
    return code;
}

int file_new_write(const struct file_new *f, const void *bytes, size_t n, size_t at, struct qn_error *err)
{
    for (const char *p = bytes; n > 0;) {
        ssize_t done = pwrite(f->fd, p, n, (off_t)at);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return system_error(f, "cannot be written", err);
        p += done;
        at += (size_t)done;
        n -= (size_t)done;
    }
    return 0;
}

/* Gives a nameless file a name that ends in the process's number, to be renamed. */
static int name_it(struct file_new *f)
{
    char self[64];
    size_t cap = strlen(f->path) + 32;
    f->temp = malloc(cap);
    if (!f->temp)
        return -1;
    snprintf(self, sizeof self, "/proc/self/fd/%d", f->fd);
    snprintf(f->temp, cap, "%s.%ld", f->path, (long)getpid());
    unlink(f->temp); /* left by a process that had this number and was killed between two lines */
    if (linkat(AT_FDCWD, self, AT_FDCWD, f->temp, AT_SYMLINK_FOLLOW) == 0)
        return 0;
    free(f->temp);
    f->temp = NULL;
    return -1;
}

/* The name itself has to reach the disk too; file systems that cannot do this for folders are left alone. */
static void sync_folder(const char *path)
{
    char *folder = folder_of(path);
    int fd = folder ? open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
    free(folder);
}

int file_new_name(struct file_new *f, struct qn_error *err)
{
    if ((!f->temp && name_it(f)) || rename(f->temp, f->path))
        return system_error(f, "cannot be named", err);
    free(f->temp);
    f->temp = NULL;
    return 0;
}

int file_new_commit(struct file_new *f, struct qn_error *err)
{
    if (fsync(f->fd))
        return system_error(f, "cannot be written", err);
    if (file_new_name(f, err))
        return err->code;
    sync_folder(f->path);
    return 0;
}

void file_new_close(struct file_new *f)
{
    if (f->temp)
        unlink(f->temp);
    if (f->path && f->fd >= 0)
        close(f->fd);
    free(f->temp);
    free(f->path);
    *f = (struct file_new){.fd = -1};
}

int folder_private(const char *path, struct qn_error *err)
{
    struct stat st;
    if (mkdir(path, 0700) && errno != EEXIST)
        return fail(err, QN_E_IO, "%s: the folder cannot be made: %s", path, strerror(errno));
    if (stat(path, &st))
        return fail(err, QN_E_IO, "%s: %s", path, strerror(errno));
    if (!S_ISDIR(st.st_mode))
        return fail(err, QN_E_IO, "%s: not a folder", path);
    if (st.st_mode & S_IWOTH)
        return fail(err, QN_E_IO, "%s: everybody may write to this folder", path);
    return 0;
}
