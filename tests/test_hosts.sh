#!/usr/bin/env bash
# Two "hosts": network namespaces with separate names, a veth cable between them. Ranks on both train like ranks on one;
# when the cable is cut during the run, all end in time with a line that names their position. Prints cmocka's lines.
. tests/support.sh hosts
id=$$
host=("clipc-a-$id" "clipc-b-$id")
nic=("ca$id" "cb$id")
timeout=4
tests=(ranks_on_two_hosts cut_cable nccl_on_two_hosts)
export OMP_NUM_THREADS=1 CUDAEMU_QUIET=1 CUDAEMU_DEVICES=2

clean_up() {
    for h in "${host[@]}"; do
        ip netns pids "$h" 2>/dev/null | xargs -r kill -9
        ip netns del "$h" 2>/dev/null
    done
    rm -rf "$dir"
}
trap clean_up EXIT
lay_cable() {
    command -v ip >/dev/null && command -v unshare >/dev/null || { echo "no ip (iproute2) or unshare here"; return 1; }
    for h in "${host[@]}"; do ip netns add "$h" 2>/dev/null || { echo "network namespaces are not permitted here"; return 1; }; done
    ip link add "${nic[0]}" netns "${host[0]}" type veth peer name "${nic[1]}" netns "${host[1]}" 2>/dev/null ||
        { echo "veth interfaces are not permitted here"; return 1; }
    for i in 0 1; do
        ip -n "${host[i]}" addr add 10.77.0.$((i + 1))/24 dev "${nic[i]}" && ip -n "${host[i]}" link set lo up &&
            ip -n "${host[i]}" link set "${nic[i]}" up || { echo "interfaces cannot be set up here"; return 1; }
    done
    on 0 true 2>/dev/null || { echo "unshare --uts is not permitted here"; return 1; }
}
on() { # host, command…
    local h=$1
    shift
    # shellcheck disable=SC2016
    ip netns exec "${host[h]}" unshare --uts bash -c 'hostname "$0" && exec "$@"' "clipc-$h" "$@"
}
options() { # run's name
    echo "train ${pairs[*]} --epochs 100000 --warmup 3 --lr 1e-3 --workers 1 --precision fp32 --logs $dir --save-frequency 100000
        --save-frequency-steps 5 --comm-timeout $timeout --name $1"
}
# This starts mpirun's daemon on the other host instead of ssh; the daemon detects a cut cable by its keep-alives.
mpi_run() { # ranks on the first host, on the second, program and options…
    local first=$1 second=$2
    shift 2
    on 0 "${mpirun[@]}" --mca plm_rsh_agent "$dir/agent" \
        --mca oob_tcp_if_include "${nic[0]},${nic[1]}" --mca btl_tcp_if_include 10.77.0.0/24 --mca oob_tcp_keepalive_time 1 \
        --mca oob_tcp_keepalive_intvl 1 --mca oob_tcp_keepalive_probes 2 --host "10.77.0.1:$first,10.77.0.2:$second" \
        -np $((first + second)) "$@"
}
# fp32 within the bound of some AdamW steps (docs/NUMERICS.md): another order of sums each
same_losses() { near "$1" "$2" 6 5e-6; }

ranks_on_two_hosts() {
    # shellcheck disable=SC2046
    mpi_run 2 1 "$clipc" $(options two) --batch-size 2 --max-steps 6 2>"$dir/err" && "$clipc" $(options one) --batch-size 6 --max-steps 6 \
        2>"$dir/one.err" && same_losses two one
}
cut_cable() {
    # shellcheck disable=SC2046
    mpi_run 2 1 "$clipc" $(options cut) --batch-size 2 2>"$dir/err" &
    local launcher=$! left
    await $launcher has_lines cut 7 || return 1
    ip -n "${host[0]}" link set "${nic[0]}" down
    ends $((timeout + slack)) $launcher || { kill -9 $launcher; return 1; }
    [ $code != 0 ] || return 1
    # the ranks beyond the cable end without help
    for _ in $(seq 200); do left=$(ip netns pids "${host[1]}"); [ -z "$left" ] && break; sleep 0.1; done
    [ -z "$left" ] || { echo "left on the second host: $left"; return 1; }
    grep -qE "clipc: rank [01]: step [0-9]+: [a-z_]+ has waited .*look at the other nodes' lines and at the network" "$dir/err" ||
        grep -q "lost communication with a remote daemon" "$dir/err" || return 1
    ip -n "${host[0]}" link set "${nic[0]}" up
    # a killed rank's lock is known to be free on its own host only
    # shellcheck disable=SC2046
    on 0 "$clipc" $(options cut) --batch-size 6 --resume latest --max-steps 12 2>"$dir/again.err" && ! grep -q damaged "$dir/again.err"
}
nccl_on_two_hosts() { # NCCL's id by TCP over the cable
    local r p=()
    for r in 0 1; do
        # shellcheck disable=SC2046
        RANK=$r WORLD_SIZE=2 LOCAL_RANK=0 MASTER_ADDR=10.77.0.1 MASTER_PORT=29500 on $r "$clipc-cudaemu" $(options nccl) --device cuda \
            --batch-size 3 --max-steps 6 2>"$dir/err$r" &
        p[r]=$!
    done
    wait "${p[0]}" && wait "${p[1]}" && grep -q "2 ranks over nccl" "$dir/err0" && same_losses nccl one
}

reason=$(lay_cable)
if [ -n "$reason" ]; then
    skip "$reason" "${tests[@]}"
    exit 0
fi
cat >"$dir/agent" <<END
#!/bin/bash
shift
exec ip netns exec ${host[1]} unshare --uts bash -c 'hostname clipc-1 && exec bash -c "\$0"' "\$*"
END
chmod +x "$dir/agent"
for t in "${tests[@]}"; do
    if [ $t != nccl_on_two_hosts ] && no_mpi; then
        skip "$no_mpi_reason" $t
    elif [ $t = nccl_on_two_hosts ] && { [ ! -x "$clipc-cudaemu" ] || [ ! -d "$dir/one" ]; }; then
        skip "built by a plain make where nvcc and nccl.h are" $t
    else
        check $t $t
    fi
done
exit $failed
