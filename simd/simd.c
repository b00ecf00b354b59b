/* SPDX-License-Identifier: MIT */
/* Which levels this machine can run, and the one table filled for one of them.  A level is a named set of instructions, all of
 * which must be there, the operating system's support for their registers included:
 *
 *   avx2        AVX2 FMA F16C                     neon  AdvSIMD with half-precision arithmetic and dot products
 *   avx512      avx2 + AVX-512 F BW DQ VL VNNI    i8mm  neon + 8-bit matrix products
 *   avx512vbmi  avx512 + AVX-512 VBMI BITALG, GFNI
 *   amx         avx512vbmi + AMX TILE INT8
 *   avxvnni     avx2 + AVX-VNNI; nothing builds on it
 *
 * A level is filled over those before it that run, so it has to bring only what it does better. */
#include "simd/fill.h"
#include "simd/mul.h"

#include <string.h>

#ifdef HAVE_CONFIG_H
#include "config.h"
#endif

#if defined(HAVE_AVX2) || defined(HAVE_AVX512)
#include <cpuid.h>
#endif
#ifdef HAVE_AMX
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(HAVE_NEON) || defined(HAVE_I8MM)
#include <sys/auxv.h>
#endif

#if defined(HAVE_AVX2) || defined(HAVE_AVX512)
/* The registers whose state the system saves: bit 1 xmm, 2 ymm, 5..7 masks and zmm. */
static uint64_t cpu_saved_state(void)
{
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
        return 0;
    __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    return (uint64_t)d << 32 | a;
}

static bool cpu_avx2(void)
{
    unsigned a, b, c, d;
    const unsigned need1 = bit_AVX | bit_FMA | bit_F16C;
    if ((cpu_saved_state() & 0x06) != 0x06 || !__get_cpuid(1, &a, &b, &c, &d) || (c & need1) != need1)
        return false;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_AVX2);
}
#endif

#ifdef HAVE_AVXVNNI
static bool cpu_avxvnni(void)
{
    unsigned a, b, c, d;
    return cpu_avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 4);
}
#endif

#ifdef HAVE_AVX512
static bool cpu_avx512(void)
{
    unsigned a, b, c, d;
    const unsigned need = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
    if (!cpu_avx2() || (cpu_saved_state() & 0xe6) != 0xe6)
        return false;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & need) == need && (c & bit_AVX512VNNI);
}
#endif

#ifdef HAVE_AVX512VBMI
static bool cpu_avx512vbmi(void)
{
    unsigned a, b, c, d;
    const unsigned need = bit_AVX512VBMI | bit_AVX512BITALG | bit_GFNI;
    return cpu_avx512() && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (c & need) == need;
}
#endif

#ifdef HAVE_AMX
/* Tiles are the one register state that Linux gives a process only when it asks. */
static bool cpu_amx(void)
{
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    unsigned a, b, c, d;
    const unsigned need = 1u << 24 | 1u << 25;
    return cpu_avx512vbmi() && (cpu_saved_state() & 3u << 17) == 3u << 17 && __get_cpuid_count(7, 0, &a, &b, &c, &d) &&
           (d & need) == need && syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}
#endif

#if defined(HAVE_NEON) || defined(HAVE_I8MM)
static bool cpu_neon(void)
{
    const unsigned long need = HWCAP_ASIMD | HWCAP_FPHP | HWCAP_ASIMDHP | HWCAP_ASIMDDP;
    return (getauxval(AT_HWCAP) & need) == need;
}
#endif

#ifdef HAVE_I8MM
static bool cpu_i8mm(void) { return cpu_neon() && (getauxval(AT_HWCAP2) & HWCAP2_I8MM); }
#endif

static bool cpu_any(void) { return true; }

/* Oldest first.  fill may be NULL. */
static const struct level {
    const char *name;
    bool (*runs)(void);
    void (*fill)(struct simd_ops *ops);
    void (*fill_mul)(struct simd_ops *ops);
} level[] = {
    {"c", cpu_any, fill_c, fill_mul_c},
#ifdef HAVE_AVX2
    {"avx2", cpu_avx2, fill_avx2, fill_mul_avx2},
#endif
#ifdef HAVE_AVXVNNI
    {"avxvnni", cpu_avxvnni, NULL, fill_mul_avxvnni},
#endif
#ifdef HAVE_AVX512
    {"avx512", cpu_avx512, fill_avx512, fill_mul_avx512},
#endif
#ifdef HAVE_AVX512VBMI
    {"avx512vbmi", cpu_avx512vbmi, NULL, fill_mul_avx512vbmi},
#endif
#ifdef HAVE_AMX
    {"amx", cpu_amx, NULL, fill_mul_amx},
#endif
#ifdef HAVE_NEON
    {"neon", cpu_neon, fill_neon, fill_mul_neon},
#endif
#ifdef HAVE_I8MM
    {"i8mm", cpu_i8mm, NULL, fill_mul_i8mm},
#endif
};

enum { N_LEVEL = sizeof(level) / sizeof(level[0]) };

/* Best first.  A level of a list needs all behind it, so what runs is what is behind the first that does. */
#ifdef HAVE_AMX
#define NAME_AMX "amx",
#else
#define NAME_AMX
#endif
#ifdef HAVE_AVX512VBMI
#define NAME_AVX512VBMI "avx512vbmi",
#else
#define NAME_AVX512VBMI
#endif
#ifdef HAVE_AVX512
#define NAME_AVX512 "avx512",
#else
#define NAME_AVX512
#endif
#ifdef HAVE_AVX2
#define NAME_AVX2 "avx2",
#else
#define NAME_AVX2
#endif
#ifdef HAVE_I8MM
#define NAME_I8MM "i8mm",
#else
#define NAME_I8MM
#endif
#ifdef HAVE_NEON
#define NAME_NEON "neon",
#else
#define NAME_NEON
#endif
static const char *const levels[] = {NAME_AMX NAME_AVX512VBMI NAME_AVX512 NAME_AVX2 NAME_I8MM NAME_NEON "c", NULL};
#ifdef HAVE_AVXVNNI
static const char *const levels_vnni[] = {NAME_AMX NAME_AVX512VBMI NAME_AVX512 "avxvnni", NAME_AVX2 "c", NULL};
#endif

static bool name_runs(const char *name)
{
    int i = 0;
    while (strcmp(level[i].name, name) != 0)
        i++;
    return level[i].runs();
}

const char *const *simd_levels(void)
{
    const char *const *list = levels;
#ifdef HAVE_AVXVNNI
    if (cpu_avxvnni())
        list = levels_vnni;
#endif
    while (!name_runs(*list))
        list++;
    return list;
}

bool simd_init(struct simd_ops *ops, const char *name)
{
    const char *const *run = simd_levels();
    if (name && strcmp(name, "auto") != 0)
        while (*run && strcmp(*run, name) != 0)
            run++;
    if (!*run)
        return false;
    memset(ops, 0, sizeof(*ops));
    for (int i = 0; i < N_LEVEL; i++) {
        if (!level[i].runs())
            continue;
        if (level[i].fill)
            level[i].fill(ops);
        if (level[i].fill_mul)
            level[i].fill_mul(ops);
        ops->name = level[i].name;
        if (strcmp(level[i].name, *run) == 0)
            break;
    }
    return true;
}

/* Control bits only: exception flags stay as they are.  x86: rounding 14:13, flush to zero 15, denormals are zero 6.
 * AArch64: alternative half precision 26, default NaN 25, flush to zero 24, rounding 23:22, half-precision flush 19. */
#if defined(__x86_64__)
enum { FLOAT_MODE = 0xe040 };
static uint64_t float_read(void) { return __builtin_ia32_stmxcsr(); }
static void float_write(uint64_t x) { __builtin_ia32_ldmxcsr((unsigned)x); }
#elif defined(__aarch64__)
enum { FLOAT_MODE = 0x7c80000 };
static uint64_t float_read(void)
{
    uint64_t x;
    __asm__ volatile("mrs %0, fpcr" : "=r"(x));
    return x;
}
static void float_write(uint64_t x) { __asm__ volatile("msr fpcr, %0" : : "r"(x)); }
#else
#include <fenv.h>
enum { FLOAT_MODE = -1 };
static uint64_t float_read(void) { return (uint64_t)fegetround(); }
static void float_write(uint64_t x) { fesetround((int)x); }
#endif

uint64_t simd_float_enter(void)
{
    uint64_t saved = float_read();
    float_write(saved & ~(uint64_t)FLOAT_MODE);
    return saved;
}

void simd_float_leave(uint64_t saved) { float_write((float_read() & ~(uint64_t)FLOAT_MODE) | (saved & FLOAT_MODE)); }
