#include "data/io/pipe.h"

#include "data/io/machine.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    SLICE_MS = 100,      /* between checks of `stop` */
    CAPACITY = 1 << 20,  /* of the kernel's buffer, so that the command works ahead */
    FINISH_SECONDS = 10, /* a command may still run after it closed its output */
};

struct Pipe {
    int fd, life; /* life: a watcher waits until it closes; never written to; -1: there is none */
    bool command; /* fd is a command's output */
    pid_t pid;    /* 0: standard input, or reaped */
    double seconds;
    const atomic_bool *stop;
    bool ended; /* its output has ended */
    int status;
    Pipe *next; /* all live pipes, for the program's exit */
};

static pthread_mutex_t live_lock = PTHREAD_MUTEX_INITIALIZER;
static Pipe *live;

static void kill_group(const Pipe *p) {
    if (p->pid > 0 && kill(-p->pid, SIGKILL) != 0) kill(p->pid, SIGKILL);
}

static void kill_all(void) {
    if (pthread_mutex_trylock(&live_lock) != 0) return;
    for (const Pipe *p = live; p; p = p->next) kill_group(p);
    pthread_mutex_unlock(&live_lock);
}

/* Runs the command $1 together with a watcher. When the program that started it ends for any
 * reason, descriptor 3 closes and the watcher kills the process group. */
static const char script[] = "{ read x; kill -9 0; } <&3 >/dev/null 2>&1 & w=$!; exec 3<&-; "
                             "/bin/sh -c \"$1\"; s=$?; kill $w; wait $w 2>/dev/null; exit $s";

/* A child becomes this. It shares the parent's memory until then. */
typedef struct Execution {
    const char *path; /* searched in PATH unless it has a slash */
    const char *const *argv;
    int out, errors, life;       /* become descriptors 1 to 3; -1: it has the parent's, or none */
    const ProgramLimits *limits; /* NULL: none, and it may outlive the thread */
    volatile int failure;        /* the errno if the program cannot be executed */
} Execution;

static void limit(const ProgramLimits *l) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setrlimit(RLIMIT_AS, &(struct rlimit){l->memory, l->memory});
    setrlimit(RLIMIT_CPU, &(struct rlimit){l->cpu_seconds, l->cpu_seconds + 1});
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
}

/* Runs in the child. */
static void become(Execution *e) __attribute__((noreturn));
static void become(Execution *e) {
    enum { HIGH = 10 }; /* above the descriptor numbers that are assigned below */
    sigset_t none;
    setpgid(0, 0);
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC), from[] = {null, e->out, e->errors, e->life};
    for (int i = 0; i < 4; i++)
        if ((!i || from[i] >= 0) && (from[i] = fcntl(from[i], F_DUPFD_CLOEXEC, HIGH)) < 0)
            _exit(127);
    for (int i = 0; i < 4; i++)
        if (from[i] >= 0 && dup2(from[i], i) < 0) _exit(127);
    const int defaults[] = {SIGPIPE, SIGINT, SIGTERM, SIGCHLD, SIGHUP, SIGQUIT, SIGXFSZ};
    for (size_t i = 0; i < COUNT(defaults); i++) signal(defaults[i], SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (e->limits) limit(e->limits);
    execvp(e->path, (char *const *)e->argv);
    e->failure = errno;
    _exit(127);
}

static pid_t spawn(Execution *e) {
    /* unlike fork, it does not copy the page tables, which are large in a training program */
    pid_t pid = vfork();
    if (pid == 0) become(e);
    return pid;
}

static void kill_at_exit(void) { at_every_exit(kill_all); }

static Pipe *pipe_new(Pipe from) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, kill_at_exit);
    Pipe *p = xcalloc(1, sizeof *p);
    *p = from;
    pthread_mutex_lock(&live_lock);
    p->next = live;
    live = p;
    pthread_mutex_unlock(&live_lock);
    return p;
}

/* Opens a pipe; false: errno. */
static bool open_pipe(int fds[2]) {
    bool ok = true;
    for (int tries = 0; ok && pipe2(fds, O_CLOEXEC) != 0;)
        ok = machine_again("a pipe for a command", &tries);
    return ok;
}

Pipe *pipe_start(const char *command, double seconds, const atomic_bool *stop, Error *err) {
    int out[2], life[2];
    if (!open_pipe(out)) {
        error_set(err, "cannot make a pipe: %s", strerror(errno));
        return NULL;
    }
    pid_t pid = -1;
    bool ok = open_pipe(life);
    const char *argv[] = {"sh", "-c", script, "sh", command, NULL};
    Execution e = {
        .path = "/bin/sh", .argv = argv, .out = out[1], .errors = -1, .life = ok ? life[0] : -1};
    if (ok) pid = spawn(&e);
    int why = errno;
    close(out[1]);
    if (ok) close(life[0]);
    if (pid < 0) {
        close(out[0]);
        if (ok) close(life[1]);
        error_set(err, "cannot start a command: %s", strerror(why));
        return NULL;
    }
    (void)fcntl(out[0], F_SETPIPE_SZ, CAPACITY);
    return pipe_new((Pipe){.fd = out[0],
                           .life = life[1],
                           .command = true,
                           .pid = pid,
                           .seconds = seconds,
                           .stop = stop});
}

Pipe *pipe_start_program(const char *const *argv, ProgramLimits limits, Error *err) {
    int out[2];
    if (!open_pipe(out)) {
        error_set(err, "cannot make a pipe: %s", strerror(errno));
        return NULL;
    }
    Execution e = {.path = argv[0],
                   .argv = argv,
                   .out = out[1],
                   .errors = out[1],
                   .life = -1,
                   .limits = &limits};
    pid_t pid = spawn(&e);
    int why = pid < 0 ? errno : e.failure;
    close(out[1]);
    if (!why)
        return pipe_new((Pipe){
            .fd = out[0], .life = -1, .command = true, .pid = pid, .seconds = limits.seconds});
    close(out[0]);
    if (pid > 0) waitpid(pid, NULL, 0);
    error_set(err, "cannot start %s: %s", argv[0], strerror(why));
    errno = why;
    return NULL;
}

Pipe *pipe_stdin(double seconds, const atomic_bool *stop) {
    return pipe_new((Pipe){.fd = STDIN_FILENO, .life = -1, .seconds = seconds, .stop = stop});
}

bool pipe_read(Pipe *p, void *out, size_t n, size_t *got, Error *err) {
    double until = clock_now() + p->seconds;
    for (*got = 0; !p->ended;) {
        if (p->stop && atomic_load(p->stop)) return error_set(err, "stopped");
        struct pollfd ready = {.fd = p->fd, .events = POLLIN};
        int any = poll(&ready, 1, SLICE_MS);
        if (any < 0 && errno != EINTR) return error_set(err, "cannot read: %s", strerror(errno));
        if (any <= 0) {
            if (clock_now() < until) continue;
            return error_set(err, "nothing came for %g s", p->seconds);
        }
        ssize_t size = read(p->fd, out, n);
        if (size < 0 && (errno == EINTR || errno == EAGAIN)) continue;
        if (size < 0) return error_set(err, "cannot read: %s", strerror(errno));
        p->ended = size == 0;
        *got = (size_t)size;
        return true;
    }
    return true;
}

static bool say_status(int status, Error *err) {
    /* a shell's exit status is 128 plus the signal that ended its command */
    int sig = WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status) - 128;
    if (sig > 0 && sig < NSIG)
        return error_set(err, "ended by signal %d (%s)", sig, strsignal(sig));
    return WEXITSTATUS(status) == 0 || error_set(err, "exit status %d", WEXITSTATUS(status));
}

/* The command is reaped; its process id may be reused. */
static void reaped(Pipe *p) {
    pthread_mutex_lock(&live_lock);
    p->pid = 0;
    pthread_mutex_unlock(&live_lock);
}

bool pipe_finish(Pipe *p, Error *err) {
    double until = clock_now() + FINISH_SECONDS;
    for (long wait_ns = 100000; p->pid; wait_ns = wait_ns < 50000000 ? wait_ns * 2 : wait_ns) {
        /* waits without reaping: the group is killed while the process id cannot be reused */
        siginfo_t info = {.si_pid = 0};
        if (waitid(P_PID, (id_t)p->pid, &info, WEXITED | WNOHANG | WNOWAIT) != 0)
            return error_set(err, "cannot wait for it: %s", strerror(errno));
        if (info.si_pid) {
            kill_group(p);
            waitpid(p->pid, &p->status, 0);
            reaped(p);
        } else if (clock_now() > until || (p->stop && atomic_load(p->stop))) {
            return error_set(err, "still running %d s after the end of its output", FINISH_SECONDS);
        } else {
            nanosleep(&(struct timespec){.tv_nsec = wait_ns}, NULL);
        }
    }
    return say_status(p->status, err);
}

void pipe_close(Pipe *p) {
    if (!p) return;
    if (p->command) close(p->fd);
    if (p->life >= 0) close(p->life);
    if (p->pid) {
        kill_group(p);
        while (waitpid(p->pid, &p->status, 0) < 0 && errno == EINTR) {
        }
    }
    pthread_mutex_lock(&live_lock);
    Pipe **at = &live;
    while (*at != p) at = &(*at)->next;
    *at = p->next;
    pthread_mutex_unlock(&live_lock);
    free(p);
}
