#!/bin/sh
# Mixed load with results that do not depend on the machine: run it in a guest and on the host, with
# the same busybox, and compare what the two print.
#
#     mixed-load.sh [ROUNDS [SCALE]]
#
# Each round makes its data anew from its number and prints one line a step: round, step, checksum.
# ROUNDS (1 if not given) is how often; SCALE (1 if not given) multiplies the size of the data: at 1 a
# round takes some tenths of a second on a desktop computer. BUSYBOX names the program to use; without
# it, the one in $PATH. It works in a directory of its own under ${TMPDIR:-/tmp} and needs some
# 2 MiB there for each SCALE.
set -eu

rounds=${1:-1}
scale=${2:-1}
case $rounds$scale in
*[!0-9]*) echo "usage: mixed-load.sh [ROUNDS [SCALE]], both whole numbers" >&2 && exit 2 ;;
esac
busybox=${BUSYBOX:-$(command -v busybox)}
export LC_ALL=C TZ=UTC
umask 022

work=$(mktemp -d "${TMPDIR:-/tmp}/mixed-load.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
cd "$work"

# Every applet through one name, so that none of the machine's own programs is taken by mistake.
for applet in awk bunzip2 bzip2 cat cmp cut dc dd expr find fold grep gunzip gzip head md5sum mkdir mv od rm sed \
    seq sha1sum sha256sum sha512sum sort tail tar tr uniq wc xargs; do
    eval "$applet() { \"\$busybox\" $applet \"\$@\"; }"
done

# step NAME COMMAND...: prints the checksum of the command's output. A command that fails is never in
# order, whatever the other machine says.
step() {
    name=$1
    shift
    if (set -e; "$@") >out 2>&1; then
        printf '%s %s %s\n' "$round" "$name" "$(sha256sum <out | cut -c1-64)"
    else
        printf '%s %s failed: %s\n' "$round" "$name" "$(tail -n 1 out)"
        failed=1
    fi
}

# Lines of numbers and words from a linear congruential generator: 31 bits, exact in awk's doubles.
make_data() {
    awk -v seed="$round" -v lines=$((4000 * scale)) 'BEGIN {
        split("reef islet lagoon atoll palm coral tide current swell anchor", word, " ")
        for (x = seed * 7919 + 1; n < lines; n++) {
            x = (x * 1103515245 % 2147483648 + 12345) % 2147483648
            printf "%d %s %s %d\n", x, word[x % 10 + 1], word[int(x / 10) % 10 + 1], int(x / 100) % 1000
        }
    }' >data
    sha256sum <data
}

compress_gzip() { gzip -c <data >data.gz && gunzip -c <data.gz | cmp - data && md5sum <data.gz; }
compress_bzip2() {
    head -n $((800 * scale)) data >part
    bzip2 -c <part >part.bz2
    bunzip2 -c <part.bz2 | cmp - part && md5sum <part.bz2
}
checksums() { for sum in md5sum sha1sum sha256sum sha512sum; do $sum <data; done; }
sort_numbers() { sort -n data | cut -d ' ' -f 1,4 && sort -k 2,3 -k 4nr data | tail -n 100; }
count_words() { tr ' ' '\n' <data | grep '[a-z]' | sort | uniq -c && wc data; }
edit() { sed -e 's/\([a-z]*\) \([a-z]*\)/\2-\1/' -e '/7$/d' -e 'y/abc/xyz/' data && grep -c 'reef.*9' data; }

# Binary floating point: a chaotic map, which keeps every bit, Newton's square roots and a sine's series
# (busybox's awk need not know any of these functions).
floating_point() {
    awk -v seed="$round" -v turns=$((6000 * scale)) 'BEGIN {
        x = 1 / (seed + 2)
        for (i = 1; i <= turns; i++) {
            x = 3.9999 * x * (1 - x)
            for (root = 1 + x; (step = root - i * x / root) > 1e-9 || step < -1e-9; ) root -= step / 2
            for (term = sine = x, k = 2; k < 14; k += 2) sine += term *= -x * x / (k * k + k)
            sum += root * sine / (1 + x * x) - int(sum / 1000) * 1000
            if (i % 1000 == 0) printf "%.17g %.17g\n", x, sum
        }
    }'
}

primes() {
    awk -v top=$((4000 * scale + round)) 'BEGIN {
        for (i = 2; i <= top; i++) if (!(i in composite)) {
            count++
            last = i
            for (j = i * i; j <= top; j += i) composite[j]
        }
        print count, last
    }'
}

# The shell's own 64-bit arithmetic.
shell_arithmetic() {
    i=0 x=$round
    while [ $i -lt $((1000 * scale)) ]; do
        x=$(((x * 6364136223846793005 + 1442695040888963407) ^ (x >> 13 & 0x7ffff)))
        i=$((i + 1))
    done
    echo "$x $((x % 1000003)) $((x / 12345)) $((x << 7)) $((-x >> 5))"
}

# Processes: fork, exec, pipes, exit statuses.
fork_loop() {
    i=0
    while [ $i -lt $((12 * scale)) ]; do
        (exit $((i % 7))) || status=$((${status:-0} + $?))
        expr "$i" \* 3 | tr 0-9 a-j | sed 's/a/0/'
        i=$((i + 1))
    done
    echo "${status:-0}"
}

background() {
    for i in 1 2 3 4 5 6 7 8; do
        (seq $((i * 100 * scale)) | md5sum >job.$i) &
    done
    wait
    cat job.1 job.2 job.3 job.4 job.5 job.6 job.7 job.8
}

# Files: many small ones, an archive of them, moves and removals.
files() {
    mkdir tree
    for i in $(seq $((8 * scale))); do
        mkdir -p "tree/$((i % 5))/$((i % 3))"
        seq "$i" $((i * 20)) >"tree/$((i % 5))/$((i % 3))/$i"
    done
    (cd tree && find . -type f | sort >../list) && wc -l <list
    mkdir copy
    tar cf - -C tree . | tar xf - -C copy
    while read -r file; do cmp "tree/$file" "copy/$file" || return 1; done <list
    (cd copy && find . -type f | sort | xargs "$busybox" cat | md5sum)
    mv copy/1 copy/renamed && find copy -name '*7' | sort
    rm -r tree copy
}

blocks() {
    dd if=data of=swapped bs=512 conv=swab 2>/dev/null
    dd if=swapped bs=777 skip=3 count=$((20 * scale)) 2>/dev/null | md5sum
    dd if=/dev/zero bs=4096 count=$((50 * scale)) 2>/dev/null | sha1sum
    od -An -tx1 -v swapped | fold -w 61 | tail -n 5
}

decimals() {
    i=0
    while [ $i -lt $((4 * scale)) ]; do
        echo "$i $round + 3 * p $i 7 % p"
        i=$((i + 1))
    done | dc
    expr "$round" \* 1000003 % 9973
}

round=0 failed=0
while [ "$round" -lt "$rounds" ]; do
    round=$((round + 1))
    step data make_data
    for work_step in checksums compress_gzip compress_bzip2 sort_numbers count_words edit floating_point primes \
        shell_arithmetic fork_loop background files blocks decimals; do
        step "$work_step" "$work_step"
    done
done
exit "$failed"
