/* cuda/device: see device.h. Here: the choice of the GPU, its streams, error messages. */
#include <stdio.h>
#include <stdlib.h>

#include "kernels/cuda/device.h"

static struct {
    bool open;
    int multiprocessors, shared_memory;
    cudaStream_t queue[QUEUES];
} device;

void device_check(cudaError_t status, const char *call, const char *file, int line) {
    if (status == cudaSuccess) return;
    die("CUDA: %s failed at %s:%d: %s; an earlier kernel may be the cause (compute-sanitizer names "
        "it), --device cpu runs without a GPU",
        call, file, line, cudaGetErrorString(status));
}

/* This rank's number on its machine, and where it is from. SLURM's variable is last, because mpirun
 * inside a job step inherits it. */
static int local_rank(const char **from) {
    static const char *const names[] = {"OMPI_COMM_WORLD_LOCAL_RANK", /* Open MPI */
                                        "MPI_LOCALRANKID",            /* MPICH, Intel MPI */
                                        "MV2_COMM_WORLD_LOCAL_RANK",  /* MVAPICH */
                                        "PALS_LOCAL_RANKID",          /* Cray PALS */
                                        "FLUX_TASK_LOCAL_ID",         /* Flux */
                                        "LOCAL_RANK",                 /* torchrun */
                                        "SLURM_LOCALID"};
    *from = "MPI";
    if (kernel_local_rank >= 0) return kernel_local_rank;
    for (size_t i = 0; i < COUNT(names); i++) {
        const char *value = getenv(names[i]);
        if (!value) continue;
        *from = names[i];
        return atoi(value);
    }
    return 0;
}

/* If a launcher shows each rank only its own GPU, that is number 0 for all. */
static int chosen_device(int count) {
    const char *from;
    int rank = local_rank(&from);
    return rank > 0 && rank < count ? rank : 0;
}

static void check_local_rank(int count) {
    const char *from;
    int rank = local_rank(&from);
    if (count > 1 && (rank < 0 || rank >= count))
        die("--device cuda: this is rank %d of its machine, counted from 0 (%s), and %d GPUs are "
            "visible: start one rank for each GPU",
            rank, from, count);
}

const char *device_problem(void) {
    static char text[256];
    int driver = 0, runtime = 0, count = 0, major = 0, minor = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    cudaError_t status = cudaGetDeviceCount(&count);
    if (driver == 0)
        return "no NVIDIA driver is installed (in a container: it was started without its GPUs)";
    if (status == cudaErrorInsufficientDriver) {
        snprintf(text, sizeof text,
                 "the NVIDIA driver is for CUDA %d.%d, this build needs %d.%d: update the driver%s",
                 driver / 1000, driver % 100 / 10, runtime / 1000, runtime % 100 / 10,
                 driver / 1000 == 12 ? ", or build with CUDA 12's toolkit (make setup CUDA=12)"
                                     : "");
        return text;
    }
    if (status != cudaSuccess || count == 0) {
        const char *visible = getenv("CUDA_VISIBLE_DEVICES");
        cudaGetLastError();
        if (visible)
            snprintf(text, sizeof text, "no GPU is visible: CUDA_VISIBLE_DEVICES is '%.60s'",
                     visible);
        else
            snprintf(text, sizeof text, "no GPU is visible (%s)", cudaGetErrorString(status));
        return text;
    }
    int d = chosen_device(count);
    CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, d));
    CUDA(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, d));
    if (major >= 8) return NULL;
    snprintf(text, sizeof text, "GPU %d has compute capability %d.%d, and 8.0 is needed", d, major,
             minor);
    return text;
}

bool device_has_fp8(void) {
    int count, major, minor;
    if (device_problem()) return false;
    CUDA(cudaGetDeviceCount(&count));
    int d = chosen_device(count);
    CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, d));
    CUDA(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, d));
    return major * 10 + minor >= 89;
}

/* Opens it at the first call. */
static void open_once(void) {
    if (device.open) return;
    const char *problem = device_problem();
    if (problem) die("--device cuda: %s; --device cpu runs without a GPU", problem);
    int count;
    CUDA(cudaGetDeviceCount(&count));
    check_local_rank(count);
    int d = chosen_device(count);
    CUDA(cudaSetDevice(d));
    CUDA(cudaDeviceGetAttribute(&device.multiprocessors, cudaDevAttrMultiProcessorCount, d));
    CUDA(cudaDeviceGetAttribute(&device.shared_memory, cudaDevAttrMaxSharedMemoryPerBlockOptin, d));
    for (size_t q = 0; q < QUEUES; q++)
        CUDA(cudaStreamCreateWithFlags(&device.queue[q], cudaStreamNonBlocking));
    device.open = true;
}

cudaStream_t device_stream(void) {
    open_once();
    return device.queue[QUEUE_COMPUTE];
}

cudaStream_t device_queue(Queue q) {
    open_once();
    return device.queue[q];
}

int device_multiprocessors(void) {
    open_once();
    return device.multiprocessors;
}

size_t device_shared_memory(void) {
    open_once();
    return (size_t)device.shared_memory;
}

void device_close(void) {
    if (!device.open) return;
    device_graphs_close();
    device_memory_close();
    device_stages_close();
}
