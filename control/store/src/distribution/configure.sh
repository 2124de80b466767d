# Configures the packages that were unpacked into this system, as root in a machine of its own.
set -e
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true DEBCONF_NOWARNINGS=yes LC_ALL=C HOME=/root
packages=/var/lib/motu-packages
info=/var/lib/dpkg/info

# Nothing is started: this system does not stay up.
mkdir -p /usr/sbin
printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d

# What dpkg runs before it unpacks. base-passwd's makes /etc/passwd, which others need.
before() {
    [ -x "$info/$1.preinst" ] || return 0
    DPKG_MAINTSCRIPT_PACKAGE=${1%:*} DPKG_MAINTSCRIPT_NAME=preinst DPKG_MAINTSCRIPT_ARCH=amd64 \
        DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT=1 DPKG_ADMINDIR=/var/lib/dpkg DPKG_ROOT= DPKG_RUNNING_VERSION=1.21 \
        "$info/$1.preinst" install < /dev/null || { echo "the preinst script of $1 failed with status $?" >&2; exit 1; }
}
before base-passwd
while read -r package; do
    [ "$package" = base-passwd ] || before "$package"
done < "$packages"

# Its own and everybody else's needs cannot all be met first.
dpkg --force-depends --configure base-passwd < /dev/null
dpkg --force-unsafe-io --configure --pending < /dev/null

rm -f /usr/sbin/policy-rc.d "$packages"
# What each machine gets for itself, or can make anew.
rm -f /etc/hostname /etc/hosts /etc/resolv.conf /etc/machine-id /var/lib/dpkg/*-old /var/cache/debconf/*-old /var/cache/ldconfig/aux-cache
find /var/log -type f -exec truncate -s 0 {} +
rm -rf /tmp/* /var/tmp/*
# Space that was written and is free again goes back to the host.
fstrim / 2> /dev/null || true
# So nothing is left to be done by who mounts it next.
mount -o remount,ro /
