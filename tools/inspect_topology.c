/* SPDX-License-Identifier: MIT */
/* quern inspect --topology: the machine, what this process may use of it, where workers go, and where a model's memory lies. */
#include "inspect_machine.h"
#include "inspect_topology.h"
#include "io.h"
#include "term.h"

#include "src/run.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MOST_NODES = 64, MOST_PAGES = 1 << 16, BATCH = 1024, MASK_CPUS = 8192 };

/* Bytes of memory on every node; the last entry: pages that nobody has touched. */
struct placement {
    const char *what;
    double bytes[MOST_NODES + 1];
    int error; /* of the kernel, when it does not tell */
};

struct topology {
    struct machine m;
    bool *allowed; /* [MASK_CPUS] by number */
    int n_allowed;
    double quota; /* processors, INFINITY = no limit */
    int n_workers;
    struct placement placed[3];
    int n_placed;
};

/* The worker that would be pinned to a processor, or -1. */
static int worker_at(const struct topology *t, int cpu)
{
    for (int i = 0; i < t->n_workers; i++)
        if (topology_cpu(i) == cpu)
            return i;
    return -1;
}

static void read_mask(struct topology *t)
{
    cpu_set_t *set = CPU_ALLOC(MASK_CPUS);
    size_t bytes = CPU_ALLOC_SIZE(MASK_CPUS);
    t->allowed = xmalloc(MASK_CPUS * sizeof *t->allowed);
    if (set && sched_getaffinity(0, bytes, set) == 0)
        for (int i = 0; i < MASK_CPUS; i++) {
            t->allowed[i] = CPU_ISSET_S((size_t)i, bytes, set);
            t->n_allowed += t->allowed[i];
        }
    CPU_FREE(set);
}

/* ---- where memory lies: the kernel is asked for a sample of the pages */

static void place(struct placement *q, const void *p, size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), n = bytes / page, step = n / MOST_PAGES + 1;
    for (size_t i = 0; i < n;) {
        void *pages[BATCH];
        int status[BATCH];
        unsigned long k = 0;
        for (; k < BATCH && i < n; k++, i += step)
            pages[k] = (void *)(((uintptr_t)p + i * page) & ~(uintptr_t)(page - 1));
        if (syscall(SYS_move_pages, 0, k, pages, NULL, status, 0) < 0) {
            q->error = errno;
            return;
        }
        for (unsigned long j = 0; j < k; j++)
            q->bytes[status[j] >= 0 && status[j] < MOST_NODES ? status[j] : MOST_NODES] += (double)(step * page);
    }
}

static void place_model(struct topology *t, struct opts *o)
{
    qn_engine *e = setup_open(o, (struct setup_size){.n_seq = 1, .n_ctx = o->n_ctx, .n_threads = 0});
    t->n_workers = e->n_threads;
    struct placement *weights = &t->placed[t->n_placed++], *scratch = &t->placed[t->n_placed++];
    weights->what = "weights";
    scratch->what = "scratch";
    for (int i = 0; i < e->model.n_slices; i++)
        place(weights, e->model.packed + (size_t)i * e->model.slice_bytes, e->model.packed_used);
    place(scratch, e->arena, e->arena_bytes);
    qn_close(e);
}

/* ---- for people */

static void print_bytes(double n)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    int u = 0;
    for (; n >= 1024 && u < 4; u++)
        n /= 1024;
    out_printf("%8.1f %-3s", n, units[u]);
}

static void print_summary(const struct topology *t)
{
    const struct machine *m = &t->m;
    char *mask = machine_list(t->allowed, MASK_CPUS);
    out_printf("processors   %d logical, %d core%s, %d socket%s, %d node%s", m->n_cpus, m->n_cores,
               m->n_cores == 1 ? "" : "s", m->n_packages, m->n_packages == 1 ? "" : "s", m->n_nodes,
               m->n_nodes == 1 ? "" : "s");
    out_printf(m->n_clusters > m->n_packages ? ", %d clusters\n" : "\n", m->n_clusters);
    out_printf("level        %s\naffinity     %s: %d of them\n", simd_levels()[0], mask, t->n_allowed);
    if (t->quota < 1e6)
        out_printf("cgroup       %.2f processors\n", t->quota);
    else
        out_text("cgroup       no limit\n");
    out_printf("workers      %d by default\n", t->n_workers);
    for (int i = 0; i < m->n_caches; i++) {
        const struct machine_cache *c = &m->cache[i];
        out_printf("cache        L%d%s, %d x %ld KiB\n", c->level,
                   c->type == 'u'   ? ""
                   : c->type == 'd' ? "d"
                                    : "i",
                   c->n, c->kib);
    }
    free(mask);
}

static void print_nodes(const struct topology *t)
{
    bool *mask = xmalloc(MASK_CPUS * sizeof *mask);
    out_text(t->m.n_nodes ? "\nnode        memory          free  processors\n" : "");
    for (int i = 0; i < t->m.n_nodes; i++) {
        const struct machine_node *node = &t->m.node[i];
        memset(mask, 0, MASK_CPUS * sizeof *mask);
        for (int k = 0; k < t->m.n_cpus; k++)
            mask[t->m.cpu[k].id] = t->m.cpu[k].node == node->id;
        char *list = machine_list(mask, MASK_CPUS);
        out_printf("%4d  ", node->id);
        print_bytes((double)node->bytes);
        out_text("  ");
        print_bytes((double)node->bytes_free);
        out_printf("  %s\n", list);
        free(list);
    }
    free(mask);
}

/* The last cache that several processors can share, or -1. */
static int last_cache(const struct machine *m)
{
    int last = -1;
    for (int i = 0; i < m->n_caches; i++)
        if (m->cache[i].level >= 2 && (last < 0 || m->cache[i].level > m->cache[last].level))
            last = i;
    return last;
}

static void print_cpus(const struct topology *t)
{
    int last = last_cache(&t->m);
    out_text("\n cpu  socket  node  cluster  core  sibling  cache    MHz  kind         worker\n");
    for (int i = 0; i < t->m.n_cpus; i++) {
        const struct machine_cpu *c = &t->m.cpu[i];
        char cluster[16] = "-", cache[16] = "-", mhz[24] = "-", worker[24] = "";
        if (c->cluster >= 0)
            snprintf(cluster, sizeof cluster, "%d", c->cluster);
        if (last >= 0 && c->cache[last] >= 0)
            snprintf(cache, sizeof cache, "%d", c->cache[last]);
        if (c->max_khz)
            snprintf(mhz, sizeof mhz, "%ld", c->max_khz / 1000);
        if (worker_at(t, c->id) >= 0)
            snprintf(worker, sizeof worker, "%d", worker_at(t, c->id));
        if (!t->allowed[c->id])
            snprintf(worker, sizeof worker, "not allowed");
        out_printf("%4d  %6d  %4d  %7s  %4d  %7d  %5s  %5s  %-11s  %s\n", c->id, c->package, c->node, cluster, c->core,
                   c->sibling, cache, mhz, *c->kind ? c->kind : "-", worker);
    }
}

static void print_placement(const struct topology *t)
{
    for (int i = 0; i < t->n_placed; i++) {
        const struct placement *p = &t->placed[i];
        out_printf("%s%-12s", i ? "" : "\n", p->what);
        if (p->error)
            out_printf(" the kernel does not tell where: %s", strerror(p->error));
        for (int k = 0; k <= MOST_NODES && !p->error; k++) {
            if (p->bytes[k] == 0)
                continue;
            print_bytes(p->bytes[k]);
            out_printf(k < MOST_NODES ? " on node %d" : " untouched", k);
        }
        out_text("\n");
    }
}

/* ---- json */

static json_t *cpu_json(const struct topology *t, const struct machine_cpu *c)
{
    json_t *caches = json_object();
    for (int i = 0; i < t->m.n_caches; i++) {
        char name[16];
        char type[2] = {t->m.cache[i].type, 0};
        snprintf(name, sizeof name, "L%d%s", t->m.cache[i].level, *type == 'u' ? "" : type);
        if (c->cache[i] >= 0)
            json_object_set_new(caches, name, json_integer(c->cache[i]));
    }
    return json_pack("{s:i, s:i, s:i, s:i, s:i, s:i, s:b, s:i, s:I, s:s, s:i, s:o}", "cpu", c->id, "socket", c->package,
                     "node", c->node, "cluster", c->cluster, "core", c->core, "sibling", c->sibling, "allowed",
                     t->allowed[c->id], "capacity", c->capacity, "max_khz", (json_int_t)c->max_khz, "kind", c->kind,
                     "worker", worker_at(t, c->id), "caches", caches);
}

static json_t *topology_json(const struct topology *t)
{
    json_t *cpus = json_array(), *nodes = json_array(), *caches = json_array(), *placed = json_object();
    for (int i = 0; i < t->m.n_cpus; i++)
        json_array_append_new(cpus, cpu_json(t, &t->m.cpu[i]));
    for (int i = 0; i < t->m.n_nodes; i++)
        json_array_append_new(nodes, json_pack("{s:i, s:I, s:I}", "node", t->m.node[i].id, "bytes",
                                               (json_int_t)t->m.node[i].bytes, "bytes_free",
                                               (json_int_t)t->m.node[i].bytes_free));
    for (int i = 0; i < t->m.n_caches; i++)
        json_array_append_new(caches, json_pack("{s:i, s:s%, s:I, s:i}", "level", t->m.cache[i].level, "type",
                                                &t->m.cache[i].type, (size_t)1, "kib", (json_int_t)t->m.cache[i].kib,
                                                "count", t->m.cache[i].n));
    for (int i = 0; i < t->n_placed; i++) {
        json_t *by_node = json_object();
        for (int k = 0; k <= MOST_NODES; k++) {
            char name[16];
            snprintf(name, sizeof name, k < MOST_NODES ? "%d" : "untouched", k);
            if (t->placed[i].bytes[k] > 0)
                json_object_set_new(by_node, name, json_integer((json_int_t)t->placed[i].bytes[k]));
        }
        json_object_set_new(placed, t->placed[i].what, by_node);
    }
    json_t *quota = t->quota < 1e6 ? json_real(t->quota) : json_null();
    return json_pack("{s:i, s:i, s:i, s:i, s:i, s:s, s:o, s:i, s:o, s:o, s:o, s:o}", "processors", t->m.n_cpus, "cores",
                     t->m.n_cores, "sockets", t->m.n_packages, "clusters", t->m.n_clusters, "allowed", t->n_allowed,
                     "level", simd_levels()[0], "quota", quota, "workers", t->n_workers, "caches", caches, "nodes",
                     nodes, "cpus", cpus, "placed", placed);
}

int inspect_topology(struct opts *o)
{
    struct topology t = {.quota = topology_quota(), .n_workers = topology_default_threads()};
    read_mask(&t);
    machine_read(&t.m, "", t.allowed, MASK_CPUS);
    if (o->model)
        place_model(&t, o);
    if (o->json) {
        json_t *j = topology_json(&t);
        char *text = j ? json_dumps(j, JSON_INDENT(1)) : NULL;
        if (!text)
            die("out of memory");
        out_printf("%s\n", text);
        free(text);
        json_decref(j);
    } else {
        print_summary(&t);
        print_nodes(&t);
        print_cpus(&t);
        print_placement(&t);
    }
    out_flush();
    machine_free(&t.m);
    free(t.allowed);
    return 0;
}
