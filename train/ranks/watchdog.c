#include "train/ranks/watchdog.h"

#include "data/io/lock.h"
#include "data/io/parallel.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const op_names[] = {COMM_OPS(CHOICE_WORD)};

static Beat alone;

static struct {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake, left;
    bool runs, stop, gone; /* gone: the device's `leave` has returned */
    Beat *table, *own;
    size_t n;
    int rank;
    double timeout;
    double since[LANES]; /* clock at which the collective was entered; 0: none. Under lock */
    WatchdogDevice device;
} dog = {.lock = PTHREAD_MUTEX_INITIALIZER,
         .wake = PTHREAD_COND_INITIALIZER,
         .left = PTHREAD_COND_INITIALIZER,
         .table = &alone,
         .own = &alone,
         .n = 1};

static uint64_t milliseconds(double seconds) { return (uint64_t)(seconds * 1e3); }

/* Ranks of this node that have not entered the collective in which this rank waits, or whose
 * process does not run. */
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

static void *leave_device(void *unused) {
    (void)unused;
    dog.device.leave();
    pthread_mutex_lock(&dog.lock);
    dog.gone = true;
    pthread_cond_signal(&dog.left);
    pthread_mutex_unlock(&dog.lock);
    return NULL;
}

/* Under lock. */
static void end_process(uint64_t step, const char *what) {
    char line[1200];
    int n = snprintf(line, sizeof line,
                     "clipc: rank %d: step %llu: %s; all ranks end; go on with --resume latest\n",
                     dog.rank, (unsigned long long)step, what);
    if (!atomic_exchange(&dog.table[0].reported, 1) &&
        write(STDERR_FILENO, line, size_min((size_t)n, sizeof line - 1)) < 0) {
        /* there is no listener: the exit code tells */
    }
    pthread_t thread;
    if (dog.device.leave && !pthread_create(&thread, NULL, leave_device, NULL))
        for (double until = clock_now() + 2; !dog.gone && clock_now() < until;)
            condition_wait(&dog.left, &dog.lock, until - clock_now());
    folder_unlock();
    _exit(EXIT_ERROR);
}

static void end_late(CommLane lane, double now) {
    char late[512], what[800];
    name_late(late, sizeof late, lane, now);
    snprintf(what, sizeof what, "%s has waited %.0f s (--comm-timeout)%s",
             op_names[dog.own->lane[lane].op], now - dog.since[lane], late);
    end_process(dog.own->lane[lane].step, what);
}

void watchdog_fail(CommOp op, uint64_t step, const char *why) {
    char what[800];
    snprintf(what, sizeof what, "%s failed: %s", op_names[op], why);
    pthread_mutex_lock(&dog.lock);
    end_process(step, what);
    _exit(EXIT_ERROR);
}

static void *watch(void *unused) {
    (void)unused;
    pthread_mutex_lock(&dog.lock);
    for (double last = clock_now(); !dog.stop;) {
        if (dog.device.poll) {
            void (*poll)(void) = dog.device.poll;
            pthread_mutex_unlock(&dog.lock);
            poll();
            pthread_mutex_lock(&dog.lock);
        }
        double now = clock_now(), first = now;
        /* this process was suspended: the others are not late */
        for (int lane = 0; lane < LANES; lane++)
            if (dog.since[lane] > 0 && now - last > dog.timeout / 2) dog.since[lane] = now;
        last = now;
        dog.own->alive = milliseconds(now);
        for (int lane = 0; lane < LANES; lane++) {
            double since = dog.since[lane];
            if (since > 0 && now - since >= dog.timeout) end_late((CommLane)lane, now);
            if (since > 0 && since < first) first = since;
        }
        /* a collective entered during the sleep is detected at most a tenth of the timeout late */
        double pause = dog.timeout - (now - first), most = dog.timeout / 10;
        if (dog.device.poll && most > 1) most = 1;
        if (!dog.stop) condition_wait(&dog.wake, &dog.lock, pause > most ? most : pause);
    }
    pthread_mutex_unlock(&dog.lock);
    return NULL;
}

void watchdog_share(Beat *table, size_t n, size_t own) {
    pthread_mutex_lock(&dog.lock);
    Beat *b = &table[own];
    b->step = (uint64_t)dog.own->step;
    for (int lane = 0; lane < LANES; lane++) {
        b->lane[lane].op = (int)dog.own->lane[lane].op;
        b->lane[lane].entered = (uint64_t)dog.own->lane[lane].entered;
        b->lane[lane].step = (uint64_t)dog.own->lane[lane].step;
    }
    b->rank = dog.rank;
    b->pid = (int)getpid();
    b->alive = milliseconds(clock_now());
    dog.table = table;
    dog.own = b;
    dog.n = n;
    pthread_mutex_unlock(&dog.lock);
}

void watchdog_device(const WatchdogDevice *device) {
    pthread_mutex_lock(&dog.lock);
    dog.device = *device;
    pthread_mutex_unlock(&dog.lock);
}

void watchdog_start(int rank, double timeout) {
    assert(!dog.runs && timeout > 0);
    dog.rank = rank;
    dog.timeout = timeout;
    watchdog_share(&alone, 1, 0);
    if (pthread_create(&dog.thread, NULL, watch, NULL)) die("cannot start the watchdog's thread");
    dog.runs = true;
}

void watchdog_at(CommLane lane, CommOp op, uint64_t entered, uint64_t step) {
    if (!dog.runs) return;
    pthread_mutex_lock(&dog.lock);
    bool other = op != (CommOp)dog.own->lane[lane].op || entered != dog.own->lane[lane].entered;
    if (other) dog.since[lane] = op == OP_NONE ? 0 : clock_now();
    dog.own->lane[lane].op = op;
    dog.own->lane[lane].step = step;
    dog.own->lane[lane].entered = entered;
    pthread_mutex_unlock(&dog.lock);
}

void watchdog_enter(CommLane lane, CommOp op) {
    watchdog_at(lane, op, dog.own->lane[lane].entered + 1, dog.own->step);
}

void watchdog_leave(CommLane lane) {
    watchdog_at(lane, OP_NONE, dog.own->lane[lane].entered, dog.own->step);
}

void watchdog_step(uint64_t step) { dog.own->step = step; }

uint64_t watchdog_now(void) { return dog.own->step; }

void watchdog_stop(void) {
    if (!dog.runs) return;
    pthread_mutex_lock(&dog.lock);
    dog.stop = true;
    pthread_cond_signal(&dog.wake);
    pthread_mutex_unlock(&dog.lock);
    pthread_join(dog.thread, NULL);
    dog.runs = false;
}
