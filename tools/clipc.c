/* clipc: one program, a table of commands. */
#include "kernels/cpu_sets.h"
#include "kernels/kernels.h"
#include "kernels/terminal.h"
#include "tools/commands.h"
#include "train/options.h"

#include <jansson.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define VERSION "0.1.0"

typedef struct Entry {
    const char *group, *name; /* `clipc group name` or, without a group, `clipc name` */
    int (*run)(int argc, char **argv);
    const char *summary;
    const char
        *interrupted; /* what Ctrl-C loses; NULL: nothing that lasts, or the command says it */
} Entry;

#define NO_RESULT "there is no result"
#define NOTHING_WRITTEN "nothing is written"
static const Entry entries[] = {
    {NULL, "train", cmd_train, "train a CLIP from image-text shards", NULL},
    {"eval", "retrieval", cmd_eval_retrieval,
     "recall@k of images for captions and captions for images", NO_RESULT},
    {"eval", "probe", cmd_eval_probe, "a linear classifier and neighbours on frozen features",
     NO_RESULT},
    {"eval", "zeroshot", cmd_eval_zeroshot, "classify images by the names of classes", NO_RESULT},
    {"eval", "similar", cmd_eval_similar,
     "pictures that find those of their label: precision@k, mAP", NO_RESULT},
    {NULL, "embed", cmd_embed, "images or captions -> L2-normalised features (.npy, or an index)",
     "an index keeps what was added, and the same command continues; a .npy file is not written"},
    {NULL, "search", cmd_search, "find the nearest of embedded pictures to a text or an image",
     NULL},
    {"index", "list", cmd_index_list, "the pictures of an index", NULL},
    {"index", "remove", cmd_index_remove, "take pictures out of an index", NULL},
    {"index", "compact", cmd_index_compact, "one segment, without what was removed", NULL},
    {"index", "check", cmd_index_check, "compare an index's checksums", NULL},
    {NULL, "score", cmd_score, "one image against several captions: probabilities", NULL},
    {"data", "pack", cmd_data_pack, "image-text pairs -> shards",
     "complete shards are kept, and the same command continues"},
    {"data", "index", cmd_data_index, "write the index that makes a shard random-access",
     "complete indexes are kept"},
    {"data", "check", cmd_data_check, "decode every sample, name the bad ones", NO_RESULT},
    {"data", "peek", cmd_data_peek, "show the first samples", NULL},
    {"data", "image", cmd_data_image, "image files -> what the model sees (.npy)", NULL},
    {NULL, "tok", cmd_tok, "captions <-> token ids; learn a vocabulary", NULL},
    {"ckpt", "info", cmd_ckpt_info, "what a checkpoint of any format holds", NULL},
    {"ckpt", "convert", cmd_ckpt_convert, "write a checkpoint in another program's format",
     NOTHING_WRITTEN},
    {"ckpt", "mix", cmd_ckpt_mix, "interpolate two checkpoints (WiSE-FT)", NOTHING_WRITTEN},
    {"ckpt", "average", cmd_ckpt_average, "the mean of several checkpoints (a soup)",
     NOTHING_WRITTEN},
    {"ckpt", "diff", cmd_ckpt_diff, "compare two checkpoints tensor by tensor", NULL},
    {NULL, "bench", cmd_bench, "measure steps, loss, kernels, loader, search, tokenizer", NULL},
};

/* The commands of one group, or all of them (NULL). */
static void print_commands(const char *group) {
    for (size_t i = 0; i < COUNT(entries); i++) {
        const Entry *e = &entries[i];
        char name[32];
        if (group && (!e->group || strcmp(e->group, group))) continue;
        snprintf(name, sizeof name, "%s%s%s", e->group ? e->group : "", e->group ? " " : "",
                 e->name);
        printf("  %-16s %s\n", name, e->summary);
    }
    printf("\n`clipc COMMAND --help` lists a command's options with examples.\n");
}

static void print_help(void) {
    printf("clipc %s: train, evaluate and search with CLIP models\n\n"
           "usage: clipc COMMAND [OPTIONS]\n\n",
           VERSION);
    print_commands(NULL);
}

static void print_version(void) {
    CpuSet used = cpu_set();
    printf("clipc %s\ninstruction sets:", VERSION);
    for (int i = 0; i <= (int)cpu_set_best(); i++) printf(" %s", cpu_set_names[i]);
    printf("\nin use: %s\n", cpu_set_names[used]);
}

static bool asks_for_help(const char *arg) {
    return !strcmp(arg, "--help") || !strcmp(arg, "-h") || !strcmp(arg, "help");
}

/* At the end of a parallel region libgomp's threads spin for milliseconds before they sleep. That
 * starves the loader's threads and, if another program shares the cores, everything: a step then
 * takes ten times as long. A short spin costs nothing measurable. libgomp reads its environment
 * before main, so the program starts itself once more. */
static void spin_briefly(char **argv) {
    char exe[PATH_MAX];
    if (getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT")) return;
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    if (n < 0 || setenv("GOMP_SPINCOUNT", "3000", 1)) return;
    exe[n] = 0;
    execv(exe, argv);
}

/* A closed standard stream would be the next file that is opened, and messages would be written
 * into it. In its place is one on which reading or writing fails. */
static void open_standard_streams(void) {
    static const int modes[] = {O_WRONLY, O_RDONLY, O_RDONLY};
    for (int fd = 0; fd < 3; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", modes[fd]) != fd) _exit(EXIT_ERROR);
}

/* Exits with the command that was probably meant, if there is one; second: the word after a known
 * group. */
static void suggest(const char *first, const char *second) {
    const char *word = second ? second : first;
    const Entry *best = NULL;
    size_t least = SIZE_MAX;
    for (size_t i = 0; i < COUNT(entries); i++) {
        const Entry *e = &entries[i];
        if (second && (!e->group || strcmp(e->group, first))) continue;
        size_t d = edit_distance(word, e->name);
        if (!second && e->group) d = size_min(d, edit_distance(word, e->group));
        if (d < least) least = d, best = e;
    }
    if (!best || !is_near(word, least)) return;
    die_usage("unknown command '%s%s%s' (did you mean 'clipc %s%s%s'?)", first, second ? " " : "",
              second ? second : "", best->group ? best->group : "", best->group ? " " : "",
              best->name);
}

static char interrupted[256]; /* the line that Ctrl-C prints */

static void on_interrupt(int sig) {
    if (write(STDERR_FILENO, interrupted, strlen(interrupted)) < 0) _exit(EXIT_ERROR);
    signal(sig, SIG_DFL);
    raise(sig);
}

/* A shell's background jobs ignore the signal, and continue to. */
static void say_interrupted(const Entry *e) {
    struct sigaction old;
    if (!e->interrupted || sigaction(SIGINT, NULL, &old) || old.sa_handler == SIG_IGN) return;
    snprintf(interrupted, sizeof interrupted, "\nclipc: interrupted: %s\n", e->interrupted);
    signal(SIGINT, on_interrupt);
}

int main(int argc, char **argv) {
    open_standard_streams();
    spin_briefly(argv);
    signal(SIGXFSZ, SIG_IGN); /* a write past the file size limit fails with EFBIG */
    terminal_guard();
    json_set_alloc_funcs(xmalloc, free); /* never half of an object */
    if (argc < 2) {
        print_help();
        return EXIT_USAGE;
    }
    if (asks_for_help(argv[1])) {
        print_help();
        return EXIT_OK;
    }
    if (!strcmp(argv[1], "--version")) {
        print_version();
        return EXIT_OK;
    }
    bool group_known = false;
    for (size_t i = 0; i < COUNT(entries); i++) {
        const Entry *e = &entries[i];
        int used = e->group ? 2 : 1;
        if (strcmp(argv[1], e->group ? e->group : e->name)) continue;
        group_known |= e->group != NULL;
        if (e->group && (argc < 3 || strcmp(argv[2], e->name))) continue;
        say_interrupted(e);
        int code = e->run(argc - used, argv + used);
        kernels_close();
        return code;
    }
    if (group_known && argc > 2 && asks_for_help(argv[2])) {
        printf("usage: clipc %s COMMAND [OPTIONS]\n\n", argv[1]);
        print_commands(argv[1]);
        return EXIT_OK;
    }
    if (!group_known || argc > 2) suggest(argv[1], group_known ? argv[2] : NULL);
    if (group_known)
        die_usage("clipc %s needs one of its commands (see clipc %s --help)", argv[1], argv[1]);
    die_usage("unknown command '%s' (see clipc --help)", argv[1]);
}
