#!/bin/sh
# SPDX-License-Identifier: MIT
# quern.h compiles alone, as strict C99 and as C++.
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
printf '#include "quern.h"\nint unused(void);\nint unused(void) { return QN_BITS; }\n' >"$dir/alone.c"
cp "$dir/alone.c" "$dir/alone.cc"
${CC:-cc} -std=c99 -pedantic-errors -Wall -Wextra -Werror -I"${srcdir:-.}/src" -c "$dir/alone.c" -o "$dir/c.o" || exit 1
if command -v "${CXX:-c++}" >/dev/null; then
    ${CXX:-c++} -std=c++11 -pedantic-errors -Wall -Wextra -Werror -I"${srcdir:-.}/src" -c "$dir/alone.cc" -o "$dir/cc.o"
else
    echo "SKIPPED: no C++ compiler"
fi
