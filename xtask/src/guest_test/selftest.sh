#!/bin/sh
# Stands in for a test program: takes the name of a test as its first argument.
passed="test result: ok. 1 passed; 0 failed; 0 ignored"
set -e
case $1 in
passes) echo "$passed" ;;
fails) echo "assertion failed" >&2 && exit 101 ;;
does_not_run) echo "test result: ok. 0 passed; 0 failed; 0 ignored" ;;
hangs) echo "before" && sleep 1000 ;;
crashes) kill -SEGV $$ ;;
leaves_processes) setsid sleep 1000 & echo "$passed" ;;
leaves_namespaces) ip netns add left && echo "$passed" ;;
finds_a_clean_guest)
    test -z "$(ip netns list)"
    ! pidof sleep
    echo "$passed"
    ;;
needs_a_fresh_guest)
    test ! -e /root/used || exit 101
    touch /root/used
    echo "$passed"
    ;;
writes_much) seq 1 200000 && echo "$passed" ;;
makes_the_kernel_complain) echo "<1>BUG: made up" >/dev/kmsg && echo "$passed" ;;
makes_the_kernel_panic) echo "before" && echo c >/proc/sysrq-trigger && sleep 1000 ;;
has_what_tests_need)
    for scheduler in rr wrr lc wlc lblc lblcr dh sh sed nq fo ovf mh; do
        ipvsadm -A -t 192.0.2.1:80 -s $scheduler
        ipvsadm -a -t 192.0.2.1:80 -r 192.0.2.2:80 -m
        ipvsadm -D -t 192.0.2.1:80
    done
    ipvsadm -A -t "[2001:db8::1]:80" -s rr
    ip link add kube-ipvs0 type dummy
    ip link add v0 type veth peer name v1
    ip link add br0 type bridge
    ip link add vx0 type vxlan id 7 dstport 4789 dev v0
    modprobe sctp
    modprobe nf_conntrack_netlink
    nft -f - <<RULES
table inet t {
    set s { type ipv4_addr . inet_proto . inet_service; elements = { 192.0.2.1 . tcp . 80 }; }
    set i { type ipv4_addr . inet_service; flags interval; elements = { 192.0.2.0/24 . 1-9 }; }
    chain post {
        type nat hook postrouting priority srcnat;
        ip daddr . meta l4proto . th dport @s masquerade fully-random
    }
    chain in {
        type filter hook input priority filter;
        ct state new counter
        ip daddr . th dport @i counter
        meta l4proto tcp reject with tcp reset
        fib daddr type local counter
        numgen random mod 2 0 limit rate 5/second log
    }
}
RULES
    conntrack -L
    ping -c 1 127.0.0.1
    ss -tln
    test "$(busybox stat -c %a /tmp)" = 1777
    echo "$passed"
    ;;
esac
