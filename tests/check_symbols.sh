#!/bin/sh
# SPDX-License-Identifier: MIT
# The shared library exports the functions that quern.h declares, and nothing else.
library=.libs/libquern.so
[ -f $library ] || { echo "SKIPPED: no shared library in this build"; exit 77; }
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
sed -n 's/^QN_API .*[ *]\(qn_[a-z_]*\)(.*/\1/p' "${srcdir:-.}/src/quern.h" | sort >"$dir/declared"
${NM:-nm} -D --defined-only $library | awk '{ sub(/@.*/, "", $3); print $3 }' | sort >"$dir/exported"
[ -s "$dir/declared" ] || exit 1
diff "$dir/declared" "$dir/exported" && exit 0
echo "< declared in quern.h, not exported   > exported, not declared"
exit 1
