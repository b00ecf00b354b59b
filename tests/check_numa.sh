#!/bin/sh
# SPDX-License-Identifier: MIT
# Slices of the weights on real NUMA nodes: boots a kernel under qemu-system-x86_64 (emulated, no KVM needed) on machines with two
# memory nodes.  In there every page of every slice must lie on its node, the workers' scratch on theirs, and the logits hash of
# every number of threads, with and without --numa, must be this machine's.
# usage: tests/check_numa.sh [BUILD-FOLDER [KERNEL]]
# Without KERNEL the newest readable one of /boot is taken.  Exits with 77 when something that it needs is missing.
set -u
build=${1:-.} kernel=${2:-}
data=${QUERN_TEST_DATA:-$(cd "$(dirname "$0")" && pwd)/data}

skip() {
    echo "SKIPPED: $1"
    exit 77
}

for tool in qemu-system-x86_64 busybox cpio gzip ldd; do
    command -v $tool >/dev/null || skip "$tool is not here"
done
for file in $(ls -v /boot/vmlinuz-* 2>/dev/null); do
    [ $# -lt 2 ] && [ -r "$file" ] && kernel=$file
done
[ -r "$kernel" ] || skip "there is no kernel to boot"
case $(LC_ALL=C ldd "$(command -v busybox)" 2>&1) in
*"not a dynamic"* | *"statically linked"*) ;;
*) skip "busybox is not linked statically" ;;
esac
for program in quern tests/check_numa; do
    [ -x "$build/$program" ] || { echo "$build/$program is not built"; exit 1; }
done

work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT INT TERM
root=$work/root
mkdir -p "$root/bin" "$root/dev" "$root/proc" "$root/sys" "$root/tmp" "$root/data"
cp "$(command -v busybox)" "$root/bin/busybox"
for applet in sh mount cat poweroff; do
    ln -s busybox "$root/bin/$applet"
done
cp "$build/quern" "$build/tests/check_numa" "$root/bin/"
cp "$data/demo.gguf" "$root/data/"
seq 100 179 >"$root/data/ids"
ldd "$build/quern" "$build/tests/check_numa" | sed -n 's/.* \(\/[^ ]*\) (0x.*/\1/p; s/^[[:space:]]*\(\/[^ ]*\) (0x.*/\1/p' | sort -u |
    while read -r lib; do
        mkdir -p "$root$(dirname "$lib")" && cp -L "$lib" "$root$lib"
    done

# What the guest does: everything that it prints goes to the serial console.
cat >"$root/init" <<'EOF'
#!/bin/sh
mount -t devtmpfs none /dev
mount -t proc none /proc
mount -t sysfs none /sys
export PATH=/bin QUERN_TEST_DATA=/data
logits() { quern logits -m /data/demo.gguf --ids /data/ids -ub 48 --hash "$@"; }
for node in /sys/devices/system/node/node*; do
    echo "${node##*/}: processors $(cat "$node/cpulist")"
done
for way in $(echo "$WAYS" | tr + ' '); do
    way=$(echo "$way" | tr , ' ')
    logits $way >/tmp/hash 2>/tmp/said || cat /tmp/said # no progress bars on the console
    echo "hash $way: $(cat /tmp/hash)"
done
quern inspect /data/demo.gguf --topology 2>/tmp/said || cat /tmp/said
check_numa numa/placement 2>&1
echo "placement: exit status $?"
echo "the guest is done"
poweroff -f
EOF
chmod +x "$root/init"
(cd "$root" && find . | cpio -o -H newc --quiet | gzip -1) >"$work/initrd" || exit 1

# Boots 4 processors, the first so many of them on node 0; prints what the guest says.
boot() { # CORES-OF-NODE-0 WAYS
    timeout "${NUMA_SECONDS:-200}" qemu-system-x86_64 -accel tcg -cpu max -smp 4 -m 1024 \
        -object memory-backend-ram,id=m0,size=512M -object memory-backend-ram,id=m1,size=512M \
        -numa node,nodeid=0,cpus=0-$(($1 - 1)),memdev=m0 -numa node,nodeid=1,cpus="$1"-3,memdev=m1 \
        -kernel "$kernel" -initrd "$work/initrd" -append "console=ttyS0 quiet panic=-1 WAYS=$2" \
        -display none -serial stdio -monitor none -nic none -no-reboot </dev/null | tr -d '\r'
}

# Options of `quern logits`, with commas for blanks and + between the runs.
all=-t,3,--isa,c+-t,4,-tb,2,--isa,avx2
for t in 1 2 3 4; do
    all=$all+-t,$t,--numa,auto+-t,$t,--numa,off
done
host=$("$build/quern" logits -m "$data/demo.gguf" --ids "$root/data/ids" -ub 48 --hash) || exit 1
echo "hash here: $host"
status=0
complain() {
    echo "FAILED: $1"
    status=1
}
for cores in 2 3; do
    ways=$all
    [ $cores = 2 ] || ways=-t,4+-t,4,-tb,3
    n_ways=$(echo "$ways" | tr + '\n' | grep -c .)
    echo "-- 4 processors, $cores of them on node 0, under $(basename "$kernel")"
    out=$work/out$cores
    boot $cores "$ways" >"$out"
    grep -E '^(node|hash|weights|scratch|placement)|SKIPPED|\[ *(OK|FAILED)|lies? on|are on|is on' "$out"
    if ! grep -q '^the guest is done' "$out"; then
        complain "the guest did not come to its end"
        tail -n 20 "$out"
    fi
    good=$(grep -c "^hash .*: $host\$" "$out")
    [ "$good" -eq "$n_ways" ] || complain "$good of $n_ways hashes are this machine's"
    grep -q '^placement: exit status 0$' "$out" && ! grep -q SKIPPED "$out" || complain "placement"
    grep -q '^weights.* on node 0 .* on node 1' "$out" || complain "inspect --topology does not show weights on both nodes"
done
exit $status
