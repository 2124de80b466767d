#!/bin/sh
# The x86 selftests of the Linux kernel that run as plain programs, built from Debian's linux-source package.
#
#     linux-selftests.sh build FOLDER     builds them in FOLDER, statically linked, 64-bit and 32-bit
#     linux-selftests.sh run FOLDER       runs them one after the other, on any machine with a shell:
#                                         a line for each with its status and what it said of its parts
#
# Building needs apt-get with Debian's sources, gcc, gcc-multilib, make and xz-utils.
# In a guest, put FOLDER and this script into an initial RAM disk, and have its init call the second form.
set -eu

usage() {
    echo "usage: linux-selftests.sh build|run FOLDER" >&2
    exit 2
}

[ $# -eq 2 ] || usage
folder=$2

case $1 in
build)
    mkdir -p "$folder"
    folder=$(cd "$folder" && pwd)
    work=$(mktemp -d "${TMPDIR:-/tmp}/linux-selftests.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    cd "$work"
    # apt fetches as a user of its own, which has to be able to write here.
    chmod 755 .
    package=$(apt-cache show --no-all-versions linux-source | sed -n 's/^Depends: \(linux-source-[0-9.]*\).*/\1/p')
    apt-get --quiet download "$package"
    dpkg-deb --extract ./*.deb files
    tar -xJf files/usr/src/linux-source-*.tar.xz --wildcards --strip-components=1 \
        '*/tools/testing/selftests/lib.mk' '*/tools/testing/selftests/kselftest*' '*/tools/testing/selftests/x86' \
        '*/tools/include' '*/tools/arch/x86/include' '*/scripts/subarch.include'
    # Those that cannot be linked statically, or need headers that the distribution has not, are left out.
    make --keep-going -C tools/testing/selftests/x86 "OUTPUT=$folder" "CC=gcc -static" || :
    find "$folder" -type f ! -name '*_32' ! -name '*_64' -delete
    ls "$folder"
    ;;
run)
    cd "$folder"
    failed=0
    for program in *_32 *_64; do
        [ -x "$program" ] || continue
        output=$(mktemp)
        status=0
        timeout 300 "./$program" >"$output" 2>&1 || status=$?
        count() { grep -c "\[$1\]" "$output" || :; }
        echo "$program status $status ok $(count OK) failed $(count FAIL) skipped $(count SKIP)"
        if [ $status -ne 0 ]; then
            failed=1
            tail -n 20 "$output"
        fi
        rm -f "$output"
    done
    exit $failed
    ;;
*) usage ;;
esac
