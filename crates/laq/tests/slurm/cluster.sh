#!/usr/bin/env bash
# A Slurm of one node with its files in a folder, for the tests of the launcher:
#
#     cluster.sh start DIR      prints SLURM_CONF=DIR/slurm.conf
#     cluster.sh stop DIR
#
# It needs slurmctld, slurmd and munged (slurm-wlm and munge of Debian) and root, and touches no other Slurm: its key,
# sockets, ports and state are its own. Control groups are not used, since a container may not have them.
set -euo pipefail
command=$1 dir=$2

start() {
    mkdir -p "$dir"/{state,spool,run}
    # munged refuses a key or a socket in a folder that others can write to.
    chmod 700 "$dir"
    chmod 755 "$dir/run"
    head -c 1024 /dev/urandom > "$dir/munge.key"
    chmod 400 "$dir/munge.key"
    local host ports
    host=$(hostname -s)
    ports=($(python3 -c '
import socket
sockets = [socket.socket() for _ in range(2)]
for s in sockets:
    s.bind(("127.0.0.1", 0))
print(*[s.getsockname()[1] for s in sockets])'))
    cat > "$dir/slurm.conf" <<CONF
ClusterName=laq-test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/run/munge.socket
CryptoType=crypto/munge
SlurmctldPort=${ports[0]}
SlurmdPort=${ports[1]}
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmdPidFile=$dir/run/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
JobRequeue=1
KillWait=2
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 RealMemory=3000 State=UNKNOWN
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
    munged --force --key-file="$dir/munge.key" --socket="$dir/run/munge.socket" --pid-file="$dir/run/munged.pid" \
        --log-file="$dir/munged.log" --seed-file="$dir/munge.seed"
    export SLURM_CONF=$dir/slurm.conf
    slurmctld -f "$SLURM_CONF"
    slurmd -f "$SLURM_CONF"
    for _ in $(seq 100); do
        if [ "$(sinfo --noheader --format=%T 2>/dev/null)" = idle ]; then
            echo "SLURM_CONF=$SLURM_CONF"
            return
        fi
        sleep 0.2
    done
    echo "the node of $SLURM_CONF is not idle: $(sinfo 2>&1); logs: $dir" >&2
    tail -n 5 "$dir"/*.log >&2
    exit 1
}

stop() {
    SLURM_CONF=$dir/slurm.conf scancel --user=root 2>/dev/null || true
    for name in slurmd slurmctld munged; do
        [ ! -e "$dir/run/$name.pid" ] || kill "$(cat "$dir/run/$name.pid")" 2>/dev/null || true
    done
    # The daemons write their logs until they have ended.
    for name in slurmd slurmctld munged; do
        for _ in $(seq 50); do
            [ -e "$dir/run/$name.pid" ] && kill -0 "$(cat "$dir/run/$name.pid")" 2>/dev/null || break
            sleep 0.1
        done
    done
}

"$command"
