/* SPDX-License-Identifier: MIT */
/* GGUF files that are almost right: a hash model taken apart into keys and tensors, changed, and written again.
 * Names that do not exist and types that are unknown abort: a test with a typing error must not pass. */
#ifndef QUERN_GGUFEDIT_H
#define QUERN_GGUFEDIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { EDIT_NAME = 80, EDIT_OWNED = 512 };

struct edit_kv {
    char key[EDIT_NAME];
    const uint8_t *bytes; /* [n] kind and value as in the file */
    size_t n;
};

struct edit_tensor {
    char name[EDIT_NAME];
    int type, n_dims;
    uint64_t ne[4];
    const uint8_t *data;
    size_t bytes;
};

struct edit {
    struct edit_kv kv[80];
    struct edit_tensor tensor[160];
    int n_kv, n_tensors;
    size_t alignment;
    uint8_t *owned[EDIT_OWNED]; /* freed with the edit */
    int n_owned;
};

/* The hash model with two layers and four experts: the first layer, and the last of the trunk (which is attention); with
 * -mtp also the nextn block.  The images that the edits point into are kept for the whole process. */
struct edit *edit_model(const char *model, const char *type);
void edit_free(struct edit *e);

void edit_u32(struct edit *e, const char *key, uint32_t v);
void edit_f32(struct edit *e, const char *key, float v);
void edit_str(struct edit *e, const char *key, const char *v);
/* An array; kind is the GGUF number of the elements, element_bytes their size. */
void edit_array(struct edit *e, const char *key, uint32_t kind, const void *v, size_t n, size_t element_bytes);
void edit_raw(struct edit *e, const char *key, uint32_t kind, const void *v,
              size_t n); /* any kind, by its GGUF number */
void edit_drop_key(struct edit *e, const char *key);

struct edit_tensor *edit_find(struct edit *e, const char *name); /* NULL when it is not there */
struct edit_tensor *edit_get(struct edit *e, const char *name);
struct edit_tensor *edit_add(struct edit *e, const char *name, int type, const uint64_t ne[4], int n_dims);
void edit_drop(struct edit *e, const char *name);
/* Gives a tensor a new shape or type and zeroed data of its own; returns that data. */
uint8_t *edit_reshape(struct edit *e, struct edit_tensor *t, const uint64_t ne[4], int n_dims);
uint8_t *edit_retype(struct edit *e, struct edit_tensor *t, int type);
/* The same values as F32, F16 or BF16 (rounded towards zero, if they must be). */
void edit_convert(struct edit *e, struct edit_tensor *t, int type);
uint8_t *edit_own(struct edit *e, struct edit_tensor *t); /* data that may be written */
size_t edit_row_bytes(const struct edit_tensor *t);

/* One line of commands, separated by ';':
 *   u32 KEY V | f32 KEY V | str KEY V | nokey KEY | drop TENSOR | rename TENSOR NAME | add TENSOR ne0 .. | ne TENSOR ne0 ..
 *   | type TENSOR TYPE */
void edit_apply(struct edit *e, const char *commands);

/* Writes tensors [first, last) and, if keys, the metadata.  Without data the file has its length but reads as zeros.
 * Returns the length of the header. */
size_t edit_write_part(const struct edit *e, const char *path, int first, int last, bool keys, bool data);
size_t edit_write(const struct edit *e, const char *path, bool data);
/* Where tensor i of such a whole file begins. */
size_t edit_offset(const struct edit *e, size_t header, int i);

#endif
