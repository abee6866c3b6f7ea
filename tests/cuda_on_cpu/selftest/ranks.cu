/* ranks: NCCL between processes. Each case forks its ranks, before any of them uses CUDA. */
#include "tests/cuda_on_cpu/selftest/selftest.h"
#include <nccl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

enum { RANKS = 3, N = 100000 };
#define NCCL(call)                                                                                 \
    do {                                                                                           \
        ncclResult_t result_ = (call);                                                             \
        if (result_ != ncclSuccess) {                                                              \
            fprintf(stderr, "line %d: %s\n", __LINE__, ncclGetErrorString(result_));               \
            exit(2);                                                                               \
        }                                                                                          \
    } while (0)

static ncclComm_t comm;
static cudaStream_t stream;
static bool shared_gpu;

/* The worst exit code of the ranks becomes this program's. */
static void on_ranks(void (*body)(int rank)) {
    ncclUniqueId id;
    pid_t child[RANKS];
    setenv("CUDAEMU_DEVICES", "3", 1);
    NCCL(ncclGetUniqueId(&id));
    for (int r = 0; r < RANKS; r++) {
        child[r] = fork();
        if (child[r]) continue;
        CUDA(cudaSetDevice(shared_gpu ? 0 : r));
        NCCL(ncclCommInitRank(&comm, RANKS, id, r));
        CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
        body(r);
        exit(0);
    }
    int worst = 0;
    for (int r = 0; r < RANKS; r++) {
        int status = 0;
        waitpid(child[r], &status, 0);
        int code = WIFEXITED(status) ? WEXITSTATUS(status) : 0;
        if (code > worst) worst = code;
    }
    exit(worst);
}
static void finish(void) {
    ncclResult_t error;
    CUDA(cudaStreamSynchronize(stream));
    NCCL(ncclCommGetAsyncError(comm, &error));
    if (error == ncclSuccess) return;
    fprintf(stderr, "asynchronous: %s\n", ncclGetLastError(comm));
    exit(2);
}
static float value(int rank, int i) { return noise((uint32_t)(rank * 1000003 + i)); }
static float *input(int rank, int n) {
    static float x[RANKS * N];
    for (int i = 0; i < n; i++) x[i] = value(rank, i);
    return device_copy(x, (size_t)n);
}
static void expect_sums(const float *device, int from, int n) {
    static float y[RANKS * N];
    host_copy(y, device, (size_t)n);
    for (int i = 0; i < n; i++) {
        float want = 0;
        for (int r = 0; r < RANKS; r++) want += value(r, from + i);
        expect(y[i], want, 0, "sum");
    }
}

static void all_reduce_body(int rank) {
    float *x = input(rank, N), *y = device_new<float>(N);
    NCCL(ncclAllReduce(x, y, N, ncclFloat32, ncclSum, comm, stream));
    NCCL(ncclAllReduce(x, x, N, ncclFloat32, ncclSum, comm, stream));
    finish();
    expect_sums(y, 0, N);
    expect_sums(x, 0, N);
    NCCL(ncclCommDestroy(comm));
}
static void all_reduce(void) { on_ranks(all_reduce_body); }

static void reduce_scatter_body(int rank) {
    float *x = input(rank, RANKS * N), *y = device_new<float>(N);
    NCCL(ncclReduceScatter(x, y, N, ncclFloat32, ncclSum, comm, stream));
    finish();
    expect_sums(y, rank * N, N);
    NCCL(ncclReduceScatter(x, x + rank * N, N, ncclFloat32, ncclSum, comm, stream));
    finish();
    expect_sums(x + rank * N, rank * N, N);
}
static void reduce_scatter(void) { on_ranks(reduce_scatter_body); }

static void all_gather_body(int rank) {
    static float y[RANKS * N];
    float *x = input(rank, N), *all = device_new<float>(RANKS * N);
    float *again = device_new<float>(RANKS * N);
    CUDA(cudaMemcpyAsync(again + rank * N, x, N * sizeof(float), cudaMemcpyDeviceToDevice, stream));
    NCCL(ncclGroupStart());
    NCCL(ncclAllGather(x, all, N, ncclFloat32, comm, stream));
    NCCL(ncclAllGather(again + rank * N, again, N, ncclFloat32, comm, stream));
    NCCL(ncclBroadcast(x, x, N, ncclFloat32, 1, comm, stream));
    NCCL(ncclGroupEnd());
    finish();
    for (int pass = 0; pass < 2; pass++) {
        host_copy(y, pass ? again : all, RANKS * N);
        for (int i = 0; i < RANKS * N; i++) expect(y[i], value(i / N, i % N), 0, "gathered");
    }
    host_copy(y, x, N);
    for (int i = 0; i < N; i++) expect(y[i], value(1, i), 0, "broadcast");
}
static void all_gather_and_broadcast(void) { on_ranks(all_gather_body); }

static void types_body(int rank) {
    int64_t whole[2] = {rank + 1, -rank};
    __nv_bfloat16 half[2] = {(__nv_bfloat16)(float)(rank + 1), (__nv_bfloat16)0.5f};
    double most[1] = {rank == 1 ? 7.5 : -rank};
    int64_t *dw = device_copy(whole, 2);
    __nv_bfloat16 *dh = device_copy(half, 2);
    double *dm = device_copy(most, 1);
    NCCL(ncclAllReduce(dw, dw, 2, ncclInt64, ncclSum, comm, stream));
    NCCL(ncclAllReduce(dh, dh, 2, ncclBfloat16, ncclAvg, comm, stream));
    NCCL(ncclAllReduce(dm, dm, 1, ncclFloat64, ncclMax, comm, stream));
    finish();
    host_copy(whole, dw, 2);
    host_copy(half, dh, 2);
    host_copy(most, dm, 1);
    expect((double)whole[0], 6, 0, "sum");
    expect((double)whole[1], -3, 0, "sum");
    expect((float)half[0], 2, 0, "average");
    expect((float)half[1], 0.5, 0, "average");
    expect(most[0], 7.5, 0, "maximum");
}
static void types(void) { on_ranks(types_body); }

/* ---- collectives in graphs: the communicator's stream forks off the computing one ---- */
static cudaStream_t computing;
static cudaEvent_t forked, joined;

__global__ void times(float *x, float factor, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] *= factor;
}
static void open_capture(void) {
    CUDA(cudaStreamCreateWithFlags(&computing, cudaStreamNonBlocking));
    CUDA(cudaEventCreateWithFlags(&forked, cudaEventDisableTiming));
    CUDA(cudaEventCreateWithFlags(&joined, cudaEventDisableTiming));
}
/* x times 2, summed over ranks, times 0.5. */
static void ask_sum(float *x, int n, bool join) {
    times<<<(n + 255) / 256, 256, 0, computing>>>(x, 2, n);
    CUDA(cudaEventRecord(forked, computing));
    CUDA(cudaStreamWaitEvent(stream, forked, 0));
    NCCL(ncclAllReduce(x, x, n, ncclFloat32, ncclSum, comm, stream));
    CUDA(cudaEventRecord(joined, stream));
    if (join) CUDA(cudaStreamWaitEvent(computing, joined, 0));
    if (join) times<<<(n + 255) / 256, 256, 0, computing>>>(x, 0.5f, n);
}
static cudaGraphExec_t capture_sum(float *x, int n, bool join) {
    cudaGraph_t g;
    cudaGraphExec_t exec;
    CUDA(cudaStreamBeginCapture(computing, cudaStreamCaptureModeThreadLocal));
    ask_sum(x, n, join);
    CUDA(cudaStreamEndCapture(computing, &g));
    CUDA(cudaGraphInstantiate(&exec, g, 0));
    CUDA(cudaGraphDestroy(g));
    return exec;
}
static void finish_computing(void) {
    CUDA(cudaStreamSynchronize(computing));
    finish();
}
static void captured_body(int rank) {
    enum { FEW = 1000, TIMES = 3 };
    static float y[FEW];
    open_capture();
    float *x = input(rank, FEW);
    cudaGraphExec_t exec = capture_sum(x, FEW, true);
    for (int t = 0; t < TIMES; t++) {
        CUDA(cudaGraphLaunch(exec, computing));
        ask_sum(x, FEW, true); /* and one outside any graph */
    }
    finish_computing();
    host_copy(y, x, FEW);
    for (int i = 0; i < FEW; i++) {
        double want = 0;
        for (int r = 0; r < RANKS; r++) want += value(r, i);
        for (int t = 1; t < 2 * TIMES; t++) want *= RANKS;
        expect(y[i], want, 2e-3, "sum");
    }
    CUDA(cudaGraphExecDestroy(exec));
    NCCL(ncclCommDestroy(comm));
}
static void captured(void) { on_ranks(captured_body); }

/* ---- faults ---- */
static void captured_by_one_rank_body(int rank) {
    open_capture();
    float *x = input(rank, N);
    if (rank == 1)
        CUDA(cudaGraphLaunch(capture_sum(x, N, true), computing));
    else
        ask_sum(x, N, true);
    finish_computing();
}
static void captured_by_one_rank(void) { on_ranks(captured_by_one_rank_body); }
static void another_graph_body(int rank) {
    open_capture();
    float *x = input(rank, N);
    cudaGraphExec_t exec[2] = {capture_sum(x, N, true), capture_sum(x, N, true)};
    CUDA(cudaGraphLaunch(exec[rank == 1], computing));
    finish_computing();
}
static void another_graph(void) { on_ranks(another_graph_body); }
static void collective_not_joined_body(int rank) {
    open_capture();
    capture_sum(input(rank, N), N, false);
}
static void collective_not_joined(void) { on_ranks(collective_not_joined_body); }
static void graph_outlives_communicator_body(int rank) {
    open_capture();
    float *x = input(rank, N);
    CUDA(cudaGraphLaunch(capture_sum(x, N, true), computing));
    finish_computing();
    NCCL(ncclCommDestroy(comm));
}
static void graph_outlives_communicator(void) { on_ranks(graph_outlives_communicator_body); }
static void rank_dies_in_replay_body(int rank) {
    open_capture();
    float *x = input(rank, N);
    cudaGraphExec_t exec = capture_sum(x, N, true);
    CUDA(cudaGraphLaunch(exec, computing));
    finish_computing();
    if (rank == 1) kill(getpid(), SIGKILL);
    CUDA(cudaGraphLaunch(exec, computing));
    finish_computing();
}
static void rank_dies_in_replay(void) { on_ranks(rank_dies_in_replay_body); }

static void sizes_differ_body(int rank) {
    float *x = input(rank, N);
    NCCL(ncclAllReduce(x, x, rank == 1 ? N - 1 : N, ncclFloat32, ncclSum, comm, stream));
    finish();
}
static void sizes_differ(void) { on_ranks(sizes_differ_body); }
static void calls_differ_body(int rank) {
    float *x = input(rank, RANKS * N);
    if (rank == 2)
        NCCL(ncclBroadcast(x, x, N, ncclFloat32, 0, comm, stream));
    else
        NCCL(ncclAllReduce(x, x, N, ncclFloat32, ncclSum, comm, stream));
    finish();
}
static void calls_differ(void) { on_ranks(calls_differ_body); }
static void rank_dies_body(int rank) {
    float *x = input(rank, N);
    NCCL(ncclAllReduce(x, x, N, ncclFloat32, ncclSum, comm, stream));
    finish();
    if (rank == 1) kill(getpid(), SIGKILL);
    NCCL(ncclAllReduce(x, x, N, ncclFloat32, ncclSum, comm, stream));
    finish();
}
static void rank_dies(void) { on_ranks(rank_dies_body); }
static void rank_late_body(int rank) {
    float *x = input(rank, N);
    if (rank == 1) sleep(3);
    NCCL(ncclAllReduce(x, x, N, ncclFloat32, ncclSum, comm, stream));
    finish();
}
static void rank_late(void) { on_ranks(rank_late_body); }
static void rank_aborts_body(int rank) {
    float *x = input(rank, N);
    if (rank == 1) {
        NCCL(ncclCommAbort(comm));
        exit(0);
    }
    NCCL(ncclAllReduce(x, x, N, ncclFloat32, ncclSum, comm, stream));
    finish();
}
static void rank_aborts(void) { on_ranks(rank_aborts_body); }
static void buffers_overlap_body(int rank) {
    float *x = input(rank, RANKS * N);
    NCCL(ncclAllReduce(x, x + 4, N, ncclFloat32, ncclSum, comm, stream));
    finish();
}
static void buffers_overlap(void) { on_ranks(buffers_overlap_body); }
static void gather_past_buffer_body(int rank) {
    float *x = input(rank, N);
    NCCL(ncclAllGather(x, device_new<float>(RANKS * N - 1), N, ncclFloat32, comm, stream));
    finish();
}
static void gather_past_buffer(void) { on_ranks(gather_past_buffer_body); }
static void nothing_body(int rank) { (void)rank; }
static void gpu_shared(void) {
    shared_gpu = true;
    on_ranks(nothing_body);
}

int main(int argc, char **argv) {
#define CASE(name)                                                                                 \
    { #name, name }
    static const Case cases[] = {
        CASE(all_reduce),
        CASE(reduce_scatter),
        CASE(all_gather_and_broadcast),
        CASE(types),
        CASE(captured),
        CASE(captured_by_one_rank),
        CASE(another_graph),
        CASE(collective_not_joined),
        CASE(graph_outlives_communicator),
        CASE(rank_dies_in_replay),
        CASE(sizes_differ),
        CASE(calls_differ),
        CASE(rank_dies),
        CASE(rank_late),
        CASE(rank_aborts),
        CASE(buffers_overlap),
        CASE(gather_past_buffer),
        CASE(gpu_shared),
    };
    return selftest_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
