#!/bin/sh
# Shows leases arriving in etcd: a server host and a client host (network namespaces), real clients, plain etcdctl.
#
# KEEP=1 leaves it running and tells how to look at it and how to stop it.
set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
library=$here/target/release/libdhcp_etcd.so
server=dhcp-etcd-demo-server
client=dhcp-etcd-demo-client
dir=$(mktemp -d /tmp/dhcp-etcd-demo.XXXXXX)
# Numbers of what runs in the background. A function would hide them: the programs are started without one.
pids=""

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }

clean() {
    for pid in $pids; do kill "$pid" 2>/dev/null || true; done
    # Clients go to the background by themselves.
    { ip netns pids $client | xargs -r kill; } 2>/dev/null || true
    for pid in $pids; do wait "$pid" 2>/dev/null || true; done
    ip netns del $server 2>/dev/null || true
    ip netns del $client 2>/dev/null || true
    rm -rf "$dir"
}
trap clean EXIT
trap 'exit 1' INT TERM

if ip netns list | grep -q "^$server"; then
    echo "A demonstration is already running; stop it first: ip netns pids $server | xargs kill; ip netns del $server; ip netns del $client"
    trap - EXIT
    rm -rf "$dir"
    exit 1
fi

in_server() { ip netns exec $server "$@"; }
in_client() { ip netns exec $client "$@"; }
ctl() { ETCDCTL_API=3 in_server etcdctl "$@"; }

# wait_for SECONDS COMMAND...: until the command succeeds.
wait_for() {
    deadline=$(($(date +%s) + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        if [ "$(date +%s)" -ge $deadline ]; then
            echo "gave up waiting for: $*" >&2
            tail -n 20 "$dir"/*.log >&2
            exit 1
        fi
        sleep 0.1
    done
}
records_are() { [ "$(ctl get --prefix /nnoe/dhcp/leases/ --keys-only | grep -c .)" = "$1" ]; }
show() {
    wait_for 10 records_are "$1"
    echo "\$ etcdctl get --prefix /nnoe/dhcp/leases/"
    ctl get --prefix /nnoe/dhcp/leases/
    [ "$1" != 0 ] || echo "(nothing)"
}

say "two hosts with a cable between them"
ip netns add $server
ip netns add $client
ip link add srv netns $server type veth peer name cli netns $client
in_server sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.srv.accept_dad=0
in_client sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.cli.accept_dad=0
ip -n $server link set lo up
ip -n $server addr add 192.0.2.1/24 dev srv
ip -n $server addr add 2001:db8:5::1/64 dev srv
ip -n $server link set srv up
ip -n $client link set cli up
link_local() { ip -n "$1" -6 addr show dev "$2" scope link | grep -q fe80; }
wait_for 10 link_local $server srv
wait_for 10 link_local $client cli

say "an etcd, a kea-dhcp4 and a kea-dhcp6 with the hook"
# By number: etcd's default asks for the address of "localhost", which not every machine can tell.
member=http://127.0.0.1:2379
peer=http://127.0.0.1:2380
etcd="etcd --data-dir $dir/etcd --listen-client-urls $member --advertise-client-urls $member
    --listen-peer-urls $peer --initial-advertise-peer-urls $peer --initial-cluster default=$peer"
# shellcheck disable=SC2086 # a command with its words
ip netns exec $server $etcd >"$dir/etcd.log" 2>&1 &
pids="$pids $!"
wait_for 30 ctl get x

hook="\"hooks-libraries\": [ { \"library\": \"$library\", \"parameters\": { \"server-name\": \"demo\" } } ]"
cat >"$dir/kea4.conf" <<END
{ "Dhcp4": {
    "interfaces-config": { "interfaces": [ "srv" ] },
    "lease-database": { "type": "memfile", "name": "$dir/leases4.csv" },
    "valid-lifetime": 3600,
    $hook,
    "subnet4": [ { "id": 1, "subnet": "192.0.2.0/24", "pools": [ { "pool": "192.0.2.100 - 192.0.2.199" } ] } ],
    "loggers": [ { "name": "kea-dhcp4", "severity": "INFO", "output_options": [ { "output": "stdout" } ] } ]
} }
END
cat >"$dir/kea6.conf" <<END
{ "Dhcp6": {
    "interfaces-config": { "interfaces": [ "srv" ] },
    "data-directory": "$dir",
    "lease-database": { "type": "memfile", "name": "$dir/leases6.csv" },
    "valid-lifetime": 3600, "preferred-lifetime": 1800,
    $hook,
    "subnet6": [ { "id": 1, "subnet": "2001:db8:5::/48", "interface": "srv", "pools": [ { "pool": "2001:db8:5::/80" } ],
        "pd-pools": [ { "prefix": "2001:db8:5:8000::", "prefix-len": 52, "delegated-len": 60 } ] } ],
    "loggers": [ { "name": "kea-dhcp6", "severity": "INFO", "output_options": [ { "output": "stdout" } ] } ]
} }
END
export KEA_PIDFILE_DIR="$dir" KEA_LOCKFILE_DIR=none
ip netns exec $server kea-dhcp4 -c "$dir/kea4.conf" >"$dir/kea4.log" 2>&1 &
pids="$pids $!"
ip netns exec $server kea-dhcp6 -c "$dir/kea6.conf" >"$dir/kea6.log" 2>&1 &
pids="$pids $!"
wait_for 30 grep -q ETCD_CONNECTED "$dir/kea4.log"
wait_for 30 grep -q ETCD_CONNECTED "$dir/kea6.log"
grep -h ETCD_ "$dir"/kea?.log | cut -d' ' -f5-

# dhclient's own script would write the host's /etc/resolv.conf; a release needs the address, no more.
cat >"$dir/script" <<'END'
#!/bin/sh
case $reason in
    BOUND | RENEW | REBIND) ip addr replace "$new_ip_address/24" dev "$interface" ;;
esac
exit 0
END
chmod +x "$dir/script"
touch "$dir/client4" "$dir/client6"
client4() { in_client timeout 60 dhclient -4 -sf "$dir/script" -lf "$dir/client4" -pf "$dir/client4.pid" "$@" cli >>"$dir/client.log" 2>&1; }
client6() { in_client timeout 60 dhclient -6 -N -P -sf "$dir/script" -lf "$dir/client6" -pf "$dir/client6.pid" "$@" cli >>"$dir/client.log" 2>&1; }
end_client() { [ ! -s "$dir/$1.pid" ] || { kill "$(cat "$dir/$1.pid")" 2>/dev/null || true; rm -f "$dir/$1.pid"; }; }
renewed() { ctl get --prefix /nnoe/dhcp/leases/ | grep -q '"operation":"renew"'; }

say "a client takes an IPv4 address, an IPv6 address and an IPv6 prefix"
client4 -1
client6 -1
show 3

say "one of them, readable; and when it ends"
address=$(ctl get --prefix /nnoe/dhcp/leases/192 --keys-only | sed -n 's|^.*/leases/||p')
ctl get "/nnoe/dhcp/leases/$address" --print-value-only | jq .
date -d "@$(ctl get "/nnoe/dhcp/leases/$address" --print-value-only | jq .expires_at)"

say "it asks for its IPv4 address again"
end_client client4
sleep 1
client4 -1
wait_for 10 renewed
show 3

if [ "${KEEP:-}" = 1 ]; then
    trap - EXIT
    say "left running"
    cat <<END
look:   ip netns exec $server etcdctl get --prefix /nnoe/dhcp/leases/
watch:  ip netns exec $server etcdctl watch --prefix /nnoe/dhcp/leases/
client: ip netns exec $client dhclient -4 -d -sf $dir/script -lf $dir/client4 -pf $dir/other.pid cli
logs:   $dir/kea4.log $dir/kea6.log $dir/etcd.log
stop:   ip netns pids $server | xargs kill; ip netns pids $client | xargs -r kill; ip netns del $server; ip netns del $client; rm -r $dir
END
    exit 0
fi

say "it gives everything back"
client4 -r
client6 -r
show 0

say "etcd is killed; a client comes all the same; etcd comes back"
# shellcheck disable=SC2086 # a list of process numbers, and a command with its words
set -- $pids
kill "$1"
wait "$1" 2>/dev/null || true
client4 -1
wait_for 10 grep -q ETCD_UNREACHABLE "$dir/kea4.log"
ip netns exec $server $etcd >>"$dir/etcd.log" 2>&1 &
pids="$pids $!"
wait_for 30 ctl get x
show 1
grep -h 'ETCD_UNREACHABLE\|ETCD_CONNECTED' "$dir/kea4.log" | cut -d' ' -f5-
end_client client4
end_client client6
say "done; everything is cleaned up"
