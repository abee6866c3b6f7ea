/* stream: streams, events and graphs as queues of closures.
 *
 * CUDAEMU_ASYNC=0 runs a closure when it is added; 1 only when a synchronisation requires it, and
 * no more than required; 2 runs the heads of the streams in random order, one of them much later
 * than the others. */
#pragma once
#include "tests/cuda_on_cpu/emu.h"

typedef struct Stream Stream;
typedef struct Event Event;
typedef struct Graph Graph;
typedef void (*Work)(void *ctx);

/* The stream of a handle of the API: NULL and 1 are the legacy stream, 2 the per-thread one. Stops
 * on a handle that is not live. */
Stream *stream_of(const void *handle);
Stream *stream_new(bool blocking);
void stream_finish(Stream *s);
/* Adds work with a copy of its context. False: the legacy stream while another one captures. */
bool stream_add(Stream *s, Work run, const void *ctx, size_t bytes);
void stream_sync(Stream *s);
void stream_sync_all(void);
bool stream_idle(const Stream *s);
/* Runs a part of the waiting work if CUDAEMU_ASYNC=2. */
void stream_some(void);

Event *event_of(const void *handle);
/* timed: not made with cudaEventDisableTiming. */
Event *event_new(bool timed);
void event_close(Event *e);
bool event_record(Event *e, Stream *s);
/* Work added to s later waits for the last record of e. False: e belongs to another capture. */
bool event_wait(Stream *s, Event *e);
void event_sync(Event *e);
bool event_done(const Event *e);
bool event_recorded(const Event *e);
bool event_timed(const Event *e);
/* A tenth of a second for each item of its stream: no speed can be measured here, what is selected
 * by time is selected again in the next run, and no benchmark has to repeat anything. */
double event_time(const Event *e);
/* The last item counts as so many more. */
void stream_spend(Stream *s, uint64_t items);
bool event_captured(const Event *e);

bool stream_capture_begin(Stream *s);
bool stream_capturing(const Stream *s);
bool any_capturing(void);
/* Marks a capture as invalid after a forbidden operation on its stream: it can only be ended. */
void stream_capture_spoil(Stream *s);
void event_capture_spoil(const Event *e);
typedef enum { CAPTURED, UNMATCHED, UNJOINED, SPOILT } CaptureEnd;
/* NULL: s does not own a capture, a joined stream was not joined back, or the capture is
 * invalid. */
Graph *stream_capture_end(Stream *s, CaptureEnd *how);
/* Returns true if a live graph or instance has work of this kind that matches. */
bool graphs_hold(Work run, bool (*is)(const void *ctx, const void *what), const void *what);
Graph *graph_new(void);
Graph *graph_copy(const Graph *g);
void graph_close(Graph *g);
size_t graph_nodes(const Graph *g);
/* Same number of nodes, same kinds of work, same order: may be replaced in an instance. */
bool graph_same_shape(const Graph *a, const Graph *b);
bool graph_launch(const Graph *g, Stream *s);
