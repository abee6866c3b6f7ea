/* runtime: the CUDA runtime API except launches (launch.c). Unsupported functions do not link. */
#include "tests/cuda_on_cpu/runtime.h"
#include "tests/cuda_on_cpu/stream.h"
#include <stdio.h>
#include <string.h>
#include <stdlib.h>

static unsigned long counts[COUNTS];
/* of the calling thread, as the runtime has them */
static _Thread_local cudaError_t last_error;
static _Thread_local int current_device;

cudaError_t emu_error(cudaError_t e) {
    if (e != cudaSuccess) last_error = e;
    return e;
}
static _Atomic(pthread_t) host_thread;
bool emu_bystander(void) { return host_thread && !pthread_equal(host_thread, pthread_self()); }
unsigned long cudaemuCount(EmuCount what) { return counts[what]; }
void emu_count(EmuCount what) { counts[what]++; }
void emu_enter(void) {
    if (emu_bystander()) return;
    if (!host_thread && !emu_options()->quiet)
        emu_warn("no GPU: CUDA runs on the CPU, interpreted, slowly (for tests)");
    host_thread = pthread_self();
    stream_some();
}

/* ---- devices ---- */
cudaError_t cudaGetDeviceCount(int *count) {
    *count = 0;
    if (emu_options()->driver / 1000 < CUDART_VERSION / 1000)
        return emu_error(cudaErrorInsufficientDriver);
    *count = emu_options()->devices;
    return *count ? cudaSuccess : emu_error(cudaErrorNoDevice);
}
cudaError_t cudaSetDevice(int device) {
    if (device < 0 || device >= emu_options()->devices) return emu_error(cudaErrorInvalidDevice);
    current_device = device;
    emu_enter();
    return cudaSuccess;
}
cudaError_t cudaGetDevice(int *device) {
    *device = current_device;
    return cudaSuccess;
}
/* CUDA Programming Guide, "Technical Specifications per Compute Capability" */
int emu_shared_limit(void) {
    int arch = emu_options()->arch;
    int kib = arch == 80 || arch == 87 ? 163 : arch >= 90 && arch < 120 ? 227 : arch < 80 ? 64 : 99;
    return kib * 1024;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attr, int device) {
    if (device < 0 || device >= emu_options()->devices) return emu_error(cudaErrorInvalidDevice);
    switch ((int)attr) {
    case cudaDevAttrMaxThreadsPerBlock:
    case cudaDevAttrMaxBlockDimX:
    case cudaDevAttrMaxBlockDimY:
        *value = 1024;
        break;
    case cudaDevAttrMaxBlockDimZ:
        *value = 64;
        break;
    case cudaDevAttrMaxGridDimX:
        *value = 2147483647;
        break;
    case cudaDevAttrMaxGridDimY:
    case cudaDevAttrMaxGridDimZ:
        *value = 65535;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
        *value = LIMIT_SHARED_DEFAULT;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = emu_shared_limit();
        break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
        *value = emu_shared_limit() + 1024;
        break;
    case cudaDevAttrReservedSharedMemoryPerBlock:
        *value = 1024;
        break;
    case cudaDevAttrWarpSize:
        *value = 32;
        break;
    case cudaDevAttrMaxRegistersPerBlock:
    case cudaDevAttrMaxRegistersPerMultiprocessor:
        *value = 65536;
        break;
    case cudaDevAttrMultiProcessorCount:
        *value = 4;
        break;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
        *value = 2048;
        break;
    case cudaDevAttrMaxBlocksPerMultiprocessor:
        *value = 32;
        break;
    case cudaDevAttrComputeCapabilityMajor:
        *value = emu_options()->arch / 10;
        break;
    case cudaDevAttrComputeCapabilityMinor:
        *value = emu_options()->arch % 10;
        break;
    case cudaDevAttrClockRate:
        *value = 1000000;
        break;
    case cudaDevAttrMemoryClockRate:
        *value = 1000000;
        break;
    case cudaDevAttrGlobalMemoryBusWidth:
        *value = 512;
        break;
    case cudaDevAttrL2CacheSize:
        *value = 4 << 20;
        break;
    case cudaDevAttrAsyncEngineCount:
        *value = 2;
        break;
    case cudaDevAttrConcurrentKernels:
    case cudaDevAttrUnifiedAddressing:
    case cudaDevAttrCanMapHostMemory:
    case cudaDevAttrStreamPrioritiesSupported:
    case cudaDevAttrMemoryPoolsSupported:
        *value = 1;
        break;
    case cudaDevAttrIntegrated:
    case cudaDevAttrKernelExecTimeout:
    case cudaDevAttrEccEnabled:
    case cudaDevAttrComputeMode:
    case cudaDevAttrManagedMemory:
    case cudaDevAttrConcurrentManagedAccess:
    case cudaDevAttrCooperativeLaunch:
    case cudaDevAttrPciBusId:
    case cudaDevAttrPciDeviceId:
    case cudaDevAttrPciDomainId:
        *value = 0;
        break;
    default:
        emu_stop("cudaDeviceGetAttribute: attribute %d is not known here", (int)attr);
    }
    return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device) {
    if (device < 0 || device >= emu_options()->devices) return emu_error(cudaErrorInvalidDevice);
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "CUDA on the CPU");
    p->totalGlobalMem = emu_options()->memory;
    p->sharedMemPerBlock = LIMIT_SHARED_DEFAULT;
    p->sharedMemPerBlockOptin = (size_t)emu_shared_limit();
    p->sharedMemPerMultiprocessor = (size_t)emu_shared_limit() + 1024;
    p->regsPerBlock = p->regsPerMultiprocessor = 65536;
    p->warpSize = 32;
    p->maxThreadsPerBlock = p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
    p->maxThreadsDim[2] = 64;
    p->maxGridSize[0] = 2147483647;
    p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->major = emu_options()->arch / 10;
    p->minor = emu_options()->arch % 10;
    p->multiProcessorCount = 4;
    p->maxThreadsPerMultiProcessor = 2048;
    p->maxBlocksPerMultiProcessor = 32;
    p->l2CacheSize = 4 << 20;
    p->memoryBusWidth = 512;
    p->concurrentKernels = p->unifiedAddressing = p->canMapHostMemory = 1;
    p->asyncEngineCount = 2;
    return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int *v) {
    *v = emu_options()->driver;
    return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int *v) {
    *v = CUDART_VERSION;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetPCIBusId(char *id, int len, int device) {
    snprintf(id, (size_t)len, "0000:00:%02x.0", (unsigned)device);
    return cudaSuccess;
}
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize(void) {
    emu_count(COUNT_WAITS);
    emu_enter();
    if (any_capturing()) return emu_error(cudaErrorStreamCaptureUnsupported);
    stream_sync_all();
    return cudaSuccess;
}
cudaError_t cudaDeviceReset(void) { return cudaDeviceSynchronize(); }
cudaError_t cudaSetDeviceFlags(unsigned flags) {
    (void)flags;
    return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total) {
    *total = emu_options()->memory;
    *free_bytes = *total - mem_used();
    return cudaSuccess;
}

/* ---- errors ---- */
cudaError_t cudaGetLastError(void) {
    cudaError_t e = last_error;
    last_error = cudaSuccess;
    return e;
}
cudaError_t cudaPeekAtLastError(void) { return last_error; }
static const struct {
    cudaError_t code;
    const char *name, *text;
} errors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration",
     "invalid configuration argument"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
     "CUDA driver version is insufficient for CUDA runtime version"},
    {cudaErrorInvalidMemcpyDirection, "cudaErrorInvalidMemcpyDirection",
     "invalid copy direction for memcpy"},
    {cudaErrorInvalidDeviceFunction, "cudaErrorInvalidDeviceFunction", "invalid device function"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
    {cudaErrorHostMemoryAlreadyRegistered, "cudaErrorHostMemoryAlreadyRegistered",
     "part or all of the requested memory range is already mapped"},
    {cudaErrorHostMemoryNotRegistered, "cudaErrorHostMemoryNotRegistered",
     "pointer does not correspond to a registered memory region"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
     "operation not permitted when stream is capturing"},
    {cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated",
     "operation failed due to a previous error during capture"},
    {cudaErrorStreamCaptureUnmatched, "cudaErrorStreamCaptureUnmatched",
     "operation does not match the capture sequence"},
    {cudaErrorStreamCaptureUnjoined, "cudaErrorStreamCaptureUnjoined",
     "capturing stream has unjoined work"},
    {cudaErrorStreamCaptureIsolation, "cudaErrorStreamCaptureIsolation",
     "dependency created on uncaptured work in another stream"},
    {cudaErrorStreamCaptureImplicit, "cudaErrorStreamCaptureImplicit",
     "operation would make the legacy stream depend on a capturing blocking stream"},
    {cudaErrorLaunchOutOfResources, "cudaErrorLaunchOutOfResources",
     "too many resources requested for launch"},
    {cudaErrorCapturedEvent, "cudaErrorCapturedEvent",
     "operation not permitted on an event last recorded in a capturing stream"},
    {cudaErrorGraphExecUpdateFailure, "cudaErrorGraphExecUpdateFailure",
     "the graph update was not performed because it included changes which violated constraints"},
};
const char *cudaGetErrorName(cudaError_t e) {
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (errors[i].code == e) return errors[i].name;
    return "cudaErrorUnknown";
}
const char *cudaGetErrorString(cudaError_t e) {
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (errors[i].code == e) return errors[i].text;
    return "unrecognized error code";
}

/* ---- memory ---- */
static unsigned long allocations;
static void say_allocations(void) {
    emu_warn("device memory was allocated %lu times", allocations);
}

cudaError_t cudaMalloc(void **p, size_t bytes) {
    emu_count(COUNT_MEMORY);
    emu_enter();
    if (any_capturing()) return emu_error(cudaErrorStreamCaptureUnsupported);
    if (!allocations++ && emu_options()->allocations) atexit(say_allocations);
    *p = NULL;
    if (!bytes) return cudaSuccess;
    Buffer *b = mem_alloc(bytes);
    if (!b) return emu_error(cudaErrorMemoryAllocation);
    *p = (void *)(uintptr_t)b->start;
    return cudaSuccess;
}
cudaError_t cudaFree(void *p) {
    emu_count(COUNT_MEMORY);
    emu_enter();
    if (any_capturing()) return emu_error(cudaErrorStreamCaptureUnsupported);
    stream_sync_all();
    if (p && !mem_free(p)) return emu_error(cudaErrorInvalidValue);
    return cudaSuccess;
}
static void free_later(void *ctx) {
    void *p = *(void **)ctx;
    if (!mem_free(p)) emu_stop("cudaFreeAsync: %s", mem_describe((uint64_t)(uintptr_t)p));
}
cudaError_t cudaMallocAsync(void **p, size_t bytes, cudaStream_t stream) {
    (void)stream;
    return cudaMalloc(p, bytes);
}
cudaError_t cudaFreeAsync(void *p, cudaStream_t stream) {
    emu_enter();
    if (p) stream_add(stream_of(stream), free_later, &p, sizeof p);
    return cudaSuccess;
}
cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned flags) {
    emu_count(COUNT_MEMORY);
    (void)flags;
    emu_enter();
    if (any_capturing()) return emu_error(cudaErrorStreamCaptureUnsupported);
    *p = mem_pin(bytes);
    return *p ? cudaSuccess : emu_error(cudaErrorMemoryAllocation);
}
cudaError_t cudaMallocHost(void **p, size_t bytes) { return cudaHostAlloc(p, bytes, 0); }
cudaError_t cudaFreeHost(void *p) {
    emu_count(COUNT_MEMORY);
    emu_enter();
    if (any_capturing()) return emu_error(cudaErrorStreamCaptureUnsupported);
    stream_sync_all();
    return !p || mem_unpin(p) ? cudaSuccess : emu_error(cudaErrorInvalidValue);
}
cudaError_t cudaHostRegister(void *p, size_t bytes, unsigned flags) {
    (void)flags;
    if (mem_is_pinned(p)) return emu_error(cudaErrorHostMemoryAlreadyRegistered);
    mem_pin_range(p, bytes);
    return cudaSuccess;
}
cudaError_t cudaHostUnregister(void *p) {
    stream_sync_all();
    return mem_unpin_range(p) ? cudaSuccess : emu_error(cudaErrorHostMemoryNotRegistered);
}
cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *a, const void *p) {
    memset(a, 0, sizeof *a);
    bool device = mem_is_device((uint64_t)(uintptr_t)p);
    a->type = device             ? cudaMemoryTypeDevice
              : mem_is_pinned(p) ? cudaMemoryTypeHost
                                 : cudaMemoryTypeUnregistered;
    if (device) a->devicePointer = (void *)(uintptr_t)p;
    if (!device) a->hostPointer = (void *)(uintptr_t)p;
    return cudaSuccess;
}

/* ---- copies ---- */
typedef struct CopyWork {
    unsigned char *to;
    const unsigned char *from;
    size_t to_pitch, from_pitch, width, height;
    unsigned char *staged; /* pageable source, read when the call was made */
} CopyWork;

static unsigned char *side(const void *p, size_t bytes, const char *what) {
    if (mem_is_device((uint64_t)(uintptr_t)p)) return mem_range(p, bytes, what);
    return (unsigned char *)(uintptr_t)p;
}
static size_t extent(size_t pitch, const CopyWork *c) { return pitch * (c->height - 1) + c->width; }
static void run_copy(void *ctx) {
    CopyWork *c = ctx;
    if (!c->width || !c->height) return;
    unsigned char *to = side(c->to, extent(c->to_pitch, c), "destination of a copy");
    const unsigned char *from =
        c->staged ? c->staged : side(c->from, extent(c->from_pitch, c), "source of a copy");
    size_t pitch = c->staged ? c->width : c->from_pitch;
    for (size_t r = 0; r < c->height; r++)
        memmove(to + r * c->to_pitch, from + r * pitch, c->width);
    free(c->staged);
}
/* The kind must match the pointers: a wrong one is an error here, while a GPU may accept it. */
static bool kind_fits(const void *to, const void *from, enum cudaMemcpyKind kind) {
    bool td = mem_is_device((uint64_t)(uintptr_t)to), fd = mem_is_device((uint64_t)(uintptr_t)from);
    switch (kind) {
    case cudaMemcpyHostToHost:
        return !td && !fd;
    case cudaMemcpyHostToDevice:
        return td && !fd;
    case cudaMemcpyDeviceToHost:
        return !td && fd;
    case cudaMemcpyDeviceToDevice:
        return td && fd;
    default:
        return true;
    }
}
static cudaError_t copy(CopyWork c, enum cudaMemcpyKind kind, Stream *s, bool wait) {
    emu_enter();
    if (!c.width || !c.height) return cudaSuccess;
    if (!kind_fits(c.to, c.from, kind))
        emu_stop("copy of %zu bytes from %s to %s: the direction is another", c.width,
                 mem_is_device((uint64_t)(uintptr_t)c.from) ? "device memory" : "host memory",
                 mem_is_device((uint64_t)(uintptr_t)c.to) ? "device memory" : "host memory");
    if (wait && any_capturing()) return emu_error(cudaErrorStreamCaptureUnsupported);
    bool from_device = mem_is_device((uint64_t)(uintptr_t)c.from);
    bool to_device = mem_is_device((uint64_t)(uintptr_t)c.to);
    /* pageable memory: the source is read before the call returns, a destination written */
    if (!from_device && !wait && !mem_is_pinned(c.from) && !stream_capturing(s)) {
        c.staged = malloc(c.width * c.height);
        for (size_t r = 0; r < c.height; r++)
            memcpy(c.staged + r * c.width, c.from + r * c.from_pitch, c.width);
    }
    if (from_device && !to_device && !mem_is_pinned(c.to)) {
        if (stream_capturing(s)) return emu_error(cudaErrorStreamCaptureUnsupported);
        wait = true;
    }
    if (!stream_add(s, run_copy, &c, sizeof c)) return emu_error(cudaErrorStreamCaptureImplicit);
    if (wait) emu_count(COUNT_WAITS), stream_sync(s);
    return cudaSuccess;
}
static CopyWork flat(void *to, const void *from, size_t bytes) {
    return (CopyWork){to, from, bytes, bytes, bytes, 1, NULL};
}
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind) {
    return copy(flat(to, from, bytes), kind, stream_of(NULL), true);
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream) {
    return copy(flat(to, from, bytes), kind, stream_of(stream), false);
}
cudaError_t cudaMemcpy2D(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                         size_t width, size_t height, enum cudaMemcpyKind kind) {
    if (width > to_pitch || width > from_pitch) return emu_error(cudaErrorInvalidValue);
    return copy((CopyWork){to, from, to_pitch, from_pitch, width, height, NULL}, kind,
                stream_of(NULL), true);
}
cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                              size_t width, size_t height, enum cudaMemcpyKind kind,
                              cudaStream_t stream) {
    if (width > to_pitch || width > from_pitch) return emu_error(cudaErrorInvalidValue);
    return copy((CopyWork){to, from, to_pitch, from_pitch, width, height, NULL}, kind,
                stream_of(stream), false);
}
typedef struct FillWork {
    void *to;
    size_t bytes;
    int value;
} FillWork;
static void run_fill(void *ctx) {
    FillWork *f = ctx;
    memset(mem_range(f->to, f->bytes, "memset"), f->value, f->bytes);
}
cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream) {
    emu_enter();
    if (!bytes) return cudaSuccess;
    FillWork f = {to, bytes, value};
    mem_range(to, bytes, "memset");
    if (!stream_add(stream_of(stream), run_fill, &f, sizeof f))
        return emu_error(cudaErrorStreamCaptureImplicit);
    return cudaSuccess;
}
cudaError_t cudaMemset(void *to, int value, size_t bytes) {
    if (any_capturing()) return emu_error(cudaErrorStreamCaptureUnsupported);
    cudaError_t e = cudaMemsetAsync(to, value, bytes, NULL);
    stream_sync(stream_of(NULL));
    return e;
}
