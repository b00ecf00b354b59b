#!/bin/sh
# SPDX-License-Identifier: MIT
# The README's example compiles against the library as it is built, and continues a text with the demo model.
top=$(cd "${srcdir:-.}" && pwd)
library=$(pwd)/.libs
[ -f "$library/libquern.so" ] || { echo "SKIPPED: no shared library in this build"; exit 77; }
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
sed -n '/^```c$/,/^```$/p' "$top/README.md" | sed '1d;$d' >"$dir/example.c"
[ -s "$dir/example.c" ] || { echo "no example in README.md"; exit 1; }
${CC:-cc} -std=c99 -Wall -Wextra -Werror -pedantic -I"$top/src" "$dir/example.c" -o "$dir/example" \
    -L"$library" -lquern -Wl,-rpath,"$library" || exit 1
"$dir/example" "$top/tests/data/demo.gguf" "Once upon a time" >"$dir/out" || exit 1
cat "$dir/out"
[ "$(wc -c <"$dir/out")" -gt 40 ] || { echo "that is not forty tokens"; exit 1; }
"$dir/example" "$dir/none.gguf" "" 2>"$dir/err" && { echo "a missing model was not noticed"; exit 1; }
grep none.gguf "$dir/err"
