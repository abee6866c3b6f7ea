/* runtime_stream: the CUDA runtime's functions for streams, events and graphs. */
#include "tests/cuda_on_cpu/runtime.h"
#include "tests/cuda_on_cpu/stream.h"
#include <stdlib.h>

/* Calls that a capture could not repeat are refused to a thread that captures, unless its mode is
 * relaxed. */
static _Thread_local enum cudaStreamCaptureMode thread_mode = cudaStreamCaptureModeGlobal;
static enum cudaStreamCaptureMode capture_mode;
static bool emu_in_capture(void) {
    return any_capturing() && !emu_bystander() && thread_mode != cudaStreamCaptureModeRelaxed &&
           capture_mode != cudaStreamCaptureModeRelaxed;
}

/* ---- streams ---- */
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags) {
    emu_enter();
    *s = (cudaStream_t)stream_new(!(flags & cudaStreamNonBlocking));
    return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t *s) { return cudaStreamCreateWithFlags(s, 0); }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned flags, int priority) {
    (void)priority;
    return cudaStreamCreateWithFlags(s, flags);
}
cudaError_t cudaStreamDestroy(cudaStream_t s) {
    emu_enter();
    stream_finish(stream_of(s));
    return cudaSuccess;
}
/* A call that a capture does not allow ends it as well. */
static cudaError_t spoil_stream(Stream *s) {
    stream_capture_spoil(s);
    return emu_error(cudaErrorStreamCaptureUnsupported);
}
static cudaError_t spoil_event(const Event *e) {
    event_capture_spoil(e);
    return emu_error(cudaErrorCapturedEvent);
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    emu_count(COUNT_WAITS);
    emu_enter();
    Stream *s = stream_of(stream);
    if (stream_capturing(s)) return spoil_stream(s);
    stream_sync(s);
    return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
    emu_enter();
    Stream *s = stream_of(stream);
    if (stream_capturing(s)) return spoil_stream(s);
    if (stream_idle(s)) return cudaSuccess;
    /* polling makes progress, but is answered "not ready" once */
    stream_sync(s);
    return emu_error(cudaErrorNotReady);
}
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags) {
    (void)flags;
    emu_enter();
    if (!event_wait(stream_of(s), event_of(e))) return emu_error(cudaErrorStreamCaptureIsolation);
    return cudaSuccess;
}
typedef struct HostWork {
    cudaHostFn_t fn;
    void *data;
} HostWork;
static void run_host(void *ctx) {
    HostWork *h = ctx;
    h->fn(h->data);
}
cudaError_t cudaLaunchHostFunc(cudaStream_t s, cudaHostFn_t fn, void *data) {
    emu_enter();
    HostWork h = {fn, data};
    if (!stream_add(stream_of(s), run_host, &h, sizeof h))
        return emu_error(cudaErrorStreamCaptureImplicit);
    return cudaSuccess;
}

/* ---- events ---- */
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags) {
    emu_enter();
    *e = (cudaEvent_t)event_new(!(flags & cudaEventDisableTiming));
    return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t *e) { return cudaEventCreateWithFlags(e, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t e) {
    event_close(event_of(e));
    return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) {
    emu_enter();
    if (!event_record(event_of(e), stream_of(s))) return emu_error(cudaErrorStreamCaptureImplicit);
    return cudaSuccess;
}
cudaError_t cudaEventRecordWithFlags(cudaEvent_t e, cudaStream_t s, unsigned flags) {
    (void)flags;
    return cudaEventRecord(e, s);
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    emu_count(COUNT_WAITS);
    emu_enter();
    Event *e = event_of(event);
    if (event_captured(e)) return spoil_event(e);
    if (emu_in_capture()) return emu_error(cudaErrorStreamCaptureUnsupported);
    event_sync(e);
    return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
    emu_enter();
    Event *e = event_of(event);
    if (event_captured(e)) return spoil_event(e);
    if (emu_in_capture()) return emu_error(cudaErrorStreamCaptureUnsupported);
    if (event_done(e)) return cudaSuccess;
    if (!emu_bystander()) event_sync(e);
    return emu_error(cudaErrorNotReady);
}
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end) {
    Event *a = event_of(start), *b = event_of(end);
    if (!event_recorded(a) || !event_recorded(b) || !event_timed(a) || !event_timed(b))
        return emu_error(cudaErrorInvalidResourceHandle);
    if (!event_done(a) || !event_done(b)) return emu_error(cudaErrorNotReady);
    *ms = (float)((event_time(b) - event_time(a)) * 1e3);
    return cudaSuccess;
}

/* ---- graphs ---- */
typedef struct Instance {
    Graph *graph;
} Instance;

cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode mode) {
    emu_enter();
    capture_mode = mode;
    if (!stream_capture_begin(stream_of(s))) return emu_error(cudaErrorStreamCaptureUnsupported);
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g) {
    emu_enter();
    static const cudaError_t errors[] = {
        [CAPTURED] = cudaSuccess,
        [UNMATCHED] = cudaErrorStreamCaptureUnmatched,
        [UNJOINED] = cudaErrorStreamCaptureUnjoined,
        [SPOILT] = cudaErrorStreamCaptureInvalidated,
    };
    CaptureEnd how;
    *g = (cudaGraph_t)stream_capture_end(stream_of(s), &how);
    return emu_error(errors[how]);
}
cudaError_t cudaStreamIsCapturing(cudaStream_t s, enum cudaStreamCaptureStatus *status) {
    *status = stream_capturing(stream_of(s)) ? cudaStreamCaptureStatusActive
                                             : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}
cudaError_t cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode *mode) {
    enum cudaStreamCaptureMode before = thread_mode;
    thread_mode = *mode;
    *mode = before;
    return cudaSuccess;
}
cudaError_t cudaGraphCreate(cudaGraph_t *g, unsigned flags) {
    (void)flags;
    *g = (cudaGraph_t)graph_new();
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t g) {
    graph_close((Graph *)g);
    return cudaSuccess;
}
cudaError_t cudaGraphGetNodes(cudaGraph_t g, cudaGraphNode_t *nodes, size_t *count) {
    if (nodes) emu_stop("cudaGraphGetNodes: only the number of nodes is known here");
    *count = graph_nodes((Graph *)g);
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t g, unsigned long long flags) {
    (void)flags;
    emu_enter();
    Instance *i = malloc(sizeof *i);
    i->graph = graph_copy((Graph *)g);
    *exec = (cudaGraphExec_t)i;
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *exec, cudaGraph_t g,
                                          unsigned long long flags) {
    return cudaGraphInstantiate(exec, g, flags);
}
cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t s) {
    (void)exec;
    (void)s;
    return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
    emu_enter();
    Stream *s = stream_of(stream);
    if (stream_capturing(s)) emu_stop("a graph launch inside a capture is not supported here");
    if (!graph_launch(((Instance *)exec)->graph, s))
        return emu_error(cudaErrorStreamCaptureImplicit);
    return cudaSuccess;
}
cudaError_t cudaGraphExecUpdate(cudaGraphExec_t exec, cudaGraph_t g,
                                cudaGraphExecUpdateResultInfo *info) {
    Instance *i = (Instance *)exec;
    bool same = graph_same_shape(i->graph, (Graph *)g);
    info->result = same ? cudaGraphExecUpdateSuccess : cudaGraphExecUpdateErrorTopologyChanged;
    if (!same) return emu_error(cudaErrorGraphExecUpdateFailure);
    graph_close(i->graph);
    i->graph = graph_copy((Graph *)g);
    return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
    Instance *i = (Instance *)exec;
    graph_close(i->graph);
    free(i);
    return cudaSuccess;
}
