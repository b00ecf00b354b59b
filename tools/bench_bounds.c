/* SPDX-License-Identifier: MIT */
/* The bounds of a matrix product, with their instruction counts.
 *
 * Counted is what the dot rule needs in the best sequence known, for a group of 32 weights x 16 rows, which are 8 registers of 64 bytes:
 * per tile, shared by all columns, the unpacking of quants and of scales; per column the dots and the float work of the rule, and the
 * bias where weights are made unsigned.  Loads, and broadcasts that are part of a load, are free; a merge under a mask counts as one
 * instruction (vpternlogd).
 *
 * Two bounds are made of it.  Slots: one instruction a cycle, which is what kernels are held to.  Pipes: one multiplication (dots, fma,
 * multiply) a cycle and two instructions of any kind, what a Zen 4 core can really issue; nothing is faster than that. */
#include "bench_bounds.h"
#include "bench_limits.h"
#include "bench_table.h"
#include "term.h"

#include <stdio.h>
#include <string.h>

enum { GROUP_DOTS = 8, GROUP_FMAS = 32, OPS_PER_DOT = 128 };

/* A new kernel: one line.  Conversions of a scale that a whole block shares count as a part of one. */
/* clang-format off */
static const struct bound {
    enum qn_type type;
    double quants, scales; /* instructions of unpacking */
    double muls; /* multiplications among them, and what takes the same pipes: masks, bit matrices */
    bool biased; /* weights are unsigned by a bias, which every accumulator starts with */
    const char *how;
} bounds[] = {
#define NIBBLES 12 /* of 4 lines: and; shift, and */
#define PAIRS   14 /* of 2 lines: and; 3 x shift, and */
#define BIT     15 /* 7 shifts, 8 x merge */
#define LUT     8 /* shuffles */
#define TURN    12 /* of two planes of 2-bit ranks: 2 shuffles, 2 shifts, 8 x rank */
#define SIGNS   16 /* 8 masks, 8 x subtract */
#define EACH(block) (32.0 / (block))
    {QN_Q4_0,   NIBBLES,              1,                    0,  true,  "nibbles; d"},
    {QN_Q4_1,   NIBBLES,              2,                    0,  false, "nibbles; d, m"},
    {QN_Q5_0,   NIBBLES + BIT,        1,                    0,  true,  "nibbles, bit; d"},
    {QN_Q5_1,   NIBBLES + BIT,        2,                    0,  false, "nibbles, bit; d, m"},
    {QN_Q8_0,   8,                    1,                    0,  true,  "8 x xor; d"},
    {QN_Q2_K,   PAIRS,                10 + 18 * EACH(256),  2,  false, "pairs; 2 x (widen, convert; widen, convert, multiply); a block: d, dmin, 4 x (2 and, shift, subtract)"},
    {QN_Q3_K,   PAIRS + BIT,          4 + 18 * EACH(256),   0,  true,  "pairs, bit; 2 x (widen, convert); a block: d, 17 for sub-scales"},
    {QN_Q4_K,   NIBBLES,              6 + 17 * EACH(256),   2,  false, "nibbles; 2 x (widen, convert, multiply); a block: d, dmin, 15 for sub-scales"},
    {QN_Q5_K,   NIBBLES + BIT,        6 + 17 * EACH(256),   2,  false, "nibbles, bit; scales as Q4_K"},
    {QN_Q6_K,   NIBBLES + 14,         4 + EACH(256),        0,  true,  "nibbles, 6 shifts, 8 x merge; 2 x (widen, convert); d"},
    {QN_IQ4_NL, NIBBLES + LUT,        1,                    0,  true,  "nibbles, table; d"},
    {QN_IQ4_XS, NIBBLES + LUT,        3 + 12 * EACH(256),   1,  true,  "nibbles, table; widen, convert, multiply; a block: d, 11 for sub-scales"},
    {QN_MXFP4,  NIBBLES + LUT,        6,                    0,  true,  "nibbles, table; widen, subtract, shift, add, shift, max"},
    {QN_NVFP4,  NIBBLES + LUT,        10,                   2,  true,  "nibbles, table; 2 x (widen, and, masked shift, compare, multiply)"},
    {QN_TQ1_0,  8 * 13,               EACH(256),            32, true,  "8 x (4 multiply, 6 and, 2 shift, or); d"},
    {QN_TQ2_0,  PAIRS,                EACH(256),            0,  true,  "pairs; d"},
    {QN_Q1_0,   15,                   EACH(128),            0,  true,  "7 shifts, 8 and; d"},
    {QN_Q2_0,   PAIRS,                EACH(64),             0,  true,  "pairs; d"},
    /* With VBMI: n tables of 128 bytes for 64 indices are n look-ups and n - 1 blends, a plane of a book. */
    {QN_IQ2_XXS, 7 + TURN + SIGNS + 2,  4 + 2 * EACH(256),    12, true,  "4 look-ups, 2 blends, mask; turn; signs; spread, parity of codes; shift, merge, convert, multiply; d"},
    {QN_IQ2_XS, 16 + TURN + SIGNS + 1,  7 + 2 * EACH(256),    11, true,  "8 look-ups, 6 blends, 2 masks; turn; signs; parity of codes; widen, 2 x (shift, merge, convert); d"},
    {QN_IQ2_S,  33 + TURN + SIGNS,      7 + 2 * EACH(256),    11, true,  "16 look-ups, 14 blends, 3 masks; turn; signs; scales as IQ2_XS"},
    {QN_IQ3_XXS, 14 + 8 + SIGNS + 2,    4 + 2 * EACH(256),    13, true,  "8 look-ups, 4 blends, 2 masks; 8 x rank; signs as IQ2_XXS; scales as IQ2_XXS"},
    {QN_IQ3_S,  32 + 8 + SIGNS,         6 + EACH(256),        13, true,  "16 look-ups, 12 blends, 4 masks; 8 x rank; signs; widen, 2 x shift, merge, convert, multiply; d"},
    {QN_IQ1_S,  66 + TURN + 11,         5 + 2 * EACH(256),    6,  true,  "32 look-ups, 30 blends, 4 masks; turn; widen, test, blend, 8 x add; 2 x shift, merge, convert, multiply; d"},
    {QN_IQ1_M,  66 + TURN + 12,         7 + 11 * EACH(256),   5,  true,  "as IQ1_S; mask, blend, 2 shuffles, 8 x add; widen, 2 x (shift, merge, convert); a block: d, 1/8, 9 for sub-scales"},
    {QN_F32,    0,                    0,                    0,  false, "nothing"},
    {QN_F16,    GROUP_FMAS,           0,                    0,  false, "convert each"},
    {QN_BF16,   2 * GROUP_FMAS,       0,                    0,  false, "widen, shift each"},
};

/* Per column, by rule. */
static const struct column_bound {
    double dots, floats, bias;
    double muls; /* multiplications among the float work */
    const char *how;
} columns[] = {
    [RULE_FLOAT]   = {GROUP_FMAS, 0, 0, 0, "32 fma"},
    [RULE_ONE]     = {GROUP_DOTS, 3, 1, 2, "convert, d * da, fma"},
    [RULE_MIN]     = {GROUP_DOTS, 4, 1, 3, "convert, d * da, fma; fma of the minimum"},
    [RULE_SUB]     = {GROUP_DOTS, 6, 2, 4, "2 x convert, multiply and fma of sub-scales, d * da, fma"},
    [RULE_SUB_MIN] = {GROUP_DOTS, 8, 2, 6, "as SUB, 2 fma of minima"},
    [RULE_TWO]     = {GROUP_DOTS, 6, 2, 4, "2 x (convert, d * da, fma)"},
};
/* clang-format on */

static const struct bound *bound_of(const struct quant_type *type)
{
    for (size_t i = 0; i < sizeof bounds / sizeof *bounds; i++)
        if (bounds[i].type == type->id)
            return &bounds[i];
    return NULL;
}

static double per_column(const struct bound *b, const struct quant_type *type)
{
    const struct column_bound *c = &columns[type->rule];
    return c->dots + c->floats + (b->biased ? c->bias : 0);
}

double bound_slots(const struct quant_type *type, int n)
{
    const struct bound *b = bound_of(type);
    return b ? b->quants + b->scales + n * per_column(b, type) : 0;
}

double bound_cycles(const struct quant_type *type, int n)
{
    const struct bound *b = bound_of(type);
    if (!b)
        return 0;
    double muls = b->muls + n * (columns[type->rule].dots + columns[type->rule].muls), all = bound_slots(type, n) / 2;
    return muls > all ? muls : all;
}

double bound_bytes(const struct quant_type *type)
{
    return (double)type->block_bytes * QUANT_GROUP * TILE_ROWS / type->block;
}

double bound_rate(const char *level)
{
    return strncmp(level, "avx512", 6) && strcmp(level, "amx") ? 0 : bench_limits(1, level)->int_ops_s / OPS_PER_DOT;
}

int bench_bounds(const char *format)
{
    static const struct column head[] = {{"type", "type", -8},
                                         {"bytes", "group_bytes", 6},
                                         {"quants", "unpack_quants", 6},
                                         {"scales", "unpack_scales", 6},
                                         {"dots", "column_dots", 4},
                                         {"float", "column_float", 5},
                                         {"bias", "column_bias", 4},
                                         {"slots: M = 1", "slots_1", 12},
                                         {"4", "slots_4", 7},
                                         {"8", "slots_8", 7},
                                         {"16", "slots_16", 7},
                                         {"dots at 16, %", "dots_percent_16", 13},
                                         {"pipes: M = 1", "cycles_1", 12},
                                         {"16", "cycles_16", 7},
                                         {"unpacking", "unpacking", -92},
                                         {"a column", "column", -9},
                                         {0}};
    struct table t = {.format = format, .columns = head};
    for (size_t i = 0; i < sizeof bounds / sizeof *bounds; i++) {
        const struct bound *b = &bounds[i];
        const struct quant_type *type = quant_type_find(b->type);
        const struct column_bound *c = &columns[type->rule];
        bool csv = !strcmp(format, "csv");
        const char *quote = csv ? "\"" : "";
        char how[160], column[100];
        snprintf(how, sizeof how, "%s%s%s", quote, b->how, quote);
        snprintf(column, sizeof column, "%s%s%s", quote, c->how, quote);
        table_row(&t, (const char *[]){
                          type->name, cell("%.0f", bound_bytes(type)), cell("%.0f", b->quants), cell("%.2f", b->scales),
                          cell("%.0f", c->dots), cell("%.0f", c->floats), cell("%.0f", b->biased ? c->bias : 0),
                          cell("%.2f", bound_slots(type, 1)), cell("%.2f", bound_slots(type, 4)),
                          cell("%.2f", bound_slots(type, 8)), cell("%.2f", bound_slots(type, 16)),
                          cell("%.1f", 1600 * c->dots / bound_slots(type, 16)), cell("%.2f", bound_cycles(type, 1)),
                          cell("%.2f", bound_cycles(type, 16)), how, column});
    }
    table_end(&t);
    return 0;
}
