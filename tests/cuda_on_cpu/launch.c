/* launch: the functions that nvcc's host code calls (registration of objects and kernels, launch
 * stubs) and the runtime's functions about kernels. The PTX inside an object is parsed at its first
 * use. */
#include "tests/cuda_on_cpu/profile.h"
#include "tests/cuda_on_cpu/runtime.h"
#include "tests/cuda_on_cpu/stream.h"
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

typedef struct Object {
    const unsigned char *data; /* fat binary */
    Module *module;
} Object;
typedef struct Function {
    const void *stub;
    const char *name;
    Object *object;
    Kernel *kernel;
    unsigned long launches;
} Function;
typedef struct Symbol {
    const void *host;
    const char *name;
    Object *object;
} Symbol;
static Function **functions;
static Symbol *symbols;
static int function_count, symbol_count;

/* ---- fat binaries: a header, then entries; kind 1 is PTX ---- */
typedef struct __attribute__((packed)) FatHeader {
    uint32_t magic;
    uint16_t version, header_bytes;
    uint64_t bytes;
} FatHeader;
typedef struct __attribute__((packed)) FatEntry {
    uint16_t kind, version;
    uint32_t header_bytes;
    uint64_t padded_bytes;
    uint32_t stored_bytes, unknown0, unknown1, arch;
    uint32_t name_at, name_bytes;
    uint64_t flags, zero, plain_bytes;
} FatEntry;
enum { FAT_MAGIC = 0xBA55ED50, WRAPPER_MAGIC = 0x466243B1, KIND_PTX = 1 };
enum { FLAG_LZ4 = 0x2000, FLAG_ZSTD = 0x8000 };

static char *ptx_text(const FatEntry *e) {
    const char *stored = (const char *)e + e->header_bytes;
    if (!(e->flags & (FLAG_LZ4 | FLAG_ZSTD))) return strndup(stored, e->padded_bytes);
    if (!(e->flags & FLAG_ZSTD))
        emu_stop("an object holds PTX compressed in a way that is not known here: build it with "
                 "nvcc -compress-mode=none");
    char *text = malloc(e->plain_bytes + 1);
    size_t n = ZSTD_decompress(text, e->plain_bytes, stored, e->stored_bytes);
    if (ZSTD_isError(n)) emu_stop("an object holds damaged PTX: %s", ZSTD_getErrorName(n));
    text[n] = 0;
    return text;
}
/* The newest PTX that the device can run. */
static Module *module_of(Object *o) {
    if (o->module) return o->module;
    const FatHeader *h = (const FatHeader *)o->data;
    if (h->magic != FAT_MAGIC) emu_stop("an object holds no fat binary that is known here");
    const unsigned char *at = o->data + h->header_bytes, *end = at + h->bytes;
    const FatEntry *best = NULL;
    while (at < end) {
        const FatEntry *e = (const FatEntry *)at;
        bool fits = e->kind == KIND_PTX && (int)e->arch <= emu_options()->arch;
        if (fits && (!best || e->arch > best->arch)) best = e;
        at += e->header_bytes + e->padded_bytes;
    }
    if (!best)
        emu_stop("an object holds no PTX for compute capability %d: build it with nvcc -gencode "
                 "arch=compute_80,code=compute_80",
                 emu_options()->arch);
    o->module = ptx_parse(ptx_text(best));
    return o->module;
}

void **__cudaRegisterFatBinary(void *wrapper);
void __cudaRegisterFatBinaryEnd(void **handle);
void __cudaUnregisterFatBinary(void **handle);
void __cudaRegisterFunction(void **handle, const char *stub, char *device, const char *name,
                            int limit, uint3 *tid, uint3 *bid, dim3 *bdim, dim3 *gdim, int *warp);
void __cudaRegisterVar(void **handle, char *host, char *device, const char *name, int external,
                       size_t size, int constant, int global);
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, void *stream);
cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *stream);
cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *stub);
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void **args,
                               size_t shared, cudaStream_t stream);
char __cudaInitModule(void **handle);

void **__cudaRegisterFatBinary(void *wrapper) {
    const struct {
        uint32_t magic, version;
        const unsigned char *data;
    } *w = wrapper;
    if (w->magic != WRAPPER_MAGIC) emu_stop("an object is registered in a way not known here");
    Object *o = calloc(1, sizeof *o);
    o->data = w->data;
    return (void **)o;
}
void __cudaRegisterFatBinaryEnd(void **handle) { (void)handle; }
void __cudaUnregisterFatBinary(void **handle) { (void)handle; }
char __cudaInitModule(void **handle) {
    (void)handle;
    return 1;
}
void __cudaRegisterFunction(void **handle, const char *stub, char *device, const char *name,
                            int limit, uint3 *tid, uint3 *bid, dim3 *bdim, dim3 *gdim, int *warp) {
    (void)device, (void)limit, (void)tid, (void)bid, (void)bdim, (void)gdim, (void)warp;
    Function *f = calloc(1, sizeof *f);
    *f = (Function){stub, name, (Object *)handle, NULL, 0};
    functions = realloc(functions, (size_t)(function_count + 1) * sizeof *functions);
    functions[function_count++] = f;
}
void __cudaRegisterVar(void **handle, char *host, char *device, const char *name, int external,
                       size_t size, int constant, int global) {
    (void)device, (void)external, (void)size, (void)constant, (void)global;
    symbols = realloc(symbols, (size_t)(symbol_count + 1) * sizeof *symbols);
    symbols[symbol_count++] = (Symbol){host, name, (Object *)handle};
}

static Function *function_of(const void *stub) {
    for (int i = 0; i < function_count; i++)
        if (functions[i]->stub == stub || functions[i] == stub) return functions[i];
    return NULL;
}
static Kernel *kernel_of(Function *f) {
    if (!f->kernel) f->kernel = ptx_kernel(module_of(f->object), f->name);
    if (!f->kernel) emu_stop("kernel %s is not in the PTX of its object", f->name);
    return f->kernel;
}

/* ---- launches ---- */
typedef struct Configuration {
    dim3 grid, block;
    size_t shared;
    void *stream;
} Configuration;
static Configuration pushed[16];
static int pushed_count;

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, void *stream) {
    if (pushed_count == 16) emu_stop("launches nested too deeply");
    pushed[pushed_count++] = (Configuration){grid, block, shared, stream};
    return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *stream) {
    if (!pushed_count) return emu_error(cudaErrorInvalidConfiguration);
    Configuration *c = &pushed[--pushed_count];
    *grid = c->grid;
    *block = c->block;
    *shared = c->shared;
    *(void **)stream = c->stream;
    return cudaSuccess;
}

typedef struct LaunchWork {
    Kernel *kernel;
    Dim grid, block;
    size_t shared;
    unsigned char params[];
} LaunchWork;
static void run_launch(void *ctx) {
    LaunchWork *l = ctx;
    block_launch(l->kernel, l->grid, l->block, l->shared, l->params);
}
static cudaError_t check_limits(const Kernel *k, dim3 g, dim3 b, size_t shared) {
    uint64_t threads = (uint64_t)b.x * b.y * b.z;
    if (!threads || threads > MAX_THREADS || b.x > 1024 || b.y > 1024 || b.z > 64 || !g.x || !g.y ||
        !g.z || g.x > 2147483647 || g.y > 65535 || g.z > 65535)
        return cudaErrorInvalidConfiguration;
    if (k->max_threads && threads > k->max_threads) return cudaErrorInvalidValue;
    /* 65,536 registers a block, up to 255 a thread without __launch_bounds__ */
    if (!k->max_threads && threads > 256) return cudaErrorLaunchOutOfResources;
    size_t limit = (size_t)(k->dynamic_limit ? k->dynamic_limit : 0) + k->shared_bytes;
    if (limit < LIMIT_SHARED_DEFAULT) limit = LIMIT_SHARED_DEFAULT;
    return k->shared_bytes + shared > limit ? cudaErrorInvalidValue : cudaSuccess;
}
static cudaError_t launch(Function *f, dim3 g, dim3 b, void **args, size_t shared,
                          cudaStream_t stream) {
    emu_count(COUNT_LAUNCHES);
    emu_enter();
    Kernel *k = kernel_of(f);
    ptx_decode(k);
    cudaError_t e = check_limits(k, g, b, shared);
    if (e != cudaSuccess) return emu_error(e);
    f->launches++;
    size_t bytes = sizeof(LaunchWork) + k->param_bytes;
    LaunchWork *l = calloc(1, bytes);
    *l = (LaunchWork){k, {g.x, g.y, g.z}, {b.x, b.y, b.z}, shared};
    for (int p = 0; p < k->param_count; p++)
        memcpy(l->params + k->params[p].address, args[p], k->params[p].size);
    bool added = stream_add(stream_of(stream), run_launch, l, bytes);
    free(l);
    return added ? cudaSuccess : emu_error(cudaErrorStreamCaptureImplicit);
}

cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *stub) {
    *kernel = (cudaKernel_t)function_of(stub);
    return *kernel ? cudaSuccess : emu_error(cudaErrorInvalidDeviceFunction);
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void **args,
                               size_t shared, cudaStream_t stream) {
    return launch((Function *)kernel, grid, block, args, shared, stream);
}
cudaError_t cudaLaunchKernel(const void *stub, dim3 grid, dim3 block, void **args, size_t shared,
                             cudaStream_t stream) {
    Function *f = function_of(stub);
    if (!f) return emu_error(cudaErrorInvalidDeviceFunction);
    return launch(f, grid, block, args, shared, stream);
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *c, const void *stub, void **args) {
    if (c->numAttrs) emu_stop("cudaLaunchKernelExC: launch attributes are not known here");
    return cudaLaunchKernel(stub, c->gridDim, c->blockDim, args, c->dynamicSmemBytes, c->stream);
}

/* ---- functions ---- */
cudaError_t cudaFuncSetAttribute(const void *stub, enum cudaFuncAttribute attr, int value) {
    emu_enter();
    Function *f = function_of(stub);
    if (!f) return emu_error(cudaErrorInvalidDeviceFunction);
    Kernel *k = kernel_of(f);
    ptx_decode(k);
    if (attr == cudaFuncAttributePreferredSharedMemoryCarveout) return cudaSuccess;
    if (attr != cudaFuncAttributeMaxDynamicSharedMemorySize)
        emu_stop("cudaFuncSetAttribute: attribute %d is not known here", (int)attr);
    if (value < 0 || (size_t)value + k->shared_bytes > (size_t)emu_shared_limit())
        return emu_error(cudaErrorInvalidValue);
    k->dynamic_limit = value;
    return cudaSuccess;
}
const char *cudaemuKernel(int index, unsigned long *launches) {
    static char name[64];
    if (index >= function_count) return NULL;
    profile_name(name, sizeof name, functions[index]->name);
    *launches = functions[index]->launches;
    return name;
}
cudaError_t cudaFuncSetCacheConfig(const void *stub, enum cudaFuncCache config) {
    (void)config;
    return function_of(stub) ? cudaSuccess : emu_error(cudaErrorInvalidDeviceFunction);
}
cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *a, const void *stub) {
    Function *f = function_of(stub);
    if (!f) return emu_error(cudaErrorInvalidDeviceFunction);
    Kernel *k = kernel_of(f);
    ptx_decode(k);
    memset(a, 0, sizeof *a);
    a->sharedSizeBytes = k->shared_bytes;
    a->localSizeBytes = k->local_bytes;
    a->maxThreadsPerBlock = k->max_threads ? (int)k->max_threads : MAX_THREADS;
    a->numRegs = 64;
    a->ptxVersion = a->binaryVersion = emu_options()->arch;
    a->maxDynamicSharedSizeBytes =
        k->dynamic_limit ? k->dynamic_limit : LIMIT_SHARED_DEFAULT - (int)k->shared_bytes;
    return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *stub,
                                                          int threads, size_t shared) {
    Function *f = function_of(stub);
    if (!f || threads < 1) return emu_error(cudaErrorInvalidValue);
    ptx_decode(kernel_of(f));
    size_t bytes = f->kernel->shared_bytes + shared + 1024;
    int by_threads = 2048 / threads, by_shared = (int)((size_t)(emu_shared_limit() + 1024) / bytes);
    *blocks = by_threads < by_shared ? by_threads : by_shared;
    if (*blocks > 32) *blocks = 32;
    return cudaSuccess;
}

/* ---- __device__ and __constant__ variables ---- */
static const Variable *variable_of(const void *host) {
    for (int i = 0; i < symbol_count; i++) {
        if (symbols[i].host != host) continue;
        const Module *m = module_of(symbols[i].object);
        for (int v = 0; v < m->variable_count; v++)
            if (!strcmp(m->variables[v]->name, symbols[i].name)) return m->variables[v];
    }
    return NULL;
}
cudaError_t cudaGetSymbolAddress(void **p, const void *symbol) {
    const Variable *v = variable_of(symbol);
    if (!v) return emu_error(cudaErrorInvalidSymbol);
    *p = (void *)(uintptr_t)v->address;
    return cudaSuccess;
}
cudaError_t cudaGetSymbolSize(size_t *size, const void *symbol) {
    const Variable *v = variable_of(symbol);
    if (!v) return emu_error(cudaErrorInvalidSymbol);
    *size = v->size;
    return cudaSuccess;
}
cudaError_t cudaMemcpyToSymbol(const void *symbol, const void *from, size_t bytes, size_t offset,
                               enum cudaMemcpyKind kind) {
    void *p = NULL;
    cudaError_t e = cudaGetSymbolAddress(&p, symbol);
    return e ? e : cudaMemcpy((char *)p + offset, from, bytes, kind);
}
cudaError_t cudaMemcpyFromSymbol(void *to, const void *symbol, size_t bytes, size_t offset,
                                 enum cudaMemcpyKind kind) {
    void *p = NULL;
    cudaError_t e = cudaGetSymbolAddress(&p, symbol);
    return e ? e : cudaMemcpy(to, (char *)p + offset, bytes, kind);
}
