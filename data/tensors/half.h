/* half: arrays of IEEE float16 to and from float32. */
#pragma once
#include <stddef.h>
#include <stdint.h>

/* Exact. */
void half_to_floats(float *out, const uint16_t *in, size_t n);
/* Rounded to nearest even; beyond 65504 the result is infinite. */
void half_from_floats(uint16_t *out, const float *in, size_t n);
