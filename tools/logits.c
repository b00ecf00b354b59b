/* SPDX-License-Identifier: MIT */
/* quern logits: the logits of given ids, to a file or as a checksum.  Several files are sequences of one batch and advance
 * together; their rows are written file after file.  Only the rows of one call are held in memory. */
#include "io.h"
#include "setup.h"
#include "term.h"

#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

struct job {
    const char *path;
    int32_t *ids;
    int n, done;
    uint64_t row; /* of its first logits in the output */
    qn_seq *seq;
    XXH3_state_t *hash;
};

static void read_job(struct job *j, const char *path)
{
    size_t n;
    char *text = io_read(path, &n), why[256];
    j->path = path;
    j->ids = parse_ids(text, n, &j->n, why, sizeof why);
    if (!j->ids)
        die("%s: %s", path, why);
    if (!j->n)
        die("%s: holds no ids", path);
    free(text);
}

static void check_ids(const struct job *j, int n_vocab)
{
    for (int i = 0; i < j->n; i++)
        if (j->ids[i] >= n_vocab)
            die("%s: id %d at position %d is not within the vocabulary of %d tokens", j->path, j->ids[i], i, n_vocab);
}

/* One call: an equal share of n_rows for every job that is not done. */
static int make_spans(struct job *jobs, int n_jobs, int n_rows, struct qn_span *spans, struct job **of)
{
    int n_spans = 0, n_left = 0;
    for (int i = 0; i < n_jobs; i++)
        n_left += jobs[i].done < jobs[i].n;
    int share = n_left && n_rows > n_left ? n_rows / n_left : 1;
    for (int i = 0; i < n_jobs; i++) {
        struct job *j = &jobs[i];
        int left = j->n - j->done;
        if (!left)
            continue;
        of[n_spans] = j;
        spans[n_spans++] = (struct qn_span){
            .seq = j->seq, .ids = j->ids + j->done, .n = left < share ? left : share, .logits = QN_LOGITS_ALL};
    }
    return n_spans;
}

static void take_rows(struct job *j, const float *rows, int n, int n_vocab, struct io_out *out)
{
    size_t bytes = (size_t)n * (size_t)n_vocab * sizeof(float);
    if (j->hash)
        XXH3_64bits_update(j->hash, rows, bytes);
    if (out->f && io_seekable(out))
        io_put_at(out, (j->row + (uint64_t)j->done) * (uint64_t)n_vocab * sizeof(float), rows, bytes);
    else if (out->f)
        io_put(out, rows, bytes);
    j->done += n;
}

static void evaluate(qn_engine *e, struct job *jobs, int n_jobs, int n_rows, int n_vocab, struct io_out *out)
{
    struct qn_error err;
    struct progress bar;
    struct qn_span *spans = xmalloc((size_t)n_jobs * sizeof *spans);
    struct job **of = xmalloc((size_t)n_jobs * sizeof *of);
    size_t most = (size_t)(n_rows > n_jobs ? n_rows : n_jobs);
    float *rows = xmalloc(most * (size_t)n_vocab * sizeof *rows);
    int n_all = 0, n_done = 0, n_spans;
    for (int i = 0; i < n_jobs; i++)
        n_all += jobs[i].n;
    progress_begin(&bar, "logits");
    while ((n_spans = make_spans(jobs, n_jobs, n_rows, spans, of)) > 0) {
        if (qn_eval(e, spans, n_spans, rows, &err))
            die("%s", err.text);
        const float *at = rows;
        for (int s = 0; s < n_spans; s++) {
            take_rows(of[s], at, spans[s].n, n_vocab, out);
            at += (size_t)spans[s].n * (size_t)n_vocab;
            n_done += spans[s].n;
        }
        progress_set(&bar, (double)n_done / n_all, "");
    }
    progress_end(&bar);
    free(spans);
    free(of);
    free(rows);
}

int cmd_logits(struct opts *o)
{
    if (!o->ids.n)
        usage("logits: --ids FILE is needed");
    if (!o->output && !o->hash)
        usage("logits: one of --out FILE and --hash is needed");
    int n_jobs = o->ids.n, longest = 0;
    if (n_jobs > 1024)
        usage("--ids: %d files, at most 1024 are possible", n_jobs);
    struct job *jobs = xmalloc((size_t)n_jobs * sizeof *jobs);
    uint64_t row = 0;
    for (int i = 0; i < n_jobs; i++) {
        read_job(&jobs[i], o->ids.v[i]);
        jobs[i].row = row;
        row += (uint64_t)jobs[i].n;
        longest = jobs[i].n > longest ? jobs[i].n : longest;
    }
    if (o->n_ctx && longest > o->n_ctx)
        die("%d ids do not fit into a context of %d", longest, o->n_ctx);
    qn_engine *e =
        setup_open(o, (struct setup_size){.n_seq = n_jobs, .n_ctx = o->n_ctx ? o->n_ctx : longest, .n_threads = -1});
    struct qn_model_info info;
    struct qn_error err;
    qn_model_info(e, &info);
    for (int i = 0; i < n_jobs; i++) {
        check_ids(&jobs[i], info.n_vocab);
        if (qn_seq_new(&jobs[i].seq, e, &err) || qn_seq_reserve(jobs[i].seq, jobs[i].n, &err))
            die("%s", err.text);
        if (o->hash && (!(jobs[i].hash = XXH3_createState()) || XXH3_64bits_reset(jobs[i].hash) != XXH_OK))
            die("out of memory");
    }
    struct io_out out = {0};
    if (o->output) {
        io_create(&out, o->output);
        if (!io_seekable(&out) && n_jobs > 1)
            die("%s: several --ids need an ordinary file to write to", o->output);
    }
    evaluate(e, jobs, n_jobs, o->n_ubatch, info.n_vocab, &out);
    if (o->output)
        io_commit(&out);
    for (int i = 0; i < n_jobs; i++) {
        if (o->hash)
            out_printf("%016llx\n", (unsigned long long)XXH3_64bits_digest(jobs[i].hash));
        XXH3_freeState(jobs[i].hash);
        qn_seq_free(jobs[i].seq);
        free(jobs[i].ids);
    }
    out_flush();
    free(jobs);
    qn_close(e);
    return 0;
}
