/* emu: shared by all parts of the layer: options, reports, random numbers, device memory.
 *
 * The layer (libcudaemu.a) replaces the CUDA runtime, cuBLASLt and NCCL at link time, so that the
 * program's objects run on a machine without a GPU. It is for tests only; no file of the program
 * refers to it.
 *
 *   CUDAEMU_ORDER=0|1|2   threads, warps and blocks forward, in reverse, at random (default 0)
 *   CUDAEMU_LANES=alone   every thread runs alone up to a barrier or warp collective, so threads
 *                         drift apart as far as possible; default `together`: the lanes of a warp
 *                         step as one, many times faster
 *   CUDAEMU_SEED=n        seed of all random choices (default 1)
 *   CUDAEMU_ASYNC=0|1|2   streams run at once; only as far as a synchronisation requires;
 *                         interleaved at random (default 0)
 *   CUDAEMU_RACE=1        report two unordered accesses to one word
 *   CUDAEMU_LEAKS=1       report device memory that is still allocated at exit
 *   CUDAEMU_ALLOCATIONS=1 report at exit how often device memory was allocated
 *   CUDAEMU_MEMORY=MiB    size of device memory (default 4096)
 *   CUDAEMU_DEVICES=n     number of devices (default 1)
 *   CUDAEMU_DRIVER=n      CUDA version of the driver, 12040 for 12.4, 0 for none (default the
 *                         runtime's)
 *   CUDAEMU_ARCH=80       compute capability, and the newest PTX that is taken from an object
 *   CUDAEMU_BGRAD=0       cuBLASLt cannot sum an operand with a product
 *   CUDAEMU_STRICT=1      cuBLASLt refuses matrices whose rows are not 16-byte aligned
 *   CUDAEMU_NCCL=MiB      memory that NCCL takes for each kind of collective (default 4)
 *   CUDAEMU_STEPS=n       warp instructions after which a block counts as endless (default 2e9)
 *   CUDAEMU_TIMEOUT=s     timeout of a collective between ranks in seconds (default 20)
 *   CUDAEMU_QUIET=1       no line at start
 *   CUDAEMU_PROFILE=1     counts of each kernel's instructions and memory accesses, on stderr at
 *                         exit; CUDAEMU_PROFILE=FILE: appended to the file, one JSON object a line
 *
 * Every fault found ends the process with a line "cudaemu: …" on stderr and exit code 99. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { EMU_EXIT = 99 };

typedef struct EmuOptions {
    int order, async, arch, devices, driver;
    bool alone, race, leaks, quiet, allocations, bgrad, strict;
    size_t memory, nccl;
    uint64_t steps;
    double timeout;
    const char *profile; /* NULL: none */
} EmuOptions;
const EmuOptions *emu_options(void);

/* Prints "cudaemu: …" and ends the process. */
void emu_stop(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));
void emu_warn(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Uniform in [0, n), from CUDAEMU_SEED. */
uint32_t emu_random(uint32_t n);
/* A permutation of [0, n) as CUDAEMU_ORDER selects. */
void emu_order(uint32_t *index, uint32_t n);

/* ---- device memory: a device address is never dereferenced; the bytes are seen through a second
 * mapping of the same pages, so that host code which touches a device pointer always faults ---- */
typedef struct Buffer {
    uint64_t start;
    size_t size;
    uint64_t serial; /* number of the allocation */
    bool live;       /* a freed buffer keeps its record, never its address range */
    bool permanent;  /* a variable of a module, never freed */
    void *shadow;    /* the race detector's, or NULL */
} Buffer;

/* Allocates bytes filled with 0xFF; NULL: CUDAEMU_MEMORY is exhausted. */
Buffer *mem_alloc(size_t bytes);
/* False: no live buffer starts there. */
bool mem_free(const void *device);
/* The live buffer that holds the address, or NULL. */
const Buffer *mem_find(uint64_t address);
/* The host address of a device address, through which the layer reads and writes. */
void *mem_bytes(uint64_t address);
bool mem_is_device(uint64_t address);
/* Checks that `bytes` from `device` on are inside one live buffer; otherwise stops and names
 * `what`. */
void *mem_range(const void *device, size_t bytes, const char *what);
/* "12 bytes past the end of buffer 3 (400 bytes)", "freed buffer 2", "host memory" … */
const char *mem_describe(uint64_t address);
size_t mem_used(void);
/* Stops if device memory is leaked and CUDAEMU_LEAKS=1 (runs at exit). */

/* Pinned host memory: recorded ranges, so that copies distinguish it from pageable memory. */
void *mem_pin(size_t bytes);
bool mem_unpin(void *host);
void mem_pin_range(const void *host, size_t bytes);
bool mem_unpin_range(const void *host);
bool mem_is_pinned(const void *host);
