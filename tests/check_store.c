/* SPDX-License-Identifier: MIT */
/* Forks, the prefix store and what it brings back: every logit has the bits of a plain computation, whatever was shared, copied,
 * taken back or thrown out before; and the budgets hold, of the store and of memory, and so does every promise. */
#include "eval.h"
#include "hashmodel.h"
#include "src/run.h"
#include "testing.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { VOCAB = 512, N_CTX = 640, FOR_NODES = 64 << 10 };

static struct qn_options options(const char *file, size_t cache_ram, int n_seq)
{
    struct qn_options o = eval_options(file, N_CTX);
    o.type_k = o.type_v = QN_KV_F16;
    o.cache_ram = cache_ram;
    o.n_seq = n_seq;
    return o;
}

/* A budget in snapshots and pages of a file's model. */
static size_t budget_of(const char *file, size_t snapshots, size_t pages)
{
    struct qn_options o = options(file, 0, 1);
    qn_engine *e = eval_open(&o);
    size_t bytes = snapshots * e->slot_bytes + pages * e->page_bytes + FOR_NODES;
    qn_close(e);
    return bytes;
}

static struct qn_cache_info info_of(const qn_engine *e)
{
    struct qn_cache_info i;
    qn_cache_info(e, &i);
    return i;
}

/* ---- paths: prompts that share beginnings, and the hash of every row as an engine without a store computes it */

enum { N_PATHS = 14 };

struct path {
    int32_t ids[N_CTX];
    uint64_t rows[N_CTX];
    int n;
};

static struct path paths[N_PATHS];

static uint64_t random_state;
static int below(int n)
{
    random_state = hash_splitmix64(random_state + 1);
    return (int)(random_state % (uint64_t)n);
}

static int common(const struct path *a, const struct path *b)
{
    int n = 0;
    while (n < a->n && n < b->n && a->ids[n] == b->ids[n])
        n++;
    return n;
}

/* The first tokens are those of an earlier path, up to anywhere; some paths end together with another one's beginning. */
static void make_paths(const char *file)
{
    struct qn_options o = options(file, 0, 1);
    qn_engine *e = eval_open(&o);
    qn_seq *s = eval_seq(e);
    for (int p = 0; p < N_PATHS; p++) {
        struct path *a = &paths[p], *from = &paths[p ? below(p) : 0];
        a->n = 130 + below(test_quick() ? 60 : N_CTX - 130);
        eval_ids((uint64_t)p + 1, a->n, a->ids);
        int shared = p % 4 == 0 ? 0 : below(from->n), most = a->n - (p % 5 != 1);
        memcpy(a->ids, from->ids, (size_t)(shared < most ? shared : most) * sizeof *a->ids);
        qn_seq_clear(s);
        eval_rows(s, a->ids, a->n, a->rows);
    }
    qn_seq_free(s);
    qn_close(e);
}

/* ---- random lives */

enum { N_SEQ = 6 };

struct world {
    qn_engine *e;
    struct {
        qn_seq *s; /* NULL: there is none */
        int path, reserved; /* reserved: tokens it was promised to have room for */
    } seq[N_SEQ];
    float *logits; /* [N_SEQ * N_CTX][VOCAB] */
    int64_t computed, kept, refused;
};

static int pick_length(int most)
{
    int kind = below(20), n = 1 + below(kind < 14 ? 3 : kind < 19 ? 20 : 150);
    return n < most ? n : most;
}

/* Some sequences go on along their paths in one call. */
static void evaluate(struct world *w)
{
    struct qn_span spans[N_SEQ];
    int who[N_SEQ], n_spans = 0;
    for (int i = 0; i < N_SEQ; i++) {
        qn_seq *s = w->seq[i].s;
        const struct path *p = &paths[w->seq[i].path];
        if (!s || below(3) || s->n >= p->n)
            continue;
        who[n_spans] = i;
        spans[n_spans++] =
            (struct qn_span){.seq = s, .ids = p->ids + s->n, .n = pick_length(p->n - s->n), .logits = QN_LOGITS_ALL};
    }
    struct qn_error err;
    int lengths[N_SEQ], code, promised = 0;
    for (int i = 0; i < n_spans; i++) {
        lengths[i] = spans[i].seq->n;
        promised += lengths[i] + spans[i].n <= w->seq[who[i]].reserved;
    }
    if ((code =
             qn_eval(w->e, spans, n_spans, w->logits, &err))) { /* only for want of memory, and not what was promised */
        if (code != QN_E_MEMORY || promised == n_spans)
            fail_msg("%s", err.text);
        for (int i = 0; i < n_spans; i++)
            assert_int_equal(spans[i].seq->n, lengths[i]);
        w->refused++;
        return;
    }
    const float *row = w->logits;
    for (int i = 0; i < n_spans; i++) {
        uint64_t got[N_CTX];
        const struct path *p = &paths[w->seq[who[i]].path];
        int from = spans[i].seq->n - spans[i].n;
        eval_hash_rows(row, spans[i].n, VOCAB, got);
        for (int t = 0; t < spans[i].n; t++)
            if (got[t] != p->rows[from + t])
                fail_msg("path %d of %d tokens: other bits at token %d", w->seq[who[i]].path, p->n, from + t);
        row += (size_t)spans[i].n * VOCAB;
        w->computed += spans[i].n;
    }
}

static void resume(struct world *w, int i)
{
    struct qn_kept k;
    int was = w->seq[i].path, had = w->seq[i].s->n, path = below(N_PATHS), n = 1 + below(paths[path].n), same = 0;
    bool anywhere = !w->e->slot_bytes;
    int of_own = common(&paths[was], &paths[path]);
    of_own = of_own < had ? of_own : had;
    of_own = of_own < n ? of_own : n;
    int kept = qn_seq_resume(w->seq[i].s, paths[path].ids, n, &k);
    assert_int_equal(kept, w->seq[i].s->n);
    assert_int_equal(kept, k.kept);
    assert_int_equal(k.n, n);
    assert_in_range(kept, 0, n - 1);
    assert_in_range(k.same, of_own, n);
    assert_true(kept <= k.same);
    if (of_own == had && had < n)
        assert_true(kept >= had);
    bool folder = info_of(w->e).disk_budget > 0; /* which may know more of it than can be resumed there */
    if (anywhere && !folder && w->e->budget > (size_t)N_SEQ * w->e->n_blocks * budget_page_cost(w->e))
        assert_int_equal(kept, k.same < n ? k.same : n - 1);
    assert_int_equal(k.is, k.same < n ? paths[path].ids[k.same] : -1);
    for (int p = 0; p < N_PATHS; p++) {
        int c = common(&paths[p], &paths[path]);
        same = p != path && c > same ? c : same;
    }
    if (k.was >= 0 && k.was != k.is && k.is >= 0)
        assert_true(k.same <= same);
    w->seq[i].path = path;
    w->seq[i].reserved = 0;
    w->kept += kept;
}

static void reserve(struct world *w, int i)
{
    struct qn_error err;
    qn_seq *s = w->seq[i].s;
    int n = below(2) ? N_CTX - below(200) : below(N_CTX + 1), fits = qn_seq_fits(s), rc = qn_seq_reserve(s, n, &err);
    assert_int_equal(rc, n > s->n && n > fits ? QN_E_MEMORY : 0);
    w->seq[i].reserved = rc ? w->seq[i].reserved : n;
    w->refused += rc != 0;
}

static void rewind_some(struct world *w, int i)
{
    qn_seq *s = w->seq[i].s;
    int had = s->n, n = below(had + 20), got = qn_seq_rewind(s, n);
    assert_int_equal(got, s->n);
    w->seq[i].reserved = 0;
    if (n >= had)
        assert_int_equal(got, had);
    else if (!w->e->slot_bytes)
        assert_int_equal(got, n);
    else
        assert_in_range(got, 0, n);
}

/* The sequence goes on along another path that begins like its own. */
static void change_path(struct world *w, int i)
{
    int path = below(N_PATHS);
    if (common(&paths[path], &paths[w->seq[i].path]) >= w->seq[i].s->n)
        w->seq[i].path = path;
}

static void act(struct world *w)
{
    struct qn_error err;
    int what = below(20), i = below(N_SEQ), j = below(N_SEQ);
    qn_seq *s = w->seq[i].s;
    if (what < 5) {
        evaluate(w);
    } else if (!s) {
        w->seq[i].s = eval_seq(w->e);
        w->seq[i].path = below(N_PATHS);
        w->seq[i].reserved = 0;
    } else if (what < 9) {
        resume(w, i);
    } else if (what < 11) {
        qn_seq_keep(s);
    } else if (what < 13) {
        qn_seq_free(w->seq[j].s);
        w->seq[j].s = NULL;
        if (i != j) {
            assert_int_equal(qn_seq_fork(&w->seq[j].s, s, &err), 0);
            w->seq[j].path = w->seq[i].path;
            w->seq[j].reserved = 0;
        }
    } else if (what < 14) {
        rewind_some(w, i);
    } else if (what < 15) {
        change_path(w, i);
    } else if (what < 18) {
        reserve(w, i);
    } else if (below(4) == 0) {
        qn_seq_clear(s);
        w->seq[i].reserved = 0;
    }
}

static int in_use(const struct slab *s) { return s->n_used - s->n_free; }

/* Counts anew what the engine keeps count of; what is used and what is in memory is within the budget. */
static void check_counts(const struct world *w)
{
    const qn_engine *e = w->e;
    int64_t live = 0, promised = 0, slots = e->slots.n_used - e->slots.n_gone - e->n_seq;
    for (int p = 0; p < e->pages.n_used; p++) {
        bool found = false;
        for (int i = 0; i < N_SEQ && !found; i++)
            for (int b = 0; w->seq[i].s && b < w->seq[i].s->n_pages && !found; b++)
                found = w->seq[i].s->page[b] == p;
        live += found;
    }
    for (int i = 0; i < N_SEQ; i++)
        promised += w->seq[i].s ? w->seq[i].s->n_promised : 0;
    assert_int_equal(live, e->n_pages_live);
    assert_int_equal(promised, e->n_promised);
    assert_true((size_t)(live + promised) * budget_page_cost(e) <= e->budget);
    assert_true(budget_used(e) <= e->budget);
    size_t resident = (size_t)(e->pages.n_used - e->pages.n_gone) * budget_page_cost(e);
    assert_true(resident + (slots > 0 ? (size_t)slots : 0) * e->slot_bytes <= e->budget);
}

struct life {
    const char *file;
    size_t budget;
    int n_pages; /* of those that memory is left for; 0 = as many as there is */
    const char *folder; /* or NULL */
    size_t disk;
};

static void open_world(struct world *w, const struct life *l)
{
    struct qn_options o = options(l->file, l->budget, N_SEQ);
    o.n_ubatch = 100;
    o.n_threads = 1;
    o.cache_dir = l->folder;
    o.cache_disk = l->disk;
    w->e = eval_open(&o);
    if (l->n_pages)
        w->e->budget = (size_t)l->n_pages * budget_page_cost(w->e) + (l->budget ? 3 * w->e->slot_bytes : 0);
}

static void free_seqs(struct world *w)
{
    for (int i = 0; i < N_SEQ; i++) {
        qn_seq_free(w->seq[i].s);
        w->seq[i].s = NULL;
    }
}

static void random_lives(const struct life *l, int n_ops)
{
    const size_t budget = l->budget;
    const int n_pages = l->n_pages;
    int64_t n_read = 0, n_written = 0;
    struct world w = {.logits = malloc((size_t)N_SEQ * N_CTX * VOCAB * sizeof(float))};
    assert_non_null(w.logits);
    open_world(&w, l);
    for (int op = 0; op < n_ops; op++) {
        if (l->folder && below(150) == 0) { /* everything begins again, but for the folder */
            n_read += info_of(w.e).n_read;
            n_written += info_of(w.e).n_written;
            free_seqs(&w);
            qn_close(w.e);
            open_world(&w, l);
        }
        act(&w);
        assert_true(info_of(w.e).bytes <= budget);
        assert_true(!l->folder || test_folder_bytes(l->folder) <= l->disk);
        check_counts(&w);
    }
    free_seqs(&w);
    struct qn_cache_info left = info_of(w.e);
    if (l->folder) {
        print_message("%lld written, %lld read\n", (long long)n_written, (long long)n_read);
        assert_true(n_written > 0 && n_read > 0);
    }
    assert_true(n_pages || !w.refused);
    assert_true(!n_pages || budget || w.refused);
    print_message("%d acts, %lld tokens computed, %lld kept, %lld refused; %d snapshots left, %lld evicted\n", n_ops,
                  (long long)w.computed, (long long)w.kept, (long long)w.refused, left.n_snapshots,
                  (long long)left.n_evicted);
    assert_int_equal(w.e->n_pages_live, 0);
    assert_int_equal(w.e->n_promised, 0);
    /* what nobody refers to any more has been given back */
    assert_true((size_t)in_use(&w.e->pages) * w.e->page_bytes <= left.bytes);
    assert_true((size_t)in_use(&w.e->slots) * w.e->slot_bytes <= left.bytes);
    qn_close(w.e);
    free(w.logits);
}

static void test_random(void **state)
{
    const char *model = *state;
    bool whole = !strcmp(model, "qwen35moe") || !strcmp(model, "qwen3") || getenv("QUERN_LONG");
    int n_ops = test_quick() ? 300 : whole ? 10000 : 3000;
    const char *file = hash_model_file(model, "Q8_0");
    random_state = 1;
    make_paths(file);
    const size_t small = budget_of(file, 4, 10), large = budget_of(file, 1000, 1000);
    random_lives(&(struct life){.file = file, .budget = small}, n_ops);
    random_lives(&(struct life){.file = file, .budget = small, .n_pages = 4}, n_ops / 2);
    random_lives(&(struct life){.file = file, .budget = large}, n_ops / 5);
    random_lives(&(struct life){.file = file}, n_ops / 10);
    random_lives(&(struct life){.file = file, .n_pages = 8}, n_ops / 5);
}

/* The same with a folder of little and of ample room, and engines that end. */
static void test_random_disk(void **state)
{
    const char *file = hash_model_file(*state, "Q8_0");
    const size_t tiny = budget_of(file, 2, 6), small = budget_of(file, 4, 10), ample = budget_of(file, 1000, 1000);
    int n_ops = test_quick() ? 600 : getenv("QUERN_LONG") ? 10000 : 2000;
    random_state = 2;
    make_paths(file);
    random_lives(&(struct life){.file = file, .budget = tiny, .folder = test_tmp_folder("lives"), .disk = small},
                 n_ops);
    random_lives(&(struct life){.file = file, .budget = tiny, .folder = test_tmp_folder("lives"), .disk = ample},
                 n_ops);
    random_lives(
        &(struct life){
            .file = file, .budget = small, .n_pages = 5, .folder = test_tmp_folder("lives"), .disk = small * 2},
        n_ops / 2);
    test_tmp_folder("lives");
}

/* ---- case by case */

static const char *hybrid(void) { return hash_model_file("qwen35", "Q8_0"); }

/* Both ends of a fork in mid-page, and a fork of the fork, equal what they are alone. */
static void test_fork(void **state)
{
    enum { AT = 200, MORE = 70 };
    (void)state;
    struct qn_error err;
    struct qn_options o = options(hybrid(), 0, 3);
    qn_engine *e = eval_open(&o);
    int32_t ids[3][AT + MORE];
    uint64_t want[3][AT + MORE], got[AT + MORE];
    for (int i = 0; i < 3; i++) {
        eval_ids(7, AT, ids[i]);
        eval_ids(8 + (uint64_t)i, MORE, ids[i] + AT);
        qn_seq *s = eval_seq(e);
        eval_rows(s, ids[i], AT + MORE, want[i]);
        qn_seq_free(s);
    }
    qn_seq *s[3] = {eval_seq(e)}, *none;
    eval_rows(s[0], ids[0], AT, got);
    assert_int_equal(qn_seq_fork(&s[1], s[0], &err), 0);
    assert_int_equal(qn_seq_fork(&s[2], s[1], &err), 0);
    assert_int_equal(in_use(&e->pages), 2);
    assert_int_equal(qn_seq_fork(&none, s[1], &err), QN_E_NOSPACE);
    assert_null(none);
    for (int at = AT; at < AT + MORE; at += 35)
        for (int i = 0; i < 3; i++) {
            eval_rows(s[i], ids[i] + at, 35, got);
            assert_memory_equal(got, want[i] + at, 35 * sizeof *got);
        }
    assert_int_equal(in_use(&e->pages), 1 + 3 + 3); /* the first is shared, the second was copied twice */
    for (int i = 0; i < 3; i++)
        qn_seq_free(s[i]);
    assert_int_equal(in_use(&e->pages), 0);
    assert_int_equal(in_use(&e->slots), 0);
    qn_close(e);
}

/* A conversation whose template forgets the thinking of the last answer: only what follows the header is computed again. */
static void test_turns(void **state)
{
    enum { HEADER = 150, PROMPT = 154, THOUGHT = 260, SECOND = 300 };
    (void)state;
    struct qn_options o = options(hybrid(), budget_of(hybrid(), 8, 20), 1);
    qn_engine *e = eval_open(&o);
    qn_seq *s = eval_seq(e);
    int32_t first[THOUGHT], second[SECOND];
    uint64_t rows[N_CTX], want[SECOND];
    eval_ids(1, THOUGHT, first);
    eval_ids(2, SECOND, second);
    memcpy(second, first, (PROMPT - 1) * sizeof *first);
    eval_rows(s, second, SECOND, want);
    qn_seq_clear(s);

    struct qn_kept k;
    assert_int_equal(qn_seq_resume(s, first, PROMPT, &k), 0);
    assert_int_equal(k.same, 0);
    eval_rows(s, first, HEADER, rows);
    assert_int_equal(qn_seq_keep(s), 1);
    eval_rows(s, first + HEADER, PROMPT - HEADER, rows);
    eval_rows(s, first + PROMPT, THOUGHT - PROMPT, rows);

    assert_int_equal(qn_seq_resume(s, second, SECOND, &k), HEADER);
    assert_int_equal(k.kept, HEADER);
    assert_int_equal(k.same, PROMPT - 1);
    assert_int_equal(k.was, first[PROMPT - 1]);
    assert_int_equal(k.is, second[PROMPT - 1]);
    eval_rows(s, second + HEADER, SECOND - HEADER, rows);
    assert_memory_equal(rows, want + HEADER, (SECOND - HEADER) * sizeof *rows);

    /* what was left is still known: back to the first answer, and the second turn once more */
    assert_int_equal(qn_seq_resume(s, first, THOUGHT, &k), HEADER); /* one token must be left to compute */
    assert_int_equal(k.same, THOUGHT);
    assert_int_equal(qn_seq_resume(s, second, SECOND, &k), HEADER);
    int32_t longer[SECOND + 1];
    memcpy(longer, second, sizeof second);
    longer[SECOND] = 3;
    assert_int_equal(qn_seq_resume(s, longer, SECOND + 1, &k), SECOND);
    assert_int_equal(k.same, SECOND);
    assert_int_equal(k.was, -1);
    assert_int_equal(k.is, 3);
    qn_seq_free(s);
    qn_close(e);
}

/* What was not used for longest leaves first, a restore point outlives what is kept in front of it, and what can never fit
 * throws nothing out. */
static void test_budget(void **state)
{
    enum { N = 100 };
    (void)state;
    struct qn_options o = options(hybrid(), budget_of(hybrid(), 3, 4), 1);
    qn_engine *e = eval_open(&o);
    qn_seq *s = eval_seq(e);
    int32_t ids[5][N_CTX];
    uint64_t rows[N_CTX];
    for (int i = 0; i < 5; i++)
        eval_ids(20 + (uint64_t)i, N_CTX, ids[i]);
    for (int i = 0; i < 3; i++) {
        qn_seq_clear(s);
        eval_rows(s, ids[i], N, rows);
        assert_int_equal(qn_seq_keep(s), 1);
    }
    assert_int_equal(info_of(e).n_snapshots, 3);
    qn_seq_clear(s);
    assert_int_equal(qn_seq_resume(s, ids[0], N + 1, NULL), N); /* now the second is the oldest */
    qn_seq_clear(s);
    eval_rows(s, ids[3], N, rows);
    /* left for another, the fourth is kept, and the second goes */
    assert_int_equal(qn_seq_resume(s, ids[2], N + 1, NULL), N);
    assert_int_equal(info_of(e).n_snapshots, 3);
    assert_int_equal(info_of(e).n_evicted, 1);
    assert_int_equal(qn_seq_resume(s, ids[1], N + 1, NULL), 0);
    assert_int_equal(qn_seq_resume(s, ids[0], N + 1, NULL), N);
    assert_int_equal(qn_seq_resume(s, ids[3], N + 1, NULL), N);

    qn_seq_free(s);
    qn_close(e);

    o = options(hybrid(), budget_of(hybrid(), 1, 5) - FOR_NODES - 1, 1);
    e = eval_open(&o);
    s = eval_seq(e);
    eval_rows(s, ids[0], N, rows);
    assert_int_equal(qn_seq_keep(s), 1);
    eval_rows(s, ids[4], 4 * ATTN_BLOCK, rows); /* five pages */
    assert_int_equal(qn_seq_keep(s), 0);
    assert_int_equal(info_of(e).n_snapshots, 1);
    assert_int_equal(info_of(e).n_evicted, 0);
    qn_seq_free(s);
    qn_close(e);
}

/* Without a store there are the sequence's own tokens; a budget that is not there is refused. */
static void test_none(void **state)
{
    (void)state;
    struct qn_error err;
    struct qn_options o = options(hybrid(), 0, 1);
    qn_engine *e = eval_open(&o);
    qn_seq *s = eval_seq(e);
    int32_t ids[60];
    uint64_t rows[60];
    eval_ids(1, 60, ids);
    eval_rows(s, ids, 50, rows);
    assert_int_equal(qn_seq_keep(s), 0);
    assert_int_equal(qn_seq_resume(s, ids, 60, NULL), 50);
    assert_int_equal(qn_seq_rewind(s, 50), 50);
    assert_int_equal(qn_seq_rewind(s, 49), 0);
    assert_int_equal(info_of(e).budget, 0);
    eval_rows(s, ids, 50, rows);
    ids[20] = 490;
    struct qn_kept k;
    assert_int_equal(qn_seq_resume(s, ids, 60, &k), 0);
    assert_int_equal(k.same, 20);
    assert_int_equal(qn_seq_len(s), 0);
    assert_int_equal(qn_seq_resume(s, ids, 0, &k), 0);
    qn_seq_free(s);
    qn_close(e);

    o.cache_ram = QN_CACHE_AUTO;
    e = eval_open(&o);
    assert_true(info_of(e).budget > 0);
    qn_close(e);
    o.cache_ram = QN_CACHE_AUTO - 1;
    assert_int_equal(qn_open(&e, &o, &err), QN_E_MEMORY);
    assert_non_null(strstr(err.text, "prefix store"));
}

/* A long prompt leaves snapshots behind, so that one that differs near its end is not computed from the start. */
static void test_unasked(void **state)
{
    enum { MORE = 80 };
    (void)state;
    struct qn_options o = options(hybrid(), budget_of(hybrid(), 4, 100), 2);
    o.n_ctx = 1 << 14;
    qn_engine *e = eval_open(&o);
    int every = e->keep_every, n = 2 * every + MORE;
    assert_int_equal(every % 512, 0);
    assert_true(n < o.n_ctx);
    int32_t *ids = malloc((size_t)n * sizeof *ids);
    float logits[2][VOCAB];
    eval_ids(3, n, ids);
    qn_seq *s = eval_seq(e), *other = eval_seq(e);
    struct qn_span both[] = {{.seq = other, .ids = ids + 1, .n = 70}, {.seq = s, .ids = ids, .n = n}};
    eval_spans(e, both, 2, NULL);
    assert_int_equal(info_of(e).n_snapshots, 2);
    ids[n - 40] = 491;
    assert_int_equal(qn_seq_resume(s, ids, n, NULL), 2 * every);
    struct qn_span sp = {.seq = s, .ids = ids + 2 * every, .n = MORE, .logits = QN_LOGITS_LAST};
    eval_spans(e, &sp, 1, logits[0]);
    int32_t was = ids[every + 10];
    ids[every + 10] = 492;
    assert_int_equal(qn_seq_resume(other, ids, n, NULL), every);
    ids[every + 10] = was;
    qn_seq_clear(s);
    qn_seq_clear(other);
    sp = (struct qn_span){.seq = s, .ids = ids, .n = n, .logits = QN_LOGITS_LAST};
    eval_spans(e, &sp, 1, logits[1]);
    assert_memory_equal(logits[0], logits[1], sizeof logits[0]);
    free(ids);
    qn_seq_free(s);
    qn_seq_free(other);
    qn_close(e);
}

static long resident_bytes(void)
{
    long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%*d %ld", &pages), 1);
    fclose(f);
    return pages * 4096;
}

/* Sequences come and go and a conversation has turn after turn: what was touched stays within live sequences and budget. */
static void test_memory(void **state)
{
    enum { SEQS = 64, N = 9, LENGTHS = 300 };
    (void)state;
    /* by the middle the conversation has had every length, and all sequences have come and gone */
    int n_turns = test_quick() ? 2 * LENGTHS + 100 : getenv("QUERN_LONG") ? 10000 : 2000;
    struct qn_options o = options(hybrid(), budget_of(hybrid(), 5, 12), SEQS);
    o.n_threads = 1;
    qn_engine *e = eval_open(&o);
    qn_seq *s[SEQS] = {NULL}, *talk;
    int32_t ids[N_CTX], *mine = ids + N;
    uint64_t rows[N_CTX];
    long settled = 0;
    eval_ids(1, N_CTX, ids);
    random_state = 5;
    for (int i = 1; i < SEQS; i++)
        s[i] = eval_seq(e);
    talk = eval_seq(e);
    for (int turn = 0; turn < n_turns; turn++) {
        int i = 1 + below(SEQS - 1);
        qn_seq_free(s[i]);
        s[i] = eval_seq(e);
        eval_ids((uint64_t)turn, N, ids);
        eval_rows(s[i], ids, N, rows);
        qn_seq_keep(s[i]);
        int n = 4 + turn % LENGTHS, kept = qn_seq_resume(talk, mine, n, NULL);
        eval_rows(talk, mine + kept, n - kept < 8 ? n - kept : 8, rows);
        qn_seq_keep(talk);
        assert_true(info_of(e).bytes <= o.cache_ram);
        assert_true((size_t)e->slots.n_used <= SEQS + o.cache_ram / e->slot_bytes);
        assert_true((size_t)e->pages.n_used <= SEQS + 5 + o.cache_ram / e->page_bytes);
        if (turn == n_turns / 2)
            settled = resident_bytes();
    }
    long grown = resident_bytes() - settled;
    print_message("%d turns, %lld snapshots evicted: %ld KiB more in the second half\n", n_turns,
                  (long long)info_of(e).n_evicted, grown / 1024);
#ifndef TEST_KEEPS_FREED
    assert_true(grown < (long)(e->slot_bytes + 4 * e->page_bytes));
#endif
    for (int i = 1; i < SEQS; i++)
        qn_seq_free(s[i]);
    qn_seq_free(talk);
    qn_close(e);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        {"store/fork", test_fork, NULL, NULL, NULL},
        {"store/turns", test_turns, NULL, NULL, NULL},
        {"store/budget", test_budget, NULL, NULL, NULL},
        {"store/none", test_none, NULL, NULL, NULL},
        {"store/unasked", test_unasked, NULL, NULL, NULL},
        {"store/memory", test_memory, NULL, NULL, NULL},
        {"store/random_qwen35moe", test_random, NULL, NULL, (void *)(uintptr_t) "qwen35moe"},
        {"store/random_qwen35", test_random, NULL, NULL, (void *)(uintptr_t) "qwen35"},
        {"store/random_qwen3next", test_random, NULL, NULL, (void *)(uintptr_t) "qwen3next"},
        {"store/random_qwen3", test_random, NULL, NULL, (void *)(uintptr_t) "qwen3"},
        {"store/disk_qwen35moe", test_random_disk, NULL, NULL, (void *)(uintptr_t) "qwen35moe"},
        {"store/disk_qwen35", test_random_disk, NULL, NULL, (void *)(uintptr_t) "qwen35"},
        {"store/disk_qwen3next", test_random_disk, NULL, NULL, (void *)(uintptr_t) "qwen3next"},
        {"store/disk_qwen3", test_random_disk, NULL, NULL, (void *)(uintptr_t) "qwen3"},
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests_name("store", tests, NULL, NULL);
}
