/* SPDX-License-Identifier: MIT */
/* What every check program needs: where the data lies, where the oracle lies, and scratch files that vanish at exit. */
#ifndef QUERN_TESTING_H
#define QUERN_TESTING_H

#include <stdbool.h>
#include <stddef.h>

/* The path of a file below tests/data (environment QUERN_TEST_DATA, else the source tree).  The result is one of eight
 * rotating static buffers. */
const char *test_data(const char *name);

/* The path of a file below the oracle folder, or NULL after a loud line when QUERN_ORACLE is not set: then skip().
 * When it is set and the file is missing, the caller fails on opening it. */
const char *test_oracle(const char *name);

/* The path of a scratch file, in a folder of this process that is removed with all that is in it at exit. */
const char *test_tmp(const char *name);
/* The same for a folder, which is not there: one that is goes with all that is in it. */
const char *test_tmp_folder(const char *name);
size_t test_folder_bytes(const char *path); /* of its files; 0 where there is none */

/* Environment QUERN_TEST_QUICK: fewer and shorter runs of the same checks, for sanitizers and emulators. */
bool test_quick(void);

/* Defined where a sanitizer's allocator keeps freed memory for a while: how much the process has says nothing then. */
#ifdef __has_feature
#if __has_feature(address_sanitizer)
#define TEST_KEEPS_FREED
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
#define TEST_KEEPS_FREED
#endif

/* A whole file, malloc, with a NUL behind it; NULL when it cannot be read. */
char *test_read(const char *path, size_t *size);
void test_write(const char *path, const void *data, size_t size); /* aborts when it cannot */
/* The same with size bytes of data and zeros up to length, which take no room on the disk. */
void test_write_sparse(const char *path, const void *data, size_t size, size_t length);

#endif
