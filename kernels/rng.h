/* rng: a counter-based generator (Philox4x32-10): a value is a pure function of (seed, stream,
 * index), so it is the same on every backend, for every world size, thread count and order of
 * evaluation. */
#pragma once
#include <stddef.h>
#include <stdint.h>

/* Streams separate the uses of one seed; other parts of a draw's identity (epoch, sample, layer) go
 * into `index` or rng_mix. */
enum RngStream {
    RNG_INIT = 1,
    RNG_SHUFFLE_SHARDS,
    RNG_SHUFFLE_SAMPLES,
    RNG_AUGMENT,
    RNG_PATCH_DROPOUT,
    RNG_CAPTION,
    RNG_TEST,
    RNG_PROBE
};

/* Four 32-bit words of the block number `index` (Salmon et al., "Parallel random numbers: as easy
 * as 1, 2, 3", SC 2011). */
void rng_block(uint64_t seed, uint64_t stream, uint64_t index, uint32_t out[4]);
/* One 64-bit word. */
uint64_t rng_u64(uint64_t seed, uint64_t stream, uint64_t index);
/* Uniform in [0, 1), 53 bits. */
double rng_uniform(uint64_t seed, uint64_t stream, uint64_t index);
/* Standard normal (Box-Muller). */
double rng_normal(uint64_t seed, uint64_t stream, uint64_t index);
/* Uniform in [0, n), n > 0, without modulo bias that matters (128-bit multiply). */
uint64_t rng_below(uint64_t seed, uint64_t stream, uint64_t index, uint64_t n);
/* A new seed from two values, for draws that are identified by more than one number. */
uint64_t rng_mix(uint64_t a, uint64_t b);
/* Fills perm[0..n) with a random permutation (Fisher-Yates over the draws of (seed, stream)). */
void rng_permutation(uint64_t seed, uint64_t stream, uint64_t *perm, size_t n);
