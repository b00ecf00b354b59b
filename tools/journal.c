/* SPDX-License-Identifier: MIT */
/* OUT.part: what a batch has finished so far. */
#include "journal.h"
#include "term.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static const double SYNC_EVERY_S = 1;

static bool parse_hash(const json_t *j, uint64_t *out)
{
    const char *s = json_string_value(j);
    char *end;
    if (!s || strlen(s) != 16)
        return false;
    *out = strtoull(s, &end, 16);
    return !*end;
}

/* One more setting that is not what it was. */
static void add_difference(struct text *all, const char *key, const json_t *then, const json_t *now)
{
    char *was = then ? json_dump(then) : xstrdup("not there"), *is = now ? json_dump(now) : xstrdup("not there");
    char *line = xprintf("%s%s was %s, is %s", all->n ? "; " : "", key, was, is);
    text_put(all, line, strlen(line));
    free(was);
    free(is);
    free(line);
}

/* Compares settings and completes those that are null here. */
static void check_settings(struct journal *j, json_t *settings, json_t *old)
{
    const char *key;
    json_t *now, *then;
    void *next;
    struct text all = {0};
    json_object_foreach_safe(settings, next, key, now)
    {
        then = json_object_get(old, key);
        if (json_is_null(now) && then)
            json_object_set(settings, key, then);
        else if (!then || !json_equal(now, then))
            add_difference(&all, key, then, now);
    }
    json_object_foreach(old, key, then)
    {
        if (!json_object_get(settings, key))
            add_difference(&all, key, then, NULL);
    }
    if (all.n)
        die("%s: begun with other settings: %s; the same settings go on, removing the file begins anew", j->path,
            all.s);
    text_free(&all);
}

static void check_head(struct journal *j, json_t *settings, const json_t *head)
{
    uint64_t input;
    if (!json_is_object(head) || json_integer_value(json_object_get(head, "quern_part")) != 1 ||
        !parse_hash(json_object_get(head, "input"), &input) || !json_is_object(json_object_get(head, "settings")))
        die("%s: not the beginning of a batch; remove the file to begin afresh", j->path);
    int n = (int)json_integer_value(json_object_get(head, "lines"));
    if (n != j->n_lines || input != j->input)
        die("%s: the input has changed since (then %d lines, xxh3 %016" PRIx64 ", now %d lines, %016" PRIx64
            "); restore it, or remove the file",
            j->path, n, input, j->n_lines, j->input);
    check_settings(j, settings, json_object_get(head, "settings"));
}

static bool take_record(struct journal *j, const json_t *record)
{
    uint64_t hash;
    json_t *index = json_object_get(record, "index"), *result = json_object_get(record, "result");
    if (!json_is_integer(index) || !json_is_object(result) || !parse_hash(json_object_get(record, "xxh3"), &hash))
        return false;
    json_int_t i = json_integer_value(index);
    if (i < 0 || i >= j->n_lines || hash != j->hashes[i] || j->results[i])
        return false;
    j->results[i] = json_dump(result);
    j->n_done++;
    return true;
}

static void take_lines(struct journal *j, json_t *settings, const char *text, size_t n)
{
    char why[256];
    int number = 0;
    for (size_t at = 0; at < n; number++) {
        size_t len = (size_t)((char *)memchr(text + at, '\n', n - at) - (text + at));
        json_t *line = json_parse(text + at, len, why, sizeof why);
        if (!number)
            check_head(j, settings, line);
        else if (!line || !take_record(j, line))
            die("%s: line %d is damaged; remove the file to begin afresh", j->path, number + 1);
        json_decref(line);
        at += len + 1;
    }
}

static void lock(struct journal *j)
{
    if (flock(j->fd, LOCK_EX | LOCK_NB))
        die("%s: %s", j->path, errno == EWOULDBLOCK ? "another quern batch is writing it" : strerror(errno));
}

/* OUT follows a link to the file it names, so that OUT.part lies beside that file and the rename replaces it. */
static void name_files(struct journal *j, const char *out)
{
    struct stat st;
    char *real = realpath(out, NULL);
    j->out = real ? real : xstrdup(out);
    j->path = xprintf("%s.part", j->out);
    if (!stat(j->out, &st) && !S_ISREG(st.st_mode))
        die("%s: not an ordinary file", out);
}

bool journal_resume(struct journal *j, const char *out, json_t *settings, const uint64_t *hashes, int n_lines,
                    uint64_t input)
{
    *j = (struct journal){.fd = -1, .n_lines = n_lines, .hashes = hashes, .input = input};
    name_files(j, out);
    j->results = xmalloc((size_t)n_lines * sizeof *j->results);
    j->fd = open(j->path, O_RDWR | O_APPEND | O_CLOEXEC);
    if (j->fd < 0 && errno == ENOENT)
        return false;
    if (j->fd < 0)
        die("%s: %s", j->path, strerror(errno));
    lock(j);
    char *text, err[512];
    size_t n;
    if (!io_try_read(j->path, &text, &n, err, sizeof err))
        die("%s", err);
    size_t whole = n;
    while (whole && text[whole - 1] != '\n')
        whole--;
    if (whole < n && ftruncate(j->fd, (off_t)whole)) /* the line that a kill cut off */
        die("%s: %s", j->path, strerror(errno));
    take_lines(j, settings, text, whole);
    free(text);
    if (whole)
        return true;
    unlink(j->path); /* killed before its first line */
    close(j->fd);
    j->fd = -1;
    return false;
}

/* One line with one call, so that a kill can at most cut it off. */
static void append(struct journal *j, const json_t *record)
{
    char *dump = json_dump(record), *line = xprintf("%s\n", dump);
    size_t n = strlen(line);
    off_t before = lseek(j->fd, 0, SEEK_END);
    ssize_t wrote = write(j->fd, line, n);
    if (wrote != (ssize_t)n) {
        int e = wrote < 0 ? errno : ENOSPC;
        if (wrote > 0 && ftruncate(j->fd, before))
            e = errno;
        if (!before) /* not even its first line: nothing worth keeping */
            unlink(j->path);
        die("%s: %s", j->path, strerror(e));
    }
    if (now_s() - j->synced > SYNC_EVERY_S) {
        fdatasync(j->fd);
        j->synced = now_s();
    }
    free(dump);
    free(line);
}

void journal_begin(struct journal *j, const json_t *settings)
{
    char hash[20];
    if (j->fd >= 0)
        return;
    j->fd = open(j->path, O_RDWR | O_APPEND | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (j->fd < 0)
        die("%s: %s", j->path, strerror(errno));
    lock(j);
    snprintf(hash, sizeof hash, "%016" PRIx64, j->input);
    json_t *head =
        json_pack("{s:i, s:s, s:i, s:O}", "quern_part", 1, "input", hash, "lines", j->n_lines, "settings", settings);
    append(j, head);
    json_decref(head);
}

void journal_add(struct journal *j, int index, const json_t *result)
{
    char hash[20];
    snprintf(hash, sizeof hash, "%016" PRIx64, j->hashes[index]);
    json_t *record = json_pack("{s:i, s:s, s:O}", "index", index, "xxh3", hash, "result", result);
    append(j, record);
    json_decref(record);
    j->results[index] = json_dump(result);
    j->n_done++;
}

void journal_finish(struct journal *j)
{
    struct io_out out;
    io_create(&out, j->out);
    for (int i = 0; i < j->n_lines; i++) {
        io_put(&out, j->results[i], strlen(j->results[i]));
        io_put(&out, "\n", 1);
    }
    io_commit(&out);
    if (j->fd >= 0)
        unlink(j->path);
}

void journal_close(struct journal *j)
{
    for (int i = 0; i < j->n_lines; i++)
        free(j->results[i]);
    free(j->results);
    free(j->out);
    free(j->path);
    if (j->fd >= 0)
        close(j->fd);
    *j = (struct journal){.fd = -1};
}
