/* embed: pixels to patches, class and position vectors, token vectors. */
#include "tests/support_kernels.h"

#include <math.h>
#include <stdlib.h>

static const float mean[3] = {0.48145466f, 0.4578275f, 0.40821073f};
static const float std[3] = {0.26862954f, 0.26130258f, 0.27577711f};

/* B, S, P, patches kept (0: all, without an array `keep`) */
static const size_t images[][4] = {{0, 8, 4, 0},   {1, 1, 1, 0},   {1, 8, 8, 0},    {2, 6, 3, 0},
                                   {3, 8, 4, 2},   {2, 28, 14, 3}, {5, 21, 7, 1},   {2, 32, 16, 4},
                                   {2, 64, 32, 0}, {3, 40, 8, 13}, {1, 224, 16, 98}};

typedef struct Patches {
    size_t B, S, P, grid, n; /* grid: positions of an image; n: those that each sample keeps */
    int32_t *keep;           /* NULL: all */
} Patches;

/* Each sample keeps different positions, in random order. */
static Patches patches_of(const size_t image[4]) {
    Patches p = {.B = image[0], .S = image[1], .P = image[2], .n = image[3]};
    p.grid = (p.S / p.P) * (p.S / p.P);
    if (!p.n) {
        p.n = p.grid;
        return p;
    }
    p.keep = xmalloc(p.B * p.n * sizeof *p.keep);
    int32_t *all = xmalloc(p.grid * sizeof *all);
    for (size_t b = 0; b < p.B; b++) {
        for (size_t i = 0; i < p.grid; i++) all[i] = (int32_t)i;
        for (size_t i = 0; i < p.n; i++) {
            size_t j = i + test_random_below(p.grid - i);
            p.keep[b * p.n + i] = all[j];
            all[j] = all[i];
        }
    }
    free(all);
    return p;
}

static Buf *keep_in(const Patches *p) { return p->keep ? i32_in(p->B * p->n, p->keep) : NULL; }

static void patches_u8(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(images); i++) {
        Patches p = patches_of(images[i]);
        Buf *y = act_out(p.B * p.n * 3 * p.P * p.P), *x = u8_in(p.B * p.S * p.S * 3);
        Buf *keep = keep_in(&p);
        RUN(patches_u8, A(y), P(x), P(keep), mean, std, p.B, p.S, p.P, p.n);
        y->size = 1;
        check(y, 2, 1);
        bufs_free();
        free(p.keep);
    }
}

static void image_embed(void **state) {
    (void)state;
    static const size_t widths[] = {1, 7, 16, 33, 100};
    for (size_t i = 0; i < 2 * COUNT(images); i++) {
        Patches p = patches_of(images[i / 2]);
        size_t first = i % 2; /* with a class token */
        size_t C = widths[i / 2 % COUNT(widths)], tokens = p.B * p.n * C;
        size_t rows = p.B * (first + p.n) * C;
        Buf *x = act_out(rows), *tok = act_in(tokens, 1), *keep = keep_in(&p);
        Buf *cls = first ? acc_in(C, 1) : NULL, *pos = acc_in((first + p.grid) * C, 1);
        RUN(image_embed_fwd, A(x), A(tok), F(cls), F(pos), P(keep), p.B, p.n, C);
        check(x, 1, 1);
        bufs_free();

        Buf *dtok = act_out(tokens), *dx = act_in(rows, 1);
        Buf *dcls = first ? acc_inout(C, 1) : NULL, *dpos = acc_inout((first + p.grid) * C, 1);
        keep = keep_in(&p);
        RUN(image_embed_bwd, A(dtok), F(dcls), F(dpos), A(dx), P(keep), p.B, p.n, C);
        check_exact(dtok);
        if (dcls) check(dcls, 1, p.B);
        check(dpos, 1, p.B);
        bufs_free();
        free(p.keep);
    }
}

/* Whole batches and parts of them; grids larger and smaller than the table, and as large, whose
 * weights are exactly those of a copy. */
static void grid_weights(void **state) {
    (void)state;
    static const struct {
        size_t side, B, first, n;
        int32_t grid[6][2];
    } cases[] = {
        {4, 0, 0, 0, {{0}}},
        {1, 2, 0, 7, {{1, 1}, {2, 3}}},
        {4, 1, 0, 16, {{4, 4}}},
        {4, 3, 0, 33, {{2, 7}, {3, 1}, {4, 4}}},
        {4, 3, 13, 12, {{2, 7}, {3, 1}, {4, 4}}},
        {16, 5, 0, 613, {{16, 16}, {1, 200}, {50, 2}, {7, 7}, {2, 4}}},
        {7, 6, 3, 40, {{1, 1}, {1, 40}, {40, 1}, {8, 8}, {6, 9}, {3, 3}}},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        size_t B = cases[i].B, side = cases[i].side, n = cases[i].n, cells = side * side;
        int32_t start[7] = {0};
        for (size_t b = 0; b < B; b++)
            start[b + 1] = start[b] + cases[i].grid[b][0] * cases[i].grid[b][1];
        Buf *w = acc_out(n * cells), *first = i32_in(B + 1, start),
            *grid = i32_in(2 * B, cases[i].grid[0]);
        RUN(grid_weights, F(w), P(first), P(grid), B, cases[i].first, n, side);
        check(w, 1, 1);
        bufs_free();
    }
    double own[16 * 16];
    const int32_t start[] = {0, 16}, grid[] = {4, 4};
    ref->grid_weights((acc *)own, start, grid, 1, 0, 16, 4);
    for (size_t i = 0; i < 16 * 16; i++) assert_true(own[i] == (i / 16 == i % 16));
}

/* Heads turned at the start of a row, and the rest of the row. */
static void rotate_heads(void **state) {
    (void)state;
    static const size_t shapes[][3] = {{1, 2, 0}, {3, 6, 5}, {2, 16, 16}, {1, 80, 3}, {4, 64, 128}};
    for (size_t i = 0; i < 4 * COUNT(images); i++) {
        Patches p = patches_of(images[i / 4]);
        const size_t *shape = shapes[i / 4 % COUNT(shapes)];
        size_t first = i % 2, heads = shape[0], D = shape[1], ld = heads * D + shape[2];
        bool back = i / 2 % 2;
        Buf *x = act_inout(p.B * (first + p.n) * ld, 1), *turns = acc_in(p.grid * 2 * D, 1);
        Buf *keep = keep_in(&p);
        RUN(rotate_heads, A(x), F(turns), P(keep), p.B, first, p.n, ld, heads, D, back);
        check(x, 2, 1);
        bufs_free();
        free(p.keep);
    }
}

/* Lengths of B sequences, V words, C channels. Few words: many rows add to the same gradient. */
typedef struct Text {
    size_t B, V, C, lengths[6];
} Text;
static const Text texts[] = {
    {0, 3, 4, {0}},
    {1, 1, 1, {1}},
    {1, 5, 7, {16}},
    {3, 2, 16, {1, 2, 7}},
    {6, 50, 33, {77, 1, 16, 2, 50, 7}},
    {6, 3, 64, {77, 77, 77, 77, 77, 77}},
    {2, 1000, 100, {9, 30}},
    {2, 70000, 3, {4500, 4300}},
};

static void text_embed(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(texts); i++) {
        const Text *t = &texts[i];
        int32_t first[7] = {0};
        size_t context = 1;
        for (size_t b = 0; b < t->B; b++) {
            first[b + 1] = first[b] + (int32_t)t->lengths[b];
            context = size_max(context, t->lengths[b]);
        }
        size_t rows = (size_t)first[t->B];
        int32_t *ids = xmalloc(rows * sizeof *ids);
        for (size_t r = 0; r < rows; r++) ids[r] = (int32_t)test_random_below(t->V);

        Buf *x = act_out(rows * t->C), *id = i32_in(rows, ids), *start = i32_in(t->B + 1, first);
        Buf *table = acc_in(t->V * t->C, 1), *pos = acc_in(context * t->C, 1);
        RUN(text_embed_fwd, A(x), P(id), P(start), F(table), F(pos), t->B, rows, t->C);
        check(x, 1, 1);
        bufs_free();

        Buf *dtable = acc_inout(t->V * t->C, 1), *dpos = acc_inout(context * t->C, 1);
        Buf *dx = act_in(rows * t->C, 1);
        id = i32_in(rows, ids);
        start = i32_in(t->B + 1, first);
        RUN(text_embed_bwd, F(dtable), F(dpos), A(dx), P(id), P(start), t->B, rows, t->C);
        check(dtable, 1, rows);
        check(dpos, 1, t->B);
        bufs_free();
        free(ids);
    }
}

/* ---- ref ---- */

/* 4 × 4 pixels in patches of 2 × 2: patch 1 is the upper right quarter. */
static void ref_patches_by_hand(void **state) {
    (void)state;
    uint8_t pixels[4][4][3];
    const float shift[3] = {0, 64.0f / 255, 0}, unit[3] = {1.0f / 255, 1.0f / 255, 2.0f / 255};
    for (int y = 0; y < 4; y++)
        for (int x = 0; x < 4; x++)
            for (int c = 0; c < 3; c++) pixels[y][x][c] = (uint8_t)(64 * c + 4 * y + x);
    const int32_t keep[2] = {1, 2};
    const double want[2][3][4] = {{{2, 3, 6, 7}, {66, 67, 70, 71}, {130, 131, 134, 135}},
                                  {{8, 9, 12, 13}, {72, 73, 76, 77}, {136, 137, 140, 141}}};
    double got[2][3][4];
    ref->patches_u8((act *)got, &pixels[0][0][0], keep, shift, unit, 1, 4, 2, 2);
    for (int i = 0; i < 2; i++)
        for (int c = 0; c < 3; c++)
            for (int j = 0; j < 4; j++)
                assert_near(got[i][c][j], (want[i][c][j] - (c == 1 ? 64 : 0)) / (c == 2 ? 2 : 1),
                            1e-4);
}

enum { B = 2, GRID = 4, KEPT = 2, C = 3, V = 4, ROWS = 5 };
static const int32_t kept[B * KEPT] = {3, 0, 3, 1}, words[ROWS] = {1, 3, 1, 1, 0};
static const int32_t starts[B + 1] = {0, 2, ROWS};

typedef struct Embedding {
    double tok[B * KEPT * C], cls[C], pos[(1 + GRID) * C], table[V * C];
    double x[B * (1 + KEPT) * C], r[B * (1 + KEPT) * C]; /* loss = Σ r·x */
} Embedding;

static double image_loss(void *ctx) {
    Embedding *e = ctx;
    ref->image_embed_fwd((act *)e->x, (act *)e->tok, (acc *)e->cls, (acc *)e->pos, kept, B, KEPT,
                         C);
    return test_dot(e->r, e->x, B * (1 + KEPT) * C);
}

/* Two heads of 2 elements in rows of 5, the angles of 4 positions. */
enum { HEADS = 2, D = 2, LD = HEADS * D + 1, TURNED = B * (1 + KEPT) * LD };
typedef struct Turned {
    double x[TURNED], y[TURNED], r[TURNED], turns[GRID * 2 * D];
} Turned;

static double turned_loss(void *ctx) {
    Turned *t = ctx;
    for (size_t i = 0; i < TURNED; i++) t->y[i] = t->x[i];
    ref->rotate_heads((act *)t->y, (acc *)t->turns, kept, B, 1, KEPT, LD, HEADS, D, false);
    return test_dot(t->r, t->y, TURNED);
}

/* The backward turns the gradient by the opposite angles. A quarter of a circle takes (x, y) to
 * (-y, x); the row of the class token and the element after the heads keep their values. */
static void turns_of_ref(void **state) {
    (void)state;
    Turned t;
    double dx[TURNED];
    for (size_t i = 0; i < TURNED; i++) t.x[i] = test_random(), t.r[i] = test_random();
    for (size_t p = 0; p < GRID; p++)
        for (size_t d = 0; d < D; d++) {
            double angle = (double)p * acos(0);
            t.turns[(p * 2 + 0) * D + d] = cos(angle);
            t.turns[(p * 2 + 1) * D + d] = d % 2 ? sin(angle) : -sin(angle);
        }
    turned_loss(&t);
    for (size_t row = 0; row < B * (1 + KEPT); row++) {
        size_t b = row / (1 + KEPT), i = row % (1 + KEPT);
        int quarters = i ? kept[b * KEPT + i - 1] : 0;
        for (size_t e = 0; e < LD; e++) {
            double want[2] = {t.x[row * LD + e], e < LD - 1 ? t.x[row * LD + (e ^ 1)] : 0};
            if (e % 2 == 0) want[1] = -want[1];
            if (e == LD - 1) want[1] = want[0];
            static const double sign[] = {1, 1, -1, -1};
            double turned = e == LD - 1 ? want[0] : sign[quarters] * want[quarters % 2];
            assert_near(t.y[row * LD + e], turned, 1e-15);
        }
    }
    for (size_t i = 0; i < TURNED; i++) dx[i] = t.r[i];
    ref->rotate_heads((act *)dx, (acc *)t.turns, kept, B, 1, KEPT, LD, HEADS, D, true);
    assert_gradient(turned_loss, &t, t.x, dx, TURNED);
}

static double text_loss(void *ctx) {
    Embedding *e = ctx;
    ref->text_embed_fwd((act *)e->x, words, starts, (acc *)e->table, (acc *)e->pos, B, ROWS, C);
    return test_dot(e->r, e->x, ROWS * C);
}

static void gradients_of_ref(void **state) {
    (void)state;
    Embedding e;
    for (size_t i = 0; i < sizeof e / sizeof(double); i++) ((double *)&e)[i] = test_random();
    double dtok[B * KEPT * C], dcls[C] = {0}, dpos[(1 + GRID) * C] = {0}, dtable[V * C] = {0};
    ref->image_embed_bwd((act *)dtok, (acc *)dcls, (acc *)dpos, (act *)e.r, kept, B, KEPT, C);
    assert_gradient(image_loss, &e, e.tok, dtok, B * KEPT * C);
    assert_gradient(image_loss, &e, e.cls, dcls, C);
    assert_gradient(image_loss, &e, e.pos, dpos, (1 + GRID) * C);
    for (size_t i = 0; i < (1 + GRID) * C; i++) dpos[i] = 0;
    ref->text_embed_bwd((acc *)dtable, (acc *)dpos, (act *)e.r, words, starts, B, ROWS, C);
    assert_gradient(text_loss, &e, e.table, dtable, V * C);
    assert_gradient(text_loss, &e, e.pos, dpos, (1 + GRID) * C);
}

int main(void) {
    const struct CMUnitTest each[] = {
        cmocka_unit_test(patches_u8),   cmocka_unit_test(image_embed),
        cmocka_unit_test(grid_weights), cmocka_unit_test(rotate_heads),
        cmocka_unit_test(text_embed),
    };
    const struct CMUnitTest once[] = {cmocka_unit_test(ref_patches_by_hand),
                                      cmocka_unit_test(turns_of_ref),
                                      cmocka_unit_test(gradients_of_ref)};
    return kernel_tests_run("kernels_embed", each, COUNT(each), once, COUNT(once));
}
