/* SPDX-License-Identifier: MIT */
/* Topology: which logical processors this process may use, in the order in which workers take them.  Read once from the affinity
 * mask, /sys and libnuma. */
#define _GNU_SOURCE
#include "pool.h"

#include "config.h"

#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef HAVE_NUMA
#include <numa.h>
#include <numaif.h>
#endif

enum { MAX_CPUS = TOPOLOGY_CPUS };

struct place {
    int cpu, core, package, node;
    int smt; /* rank among the siblings of its core */
};

static struct {
    struct place place[MAX_CPUS];
    int n_places, n_cores;
    double quota; /* processors the cgroup grants; INFINITY without limit */
} topo;

static pthread_once_t topo_once = PTHREAD_ONCE_INIT;

_Static_assert(sizeof(struct topology_mask) == CPU_ALLOC_SIZE(MAX_CPUS),
               "a mask is a cpu_set_t of that many processors");

static int read_int(const char *path, int otherwise)
{
    FILE *f = fopen(path, "re");
    int v = otherwise;
    if (f && fscanf(f, "%d", &v) != 1)
        v = otherwise;
    if (f)
        fclose(f);
    return v;
}

static int cpu_fact(int cpu, const char *what, int otherwise)
{
    char path[128];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/%s", cpu, what);
    return read_int(path, otherwise);
}

/* Processors by the cgroup's cpu.max ("quota period" or "max period"), walking up to the root. */
static double cgroup_quota(void)
{
    double least = INFINITY;
    char line[512], path[700];
    FILE *f = fopen("/proc/self/cgroup", "re");
    while (f && fgets(line, sizeof line, f)) {
        if (strncmp(line, "0::", 3) != 0)
            continue;
        line[strcspn(line, "\n")] = 0;
        for (;;) {
            snprintf(path, sizeof path, "/sys/fs/cgroup%s/cpu.max", line + 3);
            FILE *q = fopen(path, "re");
            double quota, period;
            if (q && fscanf(q, "%lf %lf", &quota, &period) == 2 && period > 0.0 && quota / period < least)
                least = quota / period;
            if (q)
                fclose(q);
            char *slash = strrchr(line + 3, '/');
            if (!slash)
                break;
            *slash = 0;
        }
    }
    if (f)
        fclose(f);
    int quota = read_int("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", -1),
        period = read_int("/sys/fs/cgroup/cpu/cpu.cfs_period_us", 0);
    if (quota > 0 && period > 0 && (double)quota / period < least)
        least = (double)quota / period;
    return least;
}

/* First threads of cores before their siblings; then by node, package and core. */
static int by_order(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    if (x->smt != y->smt)
        return x->smt - y->smt;
    if (x->node != y->node)
        return x->node - y->node;
    if (x->package != y->package)
        return x->package - y->package;
    return x->core != y->core ? x->core - y->core : x->cpu - y->cpu;
}

static void read_topology(void)
{
    topo.quota = cgroup_quota();
    cpu_set_t *mask = CPU_ALLOC(MAX_CPUS);
    size_t bytes = CPU_ALLOC_SIZE(MAX_CPUS);
    if (mask && sched_getaffinity(0, bytes, mask) == 0) {
        for (int cpu = 0; cpu < MAX_CPUS; cpu++) {
            if (!CPU_ISSET_S(cpu, bytes, mask))
                continue;
            struct place *p = &topo.place[topo.n_places++];
            *p = (struct place){
                .cpu = cpu, .core = cpu_fact(cpu, "core_id", cpu), .package = cpu_fact(cpu, "physical_package_id", 0)};
#ifdef HAVE_NUMA
            int node = numa_available() >= 0 ? numa_node_of_cpu(cpu) : 0;
            p->node = node < 0 ? 0 : node;
#endif
            for (int i = 0; i < topo.n_places - 1; i++)
                p->smt += topo.place[i].core == p->core && topo.place[i].package == p->package &&
                          topo.place[i].node == p->node;
            topo.n_cores += p->smt == 0;
        }
    }
    CPU_FREE(mask);
    qsort(topo.place, (size_t)topo.n_places, sizeof *topo.place, by_order);
}

int topology_default_threads(void)
{
    pthread_once(&topo_once, read_topology);
    int n = topo.n_cores < 1 ? 1 : topo.n_cores;
    if (topo.quota < n)
        n = topo.quota < 1.0 ? 1 : (int)topo.quota;
    return n > POOL_MAX_WORKERS ? POOL_MAX_WORKERS : n;
}

void topology_pin(int i, int n)
{
    pthread_once(&topo_once, read_topology);
#ifdef HAVE_NUMA
    if (n > topo.n_places || i >= topo.n_places || topo.place[i].cpu < 0)
        return;
    cpu_set_t *mask = CPU_ALLOC(MAX_CPUS);
    if (!mask)
        return;
    size_t bytes = CPU_ALLOC_SIZE(MAX_CPUS);
    CPU_ZERO_S(bytes, mask);
    CPU_SET_S(topo.place[i].cpu, bytes, mask);
    sched_setaffinity(0, bytes, mask);
    CPU_FREE(mask);
#else
    (void)i;
    (void)n;
#endif
}

bool topology_mask_get(struct topology_mask *m)
{
    return sched_getaffinity(0, sizeof *m, (cpu_set_t *)(void *)m->bits) == 0;
}

void topology_mask_set(const struct topology_mask *m)
{
    sched_setaffinity(0, sizeof *m, (const cpu_set_t *)(const void *)m->bits);
}

void topology_place(void *p, size_t bytes, int node)
{
#ifdef HAVE_NUMA
    if (numa_available() < 0)
        return;
    struct bitmask *mask = numa_allocate_nodemask();
    numa_bitmask_setbit(mask, (unsigned)node);
    mbind(p, bytes, MPOL_PREFERRED, mask->maskp, mask->size + 1, 0);
    numa_free_nodemask(mask);
#else
    (void)p;
    (void)bytes;
    (void)node;
#endif
}

void topology_pretend(int n_cores, int n_nodes)
{
    pthread_once(&topo_once, read_topology);
    topo.n_places = topo.n_cores = n_cores;
    topo.quota = INFINITY;
    for (int i = 0; i < n_cores; i++)
        topo.place[i] = (struct place){.cpu = -1, .core = i, .node = (int)((int64_t)i * n_nodes / n_cores)};
}

int topology_node(int i)
{
    pthread_once(&topo_once, read_topology);
    return i < topo.n_places ? topo.place[i].node : 0;
}

int topology_cpu(int i)
{
    pthread_once(&topo_once, read_topology);
    return i >= 0 && i < topo.n_places ? topo.place[i].cpu : -1;
}

double topology_quota(void)
{
    pthread_once(&topo_once, read_topology);
    return topo.quota;
}
