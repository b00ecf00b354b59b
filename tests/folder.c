/* SPDX-License-Identifier: MIT */
#include "folder.h"
#include "eval.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

int folder_warnings;
char folder_warning[600];

static void on_log(void *cookie, enum qn_log_level level, const char *line)
{
    if (level != QN_LOG_WARN)
        return;
    folder_warnings++;
    snprintf(folder_warning, sizeof folder_warning, "%s", line);
}

struct qn_options folder_options(const char *file, int n_ctx, const char *folder)
{
    struct qn_options o = eval_options(file, n_ctx);
    o.type_k = o.type_v = QN_KV_F16;
    o.n_threads = 1;
    o.cache_ram = FOLDER_AMPLE;
    o.cache_dir = folder;
    o.cache_disk = FOLDER_AMPLE;
    o.log = on_log;
    folder_warnings = 0;
    return o;
}

struct folder_content folder_look(const char *folder)
{
    static struct folder_content c;
    DIR *d = opendir(folder);
    c = (struct folder_content){0};
    if (!d)
        return c;
    for (struct dirent *f; (f = readdir(d));) {
        struct stat st;
        const char *end = strrchr(f->d_name, '.');
        if (!strcmp(f->d_name, ".") || !strcmp(f->d_name, "..") || !strcmp(f->d_name, "lock") ||
            fstatat(dirfd(d), f->d_name, &st, 0))
            continue;
        bool segment = end && !strcmp(end, ".segment"), snapshot = end && !strcmp(end, ".snapshot");
        c.n_segments += segment;
        c.n_snapshots += snapshot;
        c.n_others += !segment && !snapshot;
        if (!segment && !snapshot)
            continue;
        c.bytes += (size_t)st.st_size;
        assert_int_equal(st.st_mode & 0777, 0600);
        if (c.n_segments + c.n_snapshots <= FOLDER_NAMES)
            snprintf(c.name[c.n_segments + c.n_snapshots - 1], sizeof c.name[0], "%s", f->d_name);
    }
    closedir(d);
    return c;
}

char *folder_path(const char *folder, const char *name)
{
    static char path[2048];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}
