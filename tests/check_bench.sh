#!/bin/sh
# SPDX-License-Identifier: MIT
# quern bench: every format, lists of depths, sequences and micro-batches, and a breakdown that adds up.  Runs in the build
# folder; QUERN names another program.
quern=${QUERN:-./quern}
demo=${QUERN_TEST_DATA:-${srcdir:-.}/tests/data}/demo.gguf
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM
n=0 failed=0

check() { # NAME COMMAND...: the command succeeds
    name=$1
    shift
    n=$((n + 1))
    "$@" && return
    failed=$((failed + 1))
    echo "FAILED: $name"
    sed 's/^/    /' "$tmp/err" "$tmp/out" 2>/dev/null | head -n 20
}
is() { # NAME GOT WANTED
    check "$1: got '$2', wanted '$3'" test "$2" = "$3"
}
bench() { "$quern" bench -m "$demo" --no-limits "$@" >"$tmp/out" 2>"$tmp/err"; }
plain() { "$quern" bench "$@" >"$tmp/out" 2>"$tmp/err"; }
# Columns of the csv in $tmp/out by name, a line for each row; quoted texts, which may hold commas, become one word.
columns() {
    sed 's/"[^"]*"/text/g' "$tmp/out" | awk -F, -v want="$*" '
        NR == 1 { k = split(want, name, " "); for (i = 1; i <= NF; i++) at[$i] = i; fields = NF; next }
        NF != fields { print "row " NR " has " NF " fields, the head " fields; exit }
        { line = ""; for (j = 1; j <= k; j++) line = line (j > 1 ? " " : "") (name[j] in at ? $at[name[j]] : "no " name[j]); print line }'
}

# ---- what scripts rely on: this call, and these columns
check "the plain call" bench -t 1 -p 20 -n 4 -r 1 --format csv
is "its rows" "$(columns n_prompt n_gen n_depth n_seq | tr '\n' ,)" "20 0 0 1,0 4 0 1,"
check "its speeds" sh -c "awk '\$1 <= 0 { exit 1 }' <<end
$(columns avg_ts)
end"

# ---- the parts of a step's time add up to it, and steps to what the clock says
check "breakdown" bench -t 1,2 -p 200 -n 20 -r 2 --format csv
columns n_prompt seconds avg_ns repetitions projections_s delta_net_s attention_s router_s experts_s head_s other_s waiting_s \
    >"$tmp/parts"
is "rows of the breakdown" "$(wc -l <"$tmp/parts")" 4
check "the parts add up" awk '
    { sum = 0; for (i = 5; i <= NF; i++) { if ($i < 0) exit 1; sum += $i } }
    sum < $2 * 0.999 - 1e-5 || sum > $2 * 1.001 + 1e-5 { exit 1 }
    $2 > $3 * $4 * 1e-9 * 1.001 || $2 < $3 * $4 * 1e-9 * 0.8 - 0.02 { exit 1 }' "$tmp/parts"
check "every phase of the demo model takes time" awk '{ for (i = 5; i <= 10; i++) if ($i <= 0) exit 1 }' "$tmp/parts"

# ---- depth: more keys and values to read
check "depths" bench -t 1 -p 8 -n 3 -r 2 -d 0,300 --format csv
is "rows of depths" "$(columns n_depth n_prompt n_gen | tr '\n' ,)" "0 8 0,0 0 3,300 8 0,300 0 3,"
check "bytes at depth" awk 'NR == 2 { shallow = $1 } NR == 4 { exit !($1 > shallow * 1.001) }' <<end
$(columns bytes_per_token)
end

# ---- sequences side by side: one row each, their tokens together, weights read once for all
check "sequences" bench -t 2 -p 0 -n 4 -r 1 -npl 1,3 --format csv
is "rows of sequences" "$(columns n_seq n_gen | tr '\n' ,)" "1 4,3 4,"
check "bytes of a token in company" awk 'NR == 1 { alone = $1; e = $2 } NR == 2 { exit !($1 < alone && $2 > e) }' <<end
$(columns bytes_per_token experts_per_layer)
end
check "micro-batches" bench -t 1 -p 40 -n 0 -r 1 -ub 8,64 --format csv
is "rows of micro-batches" "$(columns n_ubatch | tr '\n' ,)" "8,64,"
check "more barriers in more steps" awk '{ exit !($1 > 0) }' <<end
$(columns barriers_per_step)
end

# ---- the other formats
check "table" bench -t 1 -p 8 -n 3 -r 3 -npl 2
check "table: rows" grep -q '^read 8 .* 1 ' "$tmp/out"
check "table: sequences" grep -q '^write 2 x 3 ' "$tmp/out"
check "table: breakdown" grep -q 'projection .*waiting' "$tmp/out"
check "md" bench -t 1 -p 8 -n 3 -r 2 --format md
is "md: every row has as many cells as its head" "$(awk -F'|' '/^\|/ { if (head && NF != head) bad++; head = NF; next }
    { head = 0 } END { print bad + 0 }' "$tmp/out")" 0
is "md: rows" "$(grep -c '| read 8 ' "$tmp/out")" 2
check "json" bench -t 1 -p 8 -n 3 -r 2 --format json
is "json: rows" "$(grep -c '"phases":{' "$tmp/out")" 2
is "json: brackets" "$(tr -cd '][}{' <"$tmp/out" | sed 's/[^][}{]//g; :a; s/{}//g; s/\[\]//g; ta')" ""

# ---- barriers: they do not depend on the number of threads, their cost does
check "barriers" bench -t 1,2 -p 40 -n 4 -r 1 --barriers --format csv
is "barriers: rows" "$(columns test n_threads | tr '\n' ,)" "read 40 1,write 4 1,read 40 2,write 4 2,"
is "barriers: counts" "$(columns barriers_per_step | sed -n 1,2p)" "$(columns barriers_per_step | sed -n 3,4p)"
check "barriers: costs" awk 'NR > 2 { if ($1 < 10 || $2 <= 0 || $3 <= 0 || $3 >= 100 || $4 > $3 || $5 < $3) exit 1 }' <<end
$(columns barrier_ns wait_per_barrier_ns wait_percent wait_least_percent wait_most_percent)
end
check "barriers: table" bench -t 1 -p 8 -n 0 -r 1 --barriers
check "barriers: json" bench -t 1 -p 8 -n 0 -r 1 --barriers --format json

# ---- limits: shares of them appear, in every row
check "with limits" plain -m "$demo" -t 1 -p 8 -n 3 -r 1 --format csv
check "limits" awk '$1 <= 1e8 || $3 <= 0 { exit 1 }' <<end
$(columns read_bytes_s int_ops_s share_bandwidth)
end

# ---- picture: what gnuplot is told, what happens without it, and, where it is there, the picture
mkdir "$tmp/echo" "$tmp/broken"
printf '#!/bin/sh\ncase $1 in --version) ;; *) cat ;; esac\n' >"$tmp/echo/gnuplot"
printf '#!/bin/sh\nexit 1\n' >"$tmp/broken/gnuplot"
chmod +x "$tmp/echo/gnuplot" "$tmp/broken/gnuplot"
check "a script for gnuplot" env PATH="$tmp/echo:$PATH" "$quern" bench -m "$demo" -t 1 -p 8 -n 2 -r 1 -d 0,40 --plot "$tmp/script" >"$tmp/out" 2>"$tmp/err"
is "the script: two lines of two depths" "$(grep -c '^40 [0-9.]* [0-9.]* [0-9.]*$' "$tmp/script")" 2
check "the script: every phase" grep -q '^"delta-net"[ 0-9.]*$' "$tmp/script"
check "no gnuplot" sh -c "! PATH='$tmp/broken:$PATH' '$quern' bench -m '$demo' -p 8 -n 0 --plot '$tmp/svg' >'$tmp/out' 2>'$tmp/err'"
check "no gnuplot: said before anything is measured" sh -c "grep -q 'needs the program gnuplot' '$tmp/err' && ! grep -q . '$tmp/out'"
if command -v gnuplot >/dev/null 2>&1; then
    check "gnuplot" bench -t 1 -p 8 -n 2 -r 2 -d 0,40 --plot "$tmp/svg"
    check "the picture" sh -c "head -c 200 '$tmp/svg' | grep -q '<svg' && tail -n 3 '$tmp/svg' | grep -q '</svg>'"
else
    echo "SKIPPED: gnuplot is not installed, no picture is drawn"
fi
check "a picture that cannot be written" sh -c "! '$quern' bench -m '$demo' -p 8 -n 0 --plot '$tmp/no/svg' >'$tmp/out' 2>'$tmp/err'"

# ---- kernels: every level of this machine, hot and from memory, beside the bounds
check "kernels" plain --kernels --only Q4_K --format csv
levels=$(columns operation level data | grep -c '^mul Q4_K .* hot$')
check "kernels: rows" test $((levels % 4)) -eq 0 -a "$levels" -gt 0
check "kernels: columns of activations" awk '$1 != "1" && $1 != "4" && $1 != "8" && $1 != "16" || $2 <= 0 { exit 1 }' <<end
$(columns columns gb_per_s)
end
check "kernels: from memory" grep -q ',memory,' "$tmp/out"
check "kernels: others" plain --kernels --only rmsnorm
check "kernels: native" grep -q '^rmsnorm  *- hot .* native' "$tmp/out"
check "bounds" plain --bounds --format csv
check "bounds grow with the columns, pipes below slots" awk '
    $1 <= 0 || $2 <= $1 || $3 <= $2 || $4 <= $3 || $5 > $1 || $6 > $4 { exit 1 }' <<end
$(columns slots_1 slots_4 slots_8 slots_16 cycles_1 cycles_16)
end
check "no such kernel" sh -c "'$quern' bench --kernels --only nothing 2>&1 | grep -q \"contains 'nothing'\""

check "nothing to measure" sh -c "'$quern' bench -m '$demo' -p 0 -n 0 2>&1 | grep -q 'nothing to measure'"

echo "$n checks, $failed failed"
[ "$failed" -eq 0 ]
