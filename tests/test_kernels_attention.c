/* attention: self-attention of packed sequences and the pooled form. */
#include "tests/support_kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_B = 12 };

/* Packed sequences. */
typedef struct Pack {
    size_t B, rows, max_T;
    int32_t start[MAX_B + 1];
} Pack;

static Pack pack_of(size_t B, const size_t *lengths) {
    Pack p = {.B = B};
    assert(B <= MAX_B);
    for (size_t b = 0; b < B; b++) {
        p.rows += lengths[b];
        p.max_T = size_max(p.max_T, lengths[b]);
        p.start[b + 1] = (int32_t)p.rows;
    }
    return p;
}

static const size_t widths[] = {16, 24, 64, 72, 80, 88, 96, 104, 112, 128};
static const size_t lengths[] = {1, 2, 7, 16, 50, 77, 197};

/* Inputs of scale `scale` give scores of about scale²·√D/3 · a normal value. */
typedef struct Shape {
    Pack pack;
    size_t H, D;
    bool causal;
    double scale;
} Shape;

/* A score of size s has the error s·eps_acc, and its exponential that error relative to itself. */
static double score_terms(const Shape *s) {
    double score = s->scale * s->scale * sqrt((double)s->D) / 3;
    return (double)s->pack.max_T * fmax(1, score * score);
}

/* dS·k and dS·q, with dP about √D·scale, before the probabilities make them smaller. */
static double term_size(const Shape *s) { return 0.3 * s->scale * s->scale; }

static void compare_attention(const Shape *s) {
    Pack p = s->pack;
    size_t C = s->H * s->D, elements = p.rows * C;
    double terms = score_terms(s);
    Buf *o = act_out(elements), *lse = acc_out(s->H * p.rows);
    Buf *qkv = act_in(3 * elements, s->scale), *start = i32_in(p.B + 1, p.start);
    RUN(attention_fwd, A(o), F(lse), A(qkv), P(start), p.B, p.rows, p.max_T, s->H, s->D, s->causal);
    o->size = 0.3 * s->scale;
    check(o, 2, terms); /* the probabilities may be rounded to act before they meet V */
    check(lse, 1, terms);

    becomes_input(o);
    becomes_input(lse);
    Buf *dqkv = act_out(3 * elements), *dout = act_in(elements, 1);
    RUN(attention_bwd, A(dqkv), A(dout), A(o), F(lse), A(qkv), P(start), p.B, p.rows, p.max_T, s->H,
        s->D, s->causal);
    dqkv->size = term_size(s);
    check(dqkv, 3, terms); /* P and dS may be rounded to act before their products */
    bufs_free();
}

static void attention_head_widths(void **state) {
    (void)state;
    for (size_t d = 0; d < COUNT(widths); d++)
        for (int causal = 0; causal < 2; causal++) {
            Shape s = {pack_of(5, lengths), d == 2 ? 3 : 1, widths[d], causal, 1};
            compare_attention(&s);
        }
}

static void attention_equal_lengths(void **state) {
    (void)state;
    for (size_t t = 0; t < COUNT(lengths); t++)
        for (int causal = 0; causal < 2; causal++) {
            size_t equal[] = {lengths[t], lengths[t], lengths[t]};
            Shape s = {pack_of(lengths[t] > 50 ? 1 : 3, equal), 2, 64, causal, 1};
            compare_attention(&s);
        }
}

static void attention_mixed_lengths(void **state) {
    (void)state;
    static const size_t mixed[] = {77, 1, 16, 2, 197, 7, 1, 50};
    for (int i = 0; i < 4; i++) {
        Shape s = {pack_of(COUNT(mixed), mixed), 2, i < 2 ? 80 : 56, i % 2, 1};
        compare_attention(&s);
    }
}

static void attention_random_packs(void **state) {
    (void)state;
    for (int i = 0; i < 12; i++) {
        size_t B = test_random_below(MAX_B + 1), some[MAX_B];
        for (size_t b = 0; b < B; b++) some[b] = 1 + test_random_below(40);
        Shape s = {pack_of(B, some), 1 + test_random_below(5), 8 * (1 + test_random_below(8)),
                   i % 2, 1};
        compare_attention(&s);
    }
}

/* ---- every width on every path ---- */

/* The instances of attention's kernels: on tensor cores by steps of 16 elements (and by twice the
 * rows for long sequences of heads from 49 to 64; the forward by its tiles of keys too), else by
 * widths up to 32, 64 and 128. */
#define BY_STEPS(name, end)                                                                        \
    name "<1" end, name "<2" end, name "<3" end, name "<4" end, name "<5" end, name "<6" end,      \
        name "<7" end
static const char *const instances[] = {
    BY_STEPS("mma_fwd", ",1,1>"),
    "mma_fwd<8,1,1>",
    BY_STEPS("mma_fwd", ",1,2>"),
    "mma_fwd<8,1,2>",
    "mma_fwd<4,2,2>",
    BY_STEPS("mma_bwd_query", ",1>"),
    "mma_bwd_query<8,1>",
    "mma_bwd_query<4,2>",
    BY_STEPS("mma_bwd_key", ",1>"),
    "mma_bwd_key<8,1>",
    "mma_bwd_key<4,2>",
    BY_STEPS("mma_bwd_both", ">"),
    "plain_fwd<8>",
    "plain_fwd<16>",
    "plain_fwd<32>",
    "plain_bwd_query<8>",
    "plain_bwd_query<16>",
    "plain_bwd_query<32>",
    "plain_bwd_key<8>",
    "plain_bwd_key<16>",
    "plain_bwd_key<32>",
};

/* Of the layer without a GPU (tests/cuda_on_cpu/runtime.h); absent on a GPU and a CPU. */
const char *cudaemuKernel(int index, unsigned long *launches) __attribute__((weak));
static void count_launches(unsigned long counts[COUNT(instances)]) {
    unsigned long launches;
    const char *name;
    memset(counts, 0, COUNT(instances) * sizeof *counts);
    for (int k = 0; cudaemuKernel && (name = cudaemuKernel(k, &launches)); k++) {
        size_t i = 0;
        while (i < COUNT(instances) && strcmp(instances[i], name)) i++;
        if (i < COUNT(instances))
            counts[i] += launches;
        else if (!strncmp(name, "mma_", 4) || !strncmp(name, "plain_", 6))
            fail_msg("%s is not in the table of instances", name);
    }
}

/* A mean length below 33 makes sequences share tiles. */
static void attention_every_path(void **state) {
    (void)state;
    static const size_t equal[] = {33, 50, 64, 65, 100, 197};
    unsigned long before[COUNT(instances)], after[COUNT(instances)];
    count_launches(before);
    /* f32 has only tiles of 32 rows, without paths by length */
    size_t apart = backend->act_size == 2 ? 1 : 3;
    for (size_t d = 16; d <= 128; d += 16)
        for (size_t t = 0; t < COUNT(equal); t += apart)
            for (int how = 0; how < 4; how++) {
                size_t some[MAX_B] = {equal[t]}, B = 1;
                while (how / 2 && equal[t] + B - 1 >= 33 * B) some[B++] = 1;
                Shape s = {pack_of(B, some), 1, d, how % 2, 1};
                compare_attention(&s);
            }
    count_launches(after);
    for (size_t i = 0; cudaemuKernel && i < COUNT(instances); i++)
        if (after[i] == before[i] && (backend->act_size == 2 || instances[i][0] == 'p'))
            fail_msg("%s was never launched", instances[i]);
}

/* Scores of hundreds: a softmax that does not subtract the maximum overflows. */
static void attention_large_scores(void **state) {
    (void)state;
    for (int causal = 0; causal < 2; causal++) {
        Shape s = {pack_of(5, lengths), 2, 64, causal, 8};
        compare_attention(&s);
    }
}

static void compare_pool(const Shape *s) {
    Pack p = s->pack;
    size_t C = s->H * s->D;
    double terms = score_terms(s);
    Buf *o = act_out(p.B * C), *lse = acc_out(s->H * p.B);
    Buf *q = act_in(p.B * C, s->scale), *kv = act_in(p.rows * 2 * C, s->scale);
    Buf *start = i32_in(p.B + 1, p.start);
    RUN(attention_pool_fwd, A(o), F(lse), A(q), A(kv), P(start), p.B, p.rows, s->H, s->D);
    o->size = 0.3 * s->scale;
    check(o, 2, terms);
    lse->size = 1; /* of the two terms that it is the sum of */
    check(lse, 1, terms);

    becomes_input(o);
    becomes_input(lse);
    Buf *dq = act_out(p.B * C), *dkv = act_out(p.rows * 2 * C), *dout = act_in(p.B * C, 1);
    RUN(attention_pool_bwd, A(dq), A(dkv), A(dout), A(o), F(lse), A(q), A(kv), P(start), p.B,
        p.rows, s->H, s->D);
    dq->size = dkv->size = term_size(s);
    check(dkv, 3, terms);
    check(dq, 3, terms);
    bufs_free();
}

static void attention_pool(void **state) {
    (void)state;
    for (size_t d = 0; d < COUNT(widths); d++) {
        Shape s = {pack_of(COUNT(lengths), lengths), 1 + d % 3, widths[d], false, 1};
        compare_pool(&s);
    }
    for (size_t t = 0; t < COUNT(lengths); t++) {
        Shape s = {pack_of(1, &lengths[t]), 2, 64, false, t == 3 ? 8 : 1};
        compare_pool(&s);
    }
    Shape none = {pack_of(0, lengths), 2, 64, false, 1};
    compare_pool(&none);
}

/* ---- ref ---- */

enum { H = 2, D = 3, C = H * D };
static const size_t few[] = {1, 4, 3};

typedef struct Attention {
    Pack pack;
    bool causal, pool;
    double *q, *kv; /* qkv in kv unless pool */
    double *r;      /* loss = Σ r·o */
    double *o, *lse;
} Attention;

static double attention_loss(void *ctx) {
    const Attention *a = ctx;
    const Pack *p = &a->pack;
    if (a->pool)
        ref->attention_pool_fwd((act *)a->o, (acc *)a->lse, (act *)a->q, (act *)a->kv, p->start,
                                p->B, p->rows, H, D);
    else
        ref->attention_fwd((act *)a->o, (acc *)a->lse, (act *)a->kv, p->start, p->B, p->rows,
                           p->max_T, H, D, a->causal);
    return test_dot(a->r, a->o, (a->pool ? p->B : p->rows) * C);
}

static void check_gradients(bool pool, bool causal) {
    Attention a = {pack_of(COUNT(few), few), causal, pool, NULL, NULL, NULL, NULL, NULL};
    const Pack *p = &a.pack;
    size_t kv_size = p->rows * (pool ? 2 : 3) * C, q_size = p->B * C;
    a.q = test_randoms(q_size);
    a.kv = test_randoms(kv_size);
    a.r = test_randoms(p->rows * C);
    a.o = test_randoms(p->rows * C);
    a.lse = test_randoms(H * p->rows);
    double *dq = test_randoms(q_size), *dkv = test_randoms(kv_size);
    attention_loss(&a);
    if (pool)
        ref->attention_pool_bwd((act *)dq, (act *)dkv, (act *)a.r, (act *)a.o, (acc *)a.lse,
                                (act *)a.q, (act *)a.kv, p->start, p->B, p->rows, H, D);
    else
        ref->attention_bwd((act *)dkv, (act *)a.r, (act *)a.o, (acc *)a.lse, (act *)a.kv, p->start,
                           p->B, p->rows, p->max_T, H, D, causal);
    assert_gradient(attention_loss, &a, a.kv, dkv, kv_size);
    if (pool) assert_gradient(attention_loss, &a, a.q, dq, q_size);
    double *all[] = {a.q, a.kv, a.r, a.o, a.lse, dq, dkv};
    for (size_t i = 0; i < COUNT(all); i++) free(all[i]);
}

static void gradients_of_ref(void **state) {
    (void)state;
    check_gradients(false, false);
    check_gradients(false, true);
    check_gradients(true, false);
}

/* Two keys and values by hand: scores 2·ln 3/√1 and 0, so weights 9/10 and 1/10. */
static void ref_by_hand(void **state) {
    (void)state;
    double qkv[2][3] = {{2, log(3), 10}, {1, 0, 20}}, o[2], lse[2];
    const int32_t start[] = {0, 2};
    ref->attention_fwd((act *)o, (acc *)lse, (act *)qkv, start, 1, 2, 2, 1, 1, false);
    assert_near(o[0], 11, 1e-12);
    assert_near(lse[0], log(10), 1e-12);
    assert_near(o[1], 12.5, 1e-12); /* weights 3/4 and 1/4 */
    ref->attention_fwd((act *)o, (acc *)lse, (act *)qkv, start, 1, 2, 2, 1, 1, true);
    assert_near(o[0], 10, 1e-12);
    assert_near(o[1], 12.5, 1e-12);
    qkv[1][0] = 1e4; /* its exponential alone would overflow */
    ref->attention_fwd((act *)o, (acc *)lse, (act *)qkv, start, 1, 2, 2, 1, 1, false);
    assert_near(o[1], 10, 1e-12);
    assert_near(lse[1], 1e4 * log(3), 1e-10);
}

/* The pooled form is the row of self-attention whose query it has. */
static void ref_pool_is_a_row(void **state) {
    (void)state;
    Pack p = pack_of(COUNT(few), few);
    double *qkv = test_randoms(p.rows * 3 * C), *kv = test_randoms(p.rows * 2 * C);
    double *q = test_randoms(p.B * C), *o = test_randoms(p.rows * C), *op = test_randoms(p.B * C);
    double *lse = test_randoms(H * p.rows), *lse_pool = test_randoms(H * p.B);
    for (size_t row = 0; row < p.rows; row++)
        for (size_t c = 0; c < 2 * C; c++) kv[row * 2 * C + c] = qkv[row * 3 * C + C + c];
    for (size_t b = 0; b < p.B; b++)
        for (size_t c = 0; c < C; c++) q[b * C + c] = qkv[((size_t)p.start[b + 1] - 1) * 3 * C + c];
    ref->attention_fwd((act *)o, (acc *)lse, (act *)qkv, p.start, p.B, p.rows, p.max_T, H, D, true);
    ref->attention_pool_fwd((act *)op, (acc *)lse_pool, (act *)q, (act *)kv, p.start, p.B, p.rows,
                            H, D);
    for (size_t b = 0; b < p.B; b++) {
        size_t last = (size_t)p.start[b + 1] - 1;
        for (size_t c = 0; c < C; c++) assert_near(op[b * C + c], o[last * C + c], 1e-15);
        for (size_t h = 0; h < H; h++)
            assert_near(lse_pool[h * p.B + b], lse[h * p.rows + last], 1e-15);
    }
    double *all[] = {qkv, kv, q, o, op, lse, lse_pool};
    for (size_t i = 0; i < COUNT(all); i++) free(all[i]);
}

int main(void) {
    const struct CMUnitTest each[] = {
        cmocka_unit_test(attention_head_widths),   cmocka_unit_test(attention_equal_lengths),
        cmocka_unit_test(attention_mixed_lengths), cmocka_unit_test(attention_random_packs),
        cmocka_unit_test(attention_large_scores),  cmocka_unit_test(attention_pool),
        cmocka_unit_test(attention_every_path),
    };
    const struct CMUnitTest once[] = {
        cmocka_unit_test(gradients_of_ref),
        cmocka_unit_test(ref_by_hand),
        cmocka_unit_test(ref_pool_is_a_row),
    };
    return kernel_tests_run("kernels_attention", each, COUNT(each), once, COUNT(once));
}
