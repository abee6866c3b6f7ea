/* support_kernels: compares the slots of every backend with the backend ref. For
 * tests/test_kernels_*.c.
 *
 * A test allocates its arrays, runs a slot, checks its outputs and frees the arrays:
 *
 *     Buf *y = act_out(M * N), *x = act_in(M * K, 1), *w = act_in(N * K, 1);
 *     RUN(linear_fwd, A(y), A(x), A(w), NULL, M, N, K);
 *     check(y, 2, K);
 *     bufs_free();
 *
 * RUN calls the slot on ref, then on the backend under test: twice with each of 1, 2, 3 and 8
 * threads. Both start from the same values, rounded to the backend's element types. Each array on
 * the backend has guard bands around it, starts at an odd element for half of the runs, and is
 * filled with NaN if it is an output. RUN fails if a guard or an input was written or if the second
 * call gave other bits. bufs_free fails if an array was written and never checked. */
#pragma once
#include "kernels/kernels.h"
#include "tests/support.h"

#if defined TEST_CUDA
enum { THREAD_COUNTS = 2 }; /* a GPU does not see the host's threads: only both alignments */
#else
enum { THREAD_COUNTS = 4 };
#endif

typedef enum { BUF_ACT, BUF_ACC, BUF_I32, BUF_U8, BUF_BF16, BUF_RAW } BufType;
typedef enum { BUF_IN, BUF_OUT, BUF_INOUT } BufRole;
typedef struct Buf {
    BufType type;
    BufRole role;
    size_t n, bytes; /* elements; bytes on the backend */
    double *host;    /* [n] values at the start; may be changed until RUN */
    double size;  /* magnitude of the terms of its sums: errors are relative to it if all values are
                     smaller by chance; may be changed until a check */
    double *want; /* [n] ref's result */
    double *got[THREAD_COUNTS]; /* [n] the backend's results */
    void *ref, *block, *at;     /* ref's array; the backend's, with its guards; its first element */
    unsigned char *before, *after;
    const void *raw; /* [bytes] a BUF_RAW's content, never misaligned */
    bool checked;
} Buf;

/* The backend under test, and the definition. */
extern const Kernels *backend, *ref;

/* Inputs and in-out arrays (also sums that are added to) hold uniform values in [-scale, scale);
 * that is also the `size` of an in-out array; an output's is 0. */
Buf *act_in(size_t n, double scale);
Buf *act_out(size_t n);
Buf *act_inout(size_t n, double scale);
Buf *acc_in(size_t n, double scale);
Buf *acc_out(size_t n);
Buf *acc_inout(size_t n, double scale);
Buf *i32_in(size_t n, const int32_t *values);
Buf *u8_in(size_t n);
Buf *u8_out(size_t n);
/* bf16 for any act; exempt from checks, since it may differ in the last bit. */
Buf *bf16_inout(size_t n, double scale);
/* n bytes of the caller's structures, passed unchanged to the backends. */
Buf *raw_in(const void *content, size_t n);
/* One acc that holds `value`. */
Buf *acc_scalar(double value);
/* After RUN: makes an output an input of the next RUN, with ref's values. */
void becomes_input(Buf *b);
void bufs_free(void);

/* A fresh random value in [-1, 1), and in 0 … n-1. */
double test_random(void);
size_t test_random_below(size_t n);

/* The argument for the backend that RUN is calling; NULL for NULL. */
act *A(const Buf *b);
acc *F(const Buf *b);
void *P(const Buf *b);

#define RUN(slot, ...)                                                                             \
    do {                                                                                           \
        run_begin(#slot, __FILE__, __LINE__);                                                      \
        for (const Kernels *k_; (k_ = run_next());) k_->slot(__VA_ARGS__);                         \
    } while (0)
void run_begin(const char *slot, const char *file, int line);
const Kernels *run_next(void);

/* Largest error over the larger of size and the largest value <= factor · (eps + eps_acc·√terms):
 * eps that of the array's element type for its one rounding, eps_acc for a sum of `terms`; 2^-8 for
 * bf16, 2^-23 for f32. */
#define check(b, factor, terms) check_at(b, factor, terms, false, #b, __FILE__, __LINE__)
/* The same with the eps of act: for an acc array whose terms a backend may round to act in
 * between. */
#define check_as_act(b, factor, terms) check_at(b, factor, terms, true, #b, __FILE__, __LINE__)
/* Exactly ref's values. */
#define check_exact(b) check(b, 0, 0)
void check_at(Buf *b, double factor, double terms, bool as_act, const char *name, const char *file,
              int line);

/* grad[n] must be the derivative of f(ctx) by x[n]: central differences in float64. */
#define assert_gradient(f, ctx, x, grad, n)                                                        \
    test_gradient(f, ctx, x, grad, n, #x, __FILE__, __LINE__)
void test_gradient(double (*f)(void *), void *ctx, double *x, const double *grad, size_t n,
                   const char *name, const char *file, int line);
/* Host doubles to activations in device memory, and back. */
void test_act_set(const Kernels *k, act *dst, const double *host, size_t n);
void test_act_get(const Kernels *k, double *host, const act *src, size_t n);

/* n values of test_random; ref's own arrays are plain doubles: cast to act * or acc *. Free with
 * free(). */
double *test_randoms(size_t n);
/* Σ a·b. */
double test_dot(const double *a, const double *b, size_t n);

/* main of a kernel test: `each` runs once for each backend, `once` only once (tests of ref). */
int kernel_tests_run(const char *group, const struct CMUnitTest *each, size_t each_count,
                     const struct CMUnitTest *once, size_t once_count);
