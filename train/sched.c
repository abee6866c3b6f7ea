#include "train/sched.h"

#include <math.h>

double sched_lr(const Sched *s, uint64_t step) {
    step -= (uint64_t)s->shift;
    if (step < s->warmup) return s->base * (double)(step + 1) / (double)s->warmup;
    if (step > s->total) step = s->total;
    if (s->kind == SCHED_COSINE) {
        if (s->total <= s->warmup) return s->base;
        double done = (double)(step - s->warmup) / (double)(s->total - s->warmup);
        return 0.5 * s->base * (1 + cos(3.14159265358979323846 * done));
    }
    uint64_t start = s->total > s->cooldown ? s->total - s->cooldown : 0;
    if (s->kind == SCHED_CONST || step < start || !s->cooldown) return s->base;
    double done = (double)(step - start) / (double)s->cooldown;
    return pow(1 - done, s->cooldown_power) * (s->base - s->cooldown_end) + s->cooldown_end;
}
