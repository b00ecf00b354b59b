/* SPDX-License-Identifier: MIT */
/* quern inspect for pack caches. */
#ifndef QUERN_INSPECT_CACHE_H
#define QUERN_INSPECT_CACHE_H

#include "opts.h"

bool is_pack_cache(const char *path); /* by its first bytes */
int inspect_pack_cache(const struct opts *o);

#endif
