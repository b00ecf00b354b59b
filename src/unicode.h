/* SPDX-License-Identifier: MIT */
/* UTF-8, the character classes of the pre-tokenizers, and NFC as the reference tokenizers do it.
 * Text is bytes from strangers: an invalid byte is a character of its own, of no class, and passes unchanged. */
#ifndef QUERN_UNICODE_H
#define QUERN_UNICODE_H

#include "base.h"

enum uni_class { UNI_OTHER, UNI_LETTER, UNI_NUMBER, UNI_MARK, UNI_SPACE }; /* the rest, \p{L}, \p{N}, \p{M}, \s */
enum uni_nfc {
    UNI_INERT, /* no neighbour changes it */
    UNI_BASE, /* may take up characters that follow */
    UNI_JOINS /* may change, or join what precedes */
};
enum { UNI_INVALID = 0x110000 }; /* stands for a byte that is not UTF-8 */

enum uni_class uni_class(uint32_t cp); /* any cp; UNI_INVALID and above are UNI_OTHER */
enum uni_nfc uni_nfc(uint32_t cp);

/* Decodes the character at s[0], n >= 1 bytes at hand.  Returns its length; 1 and UNI_INVALID for an invalid byte. */
size_t utf8_decode(const char *s, size_t n, uint32_t *cp);
/* Bytes at the end of s that may be the start of an unfinished character: 0..3. */
size_t utf8_unfinished(const char *s, size_t n);

/* NFC of s.  When nothing changes, *out is NULL; else *out, of *n_out bytes, is owned by the caller (free). */
int uni_normalize(const char *s, size_t n, char **out, size_t *n_out, struct qn_error *err);

#endif
