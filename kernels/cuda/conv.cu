/* cuda/conv: convolutions as products whose left operand is gathered from the picture (implicit
 * GEMM, Chetlur et al. 2014): bf16 on the tensor cores, f32 by plain multiply-adds. A convolution
 * of one pixel with stride 1 is a product of rows, by blas.
 *
 * A block computes SIDE × SIDE results. Tiles of both operands are loaded into two buffers
 * alternately, in pieces of 16 bytes where channels and addresses allow, else element by element.
 * Columns of the gathered operand are (window's pixel, channel), so that a piece is channels of one
 * pixel. */
#include "kernels/cuda/blas.h"
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/ptx.cuh"

enum {
    SIDE = 64,
    THREADS = 128,
    PIECE = 16 / sizeof(elem), /* elements */
    DEPTH = 4 * PIECE,         /* of a tile, along the contraction */
    LD_DEEP = DEPTH + PIECE,   /* of tiles [SIDE, DEPTH]: rows start in different banks */
    LD_WIDE = SIDE + PIECE,    /* of tiles [DEPTH, SIDE] */
    LD_RESULT = SIDE + 4,
    ROWS_APART = THREADS / 4,
    PARTS = 2 * SIDE / ROWS_APART / 2 /* pieces of each operand that a thread loads */
};
static_assert(PARTS * THREADS * PIECE == SIDE * DEPTH, "a tile is loaded by all threads");
static_assert(sizeof(elem) * 4 * SIDE * LD_DEEP >= 4 * SIDE * LD_RESULT, "results fit");

/* The gathered operand: row m is a position of the result grid, column k a pixel of the window and
 * a channel. Forward: the grid is the windows', the source the picture. Backward: the grid is the
 * picture's, the source the windows' gradients. */
typedef struct Gather {
    const act *from;
    unsigned rows, K, C;   /* positions; side²·C; the source's channels */
    int H, W, stride, pad; /* of the source */
    Divisor area, width, channels, side, step;
    bool wide;
} Gather;

/* A position of the grid: the source's picture, and the source's pixel under the window's first. */
typedef struct Spot {
    int picture, row, col; /* picture < 0: past the end */
} Spot;

template <bool BACKWARD> __device__ static inline Spot spot_of(const Gather *g, unsigned m) {
    Spot s = {-1, 0, 0};
    if (m >= g->rows) return s;
    unsigned rest, col;
    s.picture = (int)divided(m, g->area, &rest);
    s.row = (int)divided(rest, g->width, &col);
    s.col = (int)col;
    if (BACKWARD) {
        s.row += g->pad, s.col += g->pad;
    } else {
        s.row = s.row * g->stride - g->pad, s.col = s.col * g->stride - g->pad;
    }
    return s;
}

/* The element of column k at a spot; NULL: the border. */
template <bool BACKWARD>
__device__ static inline const act *element_at(const Gather *g, Spot s, unsigned k) {
    unsigned c, right, down;
    if (s.picture < 0 || k >= g->K) return NULL;
    down = divided(divided(k, g->channels, &c), g->side, &right);
    int row = BACKWARD ? s.row - (int)down : s.row + (int)down;
    int col = BACKWARD ? s.col - (int)right : s.col + (int)right;
    if (row < 0 || col < 0) return NULL;
    if (BACKWARD && g->stride > 1) {
        unsigned odd_row, odd_col;
        row = (int)divided((unsigned)row, g->step, &odd_row);
        col = (int)divided((unsigned)col, g->step, &odd_col);
        if (odd_row || odd_col) return NULL;
    }
    if (row >= g->H || col >= g->W) return NULL;
    return g->from + ((size_t)(s.picture * g->H + row) * g->W + col) * g->C + c;
}

/* PIECE elements of columns k … of a spot to shared memory. */
template <bool BACKWARD>
__device__ static inline void gather_piece(elem *to, const Gather *g, Spot s, unsigned k) {
    if (g->wide) {
        const act *from = element_at<BACKWARD>(g, s, k);
        cp_async_16(to, from ? from : g->from, from != NULL);
        return;
    }
#pragma unroll 1
    for (int j = 0; j < PIECE; j++) {
        const act *from = element_at<BACKWARD>(g, s, k + j);
        to[j] = from ? from->v : act_from(0).v;
    }
}

/* PIECE elements of a row of a matrix, `valid` of them in it. */
__device__ static inline void matrix_piece(elem *to, const act *from, int valid, bool wide) {
    if (wide) {
        cp_async_16(to, from, valid > 0);
        return;
    }
#pragma unroll 1
    for (int j = 0; j < PIECE; j++) to[j] = j < valid ? from[j].v : act_from(0).v;
}

/* ---- a block's products ---- */

#if defined ACT_BF16
/* A warp has 32 × 32 results. */
typedef struct Results {
    float v[2][4][4];
} Results;
__device__ static inline int warp_row(void) { return threadIdx.x / WARP / 2 * 32; }
__device__ static inline int warp_col(void) { return threadIdx.x / WARP % 2 * 32; }

/* r += a bᵀ, a and b [SIDE, DEPTH]. */
__device__ static __forceinline__ void multiply_deep(Results *r, const elem *a, const elem *b) {
    int lane = threadIdx.x % WARP;
    a += (warp_row() + lane % 16) * LD_DEEP + lane / 16 * 8;
    b += (warp_col() + lane / 16 * 8 + lane % 8) * LD_DEEP + lane / 8 % 2 * 8;
#pragma unroll
    for (int k = 0; k < DEPTH; k += 16) {
        unsigned left[2][4], right[4];
#pragma unroll
        for (int i = 0; i < 2; i++) ldmatrix_x4(left[i], a + 16 * i * LD_DEEP + k);
#pragma unroll
        for (int j = 0; j < 2; j++) {
            ldmatrix_x4(right, b + 16 * j * LD_DEEP + k);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                mma_bf16(r->v[i][2 * j], left[i], right[0], right[1]);
                mma_bf16(r->v[i][2 * j + 1], left[i], right[2], right[3]);
            }
        }
    }
}
/* r += aᵀ b, a and b [DEPTH, SIDE]. */
__device__ static __forceinline__ void multiply_wide(Results *r, const elem *a, const elem *b) {
    int lane = threadIdx.x % WARP;
    a += (lane / 16 * 8 + lane % 8) * LD_WIDE + warp_row() + lane / 8 % 2 * 8;
    b += lane % 16 * LD_WIDE + warp_col() + lane / 16 * 8;
#pragma unroll
    for (int k = 0; k < DEPTH; k += 16) {
        unsigned left[2][4], right[4];
#pragma unroll
        for (int i = 0; i < 2; i++) ldmatrix_x4_trans(left[i], a + k * LD_WIDE + 16 * i);
#pragma unroll
        for (int j = 0; j < 2; j++) {
            ldmatrix_x4_trans(right, b + k * LD_WIDE + 16 * j);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                mma_bf16(r->v[i][2 * j], left[i], right[0], right[1]);
                mma_bf16(r->v[i][2 * j + 1], left[i], right[2], right[3]);
            }
        }
    }
}
__device__ static __forceinline__ void results_store(float *to, const Results *r) {
    int lane = threadIdx.x % WARP;
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                to[(warp_row() + 16 * i + lane / 4 + e / 2 * 8) * LD_RESULT + warp_col() + 8 * j +
                   lane % 4 * 2 + e % 2] = r->v[i][j][e];
}
#else
/* A thread has 8 × 4 results, rows THREADS / 16 apart and columns 16 apart. */
typedef struct Results {
    float v[8][4];
} Results;
template <bool DEEP>
__device__ static __forceinline__ void multiply(Results *r, const elem *a, const elem *b) {
    int row = threadIdx.x / 16, col = threadIdx.x % 16;
#pragma unroll 4
    for (int k = 0; k < DEPTH; k++) {
        float left[8], right[4];
#pragma unroll
        for (int i = 0; i < 8; i++)
            left[i] = DEEP ? a[(row + 8 * i) * LD_DEEP + k] : a[k * LD_WIDE + row + 8 * i];
#pragma unroll
        for (int j = 0; j < 4; j++)
            right[j] = DEEP ? b[(col + 16 * j) * LD_DEEP + k] : b[k * LD_WIDE + col + 16 * j];
#pragma unroll
        for (int i = 0; i < 8; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) r->v[i][j] += left[i] * right[j];
    }
}
#define multiply_deep multiply<true>
#define multiply_wide multiply<false>
__device__ static __forceinline__ void results_store(float *to, const Results *r) {
#pragma unroll
    for (int i = 0; i < 8; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
            to[(threadIdx.x / 16 + 8 * i) * LD_RESULT + threadIdx.x % 16 + 16 * j] = r->v[i][j];
}
#endif

/* ---- outputs and input gradients ---- */

/* y[rows,N] = gathered[rows,K] w[N,K]ᵀ; rows of w are ld elements apart and aligned. */
template <bool BACKWARD>
__global__ static void __launch_bounds__(THREADS)
    conv_rows(act *y, Gather g, const act *w, unsigned ld, unsigned N, bool wide_y) {
    __shared__ __align__(16) elem tiles[2][2][SIDE * LD_DEEP];
    unsigned first = blockIdx.x * SIDE, col = blockIdx.y * SIDE;
    unsigned piece = threadIdx.x % 4 * PIECE, own = threadIdx.x / 4;
    Spot spot[PARTS];
#pragma unroll
    for (int i = 0; i < PARTS; i++) spot[i] = spot_of<BACKWARD>(&g, first + own + ROWS_APART * i);
    Results r = {};
    auto load = [&](int turn, unsigned k) {
#pragma unroll
        for (int i = 0; i < PARTS; i++) {
            unsigned row = own + ROWS_APART * i, n = col + row;
            gather_piece<BACKWARD>(tiles[turn][0] + row * LD_DEEP + piece, &g, spot[i], k + piece);
            bool valid = n < N && k + piece < ld;
            matrix_piece(tiles[turn][1] + row * LD_DEEP + piece,
                         valid ? w + (size_t)n * ld + k + piece : w, valid ? PIECE : 0, true);
        }
        cp_async_commit();
    };
    load(0, 0);
    int turn = 0;
    for (unsigned k = 0; k < g.K; k += DEPTH, turn ^= 1) {
        if (k + DEPTH < g.K)
            load(turn ^ 1, k + DEPTH);
        else
            cp_async_commit();
        cp_async_wait<1>();
        __syncthreads();
        multiply_deep(&r, tiles[turn][0], tiles[turn][1]);
        __syncthreads();
    }
    float *result = (float *)tiles;
    results_store(result, &r);
    __syncthreads();
    for (int i = threadIdx.x; i < SIDE * SIDE / VW; i += THREADS) {
        unsigned row = i / (SIDE / VW), c = i % (SIDE / VW) * VW, m = first + row;
        if (m < g.rows && col + c < N)
            act_store(y + (size_t)m * N + col + c, result + row * LD_RESULT + c, N - col - c,
                      wide_y);
    }
}

/* packed[rows, ld]: column tap·depth + j of row i is w[i,j,tap], or, transposed, w[j,i,tap]; 0 past
 * the last. w is [N,C,taps]. */
__global__ static void pack_weights(act *packed, const act *w, size_t rows, size_t depth,
                                    size_t taps, size_t ld, bool transposed) {
    size_t i = thread_index(), row = i / ld, k = i % ld;
    if (row >= rows) return;
    size_t tap = k / depth, j = k % depth;
    act v = act_from(0);
    if (tap < taps) v = w[(transposed ? j * rows + row : row * depth + j) * taps + tap];
    packed[i] = v;
}

static Gather gather_of(const act *from, const Windows *w, size_t C, bool backward) {
    size_t h = windows_along(w->H, w), v = windows_along(w->W, w);
    size_t area = backward ? w->H * w->W : h * v;
    Gather g;
    assert(w->B * area < (size_t)1 << 31 && w->B * w->H * w->W < (size_t)1 << 31);
    g.from = from;
    g.rows = (unsigned)(w->B * area);
    g.C = (unsigned)C;
    g.K = (unsigned)(w->side * w->side * C);
    g.H = (int)(backward ? h : w->H);
    g.W = (int)(backward ? v : w->W);
    g.stride = (int)w->stride;
    g.pad = (int)w->pad;
    g.area = divisor_of(area);
    g.width = divisor_of(backward ? w->W : v);
    g.channels = divisor_of(C);
    g.side = divisor_of(w->side);
    g.step = divisor_of(w->stride);
    g.wide = C % PIECE == 0 && aligned16(from);
    return g;
}

static bool is_product(const Windows *g) { return g->side == 1 && g->stride == 1 && !g->pad; }

static double conv_flops(const Windows *g, size_t C, size_t N) {
    return 2.0 * (double)window_count(g) * (double)N * (double)(C * g->side * g->side);
}
static double conv_bytes(const Windows *g, size_t C, size_t N) {
    return (double)((window_pixels(g) * C + window_count(g) * N + C * N * g->side * g->side) *
                    sizeof(act));
}

/* Output channels `rows`, contraction over `depth` channels of each pixel. */
static void gathered_product(act *y, const act *from, const act *w, const Windows *window,
                             size_t rows, size_t depth, bool backward) {
    Gather g = gather_of(from, window, depth, backward);
    size_t ld = round_up(g.K, (size_t)PIECE);
    act *packed = (act *)device_scratch(SCRATCH_WEIGHTS, rows * ld * sizeof *packed);
    LAUNCH(pack_weights, div_up(rows * ld, (size_t)BLOCK), BLOCK, 0, packed, w, rows, depth,
           window->side * window->side, ld, backward);
    dim3 grid(launch_size(div_up((size_t)g.rows, (size_t)SIDE)),
              (unsigned)div_up(rows, (size_t)SIDE));
    bool wide = rows % VW == 0 && aligned16(y);
    if (backward)
        LAUNCH_GRID(conv_rows<true>, grid, THREADS, 0, y, g, packed, (unsigned)ld, (unsigned)rows,
                    wide);
    else
        LAUNCH_GRID(conv_rows<false>, grid, THREADS, 0, y, g, packed, (unsigned)ld, (unsigned)rows,
                    wide);
}

/* out[., rows] from in[., depth]; w is stored as [N,C,taps]. */
static void convolve(act *out, const act *in, const act *w, const Windows *g, size_t rows,
                     size_t depth, size_t C, bool backward) {
    size_t M = window_pixels(g);
    if (!M) return;
    Product p = {in, w,    NULL,  out,       M,     rows, depth,    depth,
                 C,  rows, false, !backward, false, TF32, ACT_TYPE, ACT_TYPE};
    if (is_product(g))
        blas_product(&p);
    else
        gathered_product(out, in, w, g, rows, depth, backward);
}

void FN(conv2d_fwd)(act *y, const act *x, const act *w, Windows g, size_t C, size_t N) {
    GPU_TIMER(conv2d_fwd, conv_flops(&g, C, N), conv_bytes(&g, C, N));
    convolve(y, x, w, &g, N, C, C, false);
}

void FN(conv2d_bwd_input)(act *dx, const act *dy, const act *w, Windows g, size_t C, size_t N) {
    GPU_TIMER(conv2d_bwd_input, conv_flops(&g, C, N), conv_bytes(&g, C, N));
    convolve(dx, dy, w, &g, C, N, C, true);
}

/* ---- weight gradients ---- */

/* parts[chunk, N, K] = dyᵀ gathered over the rows of chunk blockIdx.z. */
__global__ static void __launch_bounds__(THREADS)
    conv_weights(float *parts, const act *dy, Gather g, unsigned N, unsigned rows_chunk,
                 bool wide_dy) {
    __shared__ __align__(16) elem
        memory[4 * SIDE * LD_DEEP > 4 * DEPTH * LD_WIDE ? 4 * SIDE * LD_DEEP : 4 * DEPTH * LD_WIDE];
    constexpr int TILE = DEPTH * LD_WIDE, ACROSS = SIDE / PIECE, DOWN = THREADS / ACROSS;
    unsigned n = blockIdx.x * SIDE, col = blockIdx.y * SIDE;
    unsigned piece = threadIdx.x % ACROSS * PIECE, own = threadIdx.x / ACROSS;
    unsigned first = blockIdx.z * rows_chunk, end = min(g.rows, first + rows_chunk);
    Results r = {};
    auto load = [&](int turn, unsigned m0) {
        elem *left = memory + turn * 2 * TILE, *right = left + TILE;
#pragma unroll
        for (int i = 0; i < DEPTH / DOWN; i++) {
            unsigned row = own + DOWN * i, m = m0 + row;
            int valid = m < end && n + piece < N ? (int)(N - n - piece) : 0;
            matrix_piece(left + row * LD_WIDE + piece, valid ? dy + (size_t)m * N + n + piece : dy,
                         valid, wide_dy);
            Spot s = spot_of<false>(&g, m < end ? m : g.rows);
            gather_piece<false>(right + row * LD_WIDE + piece, &g, s, col + piece);
        }
        cp_async_commit();
    };
    load(0, first);
    int turn = 0;
    for (unsigned m = first; m < end; m += DEPTH, turn ^= 1) {
        if (m + DEPTH < end)
            load(turn ^ 1, m + DEPTH);
        else
            cp_async_commit();
        cp_async_wait<1>();
        __syncthreads();
        const elem *left = memory + turn * 2 * TILE;
        multiply_wide(&r, left, left + TILE);
        __syncthreads();
    }
    float *result = (float *)memory;
    results_store(result, &r);
    __syncthreads();
    for (int i = threadIdx.x; i < SIDE * SIDE; i += THREADS) {
        unsigned row = n + i / SIDE, k = col + i % SIDE;
        if (row < N && k < g.K)
            parts[((size_t)blockIdx.z * N + row) * g.K + k] =
                result[i / SIDE * LD_RESULT + i % SIDE];
    }
}

/* dw[N,C,taps] += the sums over the chunks of parts[chunks,N,taps,C]. */
__global__ static void add_weights(acc *dw, const float *parts, size_t chunks, size_t N, size_t C,
                                   size_t taps) {
    size_t i = thread_index(), size = N * C * taps;
    if (i >= size) return;
    size_t n = i / (taps * C), tap = i / C % taps, c = i % C;
    float sum = 0;
    for (size_t k = 0; k < chunks; k++) sum += parts[k * size + i];
    dw[(n * C + c) * taps + tap].v += sum;
}

void FN(conv2d_bwd_weight)(acc *dw, const act *dy, const act *x, Windows g, size_t C, size_t N) {
    GPU_TIMER(conv2d_bwd_weight, conv_flops(&g, C, N), conv_bytes(&g, C, N));
    size_t M = window_pixels(&g);
    if (!M) return;
    if (is_product(&g)) {
        Product p = {dy, x, NULL, dw,    N,    C,    M,        N,
                     C,  C, true, false, true, TF32, ACT_TYPE, CUDA_R_32F};
        blas_product(&p);
        return;
    }
    Gather gather = gather_of(x, &g, C, false);
    size_t across = div_up(N, (size_t)SIDE), along = div_up((size_t)gather.K, (size_t)SIDE);
    size_t wanted = div_up((size_t)device_multiprocessors() * 4, across * along);
    /* as many as any smaller number of rows has */
    size_t most = size_min(wanted, div_up((size_t)gather.rows, (size_t)256));
    size_t rows_chunk = round_up(div_up((size_t)gather.rows, most), (size_t)DEPTH);
    size_t chunks = div_up((size_t)gather.rows, rows_chunk);
    float *parts = (float *)device_scratch(SCRATCH_PARTIAL, most * N * gather.K * sizeof *parts);
    dim3 grid((unsigned)across, (unsigned)along, (unsigned)chunks);
    LAUNCH_GRID(conv_weights, grid, THREADS, 0, parts, dy, gather, (unsigned)N,
                (unsigned)rows_chunk, N % PIECE == 0 && aligned16(dy));
    LAUNCH(add_weights, div_up(N * gather.K, (size_t)BLOCK), BLOCK, 0, dw, parts, chunks, N, C,
           g.side * g.side);
}

/* ---- pools ---- (a thread an element) */

typedef struct Pool {
    unsigned n, H, W, h, w, side, stride, pad; /* elements; the picture; windows */
    Divisor C, along, down;                    /* of the thread's own grid */
} Pool;
/* Threads own windows, or pixels. */
static Pool pool_of(const Windows *g, size_t C, bool pixels) {
    size_t h = windows_along(g->H, g), w = windows_along(g->W, g);
    size_t n = (pixels ? window_pixels(g) : window_count(g)) * C;
    assert(n < (size_t)1 << 31 && window_pixels(g) * C < (size_t)1 << 31);
    Pool p = {(unsigned)n,
              (unsigned)g->H,
              (unsigned)g->W,
              (unsigned)h,
              (unsigned)w,
              (unsigned)g->side,
              (unsigned)g->stride,
              (unsigned)g->pad,
              divisor_of(C),
              divisor_of(pixels ? g->W : w),
              divisor_of(pixels ? g->H : h)};
    return p;
}
/* The element's channel, its place in the grid, and its picture. */
__device__ static inline void pool_place(const Pool *p, unsigned i, unsigned *c, unsigned *row,
                                         unsigned *col, unsigned *picture) {
    *picture = divided(divided(divided(i, p->C, c), p->along, col), p->down, row);
}
/* The windows first … last along a side that contain pixel `at`; there may be none: first > last.
 */
__device__ static inline void windows_of(const Pool *p, unsigned at, unsigned count, int *first,
                                         int *last) {
    int low = (int)(at + p->pad) - (int)p->side + 1;
    *first = low > 0 ? (low + (int)p->stride - 1) / (int)p->stride : 0;
    *last = min((int)count - 1, (int)((at + p->pad) / p->stride));
}

__global__ static void max_pool_fwd(act *y, uint8_t *from, const act *x, Pool p) {
    unsigned i = (unsigned)thread_index(), c, row, col, picture;
    if (i >= p.n) return;
    pool_place(&p, i, &c, &row, &col, &picture);
    float most = 0;
    int found = -1;
    for (unsigned r = 0; r < p.side; r++)
        for (unsigned s = 0; s < p.side; s++) {
            int down = (int)(row * p.stride + r) - (int)p.pad;
            int right = (int)(col * p.stride + s) - (int)p.pad;
            if (down < 0 || right < 0 || down >= (int)p.H || right >= (int)p.W) continue;
            float v =
                act_value(x[((size_t)(picture * p.H + down) * p.W + right) * p.C.divisor + c]);
            if (found >= 0 && !(v > most) && v == v) continue;
            most = v;
            found = (int)(r * p.side + s);
        }
    y[i] = act_from(most);
    from[i] = (uint8_t)found;
}

void FN(max_pool_fwd)(act *y, uint8_t *from, const act *x, Windows g, size_t C) {
    GPU_TIMER(max_pool_fwd, 0, (window_pixels(&g) + window_count(&g)) * C * sizeof(act));
    assert(g.side <= 16);
    Pool p = pool_of(&g, C, false);
    LAUNCH(max_pool_fwd, div_up((size_t)p.n, (size_t)BLOCK), BLOCK, 0, y, from, x, p);
}

__global__ static void max_pool_bwd(act *dx, const act *dy, const uint8_t *from, Pool p) {
    unsigned i = (unsigned)thread_index(), c, row, col, picture;
    if (i >= p.n) return;
    pool_place(&p, i, &c, &row, &col, &picture);
    int r0, r1, s0, s1;
    windows_of(&p, row, p.h, &r0, &r1);
    windows_of(&p, col, p.w, &s0, &s1);
    float sum = 0;
    for (int r = r0; r <= r1; r++)
        for (int s = s0; s <= s1; s++) {
            size_t at = ((size_t)(picture * p.h + r) * p.w + s) * p.C.divisor + c;
            unsigned tap = (row + p.pad - r * p.stride) * p.side + col + p.pad - s * p.stride;
            if (from[at] == tap) sum += act_value(dy[at]);
        }
    dx[i] = act_from(sum);
}

void FN(max_pool_bwd)(act *dx, const act *dy, const uint8_t *from, Windows g, size_t C) {
    GPU_TIMER(max_pool_bwd, 0, (window_pixels(&g) + window_count(&g)) * C * sizeof(act));
    Pool p = pool_of(&g, C, true);
    LAUNCH(max_pool_bwd, div_up((size_t)p.n, (size_t)BLOCK), BLOCK, 0, dx, dy, from, p);
}

__global__ static void avg_pool_fwd(act *y, const act *x, Pool p, float share) {
    unsigned i = (unsigned)thread_index(), c, row, col, picture;
    if (i >= p.n) return;
    pool_place(&p, i, &c, &row, &col, &picture);
    float sum = 0;
    for (unsigned r = 0; r < p.side; r++)
        for (unsigned s = 0; s < p.side; s++)
            sum += act_value(
                x[((size_t)(picture * p.H + row * p.stride + r) * p.W + col * p.stride + s) *
                      p.C.divisor +
                  c]);
    y[i] = act_from(sum * share);
}

void FN(avg_pool_fwd)(act *y, const act *x, Windows g, size_t C) {
    GPU_TIMER(avg_pool_fwd, 0, (window_pixels(&g) + window_count(&g)) * C * sizeof(act));
    assert(!g.pad);
    Pool p = pool_of(&g, C, false);
    LAUNCH(avg_pool_fwd, div_up((size_t)p.n, (size_t)BLOCK), BLOCK, 0, y, x, p,
           1 / (float)(g.side * g.side));
}

__global__ static void avg_pool_bwd(act *dx, const act *dy, Pool p, float share) {
    unsigned i = (unsigned)thread_index(), c, row, col, picture;
    if (i >= p.n) return;
    pool_place(&p, i, &c, &row, &col, &picture);
    int r0, r1, s0, s1;
    windows_of(&p, row, p.h, &r0, &r1);
    windows_of(&p, col, p.w, &s0, &s1);
    float sum = 0;
    for (int r = r0; r <= r1; r++)
        for (int s = s0; s <= s1; s++)
            sum += act_value(dy[((size_t)(picture * p.h + r) * p.w + s) * p.C.divisor + c]);
    dx[i] = act_from(sum * share);
}

void FN(avg_pool_bwd)(act *dx, const act *dy, Windows g, size_t C) {
    GPU_TIMER(avg_pool_bwd, 0, (window_pixels(&g) + window_count(&g)) * C * sizeof(act));
    assert(!g.pad);
    Pool p = pool_of(&g, C, true);
    LAUNCH(avg_pool_bwd, div_up((size_t)p.n, (size_t)BLOCK), BLOCK, 0, dx, dy, p,
           1 / (float)(g.side * g.side));
}
