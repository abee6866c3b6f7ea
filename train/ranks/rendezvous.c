#include "train/ranks/rendezvous.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static const char magic[8] = "clipcid1";
/* A stranger who connects and says nothing may keep rank 0 waiting for so many seconds. */
static const double patience = 2;

typedef struct Hello { /* numbers in network order */
    char magic[8];
    uint32_t rank, size;
} Hello;

typedef struct Answer {
    char magic[8], problem[160]; /* problem: empty where all is well */
    unsigned char bytes[RENDEZVOUS_BYTES];
} Answer;

/* Whether the socket is ready before the clock shows `until`. */
static bool ready(int s, short event, double until) {
    for (;;) {
        double left = until - clock_now();
        if (left < 0) left = 0;
        struct pollfd p = {.fd = s, .events = event};
        int n = poll(&p, 1, left > 1000 ? 1000000 : (int)(left * 1000) + 1);
        if (n > 0) return true;
        if (clock_now() >= until || (n < 0 && errno != EINTR)) return false;
    }
}

/* All of x[n], in or out, before the clock shows `until`. */
static bool transfer(int s, void *x, size_t n, bool out, double until) {
    for (size_t done = 0; done < n;) {
        if (!ready(s, out ? POLLOUT : POLLIN, until)) return false;
        ssize_t k = out ? send(s, (char *)x + done, n - done, MSG_NOSIGNAL)
                        : recv(s, (char *)x + done, n - done, 0);
        if (k > 0)
            done += (size_t)k;
        else if (k == 0 || (errno != EAGAIN && errno != EINTR))
            return false;
    }
    return true;
}

static int open_socket(const struct addrinfo *a) {
    int s = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, a->ai_protocol);
    int on = 1, off = 0;
    if (s < 0) return -1;
    setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (a->ai_family == AF_INET6) setsockopt(s, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    return s;
}

/* ---- rank 0 ---- */

static int listen_at(int port, Error *err) {
    /* IPv6 sockets take IPv4's connections as well, where there is IPv6 */
    for (int family = 0; family < 2; family++) {
        char text[16];
        struct addrinfo *list, hints = {.ai_family = family ? AF_INET : AF_INET6,
                                        .ai_socktype = SOCK_STREAM,
                                        .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
        snprintf(text, sizeof text, "%d", port);
        if (getaddrinfo(NULL, text, &hints, &list)) {
            error_set(err, "rank 0 cannot listen at port %d", port);
            continue;
        }
        int s = open_socket(list),
            bad = s < 0 || bind(s, list->ai_addr, list->ai_addrlen) || listen(s, SOMAXCONN);
        int why = errno;
        freeaddrinfo(list);
        if (!bad) return s;
        if (s >= 0) close(s);
        error_set(err,
                  "rank 0 cannot listen at port %d: %s: is another run there? choose another "
                  "--comm-port",
                  port, strerror(why));
        if (why == EADDRINUSE) break;
    }
    return -1;
}

/* Takes a newcomer's hello; a stranger is sent away. problem: of one who should not be here. */
static void admit(const Rendezvous *r, int s, int *seat, char problem[160], double until) {
    Hello h;
    double soon = clock_now() + patience;
    if (!transfer(s, &h, sizeof h, false, soon < until ? soon : until) ||
        memcmp(h.magic, magic, sizeof magic)) {
        close(s);
        return;
    }
    uint32_t rank = ntohl(h.rank), size = ntohl(h.size);
    if (size != (uint32_t)r->size || rank == 0 || rank >= size)
        snprintf(problem, 160, "a process says it is rank %u of %u, and rank 0 is one of %d", rank,
                 size, r->size);
    else if (seat[rank] >= 0)
        snprintf(problem, 160, "two processes say they are rank %u", rank);
    if (*problem) { /* the rank receives it too */
        Answer a = {.problem = ""};
        memcpy(a.magic, magic, sizeof magic);
        memcpy(a.problem, problem, sizeof a.problem);
        transfer(s, &a, sizeof a, true, soon);
        close(s);
    } else {
        seat[rank] = s;
    }
}

static void name_missing(const Rendezvous *r, const int *seat, char problem[160]) {
    int came = 1, at = 0;
    char list[80] = "";
    for (int i = 1; i < r->size; i++) {
        came += seat[i] >= 0;
        if (seat[i] < 0 && at < 60) at += snprintf(list + at, sizeof list - (size_t)at, " %d", i);
    }
    snprintf(problem, 160, "%d of %d ranks came to port %d within %.0f s; missing:%s", came,
             r->size, r->port, r->timeout, list);
}

static bool host(const Rendezvous *r, const void *bytes, Error *err) {
    double until = clock_now() + r->timeout;
    int door = listen_at(r->port, err), came = 1;
    if (door < 0) return false;
    int *seat = xmalloc((size_t)r->size * sizeof *seat);
    for (int i = 0; i < r->size; i++) seat[i] = -1;
    Answer a = {.problem = ""};
    memcpy(a.magic, magic, sizeof magic);
    memcpy(a.bytes, bytes, sizeof a.bytes);
    while (came < r->size && !*a.problem) {
        if (!ready(door, POLLIN, until)) {
            name_missing(r, seat, a.problem);
            break;
        }
        int s = accept4(door, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (s >= 0) admit(r, s, seat, a.problem, until);
        came = 1;
        for (int i = 1; i < r->size; i++) came += seat[i] >= 0;
    }
    close(door);
    double soon = clock_now() + patience;
    for (int i = 1; i < r->size; i++) {
        if (seat[i] < 0) continue;
        bool told = transfer(seat[i], &a, sizeof a, true, soon);
        if (!told && !*a.problem) snprintf(a.problem, sizeof a.problem, "rank %d has gone", i);
        close(seat[i]);
    }
    free(seat);
    return !*a.problem || error_set(err, "%s", a.problem);
}

/* ---- the others ---- */

/* One try; -1 with the reason in `why`. */
static int try_connect(const Rendezvous *r, char why[160], double until) {
    char port[16];
    struct addrinfo *list, hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    snprintf(port, sizeof port, "%d", r->port);
    int bad = getaddrinfo(r->address, port, &hints, &list);
    if (bad) {
        snprintf(why, 160, "no such address: %s", gai_strerror(bad));
        return -1;
    }
    int s = -1;
    for (const struct addrinfo *a = list; a && s < 0; a = a->ai_next) {
        s = open_socket(a);
        if (s < 0) continue;
        int error = connect(s, a->ai_addr, a->ai_addrlen) ? errno : 0;
        socklen_t length = sizeof error;
        double soon = clock_now() + 2 * patience;
        if (error == EINPROGRESS) {
            if (!ready(s, POLLOUT, soon < until ? soon : until))
                error = ETIMEDOUT;
            else
                getsockopt(s, SOL_SOCKET, SO_ERROR, &error, &length);
        }
        if (!error) break;
        snprintf(why, 160, "%s", strerror(error));
        close(s);
        s = -1;
    }
    freeaddrinfo(list);
    return s;
}

static bool visit(const Rendezvous *r, void *bytes, Error *err) {
    double until = clock_now() + r->timeout;
    char why[160] = "";
    int s = -1;
    while ((s = try_connect(r, why, until)) < 0 && clock_now() < until)
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    if (s < 0)
        return error_set(
            err,
            "rank 0 could not be reached at %.100s port %d within %.0f s (%s): is that "
            "the machine of rank 0, does it run, is the port open? MASTER_ADDR and "
            "--comm-port say where",
            r->address, r->port, r->timeout, why);
    Hello h = {.rank = htonl((uint32_t)r->rank), .size = htonl((uint32_t)r->size)};
    memcpy(h.magic, magic, sizeof magic);
    Answer a;
    /* rank 0 gives up after its own timeout, which may have begun later */
    bool answered = transfer(s, &h, sizeof h, true, until) &&
                    transfer(s, &a, sizeof a, false, until + r->timeout);
    close(s);
    if (!answered || memcmp(a.magic, magic, sizeof magic))
        return error_set(err,
                         "what listens at %.100s port %d is not rank 0 of this run, or it has "
                         "ended: look at its line, or choose another --comm-port",
                         r->address, r->port);
    a.problem[sizeof a.problem - 1] = 0;
    if (*a.problem) return error_set(err, "%s", a.problem);
    memcpy(bytes, a.bytes, sizeof a.bytes);
    return true;
}

bool rendezvous_meet(const Rendezvous *r, void *bytes, Error *err) {
    assert(r->size > 1 && r->rank >= 0 && r->rank < r->size);
    return r->rank == 0 ? host(r, bytes, err) : visit(r, bytes, err);
}
