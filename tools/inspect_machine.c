/* SPDX-License-Identifier: MIT */
/* Reading the machine's topology from /sys.  Whatever is missing there is left out. */
#include "inspect_machine.h"
#include "term.h"

#include <dirent.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_CPUS = 8192 };

/* A file's first line without its end, or NULL; the buffer is the caller's. */
static const char *line_of(char *out, size_t cap, const char *root, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

static const char *line_of(char *out, size_t cap, const char *root, const char *fmt, ...)
{
    char path[PATH_MAX];
    int n = snprintf(path, sizeof path, "%s/sys/devices/", root);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(path + n, sizeof path - (size_t)n, fmt, ap);
    va_end(ap);
    FILE *f = fopen(path, "re");
    bool good = f && fgets(out, (int)cap, f);
    if (f)
        fclose(f);
    if (good)
        out[strcspn(out, "\n")] = 0;
    return good ? out : NULL;
}

static long number(const char *line, long otherwise)
{
    char *end;
    long v = line ? strtol(line, &end, 10) : 0;
    return line && end > line ? v : otherwise;
}

/* "0-3,8" to ones of mask[n]; returns how many. */
static int read_list(const char *line, bool *mask, int n)
{
    int count = 0;
    memset(mask, 0, (size_t)n * sizeof *mask);
    for (const char *p = line; p && *p;) {
        char *end;
        long first = strtol(p, &end, 10), last = first;
        if (end == p)
            break;
        if (*end == '-')
            last = strtol(end + 1, &end, 10);
        for (long i = first; i <= last && i >= 0 && i < n; i++) {
            count += !mask[i];
            mask[i] = true;
        }
        p = *end == ',' ? end + 1 : "";
    }
    return count;
}

char *machine_list(const bool *mask, int n)
{
    char *text = xstrdup("");
    for (int i = 0; i < n; i++) {
        int last = i;
        while (mask[i] && last + 1 < n && mask[last + 1])
            last++;
        if (!mask[i])
            continue;
        char *longer = last > i ? xprintf("%s%s%d-%d", text, *text ? "," : "", i, last)
                                : xprintf("%s%s%d", text, *text ? "," : "", i);
        free(text);
        text = longer;
        i = last;
    }
    return text;
}

static struct machine_cpu *find_cpu(struct machine *m, int id)
{
    for (int i = 0; i < m->n_cpus; i++)
        if (m->cpu[i].id == id)
            return &m->cpu[i];
    return NULL;
}

/* ---- caches */

static int cache_index(struct machine *m, int level, char type)
{
    for (int i = 0; i < m->n_caches; i++)
        if (m->cache[i].level == level && m->cache[i].type == type)
            return i;
    if (m->n_caches == MACHINE_CACHES)
        return -1;
    m->cache[m->n_caches] = (struct machine_cache){.level = level, .type = type};
    return m->n_caches++;
}

static void read_caches(struct machine *m, const char *root, struct machine_cpu *c, bool *mask)
{
    char line[4096];
    for (int k = 0; k < MACHINE_CACHES; k++)
        c->cache[k] = -1;
    for (int i = 0;; i++) {
        const char *type = line_of(line, sizeof line, root, "system/cpu/cpu%d/cache/index%d/type", c->id, i);
        if (!type)
            return;
        char kind = *type == 'D' ? 'd' : *type == 'I' ? 'i' : 'u';
        int level = (int)number(line_of(line, sizeof line, root, "system/cpu/cpu%d/cache/index%d/level", c->id, i), 0);
        int k = cache_index(m, level, kind);
        if (k < 0)
            continue;
        long kib = number(line_of(line, sizeof line, root, "system/cpu/cpu%d/cache/index%d/size", c->id, i), 0);
        m->cache[k].kib = kib > m->cache[k].kib ? kib : m->cache[k].kib;
        const char *list = line_of(line, sizeof line, root, "system/cpu/cpu%d/cache/index%d/shared_cpu_list", c->id, i);
        read_list(list, mask, MOST_CPUS);
        int first = 0;
        while (first < MOST_CPUS && !mask[first])
            first++;
        c->cache[k] = first < MOST_CPUS ? first : c->id;
        m->cache[k].n += c->cache[k] == c->id;
    }
}

/* ---- processors */

static void read_cpu(struct machine *m, const char *root, struct machine_cpu *c, bool *mask)
{
    char line[256];
    int id = c->id;
    c->core = (int)number(line_of(line, sizeof line, root, "system/cpu/cpu%d/topology/core_id", id), id);
    c->package = (int)number(line_of(line, sizeof line, root, "system/cpu/cpu%d/topology/physical_package_id", id), 0);
    c->cluster = (int)number(line_of(line, sizeof line, root, "system/cpu/cpu%d/topology/cluster_id", id), -1);
    if (c->cluster == 65535) /* what firmware without clusters says */
        c->cluster = -1;
    c->capacity = (int)number(line_of(line, sizeof line, root, "system/cpu/cpu%d/cpu_capacity", id), 0);
    c->max_khz = number(line_of(line, sizeof line, root, "system/cpu/cpu%d/cpufreq/cpuinfo_max_freq", id), 0);
    c->kind = "";
    read_caches(m, root, c, mask);
}

/* Cores, packages and clusters are counted where their first processor stands. */
static void count_units(struct machine *m)
{
    for (int i = 0; i < m->n_cpus; i++) {
        struct machine_cpu *c = &m->cpu[i];
        bool new_package = true, new_cluster = c->cluster >= 0;
        for (int k = 0; k < i; k++) {
            const struct machine_cpu *d = &m->cpu[k];
            bool package = d->package == c->package;
            new_package &= !package;
            new_cluster &= !(package && d->cluster == c->cluster);
            c->sibling += package && d->core == c->core && d->cluster == c->cluster;
        }
        m->n_cores += c->sibling == 0;
        m->n_packages += new_package;
        m->n_clusters += new_cluster;
    }
}

/* Hybrid processors: x86 has lists of both kinds, ARM and RISC-V a capacity. */
static void read_kinds(struct machine *m, const char *root, bool *mask)
{
    static const char *const lists[][2] = {{"cpu_core/cpus", "performance"}, {"cpu_atom/cpus", "efficiency"}};
    char line[4096];
    int fastest = 0, slowest = INT_MAX;
    for (int i = 0; i < 2; i++) {
        read_list(line_of(line, sizeof line, root, "%s", lists[i][0]), mask, MOST_CPUS);
        for (int k = 0; k < m->n_cpus; k++)
            if (mask[m->cpu[k].id])
                m->cpu[k].kind = lists[i][1];
    }
    for (int k = 0; k < m->n_cpus; k++) {
        int capacity = m->cpu[k].capacity;
        fastest = capacity > fastest ? capacity : fastest;
        slowest = capacity < slowest ? capacity : slowest;
    }
    for (int k = 0; k < m->n_cpus && slowest < fastest; k++)
        if (!*m->cpu[k].kind)
            m->cpu[k].kind = m->cpu[k].capacity == fastest ? "performance" : "efficiency";
}

/* ---- nodes */

static void read_node(struct machine *m, const char *root, int id, bool *mask)
{
    char line[4096], path[PATH_MAX];
    struct machine_node node = {.id = id};
    read_list(line_of(line, sizeof line, root, "system/node/node%d/cpulist", id), mask, MOST_CPUS);
    for (int i = 0; i < MOST_CPUS; i++) {
        struct machine_cpu *c = mask[i] ? find_cpu(m, i) : NULL;
        if (c)
            c->node = id;
    }
    snprintf(path, sizeof path, "%s/sys/devices/system/node/node%d/meminfo", root, id);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f)) {
        unsigned long long kib;
        char name[32];
        if (sscanf(line, "Node %*d %31s %llu", name, &kib) == 2) {
            if (!strcmp(name, "MemTotal:"))
                node.bytes = kib * 1024;
            if (!strcmp(name, "MemFree:"))
                node.bytes_free = kib * 1024;
        }
    }
    if (f)
        fclose(f);
    m->node = xrealloc(m->node, (size_t)(m->n_nodes + 1) * sizeof *m->node);
    m->node[m->n_nodes++] = node;
}

void machine_read(struct machine *m, const char *root, const bool *allowed, int n_allowed)
{
    char line[4096];
    bool *mask = xmalloc(MOST_CPUS * sizeof *mask), *online = xmalloc(MOST_CPUS * sizeof *online);
    *m = (struct machine){0};
    int n = read_list(line_of(line, sizeof line, root, "system/cpu/online"), online, MOST_CPUS);
    for (int i = 0, none = n == 0; none && i < n_allowed && i < MOST_CPUS; i++)
        n += online[i] = allowed[i];
    m->cpu = xmalloc((size_t)(n + 1) * sizeof *m->cpu);
    for (int i = 0; i < MOST_CPUS; i++)
        if (online[i])
            m->cpu[m->n_cpus++] = (struct machine_cpu){.id = i};
    for (int i = 0; i < m->n_cpus; i++)
        read_cpu(m, root, &m->cpu[i], mask);
    count_units(m);
    read_kinds(m, root, mask);
    bool *nodes = xmalloc(MOST_CPUS * sizeof *nodes);
    read_list(line_of(line, sizeof line, root, "system/node/online"), nodes, MOST_CPUS);
    for (int i = 0; i < MOST_CPUS; i++)
        if (nodes[i])
            read_node(m, root, i, mask);
    free(nodes);
    free(mask);
    free(online);
}

void machine_free(struct machine *m)
{
    free(m->cpu);
    free(m->node);
    *m = (struct machine){0};
}
