/* Any JSON as the progress of an unfinished pack, with the hashes of one image beside it: refused,
 * or a state that is the same when it is saved and read again. */
#include "data/pack_folder.h"
#include "tests/fuzz/work_folder.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

enum { IDENTITY = 0x1234 }; /* as the seeds have it */

static bool open_state(PackFolder *f, PackState *s, Error *err) {
    char *out = folder_path(work_folder(), "t");
    bool going_on, ok = pack_folder_open(f, out, IDENTITY, false, &going_on, s, err);
    if (ok ? !going_on : !*err->text) abort();
    free(out);
    return ok;
}

static void close_state(PackFolder *f, PackState *s) {
    pack_state_free(s);
    pack_folder_close(f);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    static const uint8_t hash[16] = {1};
    free(work_file("t.progress.json", bytes, n));
    free(work_file(".t.hashes", hash, sizeof hash));
    PackFolder f;
    PackState s, again;
    Error err = {""};
    if (!open_state(&f, &s, &err)) {
        close_state(&f, &s);
        return 0;
    }
    if (s.added_count > 1 || !pack_folder_save(&f, &s, s.added_count, &err)) abort();
    pack_folder_close(&f);
    if (!open_state(&f, &again, &err)) abort();
    if (again.next != s.next || again.added_count != s.added_count ||
        memcmp(&again.report, &s.report, sizeof s.report) || !json_equal(again.sizes, s.sizes))
        abort();
    pack_state_free(&s);
    close_state(&f, &again);
    return 0;
}
