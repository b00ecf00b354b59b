/* SPDX-License-Identifier: MIT */
/* libFuzzer target: any bytes as a GGUF file, opened with and without tensor data. */
#define _GNU_SOURCE
#include "gguf_walk.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[64];
    struct qn_error err;
    struct gguf *g;
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size)
        abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    for (int vocab_only = 0; vocab_only < 2; vocab_only++)
        if (gguf_open(&g, path, vocab_only, &err) == 0) {
            if (gguf_walk(g) == 0)
                abort();
            gguf_close(g);
        } else if (!err.text[0]) {
            abort();
        }
    close(fd);
    return 0;
}
