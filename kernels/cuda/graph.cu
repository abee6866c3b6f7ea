/* cuda/graph: work captured as CUDA graphs, cut at the host's calls. */
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/device.h"

/* Kernels that are launched as one graph, and the host call after them. */
typedef struct Piece {
    cudaGraphExec_t exec; /* NULL: no kernels */
    void (*call)(const void *context);
    void *context;
} Piece;

struct Graph {
    bool seen;  /* ran once: cuBLASLt has its plans, the scratch blocks are large enough */
    bool whole; /* captured completely */
    Piece *pieces;
    size_t count;
};

static struct {
    bool on, ever; /* in a capture; a graph was captured at some time */
    Graph *graph;  /* the graph in capture, or the last one */
} capture;

bool device_capturing(void) { return capture.on; }

bool device_captured(void) { return capture.ever; }

void device_graphs_close(void) { capture.ever = false; }

static void piece_begin(void) {
    CUDA(cudaStreamBeginCapture(device_stream(), cudaStreamCaptureModeThreadLocal));
    capture.on = capture.ever = true;
}

/* Enqueues the kernels of the graph. */
static Piece *piece_end(Graph *g) {
    cudaGraph_t graph;
    size_t nodes = 0;
    capture.on = false;
    CUDA(cudaStreamEndCapture(device_stream(), &graph));
    CUDA(cudaGraphGetNodes(graph, NULL, &nodes));
    g->pieces = (Piece *)xrealloc(g->pieces, (g->count + 1) * sizeof *g->pieces);
    Piece *p = &g->pieces[g->count++];
    *p = {};
    if (nodes) {
        CUDA(cudaGraphInstantiate(&p->exec, graph, 0));
        CUDA(cudaGraphLaunch(p->exec, device_stream()));
    }
    CUDA(cudaGraphDestroy(graph));
    return p;
}

static void graph_launch(const Graph *g) {
    for (size_t i = 0; i < g->count; i++) {
        const Piece *p = &g->pieces[i];
        if (p->exec) CUDA(cudaGraphLaunch(p->exec, device_stream()));
        if (p->call) p->call(p->context);
    }
}

bool device_graph_begin(Graph **g) {
    device_stream();
    assert(!capture.on);
    if (device_planning() || kernel_stats_on || !kernel_graphs_on) return true;
    if (!*g) *g = (Graph *)xcalloc(1, sizeof **g);
    if ((*g)->whole) {
        graph_launch(*g);
        return false;
    }
    if ((*g)->seen) {
        capture.graph = *g;
        piece_begin();
    }
    (*g)->seen = true;
    return true;
}

void device_graph_end(Graph **g) {
    if (!capture.on) return;
    assert(capture.graph == *g);
    piece_end(*g);
    (*g)->whole = true;
}

void device_graph_call(void (*call)(const void *context), const void *context, size_t bytes) {
    if (device_planning()) return;
    if (!capture.on) {
        call(context);
        return;
    }
    Piece *p = piece_end(capture.graph);
    p->call = call;
    p->context = memcpy(xmalloc(bytes + 1), context, bytes);
    call(context);
    piece_begin();
}

void device_graph_free(Graph *g) {
    if (!g) return;
    for (size_t i = 0; i < g->count; i++) {
        if (g->pieces[i].exec) CUDA(cudaGraphExecDestroy(g->pieces[i].exec));
        free(g->pieces[i].context);
    }
    free(g->pieces);
    free(g);
}
