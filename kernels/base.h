/* base: what every layer shares: fatal errors, data errors, log lines, checked sizes, arenas, time.
 * Any file may call it. */
#ifndef KERNELS_BASE_H
#define KERNELS_BASE_H
#include <assert.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define PRINTF_LIKE(fmt, first) __attribute__((format(printf, fmt, first)))

/* One list for an enum and the words of an option that sets it:
 *     #define FRUITS(X) X(FRUIT_APPLE, "apple") X(FRUIT_PEAR, "pear")
 *     typedef enum { FRUITS(CHOICE_NAME) } Fruit;   CHOICES(FRUITS) is "apple|pear" */
#define CHOICE_NAME(name, word) name,
#define CHOICE_WORD(name, word) word,
#define CHOICE_BAR_WORD(name, word) "|" word
#define CHOICES(list) (&list(CHOICE_BAR_WORD)[1])

/* Exit codes of the program. */
enum { EXIT_OK = 0, EXIT_ERROR = 1, EXIT_USAGE = 2 };

/* The user's or the machine's fault: one line "clipc: …" on stderr (what, where, what to try), then
 * exit 1 (2 for usage). */
void die(const char *fmt, ...) PRINTF_LIKE(1, 2) __attribute__((noreturn));
void die_usage(const char *fmt, ...) PRINTF_LIKE(1, 2) __attribute__((noreturn));

/* The data's fault: a function that can meet bad data returns false and leaves one line here. */
typedef struct Error {
    char text[512];
} Error;
/* Formats the line and returns false, so that a parser can say `return error_set(err, …)`. */
bool error_set(Error *err, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* A line on stderr with the program's name in front. log_quiet(true) silences log_info, never
 * log_warn. log_mark: what warnings and die's lines have after the name ("rank 3: "). */
void log_info(const char *fmt, ...) PRINTF_LIKE(1, 2);
void log_warn(const char *fmt, ...) PRINTF_LIKE(1, 2);
void log_quiet(bool quiet);
/* Draws a line on a terminal in place of the one drawn before; log_live_end leaves it there. Any
 * other message takes its place. */
void log_live(const char *fmt, ...) PRINTF_LIKE(1, 2);
void log_live_end(void);
void log_mark(const char *mark);

/* Products and sums of sizes that die instead of wrapping round. */
size_t size_mul(size_t a, size_t b);
size_t size_add(size_t a, size_t b);
static inline size_t size_min(size_t a, size_t b) { return a < b ? a : b; }
static inline size_t size_max(size_t a, size_t b) { return a > b ? a : b; }
static inline size_t div_up(size_t a, size_t b) { return (a + b - 1) / b; }
static inline size_t round_up(size_t a, size_t b) { return div_up(a, b) * b; }

/* The last i < n that meets the condition, which holds up to some i and not beyond; 0 if none does.
 * Where does x belong among starts that ascend: LAST_WHERE(i, n, start[i] <= x). */
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

/* malloc, calloc and realloc that die with the size they could not get; free with free(). */
void *xmalloc(size_t bytes);
void *xcalloc(size_t count, size_t size);
void *xrealloc(void *p, size_t bytes);
char *xstrdup(const char *s);
char *xasprintf(const char *fmt, ...) PRINTF_LIKE(1, 2);

/* An arena hands out 64-byte aligned pieces of one block. Layout functions run twice: with base ==
 * NULL every piece is NULL and only `used` grows (measure), then with a block of that size (bind);
 * so sizes and pointers cannot disagree. */
typedef struct Arena {
    unsigned char *base;
    size_t size, used;
} Arena;
void *arena_take(Arena *a, size_t count, size_t elem_size);

/* Seconds of a monotonic clock. */
double clock_now(void);
/* Bytes of the largest resident set the process has had. */
size_t peak_rss(void);
#endif
