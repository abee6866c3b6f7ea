/* no_death: linked with every fuzzer: bytes that make a parser end the program are a crash, whose
 * input the fuzzer keeps. */
#include <stdlib.h>

__attribute__((constructor)) static void watch(void) {
    if (at_quick_exit(abort)) abort();
}
