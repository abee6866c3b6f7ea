/* Instruction sets: which one a word means on which machine; results that must not depend on them.
 */
#include "tests/support.h"
#include "kernels/cpu_sets.h"
#include "kernels/kernels.h"
#include "kernels/rng.h"

#include <stdio.h>

/* The file compiled again, for its products by name. */
#define search_new again_search_new
#define search_add again_search_add
#define search_finish again_search_finish
#define search_top_scores again_search_top_scores
#include "eval/search.c"

static CpuSet found(const char *word, CpuSet best) {
    CpuSet set = CPU_SETS;
    Error err;
    if (!cpu_set_find(&set, word, best, &err)) fail_msg("%s", err.text);
    return set;
}
static void refuses(const char *word, CpuSet best, const char *line) {
    CpuSet set = CPU_SETS;
    Error err;
    assert_false(cpu_set_find(&set, word, best, &err));
    assert_string_equal(err.text, line);
    assert_int_equal(set, CPU_SETS);
}

static void test_words(void **state) {
    (void)state;
    for (int best = 0; best < CPU_SETS; best++) {
        assert_int_equal(found(NULL, (CpuSet)best), best);
        for (int set = 0; set <= best; set++)
            assert_int_equal(found(cpu_set_names[set], (CpuSet)best), set);
    }
#if defined __aarch64__
    refuses("v4", CPU_NEON, "CLIPC_CPU=v4 is no instruction set: this machine has neon");
#else
    refuses("v4", CPU_V3, "CLIPC_CPU=v4: this machine lacks it and has v3");
    refuses("amx", CPU_V4BF16, "CLIPC_CPU=amx: this machine lacks it and has v3, v4, v4bf16");
    refuses("v", CPU_AMX,
            "CLIPC_CPU=v is no instruction set: this machine has v3, v4, v4bf16, amx");
#endif
}

static void test_this_machine(void **state) {
    (void)state;
    if (cpu_set_named())
        assert_true(cpu_set() <= cpu_set_best());
    else
        assert_int_equal(cpu_set(), cpu_set_best());
    const Kernels *k = kernels_open("cpu", PRECISION_FP32);
    char title[64];
    snprintf(title, sizeof title, "cpu-fp32 (%s)", cpu_set_names[cpu_set()]);
    assert_string_equal(kernels_title(k), title);
    assert_int_equal(kernels_precision(DEVICE_CPU, PRECISION_AUTO),
                     cpu_set_bf16(cpu_set()) ? PRECISION_AMP_BF16 : PRECISION_FP32);
}

#if !defined __aarch64__
/* Scores of AVX2 and of AVX-512, bit for bit. */
static void test_search_is_the_same(void **state) {
    (void)state;
    if (cpu_set_best() < CPU_V4) skip();
    enum { STRIDE = 40 * LANES };
    static float rows[AT_ONCE * STRIDE], queries[TOGETHER * STRIDE];
    for (size_t i = 0; i < COUNT(rows); i++) rows[i] = (float)rng_uniform(7, RNG_TEST, i) - 0.5f;
    for (size_t i = 0; i < COUNT(queries); i++)
        queries[i] = (float)rng_uniform(8, RNG_TEST, i) - 0.5f;
    for (size_t stride = LANES; stride <= STRIDE; stride += LANES) {
        float a[AT_ONCE][TOGETHER], b[AT_ONCE][TOGETHER];
        wide.run(a, rows, queries, stride);
        for (size_t q = 0; q < TOGETHER; q += narrow.queries) {
            narrow.run(b, rows, queries + q * stride, stride);
            for (size_t i = 0; i < AT_ONCE; i++)
                assert_memory_equal(a[i] + q, b[i], narrow.queries * sizeof(float));
        }
    }
}

#endif

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_words),
        cmocka_unit_test(test_this_machine),
#if !defined __aarch64__
        cmocka_unit_test(test_search_is_the_same),
#endif
    };
    return cmocka_run_group_tests_name("cpu_sets", tests, NULL, NULL);
}
