#include "tests/support_ranks.h"

#include "tests/support.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#if defined TEST_CUDA
const Launcher ranks_usual = BY_TORCHRUN;
#else
const Launcher ranks_usual = BY_MPI;
#endif

/* On the layer without a GPU: streams run immediately, only when waited for, or in random order
 * (cuda_on_cpu/emu.h). */
static const int stream_order[] = {[BY_TORCHRUN] = 0, [BY_SLURM] = 1, [BY_MPI] = 2};

bool test_shell(const char *line) { return system(line) == 0; }

static bool on_gpu(void) { return !strncmp(program_invocation_short_name, "gpu_", 4); }

/* A free port for MASTER_PORT; the next one is for the ranks. */
static int free_port(void) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof a;
    int s = socket(AF_INET, SOCK_STREAM, 0);
    assert_true(s >= 0 && !bind(s, (struct sockaddr *)&a, size) &&
                !getsockname(s, (struct sockaddr *)&a, &size));
    close(s);
    return ntohs(a.sin_port) - 1;
}

/* A shell line that runs the command on a number of ranks (0: alone) and fails if one of them
 * does. */
static void launch_line(char *line, size_t room, Launcher by, int ranks, const char *command,
                        const char *out) {
    size_t at = 0;
    if (!ranks || by == BY_MPI) {
        char launcher[100] = "";
        if (ranks)
            snprintf(launcher, sizeof launcher,
                     "mpirun --allow-run-as-root --oversubscribe --bind-to none -np %d ", ranks);
        snprintf(line, room, "%s%s >'%s' 2>'%s'", launcher, command, out, test_path("stderr"));
        return;
    }
    int port = free_port();
    at += (size_t)snprintf(line, room, ": >'%s'; ", test_path("stderr"));
    for (int r = 0; r < ranks; r++) {
        char variables[200];
        snprintf(variables, sizeof variables,
                 by == BY_SLURM ? "SLURM_PROCID=%d SLURM_NTASKS=%d SLURM_LOCALID=%d MASTER_PORT=%d"
                                : "RANK=%d WORLD_SIZE=%d LOCAL_RANK=%d MASTER_PORT=%d",
                 r, ranks, r, port);
        at += (size_t)snprintf(line + at, room - at,
                               "MASTER_ADDR=localhost %s %s >'%s' 2>>'%s' & p%d=$!; ", variables,
                               command, r ? "/dev/null" : out, test_path("stderr"), r);
    }
    at += (size_t)snprintf(line + at, room - at, "bad=0");
    for (int r = 0; r < ranks; r++)
        at += (size_t)snprintf(line + at, room - at, "; wait $p%d || bad=1", r);
    snprintf(line + at, room - at, "; [ $bad = 0 ]");
}

bool ranks_run(Launcher by, int ranks, const char *command, const char *out) {
    static char line[1 << 16];
    char whole[9500];
    snprintf(whole, sizeof whole,
             "env OMP_NUM_THREADS=1 ASAN_OPTIONS=detect_leaks=0 CUDAEMU_QUIET=1 CUDAEMU_DEVICES=%d "
             "CUDAEMU_ASYNC=%d %s",
             RANKS_MOST, stream_order[by], command);
    launch_line(line, sizeof line, by, ranks, whole, out);
    if (test_shell(line)) return true;
    char *said = test_read_file(test_path("stderr"), NULL);
    print_error("%s\n%s\n", line, said);
    free(said);
    return false;
}

/* Returns true if the program refuses to start ranks over this transport with these words. */
static bool says(const char *comm, const char *words) {
    char line[4300];
    snprintf(line, sizeof line,
             "'%s' train --comm %s --device cpu --dry-run --model small 2>&1 | grep -q '%s'",
             test_program(), comm, words);
    return test_shell(line);
}

bool ranks_have_mpirun(void) {
    static int have = -1;
    if (have < 0) have = test_shell("mpirun --version >/dev/null 2>&1") && !says("mpi", "no MPI");
    return have;
}

static int count_gpus(void) {
    int n = 1;
    FILE *f = popen("nvidia-smi -L | wc -l", "r");
    if (!f || fscanf(f, "%d", &n) != 1) n = 1;
    if (f) pclose(f);
    return n;
}

int ranks_possible(const char **why_not) {
    static int possible = -1;
    static const char *why;
    if (possible < 0) {
        possible = RANKS_MOST;
        if (ranks_usual == BY_MPI) {
            if (!ranks_have_mpirun()) possible = 0;
            why = "no mpirun here (or a build without MPI)";
        } else if (says("nccl", "without NCCL")) {
            possible = 0;
            why = "no NCCL here";
        } else if (on_gpu()) {
            possible = count_gpus();
            why = "there are fewer GPUs";
        }
    }
    if (why_not) *why_not = why;
    return possible;
}

void need_ranks(const char *test, int ranks) {
    const char *why_not;
    if (ranks <= ranks_possible(&why_not)) return;
    print_message("SKIP: %s: %s\n", test, why_not);
    skip();
}
