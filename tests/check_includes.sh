#!/bin/sh
# SPDX-License-Identifier: MIT
# Dependencies between the folders point one way: quant -> libc; simd -> quant; src -> simd, quant; tools -> src/quern.h.
# inspect and bench look deeper.  Intrinsics stay in simd/; the library neither prints, nor exits, nor reads the environment.
# Comments are not told from code: a word that is forbidden may be written there without its parenthesis.
cd "${srcdir:-.}" || exit 1
status=0

complain() {
    echo "$1"
    status=1
}

# The room of a quoted include $2 of file $1: as the compiler resolves it with -I. -Isrc.
room_of() {
    for path in "$(dirname "$1")/$2" "$2" "src/$2"; do
        if [ -f "$path" ]; then
            realpath --relative-to=. "$path"
            return
        fi
    done
    echo "nowhere"
}

n=0
for file in $(find quant simd src tools -name '*.[ch]' -o -name '*.inc' -o -name '*.def'); do
    room=${file%%/*}
    for name in $(sed -n 's/^ *# *include *"\([^"]*\)".*/\1/p' "$file"); do
        target=$(room_of "$file" "$name")
        n=$((n + 1))
        case "$room>$target" in
        "quant>quant/"* | "simd>simd/"* | "simd>quant/"* | "src>src/"* | "src>simd/"* | "src>quant/"*) ;;
        "tools>tools/"* | "tools>src/quern.h") ;;
        "tools>src/"* | "tools>simd/"* | "tools>quant/"*)
            case $file in
            tools/inspect* | tools/bench*) ;;
            *) complain "$file includes $target: tools see src/quern.h only" ;;
            esac ;;
        *">config.h" | *">nowhere") [ "$name" = config.h ] || complain "$file includes $name, which is nowhere" ;;
        *) complain "$file includes $target: the arrow turns back" ;;
        esac
    done
    for name in $(sed -n 's/^ *# *include *<\([^>]*\)>.*/\1/p' "$file"); do
        n=$((n + 1))
        case $name in
        immintrin.h | x86intrin.h | ?mmintrin.h | arm_neon.h | arm_sve.h)
            case $file in
            simd/x86/* | simd/arm/*) ;;
            *) complain "$file includes <$name>: intrinsics belong in simd/x86 and simd/arm" ;;
            esac ;;
        assert.h | ctype.h | errno.h | fenv.h | float.h | inttypes.h | limits.h | math.h | stdarg.h | stdbool.h | \
            stddef.h | stdint.h | stdlib.h | string.h) ;;
        *)
            case $room:$name in
            simd:sys/auxv.h | simd:asm/hwcap.h | simd:cpuid.h | simd:sys/syscall.h | simd:unistd.h) ;; # what simd.c asks the machine
            quant:* | simd:*) complain "$file includes <$name>: $room leans on libc alone" ;;
            esac ;;
        esac
    done
done
[ "$n" -gt 50 ] || complain "only $n includes were found: is this the source tree?"

words='\b(getenv|secure_getenv|printf|vprintf|puts|putchar|perror|exit|_exit|abort) *\(|\b(stdout|stderr)\b'
found=$(grep -rnE "$words" --include='*.[ch]' --include='*.inc' quant simd src | grep -v 'src/cuda/')
[ -z "$found" ] || complain "forbidden in the library:
$found"
found=$(grep -rnE '\b(malloc|calloc|realloc|aligned_alloc|pthread_[a-z_]*|fopen|open|mmap) *\(|pragma omp' \
    --include='*.[ch]' --include='*.inc' quant simd)
[ -z "$found" ] || complain "no memory, threads or files in quant and simd:
$found"
exit $status
