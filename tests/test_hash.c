/* FNV-1a against the values of the algorithm's authors: files on disk hold such hashes. */
#include "kernels/hash.h"
#include "tests/support.h"

#include <string.h>

static void test_values(void **state) {
    (void)state;
    static const struct {
        const char *text;
        uint64_t hash;
        Hash128 wide;
    } want[] = {
        {"", 0xcbf29ce484222325u, {0x6c62272e07bb0142u, 0x62b821756295c58du}},
        {"a", 0xaf63dc4c8601ec8cu, {0xd228cb696f1a8cafu, 0x78912b704e4a8964u}},
        {"foobar", 0x85944171f73967e8u, {0x343e1662793c64bfu, 0x6f0d3597ba446f18u}},
    };
    for (size_t i = 0; i < COUNT(want); i++) {
        size_t n = strlen(want[i].text), half = n / 2;
        Hash128 wide = fnv_hash128(want[i].text, n);
        assert_true(fnv_hash(FNV_START, want[i].text, n) == want[i].hash);
        assert_true(wide.high == want[i].wide.high && wide.low == want[i].wide.low);
        uint64_t first = fnv_hash(FNV_START, want[i].text, half);
        assert_true(fnv_hash(first, want[i].text + half, n - half) == want[i].hash);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_values)};
    return cmocka_run_group_tests_name("hash", tests, NULL, NULL);
}
