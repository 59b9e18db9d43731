#!/bin/bash
# A real, private, multi-node Slurm cluster on one machine (Debian 12: apt-get install slurm-wlm munge).
#
#   local_slurm.sh start [N]        start nodes node0 ... node<N-1> (default 8), wait until all are idle
#   eval "$(local_slurm.sh env)"    point this shell's sinfo, sbatch, salloc, srun at the cluster
#   local_slurm.sh stop             cancel its jobs, end its processes; $LOCAL_SLURM_DIR/log stays
#   local_slurm.sh kill K           node failure: slurmd, step daemons and tasks of nodeK end at once
#   local_slurm.sh orphan K         the same, but the tasks of nodeK live on: no more Slurm looks after them
#   local_slurm.sh revive K         start nodeK again
#
# Nothing under /etc is read for Slurm, or changed. Settings, by environment:
#   LOCAL_SLURM_DIR         configuration, keys, sockets, state, logs         (/tmp/local-slurm-<uid>)
#   LOCAL_SLURM_GRES        fake devices of every node, numbered in order     (gpu:32g:6,gpu:80g:8)
#   LOCAL_SLURM_NODE        other settings of every node, such as Features=   (CPUs=16 RealMemory=1000000)
#   LOCAL_SLURM_PARTITIONS  names; the first is the default                   (main)
#   LOCAL_SLURM_PORT        first port tried; N+1 are used                    (16800)
#   LOCAL_SLURM_MODE        how separate the nodes are                        (hosts if permitted, else shared)
#     shared  one host name; node names do not resolve; needs no privilege
#     hosts   own host name; inside jobs every node name resolves to 127.0.0.1 (root, unshare)
#     net     own host name, address and ports, like separate machines         (root, unshare, ip)
set -euo pipefail
umask 022
DIR=$(realpath -m "${LOCAL_SLURM_DIR:-/tmp/local-slurm-$(id -u)}")
GRES=${LOCAL_SLURM_GRES:-gpu:32g:6,gpu:80g:8}
NET=10.213.7 BRIDGE=lslurm # mode net: nodeK is $NET.(K+1), this machine $NET.254; one such cluster at a time
PATH=$PATH:/usr/sbin:/sbin
export SLURM_CONF=$DIR/slurm.conf

die() { echo "local_slurm: $*" >&2; exit 1; }
await() { local n=$(($1 * 10)); shift; until "$@"; do ((n-- > 0)) || return 1; sleep 0.1; done; }
listening() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
all_idle() { (($(sinfo -h -N -o '%N %t' 2>/dev/null | sort -u | grep -c ' idle$') == $1)); }
no_jobs() { [[ -z $(timeout 5 squeue -h 2>/dev/null) ]]; }
none_left() { [[ -z $(pids) ]]; }

pids() { # the cluster's processes, or one node's: daemons known by their log file, tasks by environment
  local p name text
  for p in /proc/[0-9]*; do
    read -r name <"$p/comm" || continue
    case $name in
      slurmctld | slurmd | slurmstepd | munged)
        text=$(readlink "$p"/fd/*)$'\n' || true
        [[ $text != *"$DIR/log/${1:+$1.log$'\n'}"* ]] || echo "${p#/proc/}" ;;
      *)
        text=$(tr '\0' '\n' <"$p/environ")$'\n' || true
        [[ $text != *"SLURM_CONF=$SLURM_CONF"$'\n'* || $text != *SLURM_TASK_PID=* ]] ||
          [[ $text != *"SLURMD_NODENAME=${1:+$1$'\n'}"* ]] || echo "${p#/proc/}" ;;
    esac
  done 2>/dev/null
}

write_config() { # N MODE PORT
  local addr=127.0.0.1 first=0 k item name type count part default=YES
  [[ $2 != net ]] || addr=$NET.254
  cat >"$SLURM_CONF" <<EOF
ClusterName=local
SlurmctldHost=$(hostname -s)($addr)
SlurmctldPort=$3
AuthInfo=socket=$DIR/munge/socket,cred_expire=10
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool/%n
SlurmctldPidFile=$DIR/run/slurmctld.pid
SlurmdPidFile=$DIR/run/%n.pid
SlurmctldLogFile=$DIR/log/slurmctld.log
SlurmdLogFile=$DIR/log/%n.log
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_min_interval=100000,sched_interval=1,bf_interval=1
EnforcePartLimits=ALL
ReturnToService=1
SlurmdTimeout=10
KillWait=5
MinJobAge=3600
GresTypes=gpu
EOF
  echo CgroupPlugin=cgroup/v1 >"$DIR/cgroup.conf" # never used, and the only one that loads without cgroups
  echo AutoDetect=off >"$DIR/gres.conf"
  for item in ${GRES//,/ }; do # gpu:COUNT or gpu:TYPE:COUNT; every gpu needs a device file of its own
    IFS=: read -r name type count <<<"$item"
    [[ -n $count ]] || { count=$type; type=; }
    for ((k = first; k < first + count; k++)); do ln -s /dev/null "$DIR/dev/$name$k"; done
    echo "Name=$name ${type:+Type=$type} File=$DIR/dev/${name}[$first-$((k - 1))]" >>"$DIR/gres.conf"
    first=$k
  done
  { echo "$addr $(hostname -s)"; cat /etc/hosts; } >"$DIR/hosts"
  for ((k = 0; k < $1; k++)); do
    [[ $2 != net ]] || addr=$NET.$((k + 1))
    echo "$addr node$k" >>"$DIR/hosts"
    echo "NodeName=node$k NodeAddr=$addr Port=$(($3 + 1 + k)) Gres=$GRES" \
      "${LOCAL_SLURM_NODE:-CPUs=16 RealMemory=1000000}" >>"$SLURM_CONF"
  done
  for part in ${LOCAL_SLURM_PARTITIONS:-main}; do
    echo "PartitionName=$part Nodes=ALL Default=$default MaxTime=INFINITE" >>"$SLURM_CONF"
    default=NO
  done
}

daemons() { # K: of nodeK
  local pid
  for pid in $(pids "node$1"); do
    [[ $(<"/proc/$pid/comm") != slurm* ]] || echo "$pid"
  done 2>/dev/null
}

start_node() { # K
  local enter=() ns=$BRIDGE-$1 mode
  mode=$(<"$DIR/mode")
  if [[ $mode == net ]]; then
    enter=(nsenter --net="/run/netns/$ns")
    if [[ ! -e /run/netns/$ns ]]; then
      ip netns add "$ns"
      ip link add "$ns" type veth peer name eth0 netns "$ns"
      ip link set "$ns" master "$BRIDGE" up
      ip -n "$ns" addr add "$NET.$(($1 + 1))/24" dev eth0
      ip -n "$ns" link set lo up
      ip -n "$ns" link set eth0 up
    fi
  fi
  if [[ $mode == shared ]]; then slurmd -N "node$1"; return; fi
  # the spool is private too, so that a batch script's spooled copy exists on its first node alone
  # shellcheck disable=SC2016 # expanded by the inner shell
  "${enter[@]}" unshare -mu bash -ec 'hostname "$1"; mount --bind "$2/hosts" /etc/hosts
    mount -t tmpfs "$1" "$2/spool"; exec slurmd -N "$1"' - "node$1" "$DIR"
}

start() { # N
  local mode=${LOCAL_SLURM_MODE:-} port=${LOCAL_SLURM_PORT:-16800} k
  ((${#DIR} <= 60)) || die "LOCAL_SLURM_DIR is too long for the names of sockets: $DIR"
  none_left || die "already running in $DIR"
  mkdir -p "$DIR"
  (cd "$DIR" && rm -rf munge state spool run dev log && mkdir munge state spool run dev log)
  # shellcheck disable=SC2154 # rc is set where it is used
  trap 'rc=$?; ((rc == 0)) || stop; exit $rc' EXIT
  if [[ -z $mode ]]; then
    mode=shared
    # shellcheck disable=SC2016 # expanded by the inner shell
    ! unshare -mu sh -c 'hostname probe && mount -t tmpfs probe "$0"' "$DIR" 2>/dev/null || mode=hosts
  fi
  echo "$mode" >"$DIR/mode"
  for ((k = 0; k <= $1; k++)); do ! listening $((port + k)) || { ((port += $1 + 1)); k=-1; }; done
  write_config "$1" "$mode" "$port"
  (umask 077 && head -c 1024 /dev/urandom >"$DIR/munge/key")
  munged --key-file="$DIR/munge/key" --socket="$DIR/munge/socket" --pid-file="$DIR/munge/pid" \
    --log-file="$DIR/log/munged.log" --seed-file="$DIR/munge/seed"
  if [[ $mode == net ]]; then
    ip link add "$BRIDGE" type bridge
    ip addr add "$NET.254/24" dev "$BRIDGE"
    ip link set "$BRIDGE" up
  fi
  slurmctld
  await 10 listening "$port" || die "no controller; see $DIR/log/slurmctld.log"
  for ((k = 0; k < $1; k++)); do start_node "$k"; done
  await 30 all_idle "$1" || { sinfo -N -l >&2; die "not all nodes are idle; see $DIR/log"; }
}

stop() {
  local ns
  if [[ -e $SLURM_CONF && $(pids) ]]; then
    { timeout 10 squeue -h -o %A | sort -u | timeout 10 xargs -r scancel; } 2>/dev/null || true
    await 10 no_jobs || true
  fi
  pids | xargs -r kill 2>/dev/null || true
  await 10 none_left || { pids | xargs -r kill -9 2>/dev/null || true; }
  await 5 none_left || die "still there: $(pids | xargs)"
  [[ $(cat "$DIR/mode" 2>/dev/null) == net ]] || return 0
  for ns in $(ip netns list | grep -o "^$BRIDGE-[0-9]*"); do
    ip link del "$ns" # at once; with its namespace it would go some time later
    ip netns del "$ns"
  done
  ! ip link show "$BRIDGE" >/dev/null 2>&1 || ip link del "$BRIDGE"
}

case ${1:-} in
  start) start "${2:-8}" ;;
  stop) stop ;;
  env) echo "export SLURM_CONF=$SLURM_CONF" ;;
  kill) pids "node$2" | xargs -r kill -9 ;;
  orphan) daemons "$2" | xargs -r kill -9 ;;
  revive) start_node "$2" ;;
  *) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0" >&2; exit 2 ;;
esac
