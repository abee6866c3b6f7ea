#include "train/ranks/rendezvous.h"

#include "kernels/hash.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static const char magic[8] = "clipcid2";
/* Seconds that a greeting may take, from connecting to its last byte. */
static const double patience = 2;

typedef struct Hello { /* numbers in network order; key: a hash of the job's */
    char magic[8];
    uint32_t rank, size, key[2];
} Hello;

static Hello hello_of(const Rendezvous *r) {
    uint64_t key = r->key ? fnv_hash(FNV_START, r->key, strlen(r->key)) : 0;
    Hello h = {.rank = htonl((uint32_t)r->rank),
               .size = htonl((uint32_t)r->size),
               .key = {htonl((uint32_t)(key >> 32)), htonl((uint32_t)key)}};
    memcpy(h.magic, magic, sizeof magic);
    return h;
}

typedef struct Answer {
    char magic[8], problem[160]; /* problem: empty if there is none */
    unsigned char bytes[RENDEZVOUS_BYTES];
} Answer;

/* Returns true if the socket becomes ready before the clock reaches `until`. */
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

/* Sends or receives all of x[n] before the clock reaches `until`. */
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

/* Bound to the address, or (NULL) to every interface. -1: errno, or 0 if it is no such address. */
static int listen_on(const char *address, int family, const char *port) {
    struct addrinfo *list, hints = {.ai_family = family,
                                    .ai_socktype = SOCK_STREAM,
                                    .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    errno = 0;
    if (getaddrinfo(address, port, &hints, &list)) return -1;
    int s = open_socket(list), why = errno;
    if (s >= 0 && (bind(s, list->ai_addr, list->ai_addrlen) || listen(s, SOMAXCONN))) {
        why = errno;
        close(s);
        s = -1;
    }
    freeaddrinfo(list);
    errno = why;
    return s;
}

/* Returns true if other machines cannot reach the address; a machine's own name often resolves to
 * such an address. */
static bool is_loopback_name(const char *address) {
    struct addrinfo *list, hints = {.ai_socktype = SOCK_STREAM};
    if (!strcmp(address, "localhost") || !strncmp(address, "127.", 4) || !strcmp(address, "::1"))
        return false; /* intended */
    if (getaddrinfo(address, NULL, &hints, &list)) return false;
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)list->ai_addr;
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)list->ai_addr;
    bool is = list->ai_family == AF_INET ? ntohl(v4->sin_addr.s_addr) >> 24 == 127
                                         : IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr);
    freeaddrinfo(list);
    return is;
}

static int listen_at(const Rendezvous *r, Error *err) {
    char port[16];
    snprintf(port, sizeof port, "%d", r->port);
    int s = is_loopback_name(r->address) ? -1 : listen_on(r->address, AF_UNSPEC, port);
    /* IPv6 sockets also accept IPv4 connections */
    if (s < 0 && errno != EADDRINUSE) s = listen_on(NULL, AF_INET6, port);
    if (s < 0 && errno != EADDRINUSE) s = listen_on(NULL, AF_INET, port);
    if (s < 0)
        error_set(err,
                  "rank 0 cannot listen at port %d: %s: is another run there? choose another "
                  "--comm-port",
                  r->port, strerror(errno));
    return s;
}

/* Connections whose greeting is not complete. */
enum { GUESTS = 128 };
typedef struct Guest {
    int socket;
    size_t have;
    Hello hello;
    double until;
} Guest;

typedef struct Host {
    const Rendezvous *r;
    int door, came;
    int *seat; /* [size] sockets of the connected ranks; -1: not connected */
    Guest guest[GUESTS];
    size_t guests;
    char refused[160]; /* the reason of the last refusal; "": none */
} Host;

static bool answer(int s, const char *problem, const void *bytes, double until) {
    Answer a = {.problem = ""};
    memcpy(a.magic, magic, sizeof magic);
    snprintf(a.problem, sizeof a.problem, "%s", problem);
    if (bytes) memcpy(a.bytes, bytes, sizeof a.bytes);
    return transfer(s, &a, sizeof a, true, until);
}

/* Handles a complete greeting: seats the rank, or sends it the reason for a refusal. */
static void admit(Host *h, const Guest *g) {
    Hello own = hello_of(h->r);
    uint32_t rank = ntohl(g->hello.rank), size = ntohl(g->hello.size);
    char problem[160] = "";
    if (memcmp(g->hello.magic, magic, sizeof magic)) {
        close(g->socket);
        return;
    }
    if (memcmp(g->hello.key, own.key, sizeof own.key))
        snprintf(problem, sizeof problem,
                 "rank %u is of another job than rank 0 (--comm-key, TORCHELASTIC_RUN_ID, "
                 "SLURM_JOB_ID)",
                 rank);
    else if (size != (uint32_t)h->r->size || rank == 0 || rank >= size)
        snprintf(problem, sizeof problem,
                 "a process says it is rank %u of %u, and rank 0 is one of %d", rank, size,
                 h->r->size);
    else if (h->seat[rank] >= 0)
        snprintf(problem, sizeof problem, "two processes say they are rank %u", rank);
    if (!*problem) {
        h->seat[rank] = g->socket;
        h->came++;
        return;
    }
    memcpy(h->refused, problem, sizeof problem);
    answer(g->socket, problem, NULL, clock_now()); /* an empty socket buffer accepts it at once */
    close(g->socket);
}

static void receive(Host *h, Guest *g, bool readable, double now) {
    ssize_t n =
        readable ? recv(g->socket, (char *)&g->hello + g->have, sizeof g->hello - g->have, 0) : -1;
    bool waits = !readable || (n < 0 && (errno == EAGAIN || errno == EINTR));
    if (n > 0) g->have += (size_t)n;
    if (g->have == sizeof g->hello)
        admit(h, g);
    else if (n > 0 || (waits && now < g->until))
        return;
    else
        close(g->socket);
    g->socket = -1;
}

/* Polls the listening socket and all connections together, so that none can delay the others. */
static void wait_for_guests(Host *h, double until) {
    struct pollfd p[GUESTS + 1] = {{.fd = h->guests < GUESTS ? h->door : -1, .events = POLLIN}};
    for (size_t i = 0; i < h->guests; i++) {
        p[1 + i] = (struct pollfd){.fd = h->guest[i].socket, .events = POLLIN};
        if (h->guest[i].until < until) until = h->guest[i].until;
    }
    double left = until - clock_now();
    int polled = poll(p, h->guests + 1, left > 0 ? (int)(left * 1000) + 1 : 0);
    double now = clock_now();
    size_t kept = 0;
    for (size_t i = 0; i < h->guests; i++) {
        receive(h, &h->guest[i], polled > 0 && p[1 + i].revents, now);
        if (h->guest[i].socket >= 0) h->guest[kept++] = h->guest[i];
    }
    h->guests = kept;
    if (polled <= 0 || !p[0].revents) return;
    int s = accept4(h->door, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (s >= 0) h->guest[h->guests++] = (Guest){.socket = s, .until = now + patience};
}

static void name_missing(const Host *h, char problem[160]) {
    int at = 0;
    char list[80] = "";
    for (int i = 1; i < h->r->size; i++)
        if (h->seat[i] < 0 && at < 60)
            at += snprintf(list + at, sizeof list - (size_t)at, " %d", i);
    snprintf(problem, 160, "%d of %d ranks came to port %d within %.0f s; missing:%s%s%.70s",
             h->came, h->r->size, h->r->port, h->r->timeout, list, *h->refused ? "; " : "",
             h->refused);
}

static bool host(const Rendezvous *r, const void *bytes, Error *err) {
    double until = clock_now() + r->timeout;
    Host h = {.r = r, .door = listen_at(r, err), .came = 1};
    char problem[160] = "";
    if (h.door < 0) return false;
    h.seat = xmalloc((size_t)r->size * sizeof *h.seat);
    for (int i = 0; i < r->size; i++) h.seat[i] = -1;
    while (h.came < r->size && clock_now() < until) wait_for_guests(&h, until);
    if (h.came < r->size) name_missing(&h, problem);
    close(h.door);
    for (size_t i = 0; i < h.guests; i++) close(h.guest[i].socket);
    double soon = clock_now() + patience;
    for (int i = 1; i < r->size; i++) {
        if (h.seat[i] < 0) continue;
        bool told = answer(h.seat[i], problem, bytes, soon);
        if (!told && !*problem) snprintf(problem, sizeof problem, "rank %d has gone", i);
        close(h.seat[i]);
    }
    free(h.seat);
    return !*problem || error_set(err, "%s", problem);
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
    Hello h = hello_of(r);
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
