/* profile: counts of what kernels do: instructions by class, sectors of global memory, wavefronts
 * of shared memory. It counts and does not measure time. Enabled by CUDAEMU_PROFILE.
 *
 * Without it kernels are unchanged: counting replaces the functions of a kernel's instructions when
 * the kernel is decoded. */
#pragma once
#include "tests/cuda_on_cpu/ptx.h"

/* A warp instruction is counted once for any number of lanes, and not at all if its guard is false
 * in every lane. Classes are those of PTX: ptxas may expand an instruction (divisions, square
 * roots) or remove it (moves, address arithmetic). */
typedef enum Class {
    CLASS_LOAD,     /* of global memory */
    CLASS_STORE,    /* of global memory */
    CLASS_COPY,     /* cp.async */
    CLASS_SHARED,   /* ld and st of shared memory */
    CLASS_LDMATRIX, /* of four 8 x 8 tiles, or fewer */
    CLASS_MMA,
    CLASS_SPECIAL, /* ex2, lg2, rcp, rsqrt, sqrt, sin, cos, tanh and divisions of floats */
    CLASS_FLOAT,
    CLASS_INTEGER,
    CLASS_DIVISION, /* div and rem of integers */
    CLASS_CONVERT,
    CLASS_SHUFFLE, /* shuffles, votes, reductions over a warp */
    CLASS_BRANCH,
    CLASS_BARRIER, /* barriers, fences, commits and waits of copies */
    CLASS_ATOMIC,
    CLASS_OTHER, /* moves, parameters, local memory */
    CLASSES
} Class;

/* Requests of one kind. Global memory: a unit is a sector of 32 bytes that a request touches; the
 * minimum is the number of sectors that its distinct bytes could fill. Shared memory: a unit is a
 * wavefront, that is one access of 32 banks of 4 bytes. Lanes of 8 bytes are served in two halves
 * of a warp, of 16 bytes in four quarters (ldmatrix: a tile each); the minimum is one wavefront for
 * each. */
typedef struct Traffic {
    uint64_t requests, bytes, units, least;
} Traffic;

typedef struct Profile Profile;
/* Starts counting in a newly decoded kernel if CUDAEMU_PROFILE is set. */
void profile_decode(Kernel *k);
/* Around a launch of a kernel that has a profile. */
void profile_begin(Kernel *k, uint64_t blocks, uint64_t warps);
void profile_end(Kernel *k);
/* mma_fwd<4,2> of _Z7mma_fwdILi4ELi2EEvP3act…; other forms keep the mangled name. */
void profile_name(char *out, size_t size, const char *name);
/* A branch, barrier or exit, which have no function. */
void profile_control(const Warp *w, const Ins *i, uint32_t lanes);
