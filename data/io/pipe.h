/* pipe: the output of a command, or standard input, as a stream of bytes. No read waits
 * longer than a time limit, and no command outlives its Pipe or the program. */
#pragma once
#include "kernels/base.h"

#include <stdatomic.h>

typedef struct Pipe Pipe;

/* Starts `/bin/sh -c command` in a separate process group (a Ctrl-C at the terminal reaches only
 * the program) with empty input. seconds: time limit of one read; stop (may be NULL): once true,
 * reads end. NULL: err has the reason. */
Pipe *pipe_start(const char *command, double seconds, const atomic_bool *stop, Error *err);
/* The limits of a program, for one that reads hostile bytes. */
typedef struct ProgramLimits {
    size_t memory;        /* most bytes of address space */
    unsigned cpu_seconds; /* most processor time */
    double seconds;       /* time limit of one read */
} ProgramLimits;

/* Starts a program, found by PATH, without a shell: argv[0] is its name, the last one NULL. Its
 * input is empty; what it writes to standard error comes in the output too. It ends at the latest
 * with the thread that starts it. NULL: err has the reason, errno ENOENT if there is no such
 * program. */
Pipe *pipe_start_program(const char *const *argv, ProgramLimits limits, Error *err);
/* Standard input; one at a time. */
Pipe *pipe_stdin(double seconds, const atomic_bool *stop);
/* Up to n bytes, at least one except at the end. False: a timeout, or a read failed. */
bool pipe_read(Pipe *p, void *out, size_t n, size_t *got, Error *err);
/* Waits for the command, which has closed its output or is about to. False: it failed; err is "exit
 * status 3" or names the signal. */
bool pipe_finish(Pipe *p, Error *err);
/* Kills the command if it still runs, and frees the Pipe. */
void pipe_close(Pipe *p);
