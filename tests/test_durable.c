/* A command's output is on disk before it is renamed into place: if fsync fails, each command
 * reports it, exits 1 and leaves nothing under the name. */
#include "tests/support.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define GOLDEN "tests/golden/openclip"
#define TRAIN                                                                                      \
    "train --pretrained " GOLDEN " --vocab " GOLDEN "/vocab.txt --train-data " GOLDEN              \
    "/pairs.tsv --batch-size 4 --max-steps 1 --warmup 1 --workers 1"

static const struct {
    const char *command; /* its %s: the test's folder */
    const char *file;    /* in that folder: must be absent, but exists if fsync works */
} cases[] = {
    {"data pack " GOLDEN "/pairs.tsv --out %s/pack/t", "pack/t-000000.tar"},
    {"data index %s/shards", "shards/s-000000.tar.idx"},
    {"data image " GOLDEN "/00.jpg --size 32 --out %s/image.npy", "image.npy"},
    {"embed --checkpoint " GOLDEN " --images " GOLDEN "/pairs.tsv --out %s/e.npy", "e.npy"},
    {"embed --checkpoint " GOLDEN " --images " GOLDEN " --index %s/index", "index/index.json"},
    {"ckpt convert " GOLDEN " --to hf --out %s/hf", "hf"},
    {"ckpt convert " GOLDEN " --to open_clip --out %s/oc", "oc"},
    {"ckpt convert " GOLDEN " --to pt --out %s/x.pt", "x.pt"},
    {"tok train --captions " GOLDEN "/pairs.tsv --merges 20 --out %s/v.txt", "v.txt"},
    {"ckpt convert " GOLDEN " --to safetensors --out %s/x.safetensors", "x.safetensors"},
    {TRAIN " --resume latest --logs %s --name run", "run/checkpoints/step_1"},
};

/* Exit code of clipc with fsync failing, or 77; its output in "said". */
static int without_fsync(const char *command) {
    char *whole = xasprintf("%s %s > %s 2>&1", test_program(), command, test_path("said"));
    fflush(NULL);
    pid_t child = fork();
    if (!child) {
        if (!test_deny(SYS_fsync, EIO)) _exit(77);
        int status = system(whole);
        _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 99);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    free(whole);
    return WEXITSTATUS(status);
}

static void test_fsync_comes_before_the_name(void **state) {
    (void)state;
    free(test_clipc(0, "data pack " GOLDEN "/pairs.tsv --out %s/s", test_path("shards")));
    remove(test_path("shards/s-000000.tar.idx"));
    for (size_t i = 0; i < COUNT(cases); i++) {
        char *command = xasprintf(cases[i].command, test_dir());
        int code = without_fsync(command);
        if (code == 77) {
            free(command);
            printf("SKIP: test_fsync_comes_before_the_name: no seccomp filter can be set here\n");
            skip();
        }
        char *said = test_read_file(test_path("said"), NULL);
        if (code != 1 || !strstr(said, "Input/output error"))
            fail_msg("%s: exit code %d: %s", command, code, said);
        if (!access(test_path(cases[i].file), F_OK))
            fail_msg("%s: %s is there", command, cases[i].file);
        free(said);
        free(command);
        free(test_clipc(0, cases[i].command, test_dir()));
        assert_int_equal(access(test_path(cases[i].file), F_OK), 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_fsync_comes_before_the_name)};
    return cmocka_run_group_tests_name("durable", tests, NULL, NULL);
}
