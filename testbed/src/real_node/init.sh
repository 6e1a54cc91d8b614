# Process 1 of the node's namespaces; $1 is the node's folder. Makes the node's own view of the machine, prints its pid as the
# host sees it, then lives until its stdin ends. With it the kernel ends every process of the node, and
# with the last process go mounts, interfaces, routes and iptables rules.
set -eu
read -r pid _ < /proc/self/stat
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
# Paths of sockets may have 107 bytes, so a short one for the folder.
mkdir /run/node
mount --bind "$1" /run/node
mount -t tmpfs tmpfs /var/log
# CNI and kubelet write to fixed places there; the host keeps what it has, and gets nothing.
mkdir /run/lib /run/lib.work
mount -t overlay -o lowerdir=/var/lib,upperdir=/run/lib,workdir=/run/lib.work overlay /var/lib
# The kubelet sets these for the whole machine: let it have copies.
for name in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops \
    kernel/keys/root_maxkeys kernel/keys/root_maxbytes
do
    mkdir -p "/run/sys/${name%/*}"
    cat "/proc/sys/$name" > "/run/sys/$name"
    mount --bind "/run/sys/$name" "/proc/sys/$name"
done
ip link set lo up
echo 1 > /proc/sys/net/ipv4/ip_forward
echo "$pid"
# `wait` collects orphans too, which fall to process 1.
exec 3<&0
cat <&3 > /dev/null &
wait $!
