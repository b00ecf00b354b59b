/* SPDX-License-Identifier: MIT */
/* The results of quern bench as a table, csv, json or markdown.  Rows appear as soon as they are measured. */
#include "bench.h"
#include "io.h"
#include "term.h"

#include <stdlib.h>
#include <string.h>

/* ---- figures made from a result */

static double bytes_of(const struct result *r)
{
    double sum = 0;
    for (int p = 0; p < QN_PHASES; p++)
        sum += r->stats.bytes[p];
    return sum;
}

static double ops_of(const struct result *r)
{
    double sum = 0;
    for (int p = 0; p < QN_PHASES; p++)
        sum += r->stats.int_ops[p];
    return sum;
}

static double ratio(double a, double b) { return b > 0 ? a / b : 0; }

double result_share_bytes(const struct result *r)
{
    return ratio(ratio(bytes_of(r), r->limits.bytes_s), r->stats.seconds);
}

double result_share_ops(const struct result *r)
{
    return ratio(ratio(ops_of(r), r->limits.int_ops_s), r->stats.seconds);
}

double result_bytes_per_token(const struct result *r) { return ratio(bytes_of(r), (double)r->n_tokens * r->n_repeat); }

double result_experts(const struct result *r)
{
    return ratio((double)r->stats.experts, (double)r->stats.expert_layers);
}

double result_barriers(const struct result *r) { return ratio((double)r->stats.barriers, (double)r->stats.steps); }

double result_phase_limit(const struct result *r, int phase)
{
    double bytes = ratio(r->stats.bytes[phase], r->limits.bytes_s);
    double ops =
        ratio(r->stats.int_ops[phase], r->limits.int_ops_s) + ratio(r->stats.float_ops[phase], r->limits.float_ops_s);
    return ratio(bytes > ops ? bytes : ops, r->stats.phase_s[phase]);
}

static double phase_share(const struct result *r, int phase)
{
    return ratio(r->stats.phase_s[phase], r->stats.seconds);
}

void result_title(const struct result *r, char *out, size_t cap)
{
    int n = r->n_seq > 1 ? snprintf(out, cap, "write %d x %d", r->n_seq, r->n_gen)
                         : snprintf(out, cap, r->n_gen ? "write %d" : "read %d", r->n_gen ? r->n_gen : r->n_prompt);
    if (r->n_depth)
        n += snprintf(out + n, cap - (size_t)n, " after %d", r->n_depth);
    if (r->n_guesses)
        snprintf(out + n, cap - (size_t)n, ", %d guessed, %d %%", r->n_guesses, r->right);
}

/* ---- csv */

/* "delta-net" as a column: delta_net_s */
static void csv_phases(const char *suffix)
{
    for (int p = 0; p < QN_PHASES; p++) {
        out_text(",");
        for (const char *c = qn_phase_name((enum qn_phase)p); *c; c++)
            out_printf("%c", *c == '-' ? '_' : *c);
        out_text(suffix);
    }
}

static void csv_head(void)
{
    out_text("model,arch,description,model_size,model_n_params,isa,n_threads,n_threads_batch,n_ubatch,type_k,type_v,"
             "delta,n_prompt,n_gen,n_depth,repetitions,avg_ns,stddev_ns,avg_ts,stddev_ts,n_seq,median_ts,min_ts,max_ts,"
             "read_bytes_s,int_ops_s,float_ops_s,bytes_per_token,share_bandwidth,share_int,experts_per_layer,barriers_"
             "per_step,"
             "seconds");
    csv_phases("_s");
    csv_phases("_limit");
    out_text(",n_guesses,right,version,bits\n");
}

static void print_csv(struct printer *p, const struct result *r)
{
    if (p->n == 0)
        csv_head();
    out_text("\"");
    for (const char *c = p->model; *c; c++) /* a name may hold anything */
        out_printf(*c == '"' ? "\"\"" : "%c", *c);
    out_printf("\",%s,\"%s\",%zu,%lld,%s,%d,%d,%d,%s,%s,%s", p->info.arch, p->info.description, p->info.bytes_weights,
               (long long)p->info.n_params, p->info.isa, r->n_threads, r->n_threads_batch, r->n_ubatch, p->type_k,
               p->type_v, p->delta);
    out_printf(",%d,%d,%d,%d,%.0f,%.0f,%.6f,%.6f,%d,%.6f,%.6f,%.6f", r->n_prompt, r->n_gen, r->n_depth, r->n_repeat,
               r->avg_ns, r->sd_ns, r->avg_ts, r->sd_ts, r->n_seq, r->median_ts, r->least_ts, r->most_ts);
    out_printf(",%.0f,%.0f,%.0f,%.0f,%.4f,%.4f,%.2f,%.1f,%.6f", r->limits.bytes_s, r->limits.int_ops_s,
               r->limits.float_ops_s, result_bytes_per_token(r), result_share_bytes(r), result_share_ops(r),
               result_experts(r), result_barriers(r), r->stats.seconds);
    for (int i = 0; i < QN_PHASES; i++)
        out_printf(",%.6f", r->stats.phase_s[i]);
    for (int i = 0; i < QN_PHASES; i++)
        out_printf(",%.4f", result_phase_limit(r, i));
    out_printf(",%d,%d,%s,%d\n", r->n_guesses, r->right, qn_version(), QN_BITS);
}

/* ---- json */

static json_t *json_phases(const struct result *r)
{
    json_t *all = json_object();
    for (int i = 0; i < QN_PHASES; i++)
        json_object_set_new(all, qn_phase_name((enum qn_phase)i),
                            json_pack("{s:f, s:f, s:f, s:f, s:f}", "seconds", r->stats.phase_s[i], "bytes",
                                      r->stats.bytes[i], "int_ops", r->stats.int_ops[i], "float_ops",
                                      r->stats.float_ops[i], "share_of_limit", result_phase_limit(r, i)));
    return all;
}

static json_t *json_times(const struct result *r)
{
    json_t *samples = json_array();
    for (int i = 0; i < r->n_repeat; i++)
        json_array_append_new(samples, json_real(r->s[i] * 1e9));
    return json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:o}", "avg_ns", r->avg_ns, "stddev_ns", r->sd_ns, "avg_ts",
                     r->avg_ts, "stddev_ts", r->sd_ts, "median_ts", r->median_ts, "min_ts", r->least_ts, "max_ts",
                     r->most_ts, "samples_ns", samples);
}

static void print_json(struct printer *p, const struct result *r)
{
    json_t *j =
        json_pack("{s:s, s:s, s:s, s:I, s:I, s:s, s:i, s:i, s:i, s:s, s:s, s:s, s:i, s:i, s:i, s:i, s:i}", "model",
                  p->model, "arch", p->info.arch, "description", p->info.description, "model_size",
                  (json_int_t)p->info.bytes_weights, "model_n_params", (json_int_t)p->info.n_params, "isa", p->info.isa,
                  "n_threads", r->n_threads, "n_threads_batch", r->n_threads_batch, "n_ubatch", r->n_ubatch, "type_k",
                  p->type_k, "type_v", p->type_v, "delta", p->delta, "n_seq", r->n_seq, "n_prompt", r->n_prompt,
                  "n_gen", r->n_gen, "n_depth", r->n_depth, "repetitions", r->n_repeat);
    json_t *k =
        json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:o, s:s, s:i}", "read_bytes_s", r->limits.bytes_s,
                  "int_ops_s", r->limits.int_ops_s, "float_ops_s", r->limits.float_ops_s, "bytes_per_token",
                  result_bytes_per_token(r), "share_bandwidth", result_share_bytes(r), "share_int", result_share_ops(r),
                  "experts_per_layer", result_experts(r), "barriers_per_step", result_barriers(r), "seconds",
                  r->stats.seconds, "phases", json_phases(r), "version", qn_version(), "bits", QN_BITS);
    if (!j || !k)
        die("%s: not UTF-8, no JSON can be written", p->model);
    json_t *times = json_times(r);
    json_object_update(j, times);
    json_object_update(j, k);
    char *text = json_dump(j);
    out_printf("%s%s", p->n == 0 ? "[\n" : ",\n", text);
    free(text);
    json_decref(times);
    json_decref(k);
    json_decref(j);
}

/* ---- table and markdown */

/* A share in percent, or a dash. */
static const char *percent(double share, char *out, size_t cap)
{
    snprintf(out, cap, share > 0 ? "%.1f %%" : "-", share * 100);
    return out;
}

static void table_head(const struct printer *p, bool md)
{
    if (md) {
        out_printf(
            "| model | level | test | threads |%s tokens/s | least .. most | MB/token | of bandwidth | of int peak | "
            "experts a layer |\n|---|---|---|---:|%s---:|---:|---:|---:|---:|---:|\n",
            p->show_ubatch ? " micro-batch |" : "", p->show_ubatch ? "---:|" : "");
        return;
    }
    out_printf("%s, %s, level %s\n\n%-24s %4s", p->info.description, p->model, p->info.isa, "test", "thr");
    if (p->show_ubatch)
        out_printf(" %5s", "batch");
    out_printf(" %10s %17s %9s %9s %8s %7s\n", "tokens/s", "least .. most", "MB/token", "bandwidth", "int peak",
               "experts");
}

static void print_table(struct printer *p, const struct result *r, bool md)
{
    char test[64], bandwidth[16], ints[16], experts[16] = "-", ubatch[16] = "";
    result_title(r, test, sizeof test);
    percent(result_share_bytes(r), bandwidth, sizeof bandwidth);
    percent(result_share_ops(r), ints, sizeof ints);
    if (r->stats.expert_layers)
        snprintf(experts, sizeof experts, "%.1f", result_experts(r));
    if (p->show_ubatch)
        snprintf(ubatch, sizeof ubatch, md ? " %d |" : " %5d", r->n_ubatch);
    if (p->n == 0)
        table_head(p, md);
    int n_threads = r->n_gen ? r->n_threads : r->n_threads_batch;
    double mb = result_bytes_per_token(r) * 1e-6;
    if (md)
        out_printf("| %s | %s | %s | %d |%s %.2f | %.2f .. %.2f | %.1f | %s | %s | %s |\n", p->info.description,
                   p->info.isa, test, n_threads, ubatch, r->median_ts, r->least_ts, r->most_ts, mb, bandwidth, ints,
                   experts);
    else
        out_printf("%-24s %4d%s %10.2f %8.2f %8.2f %9.1f %9s %8s %7s\n", test, n_threads, ubatch, r->median_ts,
                   r->least_ts, r->most_ts, mb, bandwidth, ints, experts);
}

/* Which time goes where, and how much of it the phase's limit accounts for. */
static void print_phases(const struct result *results, int n, bool md)
{
    out_text(md ? "\nShare of time, and in brackets how much of it is the phase's limit:\n\n| test | threads |"
                : "\nshare of time in %, and how many % of that are the phase's limit\n                              ");
    for (int p = 0; p < QN_PHASES; p++)
        out_printf(md ? " %s |" : " %10.10s", qn_phase_name((enum qn_phase)p));
    out_text(md ? "\n|---|---:|" : "\n");
    for (int p = 0; md && p < QN_PHASES; p++)
        out_text(p < QN_PHASES - 1 ? "---:|" : "---:|\n");
    for (int i = 0; i < n; i++) {
        const struct result *r = &results[i];
        char test[64];
        result_title(r, test, sizeof test);
        out_printf(md ? "| %s | %d |" : "%-24s %4d ", test, r->n_gen ? r->n_threads : r->n_threads_batch);
        for (int p = 0; p < QN_PHASES; p++) {
            char cell[32];
            double limit = result_phase_limit(r, p) * 100, share = phase_share(r, p) * 100;
            snprintf(cell, sizeof cell, limit > 0 && p != QN_PHASE_OTHER ? "%.1f (%.0f)" : "%.1f", share, limit);
            out_printf(md ? " %s |" : " %10s", cell);
        }
        out_text("\n");
    }
}

static void print_limits(const struct result *results, int n)
{
    if (results[0].limits.bytes_s == 0 && results[0].limits.int_ops_s == 0)
        return;
    out_text("\n");
    for (int i = 0; i < n; i++) {
        const struct limits *l = &results[i].limits;
        bool said = false;
        for (int k = 0; k < i; k++)
            said |= results[k].limits.n_threads == l->n_threads;
        if (!said)
            out_printf("%d thread%s: memory is read at %.1f GB/s at most, int8 dots reach %.2f Tops/s, float %.3f\n",
                       l->n_threads, l->n_threads > 1 ? "s" : "", l->bytes_s * 1e-9, l->int_ops_s * 1e-12,
                       l->float_ops_s * 1e-12);
    }
}

void print_result(struct printer *p, const struct result *r)
{
    if (p->barriers)
        print_barriers(p, r);
    else if (!strcmp(p->format, "csv"))
        print_csv(p, r);
    else if (!strcmp(p->format, "json"))
        print_json(p, r);
    else
        print_table(p, r, !strcmp(p->format, "md"));
    p->n++;
    out_flush();
}

void print_end(struct printer *p, const struct result *results, int n)
{
    bool md = !strcmp(p->format, "md");
    if (!strcmp(p->format, "json"))
        out_text("\n]\n");
    if (!p->barriers && (md || !strcmp(p->format, "table"))) {
        print_phases(results, n, md);
        print_limits(results, n);
    }
    out_flush();
}
