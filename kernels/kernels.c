#include "kernels/kernels.h"

#include "kernels/cpu_sets.h"

#include <stdio.h>
#include <string.h>

extern const Kernels ref_kernels;
/* kernels/cpu by instruction set. What is compiled for v4bf16 uses AMX where the set is AMX. */
#define CPU_BUILDS(set)                                                                            \
    { &cpu_f32_##set##_kernels, &cpu_bf16_##set##_kernels }
#if defined __aarch64__
extern const Kernels cpu_f32_neon_kernels, cpu_bf16_neon_kernels;
#else
extern const Kernels cpu_f32_v3_kernels, cpu_f32_v4_kernels, cpu_f32_v4bf16_kernels;
extern const Kernels cpu_bf16_v3_kernels, cpu_bf16_v4_kernels, cpu_bf16_v4bf16_kernels;
#endif
static const struct {
    const Kernels *f32, *bf16;
} cpu_kernels[CPU_SETS] = {
#if defined __aarch64__
    [CPU_NEON] = CPU_BUILDS(neon),
#else
    [CPU_V3] = CPU_BUILDS(v3),
    [CPU_V4] = CPU_BUILDS(v4),
    [CPU_V4BF16] = CPU_BUILDS(v4bf16),
    [CPU_AMX] = CPU_BUILDS(v4bf16),
#endif
};

#if defined HAVE_CUDA
extern const Kernels cuda_f32_kernels, cuda_bf16_kernels;
/* The reason why no GPU is usable; NULL if one is. */
extern const char *device_problem(void);
extern bool device_has_fp8(void);
extern void device_close(void);
extern KERNEL_TYPE(fp8_weight) cuda_bf16_fp8_register;

extern bool cuda_write_algorithms(const char *path, Error *err);
extern bool cuda_read_algorithms(const char *path, Error *err);
extern void *cuda_algorithms(size_t *bytes);
extern void cuda_set_algorithms(const void *algorithms, size_t bytes);

static bool cuda_usable(void) { return !device_problem(); }

void kernels_close(void) { device_close(); }

static const Kernels *cuda_open(Precision precision) {
    const char *problem = device_problem();
    if (problem) die("--device cuda: %s; --device cpu runs without a GPU", problem);
    static Kernels fp8;
    if (precision != PRECISION_AMP_FP8)
        return precision == PRECISION_FP32 ? &cuda_f32_kernels : &cuda_bf16_kernels;
    if (!device_has_fp8())
        die("--precision amp_fp8 needs a GPU of compute capability 8.9 or more: use amp_bf16");
    fp8 = cuda_bf16_kernels;
    fp8.name = "cuda-amp_fp8";
    fp8.fp8 = true;
    fp8.residual_in_product = false; /* a product of 8-bit factors is rounded before it is added */
    fp8.fp8_weight = cuda_bf16_fp8_register;
    return &fp8;
}
#else
static bool cuda_usable(void) { return false; }
void kernels_close(void) {}
static bool cuda_write_algorithms(const char *path, Error *err) {
    (void)path, (void)err;
    return true;
}
static void *cuda_algorithms(size_t *bytes) {
    *bytes = 0;
    return NULL;
}
static void cuda_set_algorithms(const void *algorithms, size_t bytes) {
    (void)algorithms, (void)bytes;
}
static bool cuda_read_algorithms(const char *path, Error *err) {
    return error_set(err, "%s: products have no choices on a CPU", path);
}

static const Kernels *cuda_open(Precision precision) {
    (void)precision;
    die("--device cuda: this program was built without CUDA (where make finds nvcc it also builds "
        "build/clipc-cuda); --device cpu runs without a GPU");
}
#endif

const char *const kernel_names[SLOT_COUNT] = {
#define X(slot) #slot,
    DEVICE_LIST(X) KERNEL_LIST(X)
#undef X
};

KernelStat kernel_stats[SLOT_COUNT];
bool kernel_stats_on, kernel_dry_run;
bool kernel_graphs_on = true;
KernelTuning kernel_tuning;
Fp8Products kernel_fp8_products;
int kernel_local_rank = -1;

/* A slot that is in a struct but not in its list changes the struct's size and does not compile. A
 * slot that a backend lacks does not link. */
#define X(slot) +sizeof(void (*)(void))
_Static_assert(sizeof(Device) == offsetof(Device, alloc) DEVICE_LIST(X),
               "DEVICE_LIST and struct Device disagree");
_Static_assert(sizeof(Kernels) == offsetof(Kernels, acc_set) KERNEL_LIST(X),
               "KERNEL_LIST and struct Kernels disagree");
#undef X

static Precision suitable_precision(bool gpu, Precision precision) {
    if (precision != PRECISION_AUTO) return precision;
    /* a GPU of compute capability 8.0 or more has bf16 products */
    return gpu || cpu_set_bf16(cpu_set()) ? PRECISION_AMP_BF16 : PRECISION_FP32;
}

const Kernels *kernels_open(const char *backend, Precision precision) {
    if (!strcmp(backend, "ref")) return &ref_kernels;
    bool automatic = !strcmp(backend, "auto");
    bool gpu = !strcmp(backend, "cuda") || (automatic && cuda_usable());
    if (!gpu && !automatic && strcmp(backend, "cpu"))
        die("unknown device '%s': use cpu or cuda", backend);
    precision = suitable_precision(gpu, precision);
    if (gpu) return cuda_open(precision);
    if (precision == PRECISION_AMP_FP8)
        die("--precision amp_fp8 needs a GPU (--device cuda): use amp_bf16");
    return precision == PRECISION_AMP_BF16 ? cpu_kernels[cpu_set()].bf16
                                           : cpu_kernels[cpu_set()].f32;
}

const Kernels *kernels_open_device(DeviceOption device, Precision precision) {
    static const char *const backends[] = {DEVICES(CHOICE_WORD)};
    return kernels_open(backends[device], precision);
}

const char *kernels_title(const Kernels *k) {
    static char title[32];
    if (k->device->gpu || k == &ref_kernels) return k->name;
    snprintf(title, sizeof title, "%s (%s)", k->name, cpu_set_names[cpu_set()]);
    return title;
}

Precision kernels_precision(DeviceOption device, Precision precision) {
    bool gpu = device == DEVICE_CUDA || (device == DEVICE_AUTO && cuda_usable());
    return suitable_precision(gpu, precision);
}

bool kernels_write_algorithms(const char *path, Error *err) {
    return cuda_write_algorithms(path, err);
}
bool kernels_read_algorithms(const char *path, Error *err) {
    return cuda_read_algorithms(path, err);
}

void *kernels_algorithms(size_t *bytes) { return cuda_algorithms(bytes); }
void kernels_set_algorithms(const void *algorithms, size_t bytes) {
    cuda_set_algorithms(algorithms, bytes);
}

void kernel_stats_reset(void) { memset(kernel_stats, 0, sizeof kernel_stats); }

void kernel_timer_stop(KernelTimer *t) {
    if (!kernel_stats_on) return;
    KernelStat *s = &kernel_stats[t->slot];
    s->calls++;
    s->seconds += clock_now() - t->start;
    s->flops += t->flops;
    s->bytes += t->bytes;
}
