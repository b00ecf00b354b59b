/* SPDX-License-Identifier: MIT */
/* Files: read whole, written whole or not at all.  JSON with jansson. */
#include "io.h"
#include "term.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

bool complain(char *err, size_t cap, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(err, cap, fmt, ap);
    va_end(ap);
    return false;
}

void text_put(struct text *t, const void *bytes, size_t n)
{
    if (t->n + n + 1 > t->cap) {
        t->cap = (t->n + n + 1) * 2;
        t->s = xrealloc(t->s, t->cap);
    }
    if (n)
        memcpy(t->s + t->n, bytes, n);
    t->n += n;
    t->s[t->n] = 0;
}

void text_free(struct text *t)
{
    free(t->s);
    *t = (struct text){0};
}

/* ---- reading */

bool io_try_read(const char *path, char **bytes, size_t *n, char *err, size_t cap)
{
    bool standard = !strcmp(path, "-");
    const char *name = standard ? "standard input" : path;
    int fd = standard ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return complain(err, cap, "%s: %s", name, strerror(errno));
    struct text t = {0};
    ssize_t got;
    char *buf = xmalloc(1 << 16);
    while ((got = read(fd, buf, 1 << 16)) != 0) {
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            break;
        text_put(&t, buf, (size_t)got);
    }
    int e = errno;
    text_put(&t, "", 0);
    free(buf);
    if (!standard)
        close(fd);
    if (got < 0) {
        text_free(&t);
        return complain(err, cap, "%s: %s", name, strerror(e));
    }
    *bytes = t.s;
    *n = t.n;
    return true;
}

char *io_read(const char *path, size_t *n)
{
    char err[PATH_MAX + 256], *bytes;
    if (!io_try_read(path, &bytes, n, err, sizeof err))
        die("%s", err);
    return bytes;
}

/* ---- writing */

/* Makes the file that will become `target`, in the same folder, with the access rights of an ordinary new file. */
static FILE *temp_open(const char *target, char **temp)
{
    char *path = xprintf("%s.XXXXXX", target);
    int fd = mkstemp(path);
    if (fd < 0) {
        free(path);
        return NULL;
    }
    mode_t mask = umask(0);
    umask(mask);
    fchmod(fd, 0666 & ~mask);
    temp_register(path);
    *temp = path;
    return fdopen(fd, "wb");
}

/* Renames would replace a link by a file and a device by a file: follow the former, write straight to the latter. */
static bool open_target(struct io_out *o, const char *path)
{
    struct stat st;
    char *real = realpath(path, NULL);
    o->path = real ? real : xstrdup(path);
    o->temp = NULL;
    if (!stat(o->path, &st) && !S_ISREG(st.st_mode)) {
        o->f = S_ISDIR(st.st_mode) ? (errno = EISDIR, NULL) : fopen(o->path, "wb");
    } else {
        o->f = temp_open(o->path, &o->temp);
    }
    return o->f != NULL;
}

static bool finish_target(struct io_out *o)
{
    bool ok = !fflush(o->f) && !ferror(o->f) && (!o->temp || !fsync(fileno(o->f)));
    int e = errno;
    ok = !fclose(o->f) && ok;
    if (ok && o->temp) {
        ok = !rename(o->temp, o->path);
        e = errno;
    }
    if (!ok && o->temp)
        unlink(o->temp);
    temp_keep();
    errno = e;
    return ok;
}

static void release(struct io_out *o)
{
    free(o->path);
    free(o->temp);
    *o = (struct io_out){0};
}

void io_create(struct io_out *o, const char *path)
{
    if (!strcmp(path, "-"))
        *o = (struct io_out){.f = stdout};
    else if (!open_target(o, path))
        die("%s: %s", path, strerror(errno));
}

bool io_seekable(const struct io_out *o) { return o->temp != NULL; }

void io_put(struct io_out *o, const void *bytes, size_t n)
{
    if (o->f == stdout)
        out_write(bytes, n);
    else if (n && fwrite(bytes, 1, n, o->f) != n)
        die("%s: %s", o->path, strerror(errno));
}

void io_put_at(struct io_out *o, uint64_t offset, const void *bytes, size_t n)
{
    if (fseeko(o->f, (off_t)offset, SEEK_SET))
        die("%s: %s", o->path, strerror(errno));
    io_put(o, bytes, n);
}

void io_commit(struct io_out *o)
{
    if (o->f == stdout)
        out_flush();
    else if (!finish_target(o))
        die("%s: %s", o->path, strerror(errno));
    release(o);
}

bool io_try_write(const char *path, const void *bytes, size_t n, char *err, size_t cap)
{
    struct io_out o;
    if (!open_target(&o, path)) {
        complain(err, cap, "%s: %s", path, strerror(errno));
        release(&o);
        return false;
    }
    bool wrote = !n || fwrite(bytes, 1, n, o.f) == n;
    int e = errno;
    bool ok = finish_target(&o) && wrote;
    if (!ok)
        complain(err, cap, "%s: %s", path, strerror(wrote ? errno : e));
    release(&o);
    return ok;
}

/* ---- JSON */

/* Length of the UTF-8 character at p, or 0 when the bytes there are none. */
static size_t utf8_length(const unsigned char *p, size_t n)
{
    size_t len = p[0] < 0x80 ? 1 : p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : p[0] < 0xf5 ? 4 : 0;
    if (!len || len > n)
        return 0;
    for (size_t i = 1; i < len; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) || (p[0] == 0xf0 && p[1] < 0x90) ||
        (p[0] == 0xf4 && p[1] > 0x8f))
        return 0;
    return len;
}

json_t *json_text(const char *bytes, size_t n)
{
    struct text t = {0};
    text_put(&t, "", 0);
    for (size_t i = 0; i < n;) {
        size_t len = utf8_length((const unsigned char *)bytes + i, n - i);
        text_put(&t, len ? bytes + i : "\xef\xbf\xbd", len ? len : 3);
        i += len ? len : 1;
    }
    json_t *j = json_stringn(t.s, t.n);
    text_free(&t);
    if (!j)
        die("out of memory");
    return j;
}

json_t *json_parse(const char *bytes, size_t n, char *err, size_t cap)
{
    json_error_t e;
    json_t *j = json_loadb(bytes, n, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, &e);
    if (!j)
        complain(err, cap, "not JSON: line %d, column %d: %s", e.line, e.column, e.text);
    return j;
}

char *json_dump(const json_t *j)
{
    char *s = json_dumps(j, JSON_COMPACT | JSON_ENCODE_ANY);
    if (!s)
        die("out of memory");
    return s;
}

int32_t *parse_ids(const char *bytes, size_t n, int *n_ids, char *err, size_t cap)
{
    int32_t *ids = NULL;
    size_t count = 0, room = 0, i = 0;
    static const char blank[] = " \t\r\n\f\v,[]";
    while (i < n) {
        if (!bytes[i] || memchr(blank, bytes[i], sizeof blank - 1)) {
            if (!bytes[i])
                break;
            i++;
            continue;
        }
        char *end;
        errno = 0;
        long v = strtol(bytes + i, &end, 10);
        if (end == bytes + i || errno || v < 0 || v > INT32_MAX || (*end && !strchr(blank, *end)))
            break;
        if (count == room)
            ids = xrealloc(ids, (room = room * 2 + 256) * sizeof *ids);
        ids[count++] = (int32_t)v;
        i = (size_t)(end - bytes);
    }
    if (i < n || count > INT_MAX) {
        complain(err, cap, "id %zu: '%.*s' is not a token id", count, (int)strcspn(bytes + i, " \t\r\n,") & 31,
                 bytes + i);
        free(ids);
        return NULL;
    }
    *n_ids = (int)count;
    return ids ? ids : xmalloc(1);
}
