/* SPDX-License-Identifier: MIT */
/* Tables in four formats. */
#include "bench_table.h"
#include "term.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *cell(const char *fmt, ...)
{
    enum { BUFFERS = 32 };
    static char buffers[BUFFERS][64];
    static int next;
    char *out = buffers[next++ % BUFFERS];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(out, sizeof buffers[0], fmt, ap);
    va_end(ap);
    return out;
}

static bool is_word(const struct column *c) { return c->width < 0; }

static void csv_row(const struct table *t, const char *const *cells)
{
    const struct column *c = t->columns;
    for (int i = 0; t->n_rows == 0 && c[i].title; i++)
        out_printf("%s%s", i ? "," : "", c[i].key);
    out_text(t->n_rows == 0 ? "\n" : "");
    for (int i = 0; c[i].title; i++)
        out_printf("%s%s", i ? "," : "", cells[i]);
    out_text("\n");
}

static void json_row(const struct table *t, const char *const *cells)
{
    out_text(t->n_rows == 0 ? "[\n{" : ",\n{");
    for (int i = 0; t->columns[i].title; i++) {
        const char *quote = is_word(&t->columns[i]) ? "\"" : "";
        out_printf("%s\"%s\":%s%s%s", i ? "," : "", t->columns[i].key, quote, *cells[i] || *quote ? cells[i] : "null",
                   quote);
    }
    out_text("}");
}

static void md_row(const struct table *t, const char *const *cells)
{
    const struct column *c = t->columns;
    for (int i = 0; t->n_rows == 0 && c[i].title; i++)
        out_printf("| %s %s", c[i].title, c[i + 1].title ? "" : "|\n");
    for (int i = 0; t->n_rows == 0 && c[i].title; i++)
        out_printf("|%s%s", is_word(&c[i]) ? "---" : "---:", c[i + 1].title ? "" : "|\n");
    for (int i = 0; c[i].title; i++)
        out_printf("| %s %s", *cells[i] ? cells[i] : "-", c[i + 1].title ? "" : "|\n");
}

static void plain_row(const struct table *t, const char *const *cells)
{
    const struct column *c = t->columns;
    for (int i = 0; t->n_rows == 0 && c[i].title; i++)
        out_printf("%*s%s", c[i].width, c[i].title, c[i + 1].title ? " " : "\n");
    for (int i = 0; c[i].title; i++)
        out_printf("%*s%s", c[i].width, *cells[i] ? cells[i] : "-", c[i + 1].title ? " " : "\n");
}

void table_row(struct table *t, const char *const *cells)
{
    if (!strcmp(t->format, "csv"))
        csv_row(t, cells);
    else if (!strcmp(t->format, "json"))
        json_row(t, cells);
    else if (!strcmp(t->format, "md"))
        md_row(t, cells);
    else
        plain_row(t, cells);
    t->n_rows++;
    out_flush();
}

void table_end(struct table *t)
{
    if (!strcmp(t->format, "json"))
        out_text(t->n_rows ? "\n]\n" : "[]\n");
    out_flush();
}
