#!/usr/bin/env bash
# Samples of two long walks: calls that fail (`make faults`), kills of one rank (`make chaos RANKS=1`). Prints cmocka's
# lines.
. tests/support.sh test_injection
kills() { bash tests/kills.sh 10 1 >"$dir/out" 2>&1 || { cat "$dir/out"; return 1; }; }
check kills kills
bash tests/injection.sh 20 100 40 || failed=1
exit $failed
