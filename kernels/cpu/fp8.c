/* cpu/fp8: CPUs do not multiply 8-bit floats, so registered matrices are computed like the others;
 * the scales are those of a GPU. */
#include "kernels/cpu/cpu.h"

#include <math.h>

void FN(fp8_weight)(const act *w, const acc *dw, acc *scaling, size_t n, size_t i, size_t N,
                    size_t K) {
    (void)w, (void)dw, (void)scaling, (void)n, (void)i, (void)N, (void)K;
}

void FN(fp8_padding)(const int32_t *start, size_t B, size_t sequences) {
    (void)start, (void)B, (void)sequences;
}

void FN(fp8_update)(acc *scaling, size_t n) {
    KERNEL_BEGIN(fp8_update, 0, n * FP8_SCALING * sizeof(acc));
    for (size_t i = 0; i < n; i++) {
        float amax = scaling[i].v, most = amax;
        scaling[i].v = 0;
        if (!isfinite(amax)) continue;
        acc *past = scaling + 3 * n + i;
        for (size_t h = FP8_HISTORY - 1; h > 0; h--) {
            past[h * n] = past[(h - 1) * n];
            most = fmaxf(most, past[h * n].v);
        }
        past[0].v = amax;
        if (!(most > 0)) continue;
        int exponent;
        frexpf((i % 3 == 2 ? FP8_E5M2_MAX : FP8_E4M3_MAX) / most, &exponent);
        exponent = exponent - 1 > FP8_EXPONENT_MAX    ? FP8_EXPONENT_MAX
                   : exponent - 1 < -FP8_EXPONENT_MAX ? -FP8_EXPONENT_MAX
                                                      : exponent - 1;
        scaling[n + i].v = ldexpf(1, exponent);
        scaling[2 * n + i].v = ldexpf(1, -exponent);
    }
}
