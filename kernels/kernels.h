/* THE SEAM: what can be computed. A backend (ref, cpu, cuda) is one filled table of these slots;
 * everything above calls through the table, knows shapes, and never knows devices or element types.
 *
 * Conventions, for every slot:
 *   - Outputs come first, then inputs, then sizes. All arrays are dense and row-major; `x[M,K]`
 * gives the shape.
 *   - Gradients of activations (dx) are written; gradients of weights (dw, db, dtable …) are added
 * to.
 *   - Pointers are the device's, 64-byte aligned at their start of allocation, not necessarily
 * inside it. No aliasing of an output with an input unless the slot says so.
 *   - Sums run in `acc` in a fixed order: the same call with the same number of threads gives the
 * same bits.
 *   - Sizes may be odd and small (1 is legal everywhere); M, rows or B of 0 is a call that does
 * nothing. Letters: B batch, T tokens, C width, H heads, D = C/H, E embedding, N global batch, V
 * vocabulary. `start[B+1]` are the first rows of packed sequences: sequence b owns rows start[b] …
 * start[b+1]-1, at least one. */
#ifndef KERNELS_KERNELS_H
#define KERNELS_KERNELS_H
#include "kernels/base.h"
#include "kernels/device.h"

/* Never defined: host code cannot dereference or index device memory. */
typedef struct act act; /* activations and compute weights, biases of products among them: bf16 |
                           f32 | f64 */
typedef struct acc acc; /* sums, statistics, losses, gradients, master weights, LayerNorm weights
                           and biases: f32 | f64 */

#define PRECISIONS(X) X(PRECISION_FP32, "fp32") X(PRECISION_AMP_BF16, "amp_bf16")
#define TRAINING_PRECISIONS(X) PRECISIONS(X) X(PRECISION_AMP_FP8, "amp_fp8")
typedef enum { TRAINING_PRECISIONS(CHOICE_NAME) } Precision;
typedef enum {
    ACTIVATION_GELU,
    ACTIVATION_QUICK_GELU
} Activation; /* ½x(1+erf(x/√2)) | x·σ(1.702x) */

/* AdamW's numbers of one step (Loshchilov & Hutter 2019, decoupled decay), in device memory, so
 * that a recorded step reads them anew. correction1 = 1-β₁ᵗ, correction2 = 1-β₂ᵗ; max_norm: the
 * gradient is clipped to this norm, 0: it is not; t: the step, from 1; max_loss: a step of a larger
 * loss is left out. */
typedef struct AdamW {
    double lr, beta1, beta2, eps, correction1, correction2, max_norm;
    uint64_t t;
    double max_loss;
} AdamW;
/* Settings that parts of the flat parameter block share. */
typedef struct OptimGroup {
    double weight_decay, lo, hi; /* weights are clamped to lo … hi */
    double lr_scale;             /* times the step's rate */
} OptimGroup;
/* A piece of the flat block with one setting: where it starts in the blocks of masters, compute
 * weights and gradients, and in those of the moments, in elements. */
typedef struct OptimChunk {
    uint64_t weights, moments;
    uint32_t size, group; /* at most OPTIM_CHUNK elements; index into the groups */
} OptimChunk;
enum { OPTIM_CHUNK = 1 << 14 };
/* How moments are stored: as acc, or as bf16. */
#define MOMENTS(X) X(MOMENTS_FP32, "fp32") X(MOMENTS_BF16, "bf16")
typedef enum { MOMENTS(CHOICE_NAME) } Moments;

typedef struct Kernels {
    const char *name; /* "ref", "cpu-fp32", "cpu-amp_bf16", … */
    size_t act_size, acc_size;
    bool bias_in_activation; /* a bias gradient costs least in activation_bwd; false: in
                                linear_bwd_weight, where there is one anyway */
    bool fp8;                /* matrices that fp8_weight names are multiplied in 8 bits (amp_fp8) */
    const Device *device;

    /* ---- mem ---- */
    /* Host doubles or floats to and from device elements, rounded to nearest even. */
    void (*acc_set)(acc *dst, const double *host, size_t n);
    void (*acc_get)(double *host, const acc *src, size_t n);
    void (*acc_set_f32)(acc *dst, const float *host, size_t n);
    void (*acc_get_f32)(float *host, const acc *src, size_t n);
    /* dst[n] = src[n], rounded: compute weights from master weights. */
    void (*act_from_acc)(act *dst, const acc *src, size_t n);

    /* ---- linear ---- */
    /* y[M,N] = x[M,K] w[N,K]ᵀ + b[N]; b may be NULL. */
    void (*linear_fwd)(act *y, const act *x, const act *w, const act *b, size_t M, size_t N,
                       size_t K);
    /* dx[M,K] = dy[M,N] w[N,K]. */
    void (*linear_bwd_input)(act *dx, const act *dy, const act *w, size_t M, size_t N, size_t K);
    /* dw[N,K] += dy[M,N]ᵀ x[M,K]; db[N] += Σ_m dy[m,:]; db may be NULL. */
    void (*linear_bwd_weight)(acc *dw, acc *db, const act *dy, const act *x, size_t M, size_t N,
                              size_t K);
    /* pre[M,N] = x w ᵀ + b; y[M,N] = f(pre). */
    void (*linear_activation_fwd)(act *y, act *pre, const act *x, const act *w, const act *b,
                                  size_t M, size_t N, size_t K, Activation f);
    /* Projection to the embedding: y[M,E] = x[M,C] p[C,E]; f32 out, f32 gradient in. dx is written,
     * dp (may be NULL) added to. */
    void (*project_fwd)(acc *y, const act *x, const act *p, size_t M, size_t C, size_t E);
    void (*project_bwd)(act *dx, acc *dp, const acc *dy, const act *x, const act *p, size_t M,
                        size_t C, size_t E);
    /* c[M,N] = (c if add) + op(a) op(b) in acc, contraction K: a is [M,K] or with ta [K,M]; b is
     * [K,N] or with tb [N,K]. lda, ldb, ldc: elements between rows as stored. */
    void (*gemm)(acc *c, size_t ldc, const acc *a, size_t lda, bool ta, const acc *b, size_t ldb,
                 bool tb, size_t M, size_t N, size_t K, bool add);

    /* ---- attention ---- (qkv rows hold [Q|K|V], each [H,D]; scale 1/√D; lse is the log-sum-exp of
     * a query's scaled scores) */
    /* Self-attention of packed sequences: o[rows,C], lse[H,rows], qkv[rows,3C]; causal: key index >
     * query index is forbidden. max_T: the longest sequence; rows = start[B]. */
    void (*attention_fwd)(act *o, acc *lse, const act *qkv, const int32_t *start, size_t B,
                          size_t rows, size_t max_T, size_t H, size_t D, bool causal);
    /* dqkv[rows,3C]; recomputes the probabilities from lse. */
    void (*attention_bwd)(act *dqkv, const act *dout, const act *o, const acc *lse, const act *qkv,
                          const int32_t *start, size_t B, size_t rows, size_t max_T, size_t H,
                          size_t D, bool causal);
    /* The last block's form: one query a sequence, q[B,C], over all its keys: kv[rows,2C] holds
     * [K|V]; o[B,C], lse[H,B]. */
    void (*attention_pool_fwd)(act *o, acc *lse, const act *q, const act *kv, const int32_t *start,
                               size_t B, size_t rows, size_t H, size_t D);
    /* dq[B,C], dkv[rows,2C] are written. */
    void (*attention_pool_bwd)(act *dq, act *dkv, const act *dout, const act *o, const acc *lse,
                               const act *q, const act *kv, const int32_t *start, size_t B,
                               size_t rows, size_t H, size_t D);

    /* ---- norm ---- (LayerNorm, eps 1e-5, biased variance; w, b [C]) */
    /* y[rows,C] = (x-mean)·rstd·w + b; mean, rstd [rows]. If r is given: sum[rows,C] = x + r is
     * written (rounded to act) and normalised in x's place; sum may be x. Without r, sum is not
     * touched. */
    void (*layernorm_fwd)(act *y, acc *mean, acc *rstd, act *sum, const act *x, const act *r,
                          const acc *w, const acc *b, size_t rows, size_t C);
    /* dx = (dres if given) + LayerNorm'(dy); dw, db are added to. x is what was normalised. If y is
     * given, the forward's output is written there again. dx may be dres or dy. */
    void (*layernorm_bwd)(act *dx, acc *dw, acc *db, act *y, const act *dy, const act *dres,
                          const act *x, const acc *mean, const acc *rstd, const acc *w,
                          const acc *b, size_t rows, size_t C);
    /* y[rows,E] = x / max(‖x‖₂, 1e-12), norm[rows] = max(‖x‖₂, 1e-12). */
    void (*l2norm_fwd)(acc *y, acc *norm, const acc *x, size_t rows, size_t E);
    /* dx = (dy - y (y·dy)) / norm. dx may be dy. */
    void (*l2norm_bwd)(acc *dx, const acc *dy, const acc *y, const acc *norm, size_t rows,
                       size_t E);

    /* ---- pointwise ---- */
    /* dx[rows,C] = dy·f'(x), y[rows,C] = f(x), db[C] += Σ_rows dx in the same pass: the bias
     * gradient of the layer that x came from. db sums dx as it is stored, rounded to act, as
     * linear_bwd_weight would, whose db is then NULL; it may be NULL. dx may be dy. */
    void (*activation_bwd)(act *dx, act *y, acc *db, const act *dy, const act *x, size_t rows,
                           size_t C, Activation f);
    /* y[n] = a + b. y may be a or b. */
    void (*add)(act *y, const act *a, const act *b, size_t n);
    /* y[n,C] = x[idx[i], :]. */
    void (*gather_rows)(act *y, const act *x, const int32_t *idx, size_t n, size_t C);
    /* y[idx[i], :] += x[i, :], x [n,C]; the indices differ from each other. */
    void (*scatter_add_rows)(act *y, const act *x, const int32_t *idx, size_t n, size_t C);
    /* y[B,C] = mean of the rows of each sequence but its first `skip` (which leaves at least one).
     */
    void (*mean_pool_fwd)(act *y, const act *x, const int32_t *start, size_t B, size_t skip,
                          size_t C);
    /* dx[rows,C] written; the skipped rows become 0. */
    void (*mean_pool_bwd)(act *dx, const act *dy, const int32_t *start, size_t B, size_t skip,
                          size_t C);

    /* ---- embed ---- */
    /* u8 pixels [B,S,S,3] → patches[B·n, 3·P·P] in the order (channel, y, x), value (u/255 -
     * mean[c])/std[c]. keep[B,n]: which of the (S/P)² grid positions, row-major, each sample keeps;
     * NULL: all, n = (S/P)². mean, std are host values. */
    void (*patches_u8)(act *patches, const uint8_t *pixels, const int32_t *keep,
                       const float mean[3], const float std[3], size_t B, size_t S, size_t P,
                       size_t n);
    /* x[B,1+n,C]: row 0 = cls + pos[0]; row 1+i = tok[b,i] + pos[1+keep[b,i]]; tok [B·n,C], cls
     * [C], pos [1+grid,C]. */
    void (*image_embed_fwd)(act *x, const act *tok, const acc *cls, const acc *pos,
                            const int32_t *keep, size_t B, size_t n, size_t C);
    void (*image_embed_bwd)(act *dtok, acc *dcls, acc *dpos, const act *dx, const int32_t *keep,
                            size_t B, size_t n, size_t C);
    /* x[rows,C] = table[ids[row]] + pos[row - start of its sequence]; table [V,C]. */
    void (*text_embed_fwd)(act *x, const int32_t *ids, const int32_t *start, const acc *table,
                           const acc *pos, size_t B, size_t rows, size_t C);
    void (*text_embed_bwd)(acc *dtable, acc *dpos, const act *dx, const int32_t *ids,
                           const int32_t *start, size_t B, size_t rows, size_t C);

    /* ---- loss ---- (logits z = s·cos + bias, s = exp(*log_scale); bias may be NULL. A tile holds
     * rows i0…, columns j0… of the N×N matrix; `diag` = i0 - j0: the positive of tile row i is tile
     * column i + diag, where that lies inside.) */
    /* Online log-sum-exp over tiles: row_max[n], row_sum[n], col_max[m], col_sum[m] must start as
     * -inf (lowest) and 0; afterwards lse = max + ln(sum). positive[n] = z of the positives inside
     * this tile (others untouched). */
    void (*logits_stats)(acc *row_max, acc *row_sum, acc *col_max, acc *col_sum, acc *positive,
                         const acc *cos, const acc *log_scale, const acc *bias, size_t n, size_t m,
                         ptrdiff_t diag);
    /* Starts the statistics: max = lowest finite value, sum = 0. */
    void (*stats_init)(acc *max, acc *sum, size_t n);
    /* Combines the statistics of another part of the same rows: max, sum ← joined. */
    void (*stats_join)(acc *max, acc *sum, const acc *other_max, const acc *other_sum, size_t n);
    /* lse[n] = max + ln(sum); may be max. */
    void (*stats_lse)(acc *lse, const acc *max, const acc *sum, size_t n);
    /* *loss += weight · Σ_i (row_lse[i] + col_lse[i] - 2·positive[i]); with weight = 1/(2N) the
     * CLIP loss's share of n rows; col_lse are those of the same n pairs. */
    void (*clip_loss)(acc *loss, const acc *row_lse, const acc *col_lse, const acc *positive,
                      size_t n, double weight);
    /* In place cos → s·G, G = (exp(z-row_lse) + exp(z-col_lse) - 2·[positive])·weight, weight =
     * 1/(2N); *dlog_scale += Σ s·G·cos, *dbias += Σ G (dbias may be NULL). */
    void (*clip_logits_grad)(acc *cos, acc *dlog_scale, acc *dbias, const acc *row_lse,
                             const acc *col_lse, const acc *log_scale, const acc *bias, size_t n,
                             size_t m, ptrdiff_t diag, double weight);
    /* SigLIP in one walk: *loss += weight · Σ -ln σ(y·z), y = +1 for positives, else -1; in place
     * cos → s·G with G = -y·σ(-y·z)·weight, weight = 1/N; *dlog_scale, *dbias as above. */
    void (*siglip_tile)(acc *cos, acc *loss, acc *dlog_scale, acc *dbias, const acc *log_scale,
                        const acc *bias, size_t n, size_t m, ptrdiff_t diag, double weight);
    /* Soft targets t[n,m] of a tile. Several positives: share[i] where row_group[i] =
     * col_group[j], else 0. */
    void (*group_targets)(acc *t, const int32_t *row_group, const int32_t *col_group,
                          const acc *share, size_t n, size_t m);
    /* Adds a teacher's probabilities (Hinton et al. 2015): t += ½(exp(z-row_lse) +
     * exp(z-col_lse)), z = s·cos, all of the teacher's. */
    void (*teacher_targets)(acc *t, const acc *cos, const acc *row_lse, const acc *col_lse,
                            const acc *log_scale, size_t n, size_t m);
    /* Cross-entropy with soft targets whose rows and columns sum up to `mass`: in place cos → s·G,
     * G = (mass·(exp(z-row_lse) + exp(z-col_lse)) - 2t)·weight; *loss -= 2·weight·Σ t·z (the rest
     * is clip_loss with positives of 0 and weight·mass); *dlog_scale, *dbias as above. */
    void (*soft_logits_grad)(acc *cos, acc *loss, acc *dlog_scale, acc *dbias, const acc *t,
                             const acc *row_lse, const acc *col_lse, const acc *log_scale,
                             const acc *bias, size_t n, size_t m, double mass, double weight);
    /* siglip_tile whose positives are where t[n,m] > 0. */
    void (*siglip_targets_tile)(acc *cos, acc *loss, acc *dlog_scale, acc *dbias, const acc *t,
                                const acc *log_scale, const acc *bias, size_t n, size_t m,
                                double weight);

    /* ---- optim ---- (chunk[count], group, o: device memory; the chunks do not overlap) */
    /* *out += Σ g² over the chunks. */
    void (*sum_squares)(acc *out, const acc *g, const OptimChunk *chunk, size_t count);
    /* *squares = infinity where *loss > o->max_loss: adamw then leaves the step out. */
    void (*skip_spike)(acc *squares, const acc *loss, const AdamW *o);
    /* One AdamW step over all chunks. *squares: the sum of the squared gradients; where it is not
     * finite, the step is left out and p, w, m, v stay as they are. Else g is scaled by min(1,
     * max_norm / (√*squares + 1e-6)); w (may be NULL) receives the new weights, rounded. g is set
     * to zero in any case.
     * bf16 moments are rounded up or down at random, so that small changes are not lost on average
     * (Gupta et al. 2015): 16 bits of noise are added below the last kept bit, for m the low, for v
     * the high half of MurmurHash3's finalizer of i + 0x9E3779B9·t (32 bits), i the element's place
     * in the block of weights. */
    void (*adamw)(acc *p, act *w, acc *g, void *m, void *v, Moments moments,
                  const OptimChunk *chunk, size_t count, const OptimGroup *group, const AdamW *o,
                  const acc *squares);
    /* Moments stored as bf16: dst[n] = src[n], exact; the other way rounded to nearest even. */
    void (*acc_from_bf16)(acc *dst, const void *src, size_t n);
    void (*bf16_from_acc)(void *dst, const acc *src, size_t n);
    /* y[n] += alpha·x. */
    void (*axpy)(acc *y, double alpha, const acc *x, size_t n);
    /* A moving average: avg[n] += (x - avg)·(1 - decay); equal values stay as they are. */
    void (*ema)(acc *avg, const acc *x, double decay, size_t n);

    /* ---- fp8 ---- (Micikevicius et al. 2022: factors of 8 bits, x and w as e4m3, dy as e5m2, each
     * times a power of two that goes by the largest magnitudes of past steps.) scaling holds, for n
     * factors: n largest magnitudes of this step; n scales; n inverse scales; FP8_HISTORY · n past
     * magnitudes, the last step's first. The factors of a matrix are i (x), i+1 (w), i+2 (dy), and
     * i is a multiple of 3. */
    /* From now on products with w[N,K], or with some whole rows of it, and gradients into dw take
     * 8-bit factors; scaling NULL: no longer. Ignored where fp8 is false; sizes
     * that are no multiples of 16 are computed as before. */
    void (*fp8_weight)(const act *w, const acc *dw, acc *scaling, size_t n, size_t i, size_t N,
                       size_t K);
    /* Until the next call: in products of a row a token, or of a row a sequence, x's rows of the
     * sequences from number B on (of `sequences`; start[sequences+1]) are padding, and have no say
     * in its largest magnitude. start NULL: there is none. Ignored where fp8 is false. */
    void (*fp8_padding)(const int32_t *start, size_t B, size_t sequences);
    /* Ends a step: this step's magnitudes join the past (where finite), and each scale becomes the
     * largest power of two that keeps them within its type. */
    void (*fp8_update)(acc *scaling, size_t n);
} Kernels;

#define FP8_E4M3_MAX 448.0f
#define FP8_E5M2_MAX 57344.0f
enum { FP8_HISTORY = 16, FP8_SCALING = 3 + FP8_HISTORY, FP8_EXPONENT_MAX = 60 };

/* Every slot, in the order above: the backends' tables, the statistics' names, test coverage. */
/* clang-format off */
#define KERNEL_LIST(X) \
    X(acc_set) X(acc_get) X(acc_set_f32) X(acc_get_f32) X(act_from_acc) \
    X(linear_fwd) X(linear_bwd_input) X(linear_bwd_weight) X(linear_activation_fwd) \
    X(project_fwd) X(project_bwd) X(gemm) \
    X(attention_fwd) X(attention_bwd) X(attention_pool_fwd) X(attention_pool_bwd) \
    X(layernorm_fwd) X(layernorm_bwd) X(l2norm_fwd) X(l2norm_bwd) \
    X(activation_bwd) X(add) X(gather_rows) X(scatter_add_rows) X(mean_pool_fwd) X(mean_pool_bwd) \
    X(patches_u8) X(image_embed_fwd) X(image_embed_bwd) \
    X(text_embed_fwd) X(text_embed_bwd) \
    X(logits_stats) X(stats_init) X(stats_join) X(stats_lse) \
    X(clip_loss) X(clip_logits_grad) X(siglip_tile) \
    X(group_targets) X(teacher_targets) X(soft_logits_grad) X(siglip_targets_tile) \
    X(sum_squares) X(skip_spike) X(adamw) X(acc_from_bf16) X(bf16_from_acc) X(axpy) X(ema) \
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

/* backend "ref" (float64, naive, precision ignored), "cpu", "cuda", or "auto": cuda where a GPU is
 * usable, else cpu. Dies with a clear line where the backend is not built or not usable. The table
 * lives for ever. */
const Kernels *kernels_open(const char *backend, Precision precision);
/* The same by --device. */
#define DEVICES(X) X(DEVICE_AUTO, "auto") X(DEVICE_CPU, "cpu") X(DEVICE_CUDA, "cuda")
typedef enum { DEVICES(CHOICE_NAME) } DeviceChoice;
const Kernels *kernels_open_choice(DeviceChoice device, Precision precision);
/* Gives back what backends keep for themselves. At the end: nothing may be called afterwards. */
void kernels_close(void);

/* What may be traded for speed; set before the first product. The CPU has neither choice. */
typedef struct KernelTuning {
    bool tf32;     /* fp32 products may round their inputs to TF32 */
    bool autotune; /* measure the ways to do a product, once for each shape, and take the fastest */
} KernelTuning;
extern KernelTuning kernel_tuning;
/* The ways of doing products that were chosen so far, to a file and back: a run that goes on then
 * computes as before. Nothing is written where nothing was chosen (on a CPU). Reading refuses
 * another library version or device, and damaged lines. */
bool kernels_write_choices(const char *path, Error *err);
bool kernels_read_choices(const char *path, Error *err);

/* i-th element of device memory. */
static inline act *act_at(const Kernels *k, const act *p, size_t i) {
    return (act *)((char *)p + i * k->act_size);
}
static inline acc *acc_at(const Kernels *k, const acc *p, size_t i) {
    return (acc *)((char *)p + i * k->acc_size);
}

/* i-th acc among bytes that download_start brought. */
static inline double acc_value(const Kernels *k, const void *host, size_t i) {
    return k->acc_size == sizeof(float) ? (double)((const float *)host)[i]
                                        : ((const double *)host)[i];
}

/* The same before upload_start takes it. */
static inline void acc_put(const Kernels *k, void *host, size_t i, double value) {
    if (k->acc_size == sizeof(float))
        ((float *)host)[i] = (float)value;
    else
        ((double *)host)[i] = value;
}

/* What ran: filled by the backends while kernel_stats_on is set; `clipc bench` prints it. */
typedef struct KernelStat {
    uint64_t calls;
    double seconds, flops,
        bytes; /* work really done: multiply-adds count 2; bytes read and written at least once */
} KernelStat;
extern KernelStat kernel_stats[SLOT_COUNT];
extern bool kernel_stats_on;
/* Whether graphs are recorded, where a backend can (true at the start). */
extern bool kernel_graphs_on;
void kernel_stats_reset(void);

/* A CPU backend's slot opens with KERNEL_TIMER(linear_fwd, flops, bytes); the time until the
 * function returns is booked. */
typedef struct KernelTimer {
    enum KernelSlot slot;
    double start, flops, bytes;
} KernelTimer;
void kernel_timer_stop(KernelTimer *t);
#define KERNEL_TIMER(slot_name, flops_, bytes_)                                                    \
    __attribute__((cleanup(kernel_timer_stop), unused)) KernelTimer timer_ = {                     \
        SLOT_##slot_name, kernel_stats_on ? clock_now() : 0, (double)(flops_), (double)(bytes_)}
#endif
