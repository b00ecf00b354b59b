/* SPDX-License-Identifier: MIT */
/* The same model with all weights as f32: what a quantized file says exactly, for an engine that rounds no activations. */
#ifndef QUERN_EXPAND_H
#define QUERN_EXPAND_H

/* Reads a GGUF file of one part and writes a scratch file (see test_tmp) with the same keys and tensors in the same order,
 * every tensor decoded to F32.  Returns its path, which lives as test_tmp() says; aborts on failure. */
const char *expand_file(const char *path, const char *name);

#endif
