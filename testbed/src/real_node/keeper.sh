# Holds a node on the host's side: $1 its folder, $2 its interface, $3 its cgroup. Outlives the testbed
# by the moment it takes to clean up, however the testbed ended.
trap '' INT TERM HUP
unshare --pid --fork --mount --net --ipc --uts --kill-child sh "$1/init.sh" "$1"
ended=$?
ip link delete "$2" 2> /dev/null
# cgroup v1 has a folder a controller, v2 just one.
for group in /sys/fs/cgroup/*/"$3" /sys/fs/cgroup/"$3"
do
    [ -d "$group" ] && find "$group" -depth -type d -exec rmdir {} \;
done
rm -rf "$1"
exit $ended
