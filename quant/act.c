/* SPDX-License-Identifier: MIT */
/* Activations for the integer dot rules: 32 values share one scale.  The specification of simd's quantize: every operation
 * below is one f32 rounding and must not be reordered. */
#include "quant/quant.h"

#include <math.h>
#include <string.h>

void act_quantize_ref(const float *x, int64_t n, struct act_group *out)
{
    for (int64_t g = 0; g < n / QUANT_GROUP; g++, x += QUANT_GROUP, out++) {
        uint32_t top = 0; /* as bits, so that infinities and NaNs win */
        for (int i = 0; i < QUANT_GROUP; i++) {
            uint32_t u;
            memcpy(&u, x + i, sizeof u);
            u &= 0x7fffffff;
            top = u > top ? u : top;
        }
        float amax;
        memcpy(&amax, &top, sizeof amax);

        memset(out, 0, sizeof *out);
        if (top >= 0x7f800000) {
            out->d = NAN;
        } else if (amax >= 0x1p-100f) {
            float inverse = 127.0f / amax;
            out->d = amax / 127.0f;
            for (int i = 0; i < QUANT_GROUP; i++) {
                out->q[i] = (int8_t)rintf(x[i] * inverse);
                out->sum16[i / 16] += out->q[i];
            }
            out->sum = out->sum16[0] + out->sum16[1];
        }
        out->dsum = out->d * (float)out->sum;
        out->dsum16[0] = out->d * (float)out->sum16[0];
        out->dsum16[1] = out->d * (float)out->sum16[1];
    }
}
