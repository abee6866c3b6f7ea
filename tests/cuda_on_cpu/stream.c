#include "tests/cuda_on_cpu/stream.h"
#include <stdlib.h>
#include <string.h>

enum { STREAM_MAGIC = 0x57A3, EVENT_MAGIC = 0xE7E27 };

typedef struct Dep {
    Stream *stream;
    uint64_t seq;
} Dep;
typedef struct Item {
    struct Item *next;
    Work run;
    Dep *deps;
    int dep_count;
    uint64_t seq;
    max_align_t ctx[];
} Item;

typedef struct Tails { /* graph nodes that the next one depends on */
    int *node, count;
} Tails;
struct Stream {
    int magic;
    bool blocking, owner;
    Item *head, *last;
    uint64_t issued, spent; /* spent: of stream_spend */
    _Atomic uint64_t done;
    Dep *waits; /* of the next item */
    int wait_count;
    Graph *capture;
    Tails tails;
};
struct Event {
    int magic;
    bool recorded, timed;
    Dep at;
    uint64_t time, capture; /* serial of the graph it was last captured into; 0: none */
    Tails tails;
};
typedef struct Node {
    Work run;
    void *ctx;
    size_t bytes;
    int *deps, dep_count;
} Node;
struct Graph {
    Node *nodes;
    int count, uses; /* uses: instances and launches in flight */
    uint64_t serial;
    bool spoilt;
    Graph *next, **link; /* list of all live graphs */
};

static Stream **streams;
static int stream_count;
static Stream *legacy, *per_thread;
static Graph *graphs;

/* ---- streams ---- */
Stream *stream_new(bool blocking) {
    Stream *s = calloc(1, sizeof *s);
    s->magic = STREAM_MAGIC;
    s->blocking = blocking;
    streams = realloc(streams, (size_t)(stream_count + 1) * sizeof(Stream *));
    streams[stream_count++] = s;
    return s;
}
Stream *stream_of(const void *handle) {
    uintptr_t h = (uintptr_t)handle;
    if (h <= 1) {
        if (!legacy) legacy = stream_new(false);
        return legacy;
    }
    if (h == 2) {
        if (!per_thread) per_thread = stream_new(true);
        return per_thread;
    }
    for (int i = 0; i < stream_count; i++)
        if (streams[i] == handle && streams[i]->magic == STREAM_MAGIC) return streams[i];
    emu_stop("a stream that does not exist (any more): %p", handle);
}
void stream_finish(Stream *s) {
    stream_sync(s);
    s->magic = 0; /* the record is kept: events may refer to it */
}

static void run_head(Stream *s) {
    Item *i = s->head;
    s->head = i->next;
    if (!s->head) s->last = NULL;
    if (i->run) i->run(i->ctx);
    s->done = i->seq;
    free(i->deps);
    free(i);
}
static bool ready(const Stream *s) {
    if (!s->head) return false;
    for (int d = 0; d < s->head->dep_count; d++)
        if (s->head->deps[d].stream->done < s->head->deps[d].seq) return false;
    return true;
}
/* A randomly changing stream is delayed far behind the others until something waits for it. */
static const Stream *slow_stream(void) {
    static int slow, turns;
    if (turns-- == 0) {
        slow = (int)emu_random((uint32_t)stream_count + 1);
        turns = (int)emu_random(256);
    }
    return slow < stream_count ? streams[slow] : NULL;
}
static bool run_random(const Stream *not_this) {
    int first = stream_count ? (int)emu_random((uint32_t)stream_count) : 0;
    for (int i = 0; i < stream_count; i++) {
        Stream *s = streams[(first + i) % stream_count];
        if (s == not_this || !ready(s)) continue;
        run_head(s);
        return true;
    }
    return false;
}
static void run_until(Stream *s, uint64_t seq) {
    while (s->done < seq) {
        if (emu_options()->async == 2) {
            if (!run_random(NULL)) emu_stop("streams wait for each other");
            continue;
        }
        for (int d = 0; d < s->head->dep_count; d++)
            run_until(s->head->deps[d].stream, s->head->deps[d].seq);
        run_head(s);
    }
}
void stream_sync(Stream *s) {
    run_until(s, s->issued);
    for (int d = 0; d < s->wait_count; d++) run_until(s->waits[d].stream, s->waits[d].seq);
}
void stream_sync_all(void) {
    for (int i = 0; i < stream_count; i++) stream_sync(streams[i]);
}
bool stream_idle(const Stream *s) { return s->done == s->issued; }
void stream_some(void) {
    if (emu_options()->async != 2) return;
    const Stream *slow = slow_stream();
    while (emu_random(3) && run_random(slow)) {
    }
}

static void add_wait(Stream *s, Dep d) {
    s->waits = realloc(s->waits, (size_t)(s->wait_count + 1) * sizeof *s->waits);
    s->waits[s->wait_count++] = d;
}
static void add_node(Graph *g, Stream *s, Work run, const void *ctx, size_t bytes);

bool stream_add(Stream *s, Work run, const void *ctx, size_t bytes) {
    if (s->capture) {
        add_node(s->capture, s, run, ctx, bytes);
        return true;
    }
    if (s == legacy && any_capturing()) return false;
    /* the legacy stream and the blocking streams wait for each other */
    for (int i = 0; i < stream_count; i++)
        if ((s == legacy && streams[i]->blocking) || (s->blocking && streams[i] == legacy))
            if (!stream_idle(streams[i])) add_wait(s, (Dep){streams[i], streams[i]->issued});
    Item *i = malloc(sizeof *i + bytes);
    *i = (Item){.run = run, .deps = s->waits, .dep_count = s->wait_count, .seq = ++s->issued};
    if (bytes) memcpy(i->ctx, ctx, bytes);
    s->waits = NULL;
    s->wait_count = 0;
    if (s->last)
        s->last->next = i;
    else
        s->head = i;
    s->last = i;
    if (!emu_options()->async) stream_sync(s);
    stream_some();
    return true;
}

/* ---- events ---- */
Event *event_new(bool timed) {
    Event *e = calloc(1, sizeof *e);
    e->magic = EVENT_MAGIC;
    e->timed = timed;
    return e;
}
Event *event_of(const void *handle) {
    Event *e = (Event *)(uintptr_t)handle;
    if (!e || e->magic != EVENT_MAGIC)
        emu_stop("an event that does not exist (any more): %p", handle);
    return e;
}
/* The record is kept, so that a later use is noticed. */
void event_close(Event *e) { e->magic = 0; }

static void tails_set(Tails *t, const Tails *from) {
    t->node = realloc(t->node, ((size_t)from->count + 1) * sizeof(int));
    if (from->count) memcpy(t->node, from->node, (size_t)from->count * sizeof(int));
    t->count = from->count;
}
static void tails_add(Tails *t, int node) {
    for (int i = 0; i < t->count; i++)
        if (t->node[i] == node) return;
    t->node = realloc(t->node, (size_t)(t->count + 1) * sizeof(int));
    t->node[t->count++] = node;
}
static void pass(void *ctx) { (void)ctx; }

bool event_record(Event *e, Stream *s) {
    e->capture = s->capture ? s->capture->serial : 0;
    e->recorded = true;
    if (s->capture) {
        tails_set(&e->tails, &s->tails);
        return true;
    }
    if (!stream_add(s, pass, &e, sizeof e)) return false;
    e->at = (Dep){s, s->issued};
    e->time = s->issued + s->spent;
    return true;
}
/* The unfinished capture that the event was recorded in. */
static Graph *capture_of(const Event *e) {
    for (int i = 0; i < stream_count; i++)
        if (streams[i]->capture && streams[i]->capture->serial == e->capture)
            return streams[i]->capture;
    return NULL;
}
bool event_wait(Stream *s, Event *e) {
    if (!e->recorded) return true;
    if (e->capture) {
        Graph *g = capture_of(e);
        if (!g || (s->capture && s->capture != g)) return false;
        if (!s->capture) s->tails.count = 0;
        s->capture = g;
        for (int t = 0; t < e->tails.count; t++) tails_add(&s->tails, e->tails.node[t]);
        return true;
    }
    if (s->capture) return false;
    add_wait(s, e->at);
    return true;
}
void event_sync(Event *e) {
    if (e->recorded) run_until(e->at.stream, e->at.seq);
}
bool event_done(const Event *e) { return !e->recorded || e->at.stream->done >= e->at.seq; }
bool event_recorded(const Event *e) { return e->recorded; }
double event_time(const Event *e) { return 0.1 * (double)e->time; }
void stream_spend(Stream *s, uint64_t items) { s->spent += items; }
bool event_timed(const Event *e) { return e->timed; }
bool event_captured(const Event *e) { return e->capture != 0; }

/* ---- graphs ---- */
static void add_node(Graph *g, Stream *s, Work run, const void *ctx, size_t bytes) {
    g->nodes = realloc(g->nodes, (size_t)(g->count + 1) * sizeof *g->nodes);
    Node *n = &g->nodes[g->count];
    *n = (Node){.run = run, .bytes = bytes, .ctx = malloc(bytes + 1), .dep_count = s->tails.count};
    if (bytes) memcpy(n->ctx, ctx, bytes);
    n->deps = malloc(((size_t)n->dep_count + 1) * sizeof(int));
    if (n->dep_count) memcpy(n->deps, s->tails.node, (size_t)n->dep_count * sizeof(int));
    s->tails.count = 0;
    tails_add(&s->tails, g->count++);
}
bool stream_capturing(const Stream *s) { return s->capture != NULL; }
bool any_capturing(void) {
    for (int i = 0; i < stream_count; i++)
        if (streams[i]->capture) return true;
    return false;
}
bool stream_capture_begin(Stream *s) {
    if (s->capture || s == legacy) return false;
    s->capture = graph_new();
    s->owner = true;
    s->tails.count = 0;
    return true;
}
static void mark(const Graph *g, int node, bool *seen) {
    if (seen[node]) return;
    seen[node] = true;
    for (int d = 0; d < g->nodes[node].dep_count; d++) mark(g, g->nodes[node].deps[d], seen);
}
void stream_capture_spoil(Stream *s) { s->capture->spoilt = true; }
void event_capture_spoil(const Event *e) {
    Graph *g = capture_of(e);
    if (g) g->spoilt = true;
}
Graph *stream_capture_end(Stream *s, CaptureEnd *how) {
    Graph *g = s->capture;
    *how = UNMATCHED;
    if (!g || !s->owner) return NULL;
    *how = g->spoilt ? SPOILT : CAPTURED;
    bool *seen = calloc((size_t)g->count + 1, 1);
    for (int t = 0; t < s->tails.count; t++) mark(g, s->tails.node[t], seen);
    for (int i = 0; i < stream_count; i++) {
        Stream *o = streams[i];
        if (o->capture != g) continue;
        for (int t = 0; t < o->tails.count; t++)
            if (!seen[o->tails.node[t]] && *how == CAPTURED) *how = UNJOINED;
        o->capture = NULL;
        o->owner = false;
        o->tails.count = 0;
    }
    free(seen);
    if (*how == CAPTURED) return g;
    graph_close(g);
    return NULL;
}
Graph *graph_new(void) {
    static uint64_t made;
    Graph *g = calloc(1, sizeof *g);
    *g = (Graph){.uses = 1, .serial = ++made, .next = graphs, .link = &graphs};
    if (graphs) graphs->link = &g->next;
    graphs = g;
    return g;
}
bool graphs_hold(Work run, bool (*is)(const void *ctx, const void *what), const void *what) {
    for (const Graph *g = graphs; g; g = g->next)
        for (int i = 0; i < g->count; i++)
            if (g->nodes[i].run == run && is(g->nodes[i].ctx, what)) return true;
    return false;
}
Graph *graph_copy(const Graph *g) {
    Graph *c = graph_new();
    c->nodes = calloc((size_t)g->count + 1, sizeof *c->nodes);
    c->count = g->count;
    for (int i = 0; i < g->count; i++) {
        const Node *from = &g->nodes[i];
        Node *to = &c->nodes[i];
        *to = *from;
        to->ctx = malloc(from->bytes + 1);
        memcpy(to->ctx, from->ctx, from->bytes);
        to->deps = malloc(((size_t)from->dep_count + 1) * sizeof(int));
        memcpy(to->deps, from->deps, (size_t)from->dep_count * sizeof(int));
    }
    return c;
}
void graph_close(Graph *g) {
    if (--g->uses) return;
    for (int i = 0; i < g->count; i++) {
        free(g->nodes[i].ctx);
        free(g->nodes[i].deps);
    }
    *g->link = g->next;
    if (g->next) g->next->link = g->link;
    free(g->nodes);
    free(g);
}
size_t graph_nodes(const Graph *g) { return (size_t)g->count; }
bool graph_same_shape(const Graph *a, const Graph *b) {
    if (a->count != b->count) return false;
    for (int i = 0; i < a->count; i++) {
        const Node *x = &a->nodes[i], *y = &b->nodes[i];
        if (x->run != y->run || x->dep_count != y->dep_count ||
            memcmp(x->deps, y->deps, (size_t)x->dep_count * sizeof(int)))
            return false;
    }
    return true;
}

/* Any order that the dependencies allow: the oldest node first, the newest first, at random. */
static void run_graph(void *ctx) {
    Graph *g = *(Graph **)ctx;
    bool *done = calloc((size_t)g->count + 1, 1);
    int *ready_nodes = malloc(((size_t)g->count + 1) * sizeof(int));
    for (int left = g->count; left; left--) {
        int n = 0, async = emu_options()->async;
        for (int i = 0; i < g->count; i++) {
            bool can = !done[i];
            for (int d = 0; can && d < g->nodes[i].dep_count; d++) can = done[g->nodes[i].deps[d]];
            if (can) ready_nodes[n++] = i;
        }
        int at = ready_nodes[async == 0 ? 0 : async == 1 ? n - 1 : (int)emu_random((uint32_t)n)];
        if (g->nodes[at].run) g->nodes[at].run(g->nodes[at].ctx);
        done[at] = true;
    }
    free(ready_nodes);
    free(done);
    graph_close(g);
}
bool graph_launch(const Graph *graph, Stream *s) {
    Graph *g = (Graph *)(uintptr_t)graph;
    g->uses++;
    return stream_add(s, run_graph, &g, sizeof g);
}
