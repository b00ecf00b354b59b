/* SPDX-License-Identifier: MIT */
/* mkhash MODEL TYPE OUT: writes one hash model, e.g. mkhash qwen35moe bf16 qwen35moe-bf16.gguf */
#include "hashmodel.h"

#include <stdio.h>
#include <stdlib.h>

static int usage(void)
{
    fputs("usage: mkhash MODEL f32|bf16|TYPE OUT\nmodels:", stderr);
    for (int i = 0; hash_models[i]; i++)
        fprintf(stderr, " %s", hash_models[i]);
    fputs("\ntypes:", stderr);
    for (int i = 0; hash_quant_types[i]; i++)
        fprintf(stderr, " %s", hash_quant_types[i]);
    fputc('\n', stderr);
    return 2;
}

int main(int argc, char **argv)
{
    size_t size;
    if (argc != 4)
        return usage();
    uint8_t *data = hash_model_build(argv[1], argv[2], &size);
    if (!data)
        return usage();
    FILE *f = fopen(argv[3], "wb");
    if (!f || fwrite(data, 1, size, f) != size || fclose(f) != 0) {
        perror(argv[3]);
        return 1;
    }
    free(data);
    return 0;
}
