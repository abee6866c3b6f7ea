#include "train/watchdog.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *const op_names[] = {"nothing",    "the start of MPI", "the end of MPI",
                                       "all_gather", "reduce_scatter",   "all_reduce",
                                       "broadcast",  "barrier",          "gather_bytes"};

static struct {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool runs, stop;
    Beat *table, *own;
    size_t n;
    int rank;
    double timeout;
    double since[LANES]; /* clock at which the collective was entered; 0: none. Under lock */
} dog = {.lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};

static uint64_t milliseconds(double seconds) { return (uint64_t)(seconds * 1e3); }

/* Ranks of this node that have not begun the collective this rank waits in, or whose process does
 * not run at all. */
static void name_late(char *out, size_t room, CommLane lane, double now) {
    size_t at = 0, late = 0;
    *out = 0;
    for (size_t i = 0; i < dog.n && at < room; i++) {
        const Beat *b = &dog.table[i];
        bool stopped = b->alive + milliseconds(dog.timeout / 2) < milliseconds(now);
        if (!stopped && b->lane[lane].entered >= dog.own->lane[lane].entered) continue;
        at += (size_t)snprintf(out + at, room - at, "%srank %d (process %d, %s at step %llu)",
                               late++ ? ", " : " for ", b->rank, b->pid,
                               stopped ? "stopped or dead" : "still", (unsigned long long)b->step);
    }
    int op = dog.own->lane[lane].op;
    if (op == OP_START || op == OP_END)
        snprintf(out, room, "%s", " for the other ranks");
    else if (!late)
        snprintf(out, room, "%s",
                 " though every rank of this node has come: look at the other nodes' lines and at "
                 "the network");
}

static void end_process(CommLane lane, double now) {
    char late[512], line[1024];
    name_late(late, sizeof late, lane, now);
    int n = snprintf(line, sizeof line,
                     "clipc: rank %d: step %llu: %s has waited %.0f s (--comm-timeout)%s; all "
                     "ranks end; go on with --resume latest\n",
                     dog.rank, (unsigned long long)dog.own->step, op_names[dog.own->lane[lane].op],
                     now - dog.since[lane], late);
    if (!atomic_exchange(&dog.table[0].said, 1) &&
        write(STDERR_FILENO, line, size_min((size_t)n, sizeof line - 1)) < 0) {
        /* nobody listens: the exit code says it */
    }
    _exit(EXIT_ERROR);
}

static void *watch(void *unused) {
    (void)unused;
    pthread_mutex_lock(&dog.lock);
    for (double last = clock_now(); !dog.stop;) {
        double now = clock_now(), first = now;
        /* this process itself was stopped: the others have not been late */
        for (int lane = 0; lane < LANES; lane++)
            if (dog.since[lane] > 0 && now - last > dog.timeout / 2) dog.since[lane] = now;
        last = now;
        dog.own->alive = milliseconds(now);
        for (int lane = 0; lane < LANES; lane++) {
            double since = dog.since[lane];
            if (since > 0 && now - since >= dog.timeout) end_process((CommLane)lane, now);
            if (since > 0 && since < first) first = since;
        }
        /* what is entered while it sleeps is late by at most a tenth of the timeout */
        double pause = dog.timeout - (now - first);
        if (pause > dog.timeout / 10) pause = dog.timeout / 10;
        struct timespec t;
        clock_gettime(CLOCK_REALTIME, &t);
        double until = (double)t.tv_nsec * 1e-9 + pause;
        t.tv_sec += (time_t)until;
        t.tv_nsec = (long)((until - (double)(time_t)until) * 1e9);
        pthread_cond_timedwait(&dog.wake, &dog.lock, &t);
    }
    pthread_mutex_unlock(&dog.lock);
    return NULL;
}

void watchdog_move(Beat *table, size_t n, size_t own, int rank) {
    pthread_mutex_lock(&dog.lock);
    if (dog.own) {
        table[own].step = (uint64_t)dog.own->step;
        for (int lane = 0; lane < LANES; lane++)
            table[own].lane[lane].op = (int)dog.own->lane[lane].op;
    }
    dog.table = table;
    dog.own = &table[own];
    dog.n = n;
    dog.rank = rank;
    dog.own->rank = rank;
    dog.own->pid = (int)getpid();
    dog.own->alive = milliseconds(clock_now());
    pthread_mutex_unlock(&dog.lock);
}

void watchdog_start(Beat *table, size_t n, size_t own, int rank, double timeout) {
    assert(!dog.runs && own < n && timeout > 0);
    dog.timeout = timeout;
    watchdog_move(table, n, own, rank);
    if (pthread_create(&dog.thread, NULL, watch, NULL)) die("cannot start the watchdog's thread");
    dog.runs = true;
}

void watchdog_enter(CommLane lane, CommOp op) {
    if (!dog.runs) return;
    pthread_mutex_lock(&dog.lock);
    dog.since[lane] = clock_now();
    dog.own->lane[lane].op = op;
    dog.own->lane[lane].entered++;
    pthread_mutex_unlock(&dog.lock);
}

void watchdog_leave(CommLane lane) {
    if (!dog.runs) return;
    pthread_mutex_lock(&dog.lock);
    dog.since[lane] = 0;
    dog.own->lane[lane].op = OP_NONE;
    pthread_mutex_unlock(&dog.lock);
}

void watchdog_step(uint64_t step) {
    if (dog.runs) dog.own->step = step;
}

void watchdog_stop(void) {
    if (!dog.runs) return;
    pthread_mutex_lock(&dog.lock);
    dog.stop = true;
    pthread_cond_signal(&dog.wake);
    pthread_mutex_unlock(&dog.lock);
    pthread_join(dog.thread, NULL);
    dog.runs = false;
}
