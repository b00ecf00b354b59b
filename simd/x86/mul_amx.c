/* SPDX-License-Identifier: MIT */
/* Matrix products with AMX.  A tile register of activations, 16 columns x 32 bytes, times one of weights, 8 lines of 16 rows x 4 bytes,
 * gives the exact sums of a group for 16 rows and 16 columns, a line for a column.
 *
 * That takes 16 cycles where dots of vectors take 64, and less than what is around it: 17 to store the sums, 8 and 4 to load columns and
 * weights, and the float work of the rule, for which sums are loaded again.  Weights are unpacked a section at a time into memory, where
 * tile registers are loaded from, and serve all panels.  Bytes are signed on both sides, so no type has a bias.  Sums are stored one group
 * after they are multiplied and used LAG groups after: before that they are still on their way.
 *
 * (A tile is also what the packed layout calls 16 rows; those are called rows here.) */
#define MUL_SIGNED
#include "simd/x86/mul_avx512.h"

#include "simd/x86/mul_amx.h"

#define MUL_WITHOUT_FLOAT
#define BOOK_INC "simd/x86/mul_book_vbmi.inc"
#include "simd/mul_unpack.inc"

enum {
    SECTION =
        16, /* groups at once, whole stretches of every type: their weights and a panel stay in the first-level cache */
    COLS = 16, /* of a panel */
    PANELS = 2, /* at once */
    AT_ONCE = 32, /* times 16 rows whose sums are under way: their sections stay in the second-level cache */
    LAG = 3,
    RING = 4 /* groups whose sums are in memory */
};

/* A load waits for a store in front of it whose address is the same modulo 4096.  So what belongs to group i, its weights, its columns
 * and its sums, begins at i * 1024 modulo 4096: what is loaded for groups i and i - LAG is not where groups between are stored. */
struct weights {
    _Alignas(1024) int8_t w[8][64];
    float d[2][TILE_ROWS], sub[2][TILE_ROWS], m[2][TILE_ROWS]; /* as far as the rule has them */
    const void *lines; /* w, or where the packed rows have just that */
};

struct columns {
    _Alignas(1024) int8_t q[COLS][QUANT_GROUP];
    float d[COLS], dsum[COLS], dsum16[2][COLS]; /* as far as the rule wants them */
};

/* ---- weights */

static ALWAYS_INLINE void weights_put(enum qn_type type, struct weights *to, const struct wgroup *w, const uint8_t *q)
{
    const enum quant_rule rule = type_rule(type);
    const int bias = type_bias(type);
    to->lines = type == QN_Q8_0 ? (const void *)q : to->w;
    if (type != QN_Q8_0)
        LANES_FOR (j, 8)
            v_store(to->w[j], bias ? v_subb(w->q[j], v_bytes(bias)) : w->q[j]);
    LANES_FOR (h, 2) {
        if (h == 0 || rule == RULE_TWO)
            f_store(to->d[h], w->d[h]);
        if (rule == RULE_SUB || rule == RULE_SUB_MIN)
            f_store(to->sub[h], w->sub[h]);
        if (rule == RULE_SUB_MIN || (h == 0 && rule == RULE_MIN))
            f_store(to->m[h], w->m[h]);
    }
}

/* Groups [first, end) of 16 rows with n_groups each; first is a multiple of SECTION, end too or n_groups. */
static ALWAYS_INLINE void weights_unpack(enum qn_type type, struct weights *to, const uint8_t *rows, int64_t n_groups,
                                         int64_t first, int64_t end)
{
    const int groups = type_block(type) / QUANT_GROUP, stretch = stretch_groups(type);
    const int q_bytes = quants_bytes(type), s_bytes = scales_bytes(type);
    const uint8_t *q = rows + first / groups * (groups * q_bytes + s_bytes);
    for (; first < end; first += stretch) {
        int64_t last = n_groups - first < stretch ? n_groups : first + stretch;
        const uint8_t *s = q;
        q += (last - first) / groups * s_bytes;
        for (int64_t b = first; b < last; b += groups, s += s_bytes) {
            struct sub_scales sub;
            make_sub_scales(type, &sub, s);
            for (int g = 0; g < groups; g++, to++, q += q_bytes) {
                struct wgroup w;
                unpack_group(type, &w, q, s, &sub, g, 0);
                weights_put(type, to, &w, q);
            }
        }
    }
}

/* ---- columns */

/* Groups [first, end) of columns c0 .. c0 + n - 1; those behind are asked for.  Columns of `to` past n are left as they are: what comes
 * out for them is not looked at. */
static ALWAYS_INLINE void columns_fill(enum qn_type type, const struct cols *x, int c0, int n, int64_t first,
                                       int64_t end, struct columns *to)
{
    const enum quant_rule rule = type_rule(type);
    for (int c = 0; c < n; c++) {
        const struct act_group *from = (const struct act_group *)cols_at(x, c0 + c) + first;
        for (int64_t i = 0; i < end - first; i++, from++) {
            __builtin_prefetch(from + SECTION);
            memcpy(to[i].q[c], from->q, sizeof from->q);
            if (type_turned(type))
                act_turn(to[i].q[c]);
            to[i].d[c] = from->d;
            if (rule == RULE_MIN)
                to[i].dsum[c] = from->dsum;
            if (rule == RULE_SUB_MIN)
                LANES_FOR (h, 2)
                    to[i].dsum16[h][c] = from->dsum16[h];
        }
    }
}

/* ---- a section of 16 rows times a panel */

struct amx_args {
    const struct weights *w; /* [n_groups] */
    const struct columns *x; /* [n_groups] */
    int n_groups; /* at most SECTION */
    bool first; /* sums begin here */
    float (*sum)[TILE_ROWS]; /* [n] */
    const uint8_t *ask; /* what is asked for meanwhile, ask_bytes for each group */
    int ask_bytes;
};

typedef const int8_t columns_bytes[COLS][QUANT_GROUP];
typedef const int8_t weights_bytes[8][64];

/* Register c = columns x times weights w, by way of registers a and b. */
#define AMX_MULTIPLY(c, a, b, x, w) \
    __asm__ volatile("tilezero %%tmm" #c "\n\t" \
                     "tileloadd (%0,%2,1), %%tmm" #a "\n\t" \
                     "tileloadd (%1,%3,1), %%tmm" #b "\n\t" \
                     "tdpbssd %%tmm" #b ", %%tmm" #a ", %%tmm" #c \
                     : \
                     : "r"(x), "r"(w), "r"(32L), "r"(64L), "m"(*(x)), "m"(*(w)))

#define AMX_STORE(c, to) __asm__ volatile("tilestored %%tmm" #c ", (%1,%2,1)" : "=m"(*(to)) : "r"(to), "r"(64L))

/* Sums of group i, to stay in registers: of all of it, or of its halves. */
static ALWAYS_INLINE void amx_multiply(bool halves, const struct amx_args *a, int i)
{
    columns_bytes *x = &a->x[i].q, *x1 = (const void *)((*x)[0] + QUANT_GROUP / 2);
    weights_bytes *w = a->w[i].lines, *w1 = (const void *)(*w)[4];
    if (i % 2) {
        AMX_MULTIPLY(0, 4, 6, x, w);
        if (halves)
            AMX_MULTIPLY(1, 5, 7, x1, w1);
    } else {
        AMX_MULTIPLY(2, 4, 6, x, w);
        if (halves)
            AMX_MULTIPLY(3, 5, 7, x1, w1);
    }
}

typedef int32_t amx_sums[COLS][TILE_ROWS];

/* The same, to s[0], halves to s[0] and s[1]. */
static ALWAYS_INLINE void amx_store(bool halves, amx_sums s[2][RING], int i)
{
    amx_sums *s0 = &s[0][i % RING], *s1 = &s[1][i % RING];
    if (i % 2) {
        AMX_STORE(0, s0);
        if (halves)
            AMX_STORE(1, s1);
    } else {
        AMX_STORE(2, s0);
        if (halves)
            AMX_STORE(3, s1);
    }
}

static ALWAYS_INLINE void amx_add(enum quant_rule rule, int n, amx_sums s[2][RING], const struct amx_args *a, int i,
                                  vf *acc)
{
    const struct columns *x = &a->x[i];
    struct wgroup w;
    LANES_FOR (h, 2) {
        w.d[h] = f_load(a->w[i].d[h]);
        w.sub[h] = f_load(a->w[i].sub[h]);
        w.m[h] = f_load(a->w[i].m[h]);
    }
    LANES_FOR (c, n) {
        struct act_floats f = {f_set(x->d[c]), f_set(x->dsum[c]), {f_set(x->dsum16[0][c]), f_set(x->dsum16[1][c])}};
        acc[c] = apply(rule, &w, v_load(s[0][i % RING][c]), v_load(s[1][i % RING][c]), &f, acc[c]);
    }
}

static ALWAYS_INLINE void amx_times(enum quant_rule rule, int n, const struct amx_args *a)
{
    const bool halves = rule_halves(rule);
    const int n_groups = a->n_groups, lead = n_groups < LAG ? n_groups : LAG;
    const uint8_t *ask = a->ask;
    _Alignas(4096) amx_sums s[2][RING];
    vf acc[COLS];
    int i = 0;
    LANES_FOR (c, n)
        acc[c] = a->first ? f_set(0.0f) : f_load(a->sum[c]);
    for (; i < lead; i++) {
        amx_multiply(halves, a, i);
        amx_store(halves, s, i);
    }
    for (; i < n_groups; i++) {
        amx_multiply(halves, a, i);
        if (i > LAG)
            amx_store(halves, s, i - 1);
        for (int b = 0; b < a->ask_bytes; b += 64)
            __builtin_prefetch(ask + b);
        ask += a->ask_bytes;
        amx_add(rule, n, s, a, i - LAG, acc);
    }
    if (i > LAG)
        amx_store(halves, s, i - 1);
    for (i -= lead; i < n_groups; i++)
        amx_add(rule, n, s, a, i, acc);
    LANES_FOR (c, n)
        f_store(a->sum[c], acc[c]);
}

typedef void amx_fn(const struct amx_args *a);

/* clang-format off */
#define AMX_RULES(M) M(ONE) M(MIN) M(SUB) M(SUB_MIN) M(TWO)
#define AMX_INSTANCE(rule, n) \
    static void amx_##rule##_##n(const struct amx_args *a) { amx_times(RULE_##rule, n, a); }
#define AMX_INSTANCES(rule) AMX_INSTANCE(rule, 4) AMX_INSTANCE(rule, 8) AMX_INSTANCE(rule, 12) AMX_INSTANCE(rule, 16)
#define AMX_ENTRY(rule) [RULE_##rule] = {amx_##rule##_4, amx_##rule##_8, amx_##rule##_12, amx_##rule##_16},
AMX_RULES(AMX_INSTANCES)
static amx_fn *const amx_kernel[][COLS / 4] = {AMX_RULES(AMX_ENTRY)};
/* clang-format on */

/* ---- products */

struct amx_type {
    enum quant_rule rule;
    void (*unpack)(struct weights *to, const uint8_t *rows, int64_t n_groups, int64_t first, int64_t end);
    void (*fill)(const struct cols *x, int c0, int n, int64_t first, int64_t end, struct columns *to);
};

/* Registers 0 to 3 are sums, 4 and 5 columns, 6 and 7 weights, of a group or of half of it. */
static void amx_begin(bool halves)
{
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } c = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        c.bytes[i] = (uint16_t)(i / 2 != 2 ? 64 : halves ? 16 : 32);
        c.rows[i] = (uint8_t)(i / 2 != 3 ? 16 : halves ? 4 : 8);
    }
    __asm__ volatile("ldtilecfg %0" : : "m"(c));
}

static void amx_end(void) { __asm__ volatile("tilerelease"); }

/* Groups [first, end) of `tiles` times 16 rows, `data` the first of them, times all panels.  The next rows are asked for beside the first
 * panel, behind the last ones the next section. */
static void amx_section(const struct amx_type *t, const uint8_t *data, const struct mat *w, int tiles, int64_t first,
                        int64_t end, const struct columns panel[PANELS][SECTION], const int *n, int panels,
                        float (*sum)[PANELS * COLS][TILE_ROWS])
{
    const int64_t n_groups = w->cols / QUANT_GROUP;
    const int bytes = (int)(w->stride / (size_t)n_groups);
    _Alignas(4096) struct weights s[SECTION];
    for (int k = 0; k < tiles; k++) {
        const uint8_t *rows = data + (size_t)k * w->stride;
        t->unpack(s, rows, n_groups, first, end);
        for (int p = 0; p < panels; p++) {
            struct amx_args a = {.w = s, .x = panel[p], .n_groups = (int)(end - first), .first = first == 0};
            a.sum = sum[k] + p * COLS;
            a.ask = k + 1 < tiles ? rows + w->stride + first * bytes : data + end * bytes;
            a.ask_bytes = p ? 0 : bytes;
            amx_kernel[t->rule][(n[p] - 1) / 4](&a);
        }
    }
}

/* Rows [r0, r0 + rows), up to AT_ONCE times 16, and up to PANELS panels of columns from c0 on. */
static void amx_panels(const struct amx_type *t, const struct mat *w, int64_t r0, int64_t rows, const struct cols *x,
                       int c0, int n, float *y, size_t ldy)
{
    const uint8_t *data = w->data + (size_t)(r0 / TILE_ROWS) * w->stride;
    const int tiles = (int)((rows + TILE_ROWS - 1) / TILE_ROWS), panels = (n + COLS - 1) / COLS;
    const int64_t n_groups = w->cols / QUANT_GROUP;
    _Alignas(4096) struct columns panel[PANELS][SECTION];
    float sum[AT_ONCE][PANELS * COLS][TILE_ROWS];
    int width[PANELS];
    for (int p = 0; p < panels; p++)
        width[p] = n - p * COLS < COLS ? n - p * COLS : COLS;
    for (int64_t first = 0, end; first < n_groups; first = end) {
        end = n_groups - first < SECTION ? n_groups : first + SECTION;
        for (int p = 0; p < panels; p++)
            t->fill(x, c0 + p * COLS, width[p], first, end, panel[p]);
        amx_section(t, data, w, tiles, first, end, (const struct columns(*)[SECTION])panel, width, panels, sum);
    }
    for (int c = 0; c < n; c++) {
        float *to = y + (size_t)(c0 + c) * ldy;
        for (int k = 0; k < tiles; k++) {
            int64_t left = rows - k * TILE_ROWS;
            memcpy(to + k * TILE_ROWS, sum[k][c], (size_t)(left < TILE_ROWS ? left : TILE_ROWS) * sizeof *to);
        }
    }
}

static void amx_mul(const struct amx_type *t, const struct mat *w, int64_t r0, int64_t r1, const struct cols *x,
                    float *y, size_t ldy)
{
    enum { ROWS = AT_ONCE * TILE_ROWS, N = PANELS * COLS };
    amx_begin(rule_halves(t->rule));
    for (int c = 0; c < x->n; c += N)
        for (int64_t r = r0; r < r1; r += ROWS)
            amx_panels(t, w, r, r1 - r < ROWS ? r1 - r : ROWS, x, c, x->n - c < N ? x->n - c : N, y + (r - r0), ldy);
    amx_end();
}

/* ---- per type */

#define MUL_TILES(type) \
    static void unpack_##type(struct weights *to, const uint8_t *rows, int64_t n_groups, int64_t first, int64_t end) \
    { \
        weights_unpack(QN_##type, to, rows, n_groups, first, end); \
    } \
    static void fill_##type(const struct cols *x, int c0, int n, int64_t first, int64_t end, struct columns *to) \
    { \
        columns_fill(QN_##type, x, c0, n, first, end, to); \
    } \
    static void mul_##type(const struct mat *w, int64_t r0, int64_t r1, const struct cols *x, float *y, size_t ldy) \
    { \
        const struct amx_type t = {type_rule(QN_##type), unpack_##type, fill_##type}; \
        if (x->n <= AMX_FEW) \
            mul_amx_few(QN_##type)(w, r0, r1, x, y, ldy); \
        else \
            amx_mul(&t, w, r0, r1, x, y, ldy); \
    }
#include "simd/mul_types.inc"

void fill_mul_amx(struct simd_ops *ops) { mul_fill(ops, "amx"); }
