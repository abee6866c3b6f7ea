/* base: shared by every layer: fatal errors, data errors, log lines, checked sizes, arenas,
 * time. */
#pragma once
#include <assert.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define PRINTF_LIKE(fmt, first) __attribute__((format(printf, fmt, first)))

/* One list defines an enum and the words of the option that sets it:
 *     #define FRUITS(X) X(FRUIT_APPLE, "apple") X(FRUIT_PEAR, "pear")
 *     typedef enum { FRUITS(CHOICE_NAME) } Fruit;   CHOICES(FRUITS) is "apple|pear" */
#define CHOICE_NAME(name, word) name,
#define CHOICE_WORD(name, word) word,
#define CHOICE_BAR_WORD(name, word) "|" word
#define CHOICES(list) (&list(CHOICE_BAR_WORD)[1])

/* Exit codes of the program. Stopped: by a signal before the end, with all work saved. */
enum { EXIT_OK = 0, EXIT_ERROR = 1, EXIT_USAGE = 2, EXIT_STOPPED = 3 };

/* For errors of the user or the machine: prints one line "clipc: …" on stderr (what, where, what to
 * try), then exits with 1 (2 for usage). */
void die(const char *fmt, ...) PRINTF_LIKE(1, 2) __attribute__((noreturn));
void die_usage(const char *fmt, ...) PRINTF_LIKE(1, 2) __attribute__((noreturn));

/* Ends the process from any thread, as die does: runs what at_every_exit got, flushes standard
 * output, and runs no destructor of a library, whose data other threads may be using. The first
 * thread ends the process; others that get here wait for that. */
void exit_at_once(int code) __attribute__((noreturn));
/* f runs when the process ends by exit, exit_at_once or main's return, the last f first. Returns
 * false if there is no memory for it. */
bool at_every_exit(void (*f)(void));

/* Once a library in C++ is in use: an exception of it that nothing catches, most likely for lack of
 * memory, ends like die. `what`: the library. */
void die_of_exceptions(const char *what);

/* For errors of the data: a function that can meet bad data returns false and sets one line
 * here. */
typedef struct Error {
    char text[512];
} Error;
/* Formats the line and returns false, so that a parser can say `return error_set(err, …)`. */
bool error_set(Error *err, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Prints a line on stderr after the program's name. log_quiet(true) silences log_info, never
 * log_warn. log_mark: text after the name in warnings and errors ("rank 3: "). */
void log_info(const char *fmt, ...) PRINTF_LIKE(1, 2);
void log_warn(const char *fmt, ...) PRINTF_LIKE(1, 2);
void log_quiet(bool quiet);
/* Draws a line on a terminal, cut to its width, over the previously drawn one; log_live_end keeps
 * it. Any other message replaces it. */
void log_live(const char *fmt, ...) PRINTF_LIKE(1, 2);
void log_live_end(void);
void log_mark(const char *mark);

/* Products and sums of sizes; an overflow ends the program with an error. */
size_t size_mul(size_t a, size_t b);
size_t size_add(size_t a, size_t b);
static inline size_t size_min(size_t a, size_t b) { return a < b ? a : b; }
static inline size_t size_max(size_t a, size_t b) { return a > b ? a : b; }
static inline size_t div_up(size_t a, size_t b) { return (a + b - 1) / b; }
static inline size_t round_up(size_t a, size_t b) { return div_up(a, b) * b; }

/* The last i < n that meets the condition, which holds up to some i and not beyond; 0 if none does.
 * The index of the range that contains x, given ascending starts: LAST_WHERE(i, n, start[i] <=
 * x). */
#define LAST_WHERE(i, n, condition)                                                                \
    __extension__({                                                                                \
        size_t lo_ = 0, hi_ = (n);                                                                 \
        while (hi_ - lo_ > 1) {                                                                    \
            size_t i = lo_ + (hi_ - lo_) / 2;                                                      \
            if (condition)                                                                         \
                lo_ = i;                                                                           \
            else                                                                                   \
                hi_ = i;                                                                           \
        }                                                                                          \
        lo_;                                                                                       \
    })

/* malloc, calloc and realloc that exit with an error naming the size on failure; free with
 * free(). */
void *xmalloc(size_t bytes);
/* 64-byte aligned; from 2 MiB on in large pages where the system has them. */
void *xmalloc_aligned(size_t bytes);
void *xcalloc(size_t count, size_t size);
void *xrealloc(void *p, size_t bytes);
char *xstrdup(const char *s);
char *xasprintf(const char *fmt, ...) PRINTF_LIKE(1, 2);
/* Frees several pointers. */
#define FREE_ALL(...)                                                                              \
    free_each((void *[]){__VA_ARGS__}, sizeof((void *[]){__VA_ARGS__}) / sizeof(void *))
void free_each(void *const *p, size_t n);

/* An arena divides one block into 64-byte aligned pieces. Layout functions run twice: with base ==
 * NULL every piece is NULL and only `used` grows (measure), then with a block of that size (bind),
 * so sizes and pointers cannot disagree. */
typedef struct Arena {
    unsigned char *base;
    size_t size, used;
} Arena;
void *arena_take(Arena *a, size_t count, size_t elem_size);

/* Seconds of a monotonic clock. */
double clock_now(void);
/* Peak resident set size of the process in bytes. */
size_t peak_rss(void);
