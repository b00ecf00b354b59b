/* SPDX-License-Identifier: MIT */
/* The machine as the kernel describes it below /sys: sockets, nodes, clusters, caches, cores and their siblings. */
#ifndef QUERN_INSPECT_MACHINE_H
#define QUERN_INSPECT_MACHINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MACHINE_CACHES = 8 };

struct machine_cpu {
    int id;
    int core, package, cluster, node; /* as numbered by the kernel; cluster -1: not told */
    int sibling; /* rank among the processors of its core */
    int cache[MACHINE_CACHES]; /* first processor that shares cache i of struct machine, -1 = it has none */
    int capacity; /* relative speed, 1024 = the fastest; 0: not told */
    long max_khz; /* 0: not told */
    const char *kind; /* "performance", "efficiency", or "" where the kernel does not tell */
};

struct machine_cache {
    int level;
    char type; /* 'd' data, 'i' instructions, 'u' unified */
    long kib; /* of each; of the largest where they differ */
    int n; /* how many there are */
};

struct machine_node {
    int id;
    uint64_t bytes, bytes_free;
};

struct machine {
    struct machine_cpu *cpu; /* [n_cpus] online, ascending */
    int n_cpus, n_cores, n_packages, n_clusters;
    struct machine_cache cache[MACHINE_CACHES];
    int n_caches;
    struct machine_node *node; /* [n_nodes] */
    int n_nodes;
};

/* root: "" or, for tests, a folder that has a tree like /sys in it.  allowed: [n_allowed] by number, or NULL: the processors that are
 * taken as online where the tree does not tell, as in a bare chroot. */
void machine_read(struct machine *m, const char *root, const bool *allowed, int n_allowed);
void machine_free(struct machine *m);

/* "0-3,8": the numbers for which the mask has a one. */
char *machine_list(const bool *mask, int n);

#endif
