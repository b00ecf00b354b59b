/* SPDX-License-Identifier: MIT */
/* Writing places of the prefix store into a folder and finding them there; see tier.h. */
#define _GNU_SOURCE
#include "tier.h"
#include "load.h"
#include "run.h"
#include "tier_files.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include <xxhash.h>

/* A segment ends at multiples of this at the latest: prompts that part somewhere share those in front, and a model without recurrent
 * states has something to begin at. */
enum { TIER_CUT = 512 };

struct tier {
    struct qn_engine *e;
    char *path; /* of the folder */
    int folder, lock; /* descriptors */
    uint64_t budget, bytes; /* allowed; there when somebody looked last */
    bool warned; /* that something could not be written */
    int64_t n_written, n_read; /* snapshots, or segments where there are none */
    struct saved_head settings; /* what places are numbered under */
};

/* ---- places */

/* Numbers of the places behind the first 0 .. n of ids, malloc [n + 1]; that at position 0 is zeros.  NULL: no memory. */
static struct place_id *number_places(const struct tier *t, const int32_t *ids, int n)
{
    struct place_id *place = calloc((size_t)n + 1, sizeof *place);
    XXH3_state_t *x = XXH3_createState();
    if (place && x) {
        XXH3_128bits_reset(x);
        XXH3_128bits_update(x, &t->settings, sizeof t->settings);
        for (int i = 0; i < n; i++) {
            XXH3_128bits_update(x, &ids[i], sizeof *ids);
            XXH128_hash_t h = XXH3_128bits_digest(x);
            place[i + 1] = (struct place_id){h.high64, h.low64};
        }
    } else {
        free(place);
        place = NULL;
    }
    XXH3_freeState(x);
    return place;
}

/* The folder's path and a name, malloc. */
static char *path_of(const struct tier *t, const struct tier_file *f)
{
    size_t n = strlen(t->path);
    char *path = malloc(n + 1 + TIER_NAME);
    if (!path)
        return NULL;
    memcpy(path, t->path, n);
    path[n] = '/';
    tier_name(path + n + 1, f);
    return path;
}

/* It was used. */
static void touch(const char *path)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now); /* the system's own stamp is coarser than what nodes have */
    utimensat(AT_FDCWD, path, (struct timespec[]){now, now}, 0);
}

static bool has_states(const struct tier *t) { return t->e->slot_bytes != 0; }

/* ---- opening */

static void lock(const struct tier *t)
{
    while (flock(t->lock, LOCK_EX) && errno == EINTR) { /* file systems that have no locks go without */
    }
}

static void unlock(const struct tier *t) { flock(t->lock, LOCK_UN); }

/* What the folder takes if nobody says: `there` are in it. */
static uint64_t default_budget(const struct tier *t, uint64_t there)
{
    const uint64_t most = (uint64_t)16 << 30;
    struct statvfs st;
    if (fstatvfs(t->folder, &st))
        return most;
    uint64_t share = ((uint64_t)st.f_bavail * st.f_frsize + there) / 4;
    return share < most ? share : most;
}

static int open_folder(struct tier *t, const char *folder, struct qn_error *err)
{
    if (folder_private(folder, err))
        return err->code;
    t->path = realpath(folder, NULL);
    t->folder = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (!t->path || t->folder < 0)
        return fail(err, QN_E_IO, "%s: %s", folder, strerror(errno));
    t->lock = openat(t->folder, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (t->lock < 0)
        return fail(err, QN_E_IO, "%s/lock: %s", folder, strerror(errno));
    return 0;
}

int tier_open(struct tier **out, struct qn_engine *e, const char *folder, size_t budget, struct qn_error *err)
{
    struct tier_files l = {0};
    *out = NULL;
    struct tier *t = calloc(1, sizeof *t);
    if (!t)
        return fail(err, QN_E_MEMORY, "no memory for a cache folder");
    *t = (struct tier){.e = e, .folder = -1, .lock = -1};
    int code = open_folder(t, folder, err);
    if (!code)
        code = load_key(e, err);
    if (!code) {
        t->settings = saved_head_for(e, &saved_segment, &(struct saved_head){0});
        lock(t);
        code = tier_files_read(&l, t->folder, true, err);
        t->budget = budget ? budget : default_budget(t, l.bytes);
        if (!code)
            tier_files_shrink(&l, t->folder, t->budget, 0, INT64_MAX);
        t->bytes = l.bytes;
        unlock(t);
        tier_files_free(&l);
    }
    if (code)
        tier_close(t);
    else
        *out = t;
    return code;
}

void tier_close(struct tier *t)
{
    if (!t)
        return;
    if (t->lock >= 0)
        close(t->lock);
    if (t->folder >= 0)
        close(t->folder);
    free(t->path);
    free(t);
}

void tier_info(const struct tier *t, struct qn_cache_info *out)
{
    out->disk_budget = t->budget;
    out->disk_bytes = t->bytes;
    out->n_written = t->n_written;
    out->n_read = t->n_read;
}

/* ---- writing */

/* Where the segments of a path end that are there with all in front of them. */
struct chain {
    int *end; /* [n] ascending from 0 */
    int n;
};

static bool find_chain(const struct tier_files *l, const struct place_id *place, int n, struct chain *c)
{
    *c = (struct chain){.end = calloc((size_t)n + 1, sizeof *c->end), .n = 1};
    if (!c->end)
        return false;
    for (int at = 1; at <= n; at++) {
        const struct tier_file *f;
        bool whole = false;
        for (size_t i = 0; !whole && (f = tier_files_find(l, place[at], false, i)); i++)
            for (int k = c->n - 1; !whole && k >= 0; k--)
                whole = place_same(place[c->end[k]], f->parent);
        if (whole)
            c->end[c->n++] = at;
    }
    return true;
}

/* The end of a segment that begins at `from`. */
static int next_end(const struct tier_place *p, int from)
{
    int cut = (from / TIER_CUT + 1) * TIER_CUT, end = cut < p->n ? cut : p->n;
    for (int i = 0; i < p->n_ends; i++)
        if (p->ends[i] > from && p->ends[i] < end)
            end = p->ends[i];
    return end;
}

static struct saved_head segment_head(const struct tier *t, const struct place_id *place, int from, int to)
{
    struct saved_head h = {
        .from = (uint64_t)from, .n_ids = (uint64_t)(to - from), .parent = {place[from].high, place[from].low}};
    return saved_head_for(t->e, &saved_segment, &h);
}

static struct saved_head snapshot_head(const struct tier *t, int n)
{
    return saved_head_for(t->e, &saved_snapshot, &(struct saved_head){.n_ids = (uint64_t)n});
}

static struct timespec time_of(int64_t ns)
{
    return (struct timespec){.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};
}

/* Writes a file under its name, as old as its last use. */
static int write_file(struct tier *t, const struct tier_file *name, struct saved_head *h, const struct saved_data *d,
                      struct qn_error *err)
{
    const struct saved_kind *kind = name->snapshot ? &saved_snapshot : &saved_segment;
    const struct timespec used = time_of(name->used_ns);
    struct file_new f = {.fd = -1};
    char *path = path_of(t, name);
    int code = path ? saved_write(&f, t->e, path, kind, h, d, err)
                    : fail(err, QN_E_MEMORY, "%s: no memory for a name", t->path);
    if (!code) {
        futimens(f.fd, (struct timespec[]){used, used});
        code = file_new_name(&f, err);
    }
    if (!code)
        t->bytes += saved_bytes(kind, h);
    file_new_close(&f);
    free(path);
    return code;
}

/* Positions that the draft block has seen; those behind lie in one page. */
static int drafted_to(const struct qn_engine *e, const struct tier_place *p)
{
    const struct behind *b = p->state ? state_behind(e, p->state) : NULL;
    return p->n - (b ? b->n : 0);
}

static int write_segment(struct tier *t, const struct tier_place *p, const struct place_id *place, int from, int to,
                         struct qn_error *err)
{
    struct qn_engine *e = t->e;
    struct saved_head h = segment_head(t, place, from, to);
    int first = saved_first_page(&h), n = saved_n_pages(&saved_segment, &h);
    const uint8_t **part = calloc((size_t)n, sizeof *part);
    uint8_t *last = malloc(e->page_bytes + 1);
    int code;
    if (part && last) {
        for (int b = 0; b < n; b++)
            part[b] = slab_at(&e->pages, p->page[first + b]);
        int end = to - (first + n - 1) * ATTN_BLOCK, seen = drafted_to(e, p) - (first + n - 1) * ATTN_BLOCK;
        if (end < ATTN_BLOCK || seen < ATTN_BLOCK) { /* nothing of what was written behind the end */
            state_read_page(e, p->page[first + n - 1], end, seen < end ? seen : end, last);
            part[n - 1] = last;
        }
        struct tier_file name = {.place = place[to], .parent = place[from], .used_ns = p->used_ns};
        code = write_file(t, &name, &h, &(struct saved_data){.ids = p->ids + from, .part = part}, err);
    } else {
        code = fail(err, QN_E_MEMORY, "%s: no memory for a segment", t->path);
    }
    free(part);
    free(last);
    return code;
}

/* Bytes that are missing between the end of the chain and the place. */
static uint64_t missing_bytes(const struct tier *t, const struct tier_files *l, const struct tier_place *p,
                              const struct place_id *place, const struct chain *c)
{
    uint64_t bytes = 0;
    for (int from = c->end[c->n - 1], to; from < p->n; from = to) {
        to = next_end(p, from);
        struct saved_head h = segment_head(t, place, from, to);
        bytes += saved_bytes(&saved_segment, &h);
    }
    if (p->state && !tier_files_find(l, place[p->n], true, 0)) {
        struct saved_head h = snapshot_head(t, p->n);
        bytes += saved_bytes(&saved_snapshot, &h);
    }
    return bytes;
}

/* What leads to the place, and its snapshot, stays, and was used; its bytes. */
static uint64_t hold_chain(const struct tier *t, const struct tier_files *l, const struct tier_place *p,
                           const struct place_id *place, const struct chain *c)
{
    uint64_t bytes = 0;
    struct tier_file *f;
    for (int k = 1; k <= c->n; k++)
        for (size_t i = 0; (f = tier_files_find(l, place[k < c->n ? c->end[k] : p->n], k == c->n, i)); i++) {
            char name[TIER_NAME];
            f->stays = true;
            bytes += f->bytes;
            if (f->used_ns >= p->used_ns)
                continue;
            f->used_ns = p->used_ns;
            tier_name(name, f);
            const struct timespec used = time_of(f->used_ns);
            utimensat(t->folder, name, (struct timespec[]){used, used}, 0);
        }
    return bytes;
}

static int write_missing(struct tier *t, struct tier_files *l, const struct tier_place *p, const struct place_id *place,
                         const struct chain *c, struct qn_error *err)
{
    uint64_t more = missing_bytes(t, l, p, place, c), there = hold_chain(t, l, p, place, c);
    if (more == 0 || more + there > t->budget)
        return 0;
    bool fits = tier_files_shrink(l, t->folder, t->budget, more, p->used_ns);
    t->bytes = l->bytes;
    if (!fits)
        return 0;
    for (int from = c->end[c->n - 1], to; from < p->n; from = to) {
        to = next_end(p, from);
        if (write_segment(t, p, place, from, to, err))
            return err->code;
    }
    if (p->state && !tier_files_find(l, place[p->n], true, 0)) {
        struct saved_head h = snapshot_head(t, p->n);
        struct tier_file name = {.place = place[p->n], .snapshot = true, .used_ns = p->used_ns};
        if (write_file(t, &name, &h, &(struct saved_data){.ids = p->ids, .part = &p->state}, err))
            return err->code;
    }
    t->n_written++;
    return 0;
}

void tier_put(struct tier *t, const struct tier_place *p)
{
    struct qn_error err;
    struct tier_files l = {0};
    struct chain c = {0};
    struct place_id *place = number_places(t, p->ids, p->n);
    lock(t);
    int code = place ? tier_files_read(&l, t->folder, true, &err)
                     : fail(&err, QN_E_MEMORY, "%s: no memory for its numbers", t->path);
    t->bytes = l.bytes;
    if (!code)
        code = find_chain(&l, place, p->n, &c) ? write_missing(t, &l, p, place, &c, &err)
                                               : fail(&err, QN_E_MEMORY, "%s: no memory for a chain", t->path);
    unlock(t);
    if (code && !t->warned)
        log_line(&t->e->log, QN_LOG_WARN, "%s; what leaves memory is lost from now on where that is so", err.text);
    t->warned |= code != 0;
    free(c.end);
    free(place);
    tier_files_free(&l);
}

/* ---- finding */

/* Says what is wrong with a file, and removes it unless that lies with the system.  One that is gone was somebody's to remove. */
static void report(const struct tier *t, const char *path, const struct qn_error *err)
{
    if (access(path, F_OK) && errno == ENOENT)
        return;
    bool remove = err->code != QN_E_IO && err->code != QN_E_MEMORY;
    if (remove)
        unlink(path);
    log_line(&t->e->log, QN_LOG_WARN, "%s; it is %s", err->text, remove ? "removed" : "not used");
}

/* Opens the file if it has the tokens up to `to` from where its head says, and hangs on the place there that its name says. */
static bool open_file(struct tier *t, const struct tier_file *f, const int32_t *ids, const struct place_id *place,
                      int to, struct saved *s)
{
    struct qn_error err;
    char *path = path_of(t, f);
    if (!path)
        return false;
    bool good = !saved_open(s, t->e, path, f->snapshot ? &saved_snapshot : &saved_segment, &err);
    if (good) {
        const struct saved_head *h = &s->head;
        const struct place_id parent = {h->parent[0], h->parent[1]};
        good = h->from + h->n_ids == (uint64_t)to && memcmp(ids + h->from, s->ids, h->n_ids * sizeof *ids) == 0 &&
               (f->snapshot || (place_same(parent, f->parent) && place_same(parent, place[h->from])));
        saved_rest(s);
        if (!good) {
            fail(&err, QN_E_FORMAT, "%s: damaged: it is for another place than its name says", path);
            saved_close(s);
        }
    }
    if (!good)
        report(t, path, &err);
    free(path);
    return good;
}

/* Opens a segment that ends at place `to`. */
static bool open_segment(struct tier *t, const struct tier_files *l, const int32_t *ids, const struct place_id *place,
                         int to, struct saved *s)
{
    const struct tier_file *f;
    for (size_t i = 0; (f = tier_files_find(l, place[to], false, i)); i++)
        if (open_file(t, f, ids, place, to, s))
            return true;
    return false;
}

/* Opens all files of the first n tokens. */
static bool open_place(struct tier *t, const struct tier_files *l, const int32_t *ids, const struct place_id *place,
                       int n, struct tier_found *out)
{
    *out = (struct tier_found){.segment = calloc((size_t)n, sizeof *out->segment)};
    const struct tier_file *snapshot = has_states(t) ? tier_files_find(l, place[n], true, 0) : NULL;
    bool good = out->segment && (!has_states(t) || (snapshot && open_file(t, snapshot, ids, place, n, &out->snapshot)));
    for (int to = n; good && to > 0; to = (int)out->segment[out->n_segments++].head.from) {
        good = open_segment(t, l, ids, place, to, &out->segment[out->n_segments]);
        if (!good)
            break;
    }
    if (good)
        out->n = n;
    else
        tier_release(out);
    return good;
}

int tier_find(struct tier *t, const int32_t *ids, int above, int limit, struct tier_found *f)
{
    struct tier_files l = {0};
    struct qn_error err;
    *f = (struct tier_found){0};
    if (limit <= above)
        return 0;
    struct place_id *place = number_places(t, ids, limit);
    if (place && !tier_files_read(&l, t->folder, false, &err))
        for (int n = limit; n > above && !f->n; n--)
            if (tier_files_find(&l, place[n], has_states(t), 0))
                open_place(t, &l, ids, place, n, f);
    tier_files_free(&l);
    free(place);
    return f->n;
}

void tier_release(struct tier_found *f)
{
    for (int i = 0; i < f->n_segments; i++)
        saved_close(&f->segment[i]);
    free(f->segment);
    saved_close(&f->snapshot);
    *f = (struct tier_found){0};
}

/* ---- where prompts part */

/* How much of a segment that hangs on place `from` is ids; *was: what comes then. */
static int same_in(const struct tier *t, const struct tier_file *f, const int32_t *ids, int from, int n, int32_t *was)
{
    struct saved s;
    struct qn_error none;
    int to = from;
    char *path = path_of(t, f);
    if (path && !saved_open(&s, t->e, path, &saved_segment, &none)) {
        int i = 0, all = s.head.from == (uint64_t)from ? (int)s.head.n_ids : 0;
        while (i < all && from + i < n && s.ids[i] == ids[from + i])
            i++;
        to = from + i;
        *was = i < all ? s.ids[i] : -1;
        saved_close(&s);
    }
    free(path);
    return to;
}

/* The same for all that hang on the last place of a chain that leads further than those before it. */
static int same_behind(const struct tier *t, const struct tier_files *l, const struct place_id *place,
                       const struct chain *c, const int32_t *ids, int n, int32_t *was)
{
    enum { LOOKS = 64 }; /* files that are opened */
    int same = c->end[c->n - 1];
    for (int k = c->n - 1, looks = 0; k >= 0 && looks < LOOKS; k--) {
        int from = c->end[k], cut = (from / TIER_CUT + 1) * TIER_CUT;
        for (size_t i = 0; i < l->n && same < cut && looks < LOOKS; i++) {
            const struct tier_file *f = &l->file[i];
            int32_t next = -1;
            if (f->snapshot || !place_same(f->parent, place[from]))
                continue;
            int to = same_in(t, f, ids, from, n, &next);
            if (to > same || (to == same && *was < 0)) {
                same = to;
                *was = next;
            }
            looks++;
        }
    }
    return same;
}

int tier_same(const struct tier *t, const int32_t *ids, int n, int32_t *was)
{
    struct tier_files l = {0};
    struct chain c = {0};
    struct qn_error none;
    struct place_id *place = number_places(t, ids, n);
    int same = 0;
    *was = -1;
    if (place && !tier_files_read(&l, t->folder, false, &none) && find_chain(&l, place, n, &c))
        same = same_behind(t, &l, place, &c, ids, n, was);
    free(c.end);
    free(place);
    tier_files_free(&l);
    return same;
}

/* ---- reading */

/* Which pages come from segment i, from block `first` on: of two with the same block, the later one has what was written last. */
static void blocks_from(const struct tier_found *f, int i, int first, int *begin, int *end)
{
    int own = saved_first_page(&f->segment[i].head);
    *begin = own > first ? own : first;
    *end = i ? saved_first_page(&f->segment[i - 1].head) : (f->n - 1) / ATTN_BLOCK + 1;
    if (*end < *begin)
        *end = *begin;
}

/* The blocks [begin, end) of a segment into pages of s. */
static int read_blocks(struct tier *t, struct saved *x, int begin, int end, struct qn_seq *s, struct qn_error *err)
{
    uint8_t **page = calloc((size_t)(end - begin) + 1, sizeof *page);
    if (!page)
        return fail(err, QN_E_MEMORY, "%s: no memory for the tables of a segment", x->path);
    for (int b = begin; b < end; b++)
        page[b - begin] = slab_at(&t->e->pages, s->page[b]);
    int code = saved_read(x, t->e, begin - saved_first_page(&x->head), end - begin, page, err);
    free(page);
    return code;
}

bool tier_read(struct tier *t, struct tier_found *f, int first, struct qn_seq *s)
{
    struct qn_error err;
    uint8_t *state = (uint8_t *)s->state;
    struct saved *x = &f->snapshot;
    int code = has_states(t) ? saved_read(x, t->e, 0, 1, &state, &err) : 0;
    for (int i = 0, begin, end; !code && i < f->n_segments; i++) {
        blocks_from(f, i, first, &begin, &end);
        x = &f->segment[i];
        code = begin < end ? read_blocks(t, x, begin, end, s, &err) : 0;
        saved_rest(x);
    }
    if (code) {
        report(t, x->path, &err);
        return false;
    }
    for (int i = 0; i < f->n_segments; i++)
        touch(f->segment[i].path);
    if (has_states(t))
        touch(f->snapshot.path);
    t->n_read++;
    return true;
}
