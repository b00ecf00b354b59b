/* SPDX-License-Identifier: MIT */
/* The machine's topology, read from trees like /sys that this program writes: a hybrid processor with siblings, two sockets
 * with nodes and a processor that is away, cores with capacities and clusters, and next to nothing. */
#include "tools/inspect_machine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

static char root[64];

/* Writes a file below sys/devices, with the folders above it. */
static void put(const char *text, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void put(const char *text, const char *fmt, ...)
{
    char path[512];
    int n = snprintf(path, sizeof path, "%s/sys/devices/", root);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(path + n, sizeof path - (size_t)n, fmt, ap);
    va_end(ap);
    for (char *slash = path + strlen(root) + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = 0;
        mkdir(path, 0700);
        *slash = '/';
    }
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fprintf(f, "%s\n", text);
    assert_int_equal(fclose(f), 0);
}

static void put_core(int cpu, const char *package, const char *core, const char *cluster)
{
    put(package, "system/cpu/cpu%d/topology/physical_package_id", cpu);
    put(core, "system/cpu/cpu%d/topology/core_id", cpu);
    if (cluster)
        put(cluster, "system/cpu/cpu%d/topology/cluster_id", cpu);
}

static void put_cache(int cpu, int index, const char *level, const char *type, const char *size, const char *shared)
{
    put(level, "system/cpu/cpu%d/cache/index%d/level", cpu, index);
    put(type, "system/cpu/cpu%d/cache/index%d/type", cpu, index);
    put(size, "system/cpu/cpu%d/cache/index%d/size", cpu, index);
    put(shared, "system/cpu/cpu%d/cache/index%d/shared_cpu_list", cpu, index);
}

static int begin(void **state)
{
    (void)state;
    strcpy(root, "/tmp/check_machine.XXXXXX");
    return mkdtemp(root) ? 0 : -1;
}

static int end(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", root);
    return system(command);
}

/* One performance core with two siblings, two efficiency cores that share a second-level cache. */
static void test_hybrid(void **state)
{
    (void)state;
    struct machine m;
    put("0-3", "system/cpu/online");
    put("0-1", "cpu_core/cpus");
    put("2-3", "cpu_atom/cpus");
    put("5000000", "system/cpu/cpu0/cpufreq/cpuinfo_max_freq");
    static const char *const core[] = {"0", "0", "4", "5"}, *const l2[] = {"0-1", "0-1", "2-3", "2-3"};
    for (int i = 0; i < 4; i++) {
        put_core(i, "0", core[i], i < 2 ? "0" : "8");
        put_cache(i, 0, "1", "Data", i < 2 ? "48K" : "32K", i < 2 ? "0-1" : i == 2 ? "2" : "3");
        put_cache(i, 1, "2", "Unified", i < 2 ? "2048K" : "4096K", l2[i]);
        put_cache(i, 2, "3", "Unified", "36864K", "0-3");
    }
    machine_read(&m, root, NULL, 0);
    assert_int_equal(m.n_cpus, 4);
    assert_int_equal(m.n_cores, 3);
    assert_int_equal(m.n_packages, 1);
    assert_int_equal(m.n_clusters, 2);
    assert_string_equal(m.cpu[0].kind, "performance");
    assert_string_equal(m.cpu[1].kind, "performance");
    assert_string_equal(m.cpu[3].kind, "efficiency");
    assert_int_equal(m.cpu[0].sibling, 0);
    assert_int_equal(m.cpu[1].sibling, 1);
    assert_int_equal(m.cpu[2].sibling, 0);
    assert_int_equal(m.cpu[0].max_khz, 5000000);
    assert_int_equal(m.n_caches, 3);
    assert_int_equal(m.cache[0].n, 3);
    assert_int_equal(m.cache[0].kib, 48);
    assert_int_equal(m.cache[0].type, 'd');
    assert_int_equal(m.cache[1].n, 2);
    assert_int_equal(m.cpu[3].cache[1], 2);
    assert_int_equal(m.cache[2].n, 1);
    assert_int_equal(m.cpu[3].cache[2], 0);
    machine_free(&m);
}

static void test_nodes(void **state)
{
    (void)state;
    struct machine m;
    put("0-1,3", "system/cpu/online");
    put("0,2", "system/node/online");
    put("0-1", "system/node/node0/cpulist");
    put("2-3", "system/node/node2/cpulist");
    put("Node 0 MemTotal:       1000 kB\nNode 0 MemFree:         400 kB", "system/node/node0/meminfo");
    put("Node 2 MemTotal:       2000 kB\nNode 2 MemFree:         100 kB", "system/node/node2/meminfo");
    put_core(0, "0", "0", "65535");
    put_core(1, "0", "1", "65535");
    put_core(3, "1", "0", "65535");
    machine_read(&m, root, NULL, 0);
    assert_int_equal(m.n_cpus, 3);
    assert_int_equal(m.n_cores, 3);
    assert_int_equal(m.n_packages, 2);
    assert_int_equal(m.n_clusters, 0);
    assert_int_equal(m.n_nodes, 2);
    assert_int_equal(m.node[1].id, 2);
    assert_int_equal(m.node[1].bytes, 2000 * 1024);
    assert_int_equal(m.node[0].bytes_free, 400 * 1024);
    assert_int_equal(m.cpu[2].id, 3);
    assert_int_equal(m.cpu[2].node, 2);
    assert_int_equal(m.cpu[1].node, 0);
    assert_int_equal(m.cpu[1].cluster, -1);
    assert_string_equal(m.cpu[1].kind, "");
    assert_int_equal(m.n_caches, 0);
    machine_free(&m);
}

static void test_capacities(void **state)
{
    (void)state;
    struct machine m;
    put("0-2", "system/cpu/online");
    put("1024", "system/cpu/cpu0/cpu_capacity");
    put("430", "system/cpu/cpu1/cpu_capacity");
    put("430", "system/cpu/cpu2/cpu_capacity");
    machine_read(&m, root, NULL, 0);
    assert_int_equal(m.n_cores, 3);
    assert_string_equal(m.cpu[0].kind, "performance");
    assert_string_equal(m.cpu[2].kind, "efficiency");
    machine_free(&m);
    put("1024", "system/cpu/cpu1/cpu_capacity");
    put("1024", "system/cpu/cpu2/cpu_capacity");
    machine_read(&m, root, NULL, 0);
    assert_string_equal(m.cpu[0].kind, "");
    machine_free(&m);
}

static void test_bare(void **state)
{
    (void)state;
    struct machine m;
    machine_read(&m, root, NULL, 0);
    assert_int_equal(m.n_cpus, 0);
    assert_int_equal(m.n_nodes, 0);
    machine_free(&m);
    machine_read(&m, root, (const bool[]){false, true, false, true}, 4);
    assert_int_equal(m.n_cpus, 2);
    assert_int_equal(m.n_cores, 2);
    assert_int_equal(m.cpu[1].id, 3);
    machine_free(&m);
    put("what is this", "system/cpu/online");
    machine_read(&m, root, NULL, 0);
    assert_int_equal(m.n_cpus, 0);
    machine_free(&m);
    put("5-1,-3,2,99999999", "system/cpu/online");
    machine_read(&m, root, NULL, 0);
    assert_true(m.n_cpus <= 1);
    machine_free(&m);
}

static void test_list(void **state)
{
    (void)state;
    static const bool mask[] = {true, true, true, false, true, false, true, true};
    char *all = machine_list(mask, 8), *few = machine_list(mask + 3, 2), *none = machine_list(mask + 3, 1);
    assert_string_equal(all, "0-2,4,6-7");
    assert_string_equal(few, "1");
    assert_string_equal(none, "");
    free(all);
    free(few);
    free(none);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        {"machine/hybrid", test_hybrid, begin, end, NULL},
        {"machine/nodes", test_nodes, begin, end, NULL},
        {"machine/capacities", test_capacities, begin, end, NULL},
        {"machine/bare", test_bare, begin, end, NULL},
        {"machine/list", test_list, NULL, NULL, NULL},
    };
    return _cmocka_run_group_tests("machine", tests, sizeof tests / sizeof *tests, NULL, NULL);
}
