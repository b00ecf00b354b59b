/* SPDX-License-Identifier: MIT */
/* The machine beside a model, or alone. */
#ifndef QUERN_INSPECT_TOPOLOGY_H
#define QUERN_INSPECT_TOPOLOGY_H

#include "setup.h"

/* Prints it; o->model, o->json.  With a model, which is opened, also where its memory lies.  Returns the exit status. */
int inspect_topology(struct opts *o);

#endif
