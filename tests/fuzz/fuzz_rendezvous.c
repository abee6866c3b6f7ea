/* Any bytes as the greetings of two connections, in pieces: a rank is seated if and only if its
 * greeting is one of this job, and once. */
#include "train/ranks/rendezvous.c"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

enum { RANKS = 3 };

static void greet(Host *h, const uint8_t *bytes, size_t n) {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends)) abort();
    Guest g = {.socket = ends[0], .until = 1};
    const int came = h->came;
    for (size_t done = 0, piece; done < n && g.socket >= 0; done += piece) {
        piece = size_min(n - done, 1 + bytes[0] % sizeof(Hello));
        if (send(ends[1], bytes + done, piece, MSG_NOSIGNAL) != (ssize_t)piece) abort();
        receive(h, &g, true, 0);
    }
    if (g.socket >= 0) receive(h, &g, false, 2); /* its time is over */
    if (g.socket >= 0) abort();
    Hello hello, own = hello_of(h->r);
    bool welcome = n >= sizeof hello;
    if (welcome) {
        memcpy(&hello, bytes, sizeof hello);
        welcome = !memcmp(hello.magic, own.magic, sizeof own.magic) && hello.size == own.size &&
                  !memcmp(hello.key, own.key, sizeof own.key);
    }
    if (h->came > came + welcome || !memchr(h->refused, 0, sizeof h->refused)) abort();
    close(ends[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    const Rendezvous r = {.rank = 0, .size = RANKS, .key = "job", .timeout = 1};
    int seat[RANKS] = {-1, -1, -1}, seated = 1;
    Host h = {.r = &r, .came = 1, .seat = seat};
    char problem[160];
    greet(&h, bytes, n / 2);
    greet(&h, bytes + n / 2, n - n / 2);
    for (int i = 1; i < RANKS; i++)
        if (seat[i] >= 0) seated++, close(seat[i]);
    if (seated != h.came || seat[0] >= 0) abort();
    name_missing(&h, problem);
    if (!memchr(problem, 0, sizeof problem)) abort();
    return 0;
}
