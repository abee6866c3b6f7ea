/* support: helpers for every test: cmocka, the fixed seed, temporary files, near-comparison, death
 * tests. A failed helper fails the running cmocka test. */
#pragma once
#include "kernels/base.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

/* The fast backend under test: programs built with TEST_CUDA are linked with the backend cuda. */
#if defined TEST_CUDA
#define TEST_DEVICE "cuda"
#else
#define TEST_DEVICE "cpu"
#endif

/* The seed of every random value of the tests; $TEST_SEED replaces it. Printed at first use. */
uint64_t test_seed(void);

/* This program's folder under $TMPDIR (or /tmp): created at first use, removed at exit. */
const char *test_dir(void);
/* Path of `name` in that folder; the string stays valid for 16 further calls. */
const char *test_path(const char *name);
void test_write_file(const char *path, const void *bytes, size_t n);
/* The whole file followed by a 0 byte, which *n (may be NULL) does not count. Free with free(). */
char *test_read_file(const char *path, size_t *n);

/* $CLIPC (or build/clipc) with the backend under test. */
const char *test_program(void);
/* Runs it with these arguments, which a shell reads; it must end with exit code `want`. Returns its
 * output, both streams, malloc'd. */
char *test_clipc(int want, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* `text` must contain `needle`. */
void test_says(const char *text, const char *needle);

/* |got - want| <= tolerance, with both numbers in the message. */
#define assert_near(got, want, tolerance) test_near(got, want, tolerance, #got, __FILE__, __LINE__)
void test_near(double got, double want, double tolerance, const char *what, const char *file,
               int line);
/* Largest |got - want| over largest |want| (over 1 if all of want is 0); a NaN counts as
 * infinite. */
double test_error_max(const double *got, const double *want, size_t n);
/* ‖got - want‖₂ / ‖want‖₂, likewise. */
double test_error_l2(const double *got, const double *want, size_t n);

/* [n,E] of -1, 0 and 1, malloc'd: dot products are exact and tie often. */
float *test_tied_rows(size_t n, size_t E, uint64_t stream);
float test_dot_f32(const float *a, const float *b, size_t E);

/* If this process is root, drops the capability to write against file modes. */
void test_obey_modes(void);
/* From here on the system call fails in this process and those it starts; false if such a filter
 * cannot be set. Use it in child processes: it cannot be undone. */
bool test_deny(int call, int error);
/* The same if an argument (from 0) has one of these bits. */
bool test_deny_bits(int call, int argument, unsigned bits, int error);
/* Runs f(arg) in a child process: it must exit with `code` and its stderr must contain `needle`. */
void test_dies(void (*f)(void *), void *arg, int code, const char *needle);
/* Names in a folder that do not start with a dot, or (hidden) those that do. */
size_t test_entries(const char *folder, bool hidden);
