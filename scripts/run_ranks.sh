# shellcheck shell=bash disable=SC2086,SC2154,SC2017 # DRAIN_SIGNALS are words; divisions mean to round; other variables are slurm_launch.sh's
#
# Sourced by slurm_launch.sh: runs this node's part of one or more groups.
#
# The processes of a group ("ranks") start as torchrun would start them, by RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR
# and MASTER_PORT, but they keep their exit codes, and get signals as requests to drain. A rank that fails ends its
# whole group, on all of the group's nodes: the others would wait for it, for minutes or for ever.

run_node() { # ARGUMENT...
  local index supervisor supervisors=() worst=0
  [[ ! $asked_to_drain ]] || exit $EXIT_DRAINED
  mkdir -p "$LOG_DIR"
  trap 'interrupted=1; kill -USR1 "${supervisors[@]}" 2>/dev/null || true' $DRAIN_SIGNALS
  set -m # a process group for each, out of reach of signals that are meant for this shell
  for ((index = 0; index < groups_per_node; index++)); do
    run_group $index "$@" &
    supervisors+=($!)
  done
  [[ ! $asked_to_drain ]] || kill -USR1 "${supervisors[@]}" 2>/dev/null || true
  for supervisor in "${supervisors[@]}"; do
    wait_for "$supervisor"
    ((status != KILLED_BY_USR1)) || status=$EXIT_DRAINED # it came before the group had begun
    ((worst != 0 && (worst != EXIT_DRAINED || status == 0))) || worst=$status
  done
  exit "$worst"
}

run_group() { # INDEX_ON_NODE ARGUMENT...: in a subshell, which ends with the group's exit code
  local draining=$asked_to_drain code=0
  local -A ranks=() asked=() # by process id: its rank, and whether it was asked to drain
  trap 'draining=1' $DRAIN_SIGNALS
  set -m # so that a rank's helpers can be ended with it
  describe_group "$1"
  shift
  "$arguments_of_group"
  open_log
  print_header "$@" >&"$log_output"
  start_ranks "$@"
  supervise_ranks
  say_end
  close_log
  exit "$code"
}

describe_group() { # INDEX_ON_NODE
  local index=$((node_index / NODES_PER_GROUP * groups_per_node + $1))
  local node_of_group=$((node_index % NODES_PER_GROUP))
  group=$((first_group + index))
  members=("${nodes[@]:node_index - node_of_group:NODES_PER_GROUP}")
  world_size=$((NODES_PER_GROUP * processes)) first_rank=$((node_of_group * processes))
  label="group $group of $all_groups, $THIS_NODE" failed=$(failed_file)
  threads=${OMP_NUM_THREADS:-$(($(nproc) / GPUS_PER_NODE))}
  ((threads > 0)) || threads=1
  log=$log_name.log
  ((all_groups == 1)) || log=${log_name}_group$group.log
  # Below the range that systems draw ports from, and different for groups that share an address.
  port=$((12000 + (${SLURM_JOB_ID:-$$} * 101 + ${SLURM_RESTART_COUNT:-0} * 7 + index) % 20000))
  group_devices=$(IFS=, && echo "${devices[*]:$1 * processes:processes}")
  find_master_address
}

find_master_address() {
  master=127.0.0.1
  ((NODES_PER_GROUP > 1)) || return 0
  master=${members[0]}
  # Checked here, because torch tries a name without an address for minutes, and silently.
  ! getent hosts "$master" >/dev/null || return 0
  master=$(scontrol show node --oneliner "$master" | sed -n 's/.* NodeAddr=\([^ ]*\).*/\1/p')
  getent ahosts "$master" >/dev/null || fail "${members[0]}, the group's first node, has no address on $THIS_NODE"
}

fail() { # MESSAGE
  tell_other_nodes "$*"
  echo "error: $*" >&2
  exit 1
}

# --- log: rank 0's node writes it, and the launch's first group to the screen too; other nodes write to the screen.
# Slurm sends signals to all processes of a step; the writers must live on.

open_log() {
  log_writer=''
  if ((first_rank > 0)); then
    exec {log_output}> >(trap '' $DRAIN_SIGNALS && exec sed -u "s/^/[$label] /" >&2)
    log_writer=$!
  elif ((group == first_group)); then
    exec {log_output}> >(trap '' $DRAIN_SIGNALS && exec tee -p -a "$log") # -p: the file goes on when the screen is gone
    log_writer=$!
  else
    exec {log_output}>>"$log"
  fi
}

close_log() {
  local tenths=20 # a helper that a rank has left behind may hold it open
  exec {log_output}>&-
  while [[ $log_writer ]] && kill -0 "$log_writer" 2>/dev/null && ((tenths-- > 0)); do sleep 0.1; done
}

print_header() { # ARGUMENT...
  local setting
  ((first_rank == 0)) || return 0
  echo "=== $(date '+%F %T') ${SLURM_JOB_ID:+job $SLURM_JOB_ID, start $((${SLURM_RESTART_COUNT:-0} + 1)), }$label"
  echo "on ${members[*]}: $world_size processes$([[ $group_devices ]] || echo " without GPUs"), rank 0 listens at $master:$port; log: $log"
  for setting in MODEL_DIR DATA_DIR NODES_PER_GROUP GPUS_PER_NODE GPUS_PER_GROUP; do
    printf '%s=%q ' $setting "${!setting:-}"
  done
  printf 'CUDA_VISIBLE_DEVICES=%q OMP_NUM_THREADS=%q\n' "$group_devices" "$threads"
  printf '%q ' "$PYTHON" "$script" "${arguments[@]}" "$@"
  echo
}

say() { # MESSAGE: to the screen, and to the log
  echo "[$label] $*" >&2
  ((first_rank > 0)) || echo "[$label] $*" >>"$log"
}

say_end() {
  case $code in
    0) rm -f "${failed%.*.*}".* && say "done" ;;
    "$EXIT_DRAINED") say "drained; start again to go on from here" ;;
    *) say "error: the group ends with exit code $code; log: $log" ;;
  esac
}

# --- ranks

start_ranks() { # ARGUMENT...
  local local_rank
  trap '' $DRAIN_SIGNALS # ranks inherit it: until Python sets its handlers, a request to drain must not kill them
  for ((local_rank = 0; local_rank < processes; local_rank++)); do
    start_rank $local_rank "$@" </dev/null >&"$log_output" 2>&1 &
    ranks[$!]=$((first_rank + local_rank))
  done
  trap 'draining=1' $DRAIN_SIGNALS
}

start_rank() { # LOCAL_RANK ARGUMENT...: becomes the process
  export RANK=$((first_rank + $1)) LOCAL_RANK=$1 WORLD_SIZE=$world_size LOCAL_WORLD_SIZE=$processes
  export MASTER_ADDR=$master MASTER_PORT=$port OMP_NUM_THREADS=$threads
  export TQDM_DISABLE=1 PYTHONUNBUFFERED=1 # lines instead of bars
  [[ -z $group_devices ]] || export CUDA_VISIBLE_DEVICES=$group_devices
  exec "$PYTHON" "$script" "${arguments[@]}" "${@:2}"
}

supervise_ranks() { # until none is left; sets code
  local nothing deadline=''
  exec {nothing}<> <(:)
  while ((${#ranks[@]})); do
    read -r -t 0.5 -u "$nothing" || true # waits without a process, which signals to the whole step would kill
    note_ends
    [[ ! $draining ]] || drain_ranks
    note_failure_elsewhere
    ! has_failed || end_ranks
  done
}

drain_ranks() { # each once, as soon as it listens: Python no longer does while it ends
  local pid
  for pid in "${!ranks[@]}"; do
    [[ ! ${asked[$pid]:-} ]] && catches_usr1 "$pid" || continue
    kill -USR1 "$pid" 2>/dev/null && asked[$pid]=1
  done
}

catches_usr1() { # PID
  local mask
  mask=$(sed -n 's/^SigCgt:\s*//p' "/proc/$1/status" 2>/dev/null) && [[ $mask ]] && ((0x$mask & 1 << 9))
}

note_ends() { # of ranks; those that are seen together have no order, so likely causes are noted first
  local pid rank
  local -A ends=()
  for pid in "${!ranks[@]}"; do
    ! kill -0 "$pid" 2>/dev/null || continue
    rank=${ranks[$pid]} && ends[$rank]=0
    wait "$pid" 2>/dev/null || ends[$rank]=$?
    unset "ranks[$pid]"
  done
  for rank in "${!ends[@]}"; do ! is_cause "${ends[$rank]}" || note_end "$rank" "${ends[$rank]}"; done
  for rank in "${!ends[@]}"; do is_cause "${ends[$rank]}" || note_end "$rank" "${ends[$rank]}"; done
}

# When a rank is killed or has a wrong setting, the others end with errors of their own, or abort.
is_cause() { (($1 == EXIT_SETTINGS || ($1 > 128 && $1 != ABORTED && $1 != KILLED_BY_USR1 && $1 != KILLED_BY_USR2))); }

note_end() { # RANK EXIT_CODE
  case $2 in
    0) ;;
    "$EXIT_DRAINED" | "$KILLED_BY_USR1" | "$KILLED_BY_USR2") # killed if asked to drain while it was ending
      ((code != 0)) || code=$EXIT_DRAINED ;;
    *) note_failure "$2" "rank $1 of $world_size on $THIS_NODE $(describe_end "$2")" ;;
  esac
}

describe_end() { # EXIT_CODE
  local remedy=''
  (($1 > 128)) || { echo "ended with exit code $1"; return; }
  (($1 != 137)) || remedy=' (perhaps for lack of memory)'
  echo "was killed by SIG$(kill -l $(($1 - 128)))$remedy"
}

has_failed() { ((code != 0 && code != EXIT_DRAINED)); }

note_failure() { # EXIT_CODE MESSAGE
  if ! has_failed; then
    code=$1 deadline=$((SECONDS + SECONDS_TO_EXPLAIN))
    tell_other_nodes "$2"
  elif (($1 == EXIT_SETTINGS)); then
    return # all ranks have the same to say
  elif is_cause "$1" && ! is_cause "$code"; then
    code=$1
  fi
  say "error: $2"
}

end_ranks() {
  local pid
  ((SECONDS >= deadline)) || return 0
  for pid in "${!ranks[@]}"; do
    kill -KILL -- "-$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
  ((${#ranks[@]} == 0)) || say "ended the other ranks here: ${ranks[*]}"
  ranks=()
}

# --- failures cross nodes through a file: there is nothing else that all nodes share

failed_file() { # of this life of the job
  echo "$state.group$((node_index / NODES_PER_GROUP)).failed.${SLURM_RESTART_COUNT:-0}.${SLURM_STEP_ID:-0}"
}

tell_other_nodes() { # MESSAGE
  in_step && is_count "$NODES_PER_GROUP" && ((NODES_PER_GROUP > 1)) || return 0
  # A missing DATA_DIR must stay missing.
  [[ -d ${DATA_DIR:-/} ]] && mkdir -p "$LOG_DIR" && echo "$1" >>"$(failed_file)" || true
}

note_failure_elsewhere() {
  ((NODES_PER_GROUP > 1)) && [[ -e $failed ]] && ! has_failed || return 0
  note_failure 1 "$(head -n 1 "$failed")"
}
