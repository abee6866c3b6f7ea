/* THE SEAM: the mathematics. A backend (ref, cpu, cuda) is one filled table of these slots. All
 * code above calls through the table and knows shapes, but neither devices nor element types.
 *
 * Conventions, for every slot:
 *   - Outputs come first, then inputs, then sizes. Arrays are dense and row-major; `x[M,K]` is a
 *     shape.
 *   - Gradients of activations (dx) are written; gradients of weights (dw, db, dtable …) are added
 *     to.
 *   - Pointers are the device's. The start of an allocation is 64-byte aligned; other pointers need
 *     not be. An output may alias an input only if the slot says so.
 *   - Sums run in `acc` in a fixed order: the same call with the same number of threads gives the
 *     same bits.
 *   - Sizes may be odd and small (1 is always legal); if M, rows or B is 0, the call does nothing.
 *
 * Letters: B batch, T tokens, C width, H heads, D = C/H, E embedding, N global batch, V vocabulary.
 * `start[B+1]` are the first rows of packed sequences: sequence b owns rows start[b] …
 * start[b+1]-1, at least one. */
#pragma once
#include "kernels/base.h"
#include "kernels/device.h"

/* Never defined: host code cannot dereference or index device memory. */
typedef struct act act; /* activations, compute weights, biases of products: bf16 | f32 | f64 */
typedef struct acc acc; /* sums, statistics, losses, gradients, master weights, LayerNorm weights
                           and biases: f32 | f64 */

/* auto: amp_bf16 where the device multiplies bf16 natively, else fp32. */
#define PRECISIONS(X)                                                                              \
    X(PRECISION_AUTO, "auto") X(PRECISION_FP32, "fp32") X(PRECISION_AMP_BF16, "amp_bf16")
#define TRAINING_PRECISIONS(X) PRECISIONS(X) X(PRECISION_AMP_FP8, "amp_fp8")
typedef enum { TRAINING_PRECISIONS(CHOICE_NAME) } Precision;
/* Hendrycks & Gimpel 2016, section 2: GELU and its two approximations. */
typedef enum {
    ACTIVATION_GELU,       /* ½x(1 + erf(x/√2)) */
    ACTIVATION_QUICK_GELU, /* x·σ(1.702x) */
    ACTIVATION_GELU_TANH,  /* ½x(1 + tanh(√(2/π)(x + 0.044715x³))) */
    ACTIVATIONS
} Activation;

/* An optimiser's values for one step: AdamW's (Loshchilov & Hutter 2019, decoupled decay), or
 * LARS's, whose momentum is beta1 and which has no beta2, eps and corrections. They are in device
 * memory, so that every replay reads them again. correction1 = 1-β₁ᵗ, correction2 = 1-β₂ᵗ;
 * max_norm: the gradient is clipped to this norm, 0: no clipping; t: the step, from 1; max_loss: a
 * step with a larger loss is skipped. */
typedef struct AdamW {
    double lr, beta1, beta2, eps, correction1, correction2, max_norm;
    uint64_t t;
    double max_loss;
} AdamW;
/* Settings shared by parts of the flat parameter block. */
typedef struct OptimGroup {
    double weight_decay, lo, hi; /* weights are clamped to lo … hi */
    double lr_scale;             /* factor of the step's rate */
} OptimGroup;
/* A piece of the flat block with one setting. weights: its offset in the blocks of masters, compute
 * weights and gradients; moments: in those of the moments; in elements. */
typedef struct OptimChunk {
    uint64_t weights, moments;
    uint32_t size, group; /* at most OPTIM_CHUNK elements; index into the groups */
} OptimChunk;
enum { OPTIM_CHUNK = 1 << 14 };
/* Square windows over pictures of H × W: side pixels, stride apart, over a border of pad pixels on
 * each side. */
typedef struct Windows {
    size_t B, H, W, side, stride, pad;
} Windows;
/* Windows along a side of n pixels; at least one must fit. */
static inline size_t windows_along(size_t n, const Windows *g) {
    assert(n + 2 * g->pad >= g->side && g->stride > 0 && g->pad < g->side);
    return (n + 2 * g->pad - g->side) / g->stride + 1;
}
static inline size_t window_pixels(const Windows *g) { return g->B * g->H * g->W; }
static inline size_t window_count(const Windows *g) {
    return g->B * windows_along(g->H, g) * windows_along(g->W, g);
}
/* Storage of the moments: as acc, or as bf16. */
#define MOMENTS(X) X(MOMENTS_FP32, "fp32") X(MOMENTS_BF16, "bf16")
typedef enum { MOMENTS(CHOICE_NAME) } Moments;

typedef struct Kernels {
    const char *name; /* "ref", "cpu-fp32", "cpu-amp_bf16", … */
    size_t act_size, acc_size;
    bool
        residual_in_product; /* a residual is cheapest in linear_add_fwd; false: in layernorm_fwd */
    bool bias_in_activation; /* a bias gradient is cheapest in activation_bwd; false: in
                                linear_bwd_weight, if that is called anyway */
    size_t logit_side;       /* best side of a tile of logits; 0: as large as the memory allows */
    size_t widest_head;      /* largest D of the attention slots; 0: any */
    bool fp8; /* matrices registered by fp8_weight are multiplied in 8 bits (amp_fp8) */
    const Device *device;

    /* ---- mem ---- */
    /* Host doubles or floats to and from device elements, rounded to nearest even. */
    void (*acc_set)(acc *dst, const double *host, size_t n);
    void (*acc_get)(double *host, const acc *src, size_t n);
    void (*acc_set_f32)(acc *dst, const float *host, size_t n);
    void (*acc_get_f32)(float *host, const acc *src, size_t n);
    /* dst[n] = src[n], rounded: compute weights from master weights. */
    void (*act_from_acc)(act *dst, const acc *src, size_t n);
    /* dst[n] = src[n], exact: features that no projection computes. */
    void (*acc_from_act)(acc *dst, const act *src, size_t n);

    /* ---- linear ---- */
    /* y[M,N] = x[M,K] w[N,K]ᵀ + b[N]; b may be NULL. */
    void (*linear_fwd)(act *y, const act *x, const act *w, const act *b, size_t M, size_t N,
                       size_t K);
    /* y[M,N] = r[M,N] + x wᵀ + b. */
    void (*linear_add_fwd)(act *y, const act *r, const act *x, const act *w, const act *b, size_t M,
                           size_t N, size_t K);
    /* dx[M,K] = dy[M,N] w[N,K]. */
    void (*linear_bwd_input)(act *dx, const act *dy, const act *w, size_t M, size_t N, size_t K);
    /* dw[N,K] += dy[M,N]ᵀ x[M,K]; db[N] += Σ_m dy[m,:]; db may be NULL. */
    void (*linear_bwd_weight)(acc *dw, acc *db, const act *dy, const act *x, size_t M, size_t N,
                              size_t K);
    /* pre[M,N] = x[M,K] w[N,K]ᵀ + b[N]; y[M,N] = f(pre). */
    void (*linear_activation_fwd)(act *y, act *pre, const act *x, const act *w, const act *b,
                                  size_t M, size_t N, size_t K, Activation f);
    /* Projection to the embedding: y[M,E] = x[M,C] p[C,E] + b[E]; f32 out, f32 gradient in. With tp
     * p is [E,C]; b may be NULL. dx is written; dp (may be NULL) and db (with dp and tp, or NULL)
     * are added to. */
    void (*project_fwd)(acc *y, const act *x, const act *p, bool tp, const acc *b, size_t M,
                        size_t C, size_t E);
    void (*project_bwd)(act *dx, acc *dp, acc *db, const acc *dy, const act *x, const act *p,
                        bool tp, size_t M, size_t C, size_t E);
    /* c[M,N] = (c if add) + op(a) op(b) in acc with contraction K. a is [M,K], with ta [K,M]; b is
     * [K,N], with tb [N,K]. lda, ldb, ldc: distance of stored rows in elements. */
    void (*gemm)(acc *c, size_t ldc, const acc *a, size_t lda, bool ta, const acc *b, size_t ldb,
                 bool tb, size_t M, size_t N, size_t K, bool add);

    /* ---- attention ---- (qkv rows hold [Q|K|V], each [H,D]; scale 1/√D; lse is the log-sum-exp of
     * a query's scaled scores) */
    /* Self-attention of packed sequences: o[rows,C], lse[H,rows], qkv[rows,3C]. causal: a query
     * does not attend to keys after it. max_T: the longest sequence; rows = start[B]. */
    void (*attention_fwd)(act *o, acc *lse, const act *qkv, const int32_t *start, size_t B,
                          size_t rows, size_t max_T, size_t H, size_t D, bool causal);
    /* dqkv[rows,3C]; recomputes the probabilities from lse. */
    void (*attention_bwd)(act *dqkv, const act *dout, const act *o, const acc *lse, const act *qkv,
                          const int32_t *start, size_t B, size_t rows, size_t max_T, size_t H,
                          size_t D, bool causal);
    /* Attention of the last block: one query per sequence, q[B,C], over all keys of the sequence.
     * kv[rows,2C] holds [K|V]; o[B,C], lse[H,B]. */
    void (*attention_pool_fwd)(act *o, acc *lse, const act *q, const act *kv, const int32_t *start,
                               size_t B, size_t rows, size_t H, size_t D);
    /* dq[B,C], dkv[rows,2C] are written. */
    void (*attention_pool_bwd)(act *dq, act *dkv, const act *dout, const act *o, const acc *lse,
                               const act *q, const act *kv, const int32_t *start, size_t B,
                               size_t rows, size_t H, size_t D);

    /* ---- norm ---- (LayerNorm, biased variance, rstd = 1/√(variance + eps); w, b [C]) */
    /* y[rows,C] = (x-mean)·rstd·w + b; mean, rstd [rows]. If r is not NULL, sum[rows,C] = x + r is
     * written (rounded to act) and normalised instead of x; sum may be x. If r is NULL, sum is
     * unused. */
    void (*layernorm_fwd)(act *y, acc *mean, acc *rstd, act *sum, const act *x, const act *r,
                          const acc *w, const acc *b, size_t rows, size_t C, double eps);
    /* dx = (dres unless NULL) + LayerNorm'(dy); dw, db are added to. x is the normalised input
     * (sum, if r was given). If y is not NULL, the forward's output is recomputed into it. dx may
     * be dres or dy. */
    void (*layernorm_bwd)(act *dx, acc *dw, acc *db, act *y, const act *dy, const act *dres,
                          const act *x, const acc *mean, const acc *rstd, const acc *w,
                          const acc *b, size_t rows, size_t C);
    /* y[rows,E] = x / max(‖x‖₂, 1e-12), norm[rows] = max(‖x‖₂, 1e-12). */
    void (*l2norm_fwd)(acc *y, acc *norm, const acc *x, size_t rows, size_t E);
    /* dx = (dy - y (y·dy)) / norm. dx may be dy. */
    void (*l2norm_bwd)(acc *dx, const acc *dy, const acc *y, const acc *norm, size_t rows,
                       size_t E);

    /* ---- pointwise ---- */
    /* y[n] = f(x). y may be x. */
    void (*activation_fwd)(act *y, const act *x, size_t n, Activation f);
    /* dx[rows,C] = dy·f'(x), y[rows,C] = f(x), db[C] += Σ_rows dx in one pass. db (may be NULL) is
     * the bias gradient of the layer that computed x; linear_bwd_weight then gets db NULL. Like it,
     * db sums dx as stored, rounded to act. dx may be dy. */
    void (*activation_bwd)(act *dx, act *y, acc *db, const act *dy, const act *x, size_t rows,
                           size_t C, Activation f);
    /* db[N] += Σ_m dy[m,:]: the gradient of a row that is repeated M times. */
    void (*bias_bwd)(acc *db, const act *dy, size_t M, size_t N);
    /* y[rows,F] = g·σ(g)·v of x[rows,2F], whose rows hold [g | v] (Shazeer 2020, SwiGLU). */
    void (*swiglu_fwd)(act *y, const act *x, size_t rows, size_t F);
    /* dx[rows,2F] of dy[rows,F]; dx may be x. */
    void (*swiglu_bwd)(act *dx, const act *dy, const act *x, size_t rows, size_t F);
    /* y[n] = a + b. y may be a or b. */
    void (*add)(act *y, const act *a, const act *b, size_t n);
    /* y[n,C] = x[idx[i], :]. */
    void (*gather_rows)(act *y, const act *x, const int32_t *idx, size_t n, size_t C);
    /* y[idx[i], :] += x[i, :], x [n,C]; the indices are distinct. */
    void (*scatter_add_rows)(act *y, const act *x, const int32_t *idx, size_t n, size_t C);
    /* y[B,C] = mean of the rows of each sequence except its first `skip`; at least one row
     * remains. */
    void (*mean_pool_fwd)(act *y, const act *x, const int32_t *start, size_t B, size_t skip,
                          size_t C);
    /* dx[rows,C] is written; the skipped rows become 0. */
    void (*mean_pool_bwd)(act *dx, const act *dy, const int32_t *start, size_t B, size_t skip,
                          size_t C);

    /* ---- conv ---- (pictures [B,H,W,C] with channels last; h × w windows; weights [N,C,side,side]
     * as PyTorch stores them; the border is 0) */
    /* y[B,h,w,N] = Σ over a window's pixels and channels of x·w. */
    void (*conv2d_fwd)(act *y, const act *x, const act *w, Windows g, size_t C, size_t N);
    /* dx[B,H,W,C] from dy[B,h,w,N]. */
    void (*conv2d_bwd_input)(act *dx, const act *dy, const act *w, Windows g, size_t C, size_t N);
    /* dw[N,C,side,side] is added to. */
    void (*conv2d_bwd_weight)(acc *dw, const act *dy, const act *x, Windows g, size_t C, size_t N);
    /* y[B,h,w,C] = the largest of each window, the border excluded. from[B,h,w,C]: its first pixel
     * in row-major order of the window, whose side is at most 16. */
    void (*max_pool_fwd)(act *y, uint8_t *from, const act *x, Windows g, size_t C);
    void (*max_pool_bwd)(act *dx, const act *dy, const uint8_t *from, Windows g, size_t C);
    /* y[B,h,w,C] = the mean of each window; pad is 0. */
    void (*avg_pool_fwd)(act *y, const act *x, Windows g, size_t C);
    void (*avg_pool_bwd)(act *dx, const act *dy, Windows g, size_t C);

    /* ---- batchnorm ---- (Ioffe & Szegedy 2015; a channel's statistics are over `count` rows,
     * those of this call or, if the sums are added over ranks, of all of them) */
    /* sums[2,C] = Σ_rows (x - shift), Σ_rows (x - shift)²; the closer shift[C] is to the mean, the
     * fewer digits cancel. */
    void (*batchnorm_sums)(acc *sums, const act *x, const acc *shift, size_t rows, size_t C);
    /* mean[C], rstd[C] = 1/√(biased variance + eps) from sums whose shift is running_mean; then
     * running_mean, running_var [C] += momentum·(mean or unbiased variance - itself); count 1: the
     * variance is 0. sums NULL: mean and rstd of the running statistics, which are unchanged. */
    void (*batchnorm_stats)(acc *mean, acc *rstd, acc *running_mean, acc *running_var,
                            const acc *sums, double count, size_t C, double eps, double momentum);
    /* y[rows,C] = f((x - mean)·rstd·w + b + r), f = max(0, ·) if relu; r[rows,C] may be NULL. y may
     * be x or r. */
    void (*batchnorm_fwd)(act *y, const act *x, const act *r, const acc *mean, const acc *rstd,
                          const acc *w, const acc *b, size_t rows, size_t C, bool relu);
    /* dz[rows,C] = dy where y > 0, else 0: the gradient before f, also that of r; y is the
     * forward's. y NULL: f is not relu, and dz is dy. sums[2,C] = Σ_rows dz, Σ_rows dz·(x -
     * mean)·rstd: the gradients of b and w. dz may be dy. */
    void (*batchnorm_bwd_sums)(acc *sums, act *dz, const act *dy, const act *y, const act *x,
                               const acc *mean, const acc *rstd, size_t rows, size_t C);
    /* dx = w·rstd·(dz - sums[0]/count - (x - mean)·rstd·sums[1]/count). sums NULL: the statistics
     * were constants. dx may be dz. */
    void (*batchnorm_bwd)(act *dx, const act *dz, const act *x, const acc *mean, const acc *rstd,
                          const acc *w, const acc *sums, double count, size_t rows, size_t C);

    /* ---- embed ---- */
    /* u8 pixels [B,S,S,3] → patches[B·n, 3·P·P] in the order (channel, y, x), value (u/255 -
     * mean[c])/std[c]. keep[B,n]: the grid positions that each sample keeps, of (S/P)² in row-major
     * order; NULL: all, n = (S/P)². mean, std are in host memory. */
    void (*patches_u8)(act *patches, const uint8_t *pixels, const int32_t *keep,
                       const float mean[3], const float std[3], size_t B, size_t S, size_t P,
                       size_t n);
    /* x[B,1+n,C]: row 0 = cls + pos[0]; row 1+i = tok[b,i] + pos[1+keep[b,i]]; tok [B·n,C], cls
     * [C], pos [1+grid,C]. cls (and dcls) NULL: without row 0, x[B,n,C], pos [grid,C]. */
    void (*image_embed_fwd)(act *x, const act *tok, const acc *cls, const acc *pos,
                            const int32_t *keep, size_t B, size_t n, size_t C);
    void (*image_embed_bwd)(act *dtok, acc *dcls, acc *dpos, const act *dx, const int32_t *keep,
                            size_t B, size_t n, size_t C);
    /* Positions of pictures of different grids, which are packed: row r of picture b is at
     * ((r - start[b]) / grid[b,1], (r - start[b]) mod grid[b,1]) of a grid of grid[b,0] ×
     * grid[b,1]. w[n,side·side]: the weights with which rows first … first+n-1 take their positions
     * from a grid of side × side, bilinear with antialiasing (PyTorch's F.interpolate). Along an
     * axis of `size` positions that of i is max(0, 1 - |i - c|/s) over the sum of all, c = (at +
     * ½)·side/size
     * - ½, s = max(1, side/size). */
    void (*grid_weights)(acc *w, const int32_t *start, const int32_t *grid, size_t B, size_t first,
                         size_t n, size_t side);
    /* Rotary positions (Su et al. 2021), in place: in rows of ld elements of x[B,first+n,ld] the
     * first `heads` heads of D elements, D even, are turned by pairs: x[d] = x[d]·cos[d] + x[d^1]·
     * sin[d]. turns[grid,2,D]: cosines, then sines, negative at even d. Row first+i of a sample has
     * the grid position keep[b,i] (NULL: i); the rows before it are unchanged. back: by the
     * opposite angles, which is the backward. */
    void (*rotate_heads)(act *x, const acc *turns, const int32_t *keep, size_t B, size_t first,
                         size_t n, size_t ld, size_t heads, size_t D, bool back);
    /* x[rows,C] = table[ids[row]] + pos[row - start of its sequence]; table [V,C]. */
    void (*text_embed_fwd)(act *x, const int32_t *ids, const int32_t *start, const acc *table,
                           const acc *pos, size_t B, size_t rows, size_t C);
    void (*text_embed_bwd)(acc *dtable, acc *dpos, const act *dx, const int32_t *ids,
                           const int32_t *start, size_t B, size_t rows, size_t C);

    /* ---- loss ---- (logits z = s·cos + bias, s = exp(*log_scale); bias may be NULL. A tile holds
     * rows i0…, columns j0… of the N×N matrix; `diag` = i0 - j0: the positive of tile row i is tile
     * column i + diag, if that is inside the tile.) */
    /* Online log-sum-exp over tiles. row_max[n], row_sum[n], col_max[m], col_sum[m] must be
     * initialised by stats_init; after the last tile lse = max + ln(sum). positive[n] = z of the
     * positives inside this tile; other elements are unchanged. */
    void (*logits_stats)(acc *row_max, acc *row_sum, acc *col_max, acc *col_sum, acc *positive,
                         const acc *cos, const acc *log_scale, const acc *bias, size_t n, size_t m,
                         ptrdiff_t diag);
    /* Initialises the statistics: max = lowest finite value, sum = 0. */
    void (*stats_init)(acc *max, acc *sum, size_t n);
    /* Joins the statistics of another part of the same rows into max, sum. */
    void (*stats_join)(acc *max, acc *sum, const acc *other_max, const acc *other_sum, size_t n);
    /* lse[n] = max + ln(sum); may be max. */
    void (*stats_lse)(acc *lse, const acc *max, const acc *sum, size_t n);
    /* *loss += weight · Σ_i (row_lse[i] + col_lse[i] - 2·positive[i]); with weight = 1/(2N) this is
     * the share of n rows in the CLIP loss; col_lse belong to the same n pairs. */
    void (*clip_loss)(acc *loss, const acc *row_lse, const acc *col_lse, const acc *positive,
                      size_t n, double weight);
    /* In place: cos becomes s·G, G = (exp(z-row_lse) + exp(z-col_lse) - 2·[positive])·weight,
     * weight = 1/(2N); *dlog_scale += Σ s·G·cos, *dbias += Σ G (dbias may be NULL). */
    void (*clip_logits_grad)(acc *cos, acc *dlog_scale, acc *dbias, const acc *row_lse,
                             const acc *col_lse, const acc *log_scale, const acc *bias, size_t n,
                             size_t m, ptrdiff_t diag, double weight);
    /* SigLIP in one pass: *loss += weight · Σ -ln σ(y·z), y = +1 for positives, else -1. In place:
     * cos becomes s·G with G = -y·σ(-y·z)·weight, weight = 1/N; *dlog_scale, *dbias as above. */
    void (*siglip_tile)(acc *cos, acc *loss, acc *dlog_scale, acc *dbias, const acc *log_scale,
                        const acc *bias, size_t n, size_t m, ptrdiff_t diag, double weight);
    /* Pairs of views: blocks of 2·samples rows hold `samples` first views, then the second views of
     * the same samples. In a tile whose first row is `row` and whose first column is `col` of the
     * whole matrix, the cosine of row r and column r + samples or r - samples, the other view of
     * its sample, becomes LOGIT_MASKED. */
    void (*mask_pairs)(acc *cos, size_t n, size_t m, size_t row, size_t col, size_t samples);
    /* Soft targets t[n,m] of a tile with several positives: share[i] if row_group[i] =
     * col_group[j], else 0. */
    void (*group_targets)(acc *t, const int32_t *row_group, const int32_t *col_group,
                          const acc *share, size_t n, size_t m);
    /* Adds a teacher's probabilities (Hinton et al. 2015): t += ½(exp(z-row_lse) + exp(z-col_lse)),
     * z = s·cos; cos, row_lse, col_lse and log_scale are the teacher's. */
    void (*teacher_targets)(acc *t, const acc *cos, const acc *row_lse, const acc *col_lse,
                            const acc *log_scale, size_t n, size_t m);
    /* Cross-entropy with soft targets whose rows and columns sum to `mass`. In place: cos becomes
     * s·G, G = (mass·(exp(z-row_lse) + exp(z-col_lse)) - 2t)·weight; *loss -= 2·weight·Σ t·z
     * (clip_loss with positives of 0 and weight·mass adds the rest); *dlog_scale, *dbias as
     * above. */
    void (*soft_logits_grad)(acc *cos, acc *loss, acc *dlog_scale, acc *dbias, const acc *t,
                             const acc *row_lse, const acc *col_lse, const acc *log_scale,
                             const acc *bias, size_t n, size_t m, double mass, double weight);
    /* siglip_tile with positives at t[n,m] > 0. */
    void (*siglip_targets_tile)(acc *cos, acc *loss, acc *dlog_scale, acc *dbias, const acc *t,
                                const acc *log_scale, const acc *bias, size_t n, size_t m,
                                double weight);

    /* ---- optim ---- (chunk[count], group, o: device memory; the chunks do not overlap) */
    /* *out += Σ g² over the chunks. */
    void (*sum_squares)(acc *out, const acc *g, const OptimChunk *chunk, size_t count);
    /* If *loss > o->max_loss, *squares = infinity: adamw then skips the step. */
    void (*skip_spike)(acc *squares, const acc *loss, const AdamW *o);
    /* One AdamW step over all chunks. *squares: the sum of the squared gradients. If it is not
     * finite, the step is skipped and p, w, m, v are unchanged. Otherwise g is scaled by min(1,
     * max_norm / (√*squares + 1e-6)), and w (may be NULL) receives the new weights, rounded. g is
     * always set to zero.
     * bf16 moments use stochastic rounding, so that small changes are not lost on average (Gupta et
     * al. 2015): 16 bits of noise are added below the last kept bit. The noise of m is the low
     * half, that of v the high half of MurmurHash3's finalizer of i + 0x9E3779B9·t (32 bits); i is
     * the element's index in the block of weights. */
    void (*adamw)(acc *p, act *w, acc *g, void *m, void *v, Moments moments,
                  const OptimChunk *chunk, size_t count, const OptimGroup *group, const AdamW *o,
                  const acc *squares);
    /* LARS (You et al. 2017, as in SimCLR). Each of the groups 0 … tensors-1 is one tensor, whose
     * chunks are adjacent. With d = g·min(1, max_norm / (√*squares + 1e-6)) + weight_decay·p,
     * norms[2·group] += Σ p² and norms[2·group + 1] += Σ d² over the chunks of these groups. */
    void (*lars_norms)(acc *norms, const acc *p, const acc *g, const OptimChunk *chunk,
                       size_t count, const OptimGroup *group, size_t tensors, const AdamW *o,
                       const acc *squares);
    /* One step with those norms: m = beta1·m + lr·lr_scale·ratio·d, p -= m; ratio = trust·‖p‖/‖d‖,
     * 1 for other groups and if one of the norms is 0. The rest as in adamw; bf16 moments take the
     * noise of adamw's m. */
    void (*lars)(acc *p, act *w, acc *g, void *m, Moments moments, const OptimChunk *chunk,
                 size_t count, const OptimGroup *group, size_t tensors, const AdamW *o,
                 const acc *squares, const acc *norms, double trust);
    /* Moments stored as bf16: dst[n] = src[n], exact; in reverse rounded to nearest even. */
    void (*acc_from_bf16)(acc *dst, const void *src, size_t n);
    void (*bf16_from_acc)(void *dst, const acc *src, size_t n);
    /* y[n] += alpha·x. */
    void (*axpy)(acc *y, double alpha, const acc *x, size_t n);
    /* A moving average: avg[n] += (x - avg)·(1 - decay); equal values are unchanged. */
    void (*ema)(acc *avg, const acc *x, double decay, size_t n);

    /* ---- fp8 ---- (Micikevicius et al. 2022: factors of 8 bits, x and w as e4m3, dy as e5m2, each
     * times a power of two that depends on the largest magnitudes of past steps.) For n factors,
     * scaling holds n largest magnitudes of this step; n scales; n inverse scales; FP8_HISTORY · n
     * past magnitudes, the latest step first. The factors of a matrix are i (x), i+1 (w), i+2 (dy);
     * i is a multiple of 3. */
    /* Registers a matrix: from now on products with w[N,K], or with whole rows of it, and gradients
     * into dw use 8-bit factors. scaling NULL: unregisters it. Ignored if fp8 is false. Products of
     * sizes that the library refuses are computed in act: N or K is not a multiple of 16, M not of
     * FP8_ROWS. dy must not change from a linear_bwd_input to the linear_bwd_weight that follows it
     * with the same matrix, dy and sizes, which reads what the first one rounded. */
    void (*fp8_weight)(const act *w, const acc *dw, acc *scaling, size_t n, size_t i, size_t N,
                       size_t K);
    /* Until the next call, in products with one row per token or per sequence, x's rows of the
     * sequences from B on (of `sequences`; start[sequences+1]) are padding and do not count in its
     * largest magnitude. start NULL: no padding. Ignored if fp8 is false. */
    void (*fp8_padding)(const int32_t *start, size_t B, size_t sequences);
    /* Ends a step: this step's magnitudes are added to the history (if finite), and each scale
     * becomes the largest power of two that keeps the magnitudes of the history within its type. */
    void (*fp8_update)(acc *scaling, size_t n);
} Kernels;

/* A cosine whose logit adds nothing to a softmax; finite, so that no difference of two is a NaN. */
#define LOGIT_MASKED (-1e30f)
/* The row of the other view (mask_pairs). */
static inline size_t other_view(size_t row, size_t samples) {
    return row / samples % 2 ? row - samples : row + samples;
}

enum { FP8_ROWS = 8 };
#define FP8_E4M3_MAX 448.0f
#define FP8_E5M2_MAX 57344.0f
enum { FP8_HISTORY = 16, FP8_SCALING = 3 + FP8_HISTORY, FP8_EXPONENT_MAX = 60 };

/* Every slot, in the order above, for the backends' tables, the statistics' names and the coverage
 * test. */
/* clang-format off */
#define KERNEL_LIST(X) \
    X(acc_set) X(acc_get) X(acc_set_f32) X(acc_get_f32) X(act_from_acc) X(acc_from_act) \
    X(linear_fwd) X(linear_add_fwd) X(linear_bwd_input) X(linear_bwd_weight) X(linear_activation_fwd) \
    X(project_fwd) X(project_bwd) X(gemm) \
    X(attention_fwd) X(attention_bwd) X(attention_pool_fwd) X(attention_pool_bwd) \
    X(layernorm_fwd) X(layernorm_bwd) X(l2norm_fwd) X(l2norm_bwd) \
    X(activation_fwd) X(activation_bwd) X(bias_bwd) X(swiglu_fwd) X(swiglu_bwd) X(add) X(gather_rows) X(scatter_add_rows) X(mean_pool_fwd) X(mean_pool_bwd) \
    X(conv2d_fwd) X(conv2d_bwd_input) X(conv2d_bwd_weight) \
    X(max_pool_fwd) X(max_pool_bwd) X(avg_pool_fwd) X(avg_pool_bwd) \
    X(batchnorm_sums) X(batchnorm_stats) X(batchnorm_fwd) X(batchnorm_bwd_sums) X(batchnorm_bwd) \
    X(patches_u8) X(image_embed_fwd) X(image_embed_bwd) X(grid_weights) X(rotate_heads) \
    X(text_embed_fwd) X(text_embed_bwd) \
    X(logits_stats) X(stats_init) X(stats_join) X(stats_lse) \
    X(clip_loss) X(clip_logits_grad) X(siglip_tile) X(mask_pairs) \
    X(group_targets) X(teacher_targets) X(soft_logits_grad) X(siglip_targets_tile) \
    X(sum_squares) X(skip_spike) X(adamw) X(lars_norms) X(lars) X(acc_from_bf16) X(bf16_from_acc) X(axpy) X(ema) \
    X(fp8_weight) X(fp8_padding) X(fp8_update)
/* clang-format on */

enum KernelSlot {
#define X(slot) SLOT_##slot,
    DEVICE_LIST(X) KERNEL_LIST(X)
#undef X
        SLOT_COUNT
};
extern const char *const kernel_names[SLOT_COUNT];

/* A backend declares its functions with the table's own types. */
#define KERNEL_TYPE(slot) __typeof__(*((Kernels *)0)->slot)

/* backend: "ref" (float64, naive, precision ignored), "cpu", "cuda", or "auto": cuda if a GPU is
 * usable, else cpu. Exits with an error if the backend is not built or not usable. The table is
 * never freed. */
const Kernels *kernels_open(const char *backend, Precision precision);
/* The same by --device. */
#define DEVICES(X) X(DEVICE_AUTO, "auto") X(DEVICE_CPU, "cpu") X(DEVICE_CUDA, "cuda")
typedef enum { DEVICES(CHOICE_NAME) } DeviceOption;
const Kernels *kernels_open_device(DeviceOption device, Precision precision);
/* The table's name, on a CPU with its instruction set: "cpu-fp32 (v3)". */
const char *kernels_title(const Kernels *k);
/* What PRECISION_AUTO means on that device; another precision is itself. */
Precision kernels_precision(DeviceOption device, Precision precision);
/* Releases the backends' memory. Nothing may be called afterwards. */
void kernels_close(void);

/* Options that trade for speed; set before the first product. The CPU ignores both. */
typedef struct KernelTuning {
    bool tf32;     /* fp32 products may round their inputs to TF32 */
    bool autotune; /* measure the algorithms of each shape once and use the fastest */
} KernelTuning;
extern KernelTuning kernel_tuning;
/* This process's number among the ranks of its machine, set by a transport that knows it before the
 * device is opened; -1: the launcher's variables say it, as they do for questions about the device
 * before that. It is the GPU's number. */
extern int kernel_local_rank;
/* Products of registered matrices (fp8_weight) that were enqueued or planned, and of those the ones
 * in act, the last with M, N, K. */
typedef struct Fp8Products {
    uint64_t all, in_act;
    size_t M, N, K;
} Fp8Products;
extern Fp8Products kernel_fp8_products;
/* Writes the chosen algorithms of products to a file, and reads them, so that a resumed run
 * computes the same bits. Nothing is written if there are none (on a CPU). Reading refuses
 * another library version or device, and damaged lines. */
bool kernels_write_algorithms(const char *path, Error *err);
bool kernels_read_algorithms(const char *path, Error *err);
/* The same as bytes, malloc'd, for another rank; and replaces all choices by such bytes. */
void *kernels_algorithms(size_t *bytes);
void kernels_set_algorithms(const void *algorithms, size_t bytes);

/* i-th element of device memory. */
static inline act *act_at(const Kernels *k, const act *p, size_t i) {
    return (act *)((char *)p + i * k->act_size);
}
static inline acc *acc_at(const Kernels *k, const acc *p, size_t i) {
    return (acc *)((char *)p + i * k->acc_size);
}

/* i-th acc of bytes copied by download_start. */
static inline double acc_value(const Kernels *k, const void *host, size_t i) {
    return k->acc_size == sizeof(float) ? (double)((const float *)host)[i]
                                        : ((const double *)host)[i];
}

/* Writes the i-th acc of bytes for upload_start. */
static inline void acc_put(const Kernels *k, void *host, size_t i, double value) {
    if (k->acc_size == sizeof(float))
        ((float *)host)[i] = (float)value;
    else
        ((double *)host)[i] = value;
}

/* Counts of each slot, filled by the backends while kernel_stats_on is set; `clipc bench` prints
 * them. */
typedef struct KernelStat {
    uint64_t calls;
    double seconds, flops, bytes; /* multiply-adds count 2; bytes that must be read and written */
} KernelStat;
extern KernelStat kernel_stats[SLOT_COUNT];
extern bool kernel_stats_on;
/* Whether graphs are captured if the backend supports them (initially true). */
extern bool kernel_graphs_on;
void kernel_stats_reset(void);

/* Between plan_begin and plan_end of host_device. */
extern bool kernel_dry_run;
/* A CPU backend's slot starts with KERNEL_BEGIN(linear_fwd, flops, bytes): in a dry run it returns;
 * the time until it returns is recorded. */
typedef struct KernelTimer {
    enum KernelSlot slot;
    double start, flops, bytes;
} KernelTimer;
void kernel_timer_stop(KernelTimer *t);
#define KERNEL_BEGIN(slot_name, flops_, bytes_)                                                    \
    if (kernel_dry_run) return;                                                                    \
    __attribute__((cleanup(kernel_timer_stop), unused)) KernelTimer timer_ = {                     \
        SLOT_##slot_name, kernel_stats_on ? clock_now() : 0, (double)(flops_), (double)(bytes_)}
