#include "kernels/ref/ref.h"

#include <math.h>

void ref_fp8_weight(const act *w, const acc *dw, acc *scaling, size_t n, size_t i, size_t N,
                    size_t K) {
    (void)w, (void)dw, (void)scaling, (void)n, (void)i, (void)N, (void)K;
}

void ref_fp8_padding(const int32_t *start, size_t B, size_t sequences) {
    (void)start, (void)B, (void)sequences;
}

void ref_fp8_update(acc *scaling, size_t n) {
    for (size_t i = 0; i < n; i++) {
        double amax = scaling[i].v, most = 0;
        scaling[i].v = 0;
        if (!isfinite(amax)) continue;
        acc *past = scaling + 3 * n + i;
        for (size_t h = FP8_HISTORY - 1; h > 0; h--) past[h * n] = past[(h - 1) * n];
        past[0].v = amax;
        for (size_t h = 0; h < FP8_HISTORY; h++) most = fmax(most, past[h * n].v);
        if (!(most > 0)) continue;
        double exponent = floor(log2((i % 3 == 2 ? FP8_E5M2_MAX : FP8_E4M3_MAX) / most));
        exponent = fmin(fmax(exponent, -FP8_EXPONENT_MAX), FP8_EXPONENT_MAX);
        scaling[n + i].v = exp2(exponent);
        scaling[2 * n + i].v = exp2(-exponent);
    }
}
