# shellcheck shell=bash disable=SC2086,SC2154,SC2017 # DRAIN_SIGNALS are words; divisions mean to round; `launcher` is the launcher's
# shellcheck source-path=SCRIPTDIR
#
# Sourced by the launchers beside it: finds out where it runs, divides the nodes into groups, starts one process a
# GPU and ends the processes of a group together. Settings and logs: README.md in this folder.
#
# A launcher sets `launcher` (its own path, perhaps with the arguments), then calls launch_generation or
# launch_finetuning. Either runs
#   inside a job step          this node's part of its group, one task a node;
#   in an allocation, or batch itself once more as a job step, and afterwards requeues the job where it should go on;
#   without Slurm              this machine as the only node.
# Exit codes: 0 done, 2 settings, 75 drained (start again to go on), otherwise that of the first process that failed.

launcher=${launcher%" $*"}
ROOT=$(cd -P "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) # -P: the stages see this folder through a link
STEP2=$ROOT/step2_principle_driven_self_alignment
STEP3=$ROOT/step3_principle_engraving
THIS_NODE=${SLURMD_NODENAME:-$(hostname)}
EXIT_SETTINGS=2 EXIT_DRAINED=75 KILLED_BY_USR1=138 ABORTED=134
DRAIN_SIGNALS="USR1 USR2 TERM INT HUP"
SECONDS_TO_EXPLAIN=5 # after the first failure, for the others to print what they know

# --- the two kinds of launches

launch_generation() { # NAME NODES_PER_GROUP ARGUMENT...
  name=$1 script=$STEP2/generate_self_align_response.py arguments_of_group=generation_arguments
  use_default_nodes_per_group "$2"
  shift 2
  prompts=$(flag_value --input_file "${DATA_DIR:-$ROOT/step1_prompt_preparation}/merged_prompts.json" "$@")
  output=$(flag_value --output_file "${DATA_DIR:-$STEP2}/$name.jsonl" "$@")
  need_model
  need_file "$prompts" "the prompts that step 1 writes. Set DATA_DIR to their folder, or give --input_file"
  launch "$@"
}

generation_arguments() {
  arguments=(--model_dir "$MODEL_DIR" --input_file "$prompts" --output_file "$output"
    --tensor_parallel "$world_size" --group_size "$all_groups" --group_rank "$group")
}

launch_finetuning() { # NAME RESPONSES ARGUMENT...: all nodes are one group
  name=$1 script=$STEP3/finetune.py arguments_of_group=finetuning_arguments
  data=$(flag_value --data_file "${DATA_DIR:-$STEP2}/${2}_merged.json" "${@:3}")
  output=$(flag_value --output_dir "${DATA_DIR:-$STEP3}/$name" "${@:3}")
  shift 2
  NODES_PER_GROUP=all GPUS_PER_GROUP=
  need_model
  need_file "$data" "the training data that the merge of step 2 writes. Set DATA_DIR to its folder, or give --data_file"
  launch "$@"
}

finetuning_arguments() { # the published 128 examples a step, 4 at a time, or as near as the processes allow
  local at_once=$((4 * world_size))
  local accumulation=$(((128 + at_once / 2) / at_once))
  arguments=(--model_name_or_path "$MODEL_DIR" --data_file "$data" --output_dir "$output"
    --per_device_train_batch_size 4 --gradient_accumulation_steps $((accumulation > 0 ? accumulation : 1)))
}

flag_value() { # FLAG DEFAULT ARGUMENT...: the flag's last value among the arguments
  local flag=$1 value=$2
  shift 2
  while (($#)); do
    case $1 in
      "$flag") value=${2:-} ;;
      "$flag"=*) value=${1#*=} ;;
    esac
    shift
  done
  echo "$value"
}

launch() { # ARGUMENT...
  find_python
  find_nodes
  find_groups
  LOG_DIR=${LOG_DIR:-$(dirname "$output")/logs}
  local array=${SLURM_ARRAY_JOB_ID:-${SLURM_JOB_ID:-}}
  log_name=$LOG_DIR/$name${array:+_job$array}
  state=$LOG_DIR/${name}_job${SLURM_JOB_ID:-}
  refuse_problems
  if in_allocation; then run_as_step "$@"; else run_node "$@"; fi
}

# --- settings: everything that is wrong is said at once, before anything starts

problems=()        # with the settings, the same on all nodes
problems_here=()   # with this node

use_default_nodes_per_group() { # NODES
  NODES_PER_GROUP=${NODES_PER_GROUP:-$([[ ${SLURM_JOB_ID:-} && ! ${GPUS_PER_GROUP:-} ]] && echo "$1" || echo 1)}
}

need_model() {
  if [[ -z ${MODEL_DIR:-} ]]; then
    problems+=("MODEL_DIR is not set: the folder of the base model")
  elif [[ ! -d $MODEL_DIR ]]; then
    problems_here+=("MODEL_DIR is $MODEL_DIR, which is not a folder on $THIS_NODE")
  fi
}

need_file() { # PATH WHAT
  [[ -f $1 ]] || problems_here+=("there is no file $1 on $THIS_NODE: $2")
}

find_python() {
  PYTHON=${PYTHON:-$ROOT/.venv/bin/python}
  [[ $PYTHON != "$ROOT/.venv/bin/python" || -x $PYTHON ]] || PYTHON=python3
  command -v "$PYTHON" >/dev/null || problems_here+=("there is no $PYTHON on $THIS_NODE: set PYTHON to its path")
}

refuse_problems() {
  local shown=("${problems_here[@]}")
  ((${#problems[@]} + ${#shown[@]})) || return 0
  # What is wrong with the settings, one node says for all.
  [[ $node_index != 0 ]] || shown=("${problems[@]}" "${shown[@]}")
  if ((${#shown[@]} && ${SLURM_LOCALID:-0} == 0)); then
    { echo "error: $(basename "$launcher") cannot start:"; printf '  - %s\n' "${shown[@]}"; } >&2
  fi
  [[ ${#problems[@]} != 0 ]] || tell_other_nodes "$THIS_NODE could not start: ${problems_here[*]}"
  exit $EXIT_SETTINGS
}

is_count() { [[ $1 =~ ^[1-9][0-9]*$ ]]; }

# --- where am I

# A batch shell and the shell of salloc have no step, or one of the special ones at the top of the numbers.
in_step() { [[ -n ${SLURM_JOB_ID:-} ]] && ((${SLURM_STEP_ID:-4294967295} < 4294967290)); }
in_allocation() { [[ -n ${SLURM_JOB_ID:-} ]] && ! in_step; }

find_nodes() { # sets nodes and node_index
  nodes=("$THIS_NODE") node_index=0
  if in_step; then
    mapfile -t nodes < <(scontrol show hostnames "$SLURM_STEP_NODELIST")
    node_index=$SLURM_NODEID
    [[ $SLURM_STEP_TASKS_PER_NODE =~ ^1(\(x[0-9]+\))?$ ]] ||
      problems+=("the step has $SLURM_STEP_TASKS_PER_NODE tasks a node, and one is needed: srun --ntasks-per-node=1")
  elif in_allocation; then
    mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
  fi
}

find_groups() { # sets processes (of a group on a node), groups_per_node, all_groups and first_group (of this launch)
  local node_count=${#nodes[@]} launch_groups
  processes=1 groups_per_node=1 all_groups=1 first_group=0
  [[ $NODES_PER_GROUP != all ]] || NODES_PER_GROUP=$node_count
  count_processes || return 0
  if ! is_count "$NODES_PER_GROUP" || ((node_count % NODES_PER_GROUP)); then
    problems+=("$node_count nodes do not divide into groups of NODES_PER_GROUP=$NODES_PER_GROUP nodes:$(nearest_nodes)")
    return 0
  fi
  launch_groups=$((node_count / NODES_PER_GROUP * groups_per_node)) all_groups=$launch_groups
  [[ -z ${SLURM_ARRAY_TASK_ID:-} || $script != "$STEP2"/* ]] || find_groups_of_array
}

nearest_nodes() {
  ! is_count "$NODES_PER_GROUP" || echo " ask for a multiple of $NODES_PER_GROUP, such as" \
    "$(((${#nodes[@]} / NODES_PER_GROUP + 1) * NODES_PER_GROUP))"
}

count_processes() { # one a GPU; in the allocation's own shell the nodes' GPUs are not visible yet
  local visible
  mapfile -t devices < <(visible_devices)
  visible=${#devices[@]}
  GPUS_PER_NODE=${GPUS_PER_NODE:-$((visible > 0 ? visible : 1))}
  if ! is_count "$GPUS_PER_NODE"; then
    problems+=("GPUS_PER_NODE is $GPUS_PER_NODE: give 1 or more")
    return 1
  elif ! in_allocation && ((visible > 0 && GPUS_PER_NODE > visible)); then
    problems_here+=("GPUS_PER_NODE is $GPUS_PER_NODE, and $visible GPUs are visible on $THIS_NODE")
  fi
  processes=$GPUS_PER_NODE
  [[ -n ${GPUS_PER_GROUP:-} ]] && ! in_allocation || return 0
  if ! is_count "$GPUS_PER_GROUP" || ((GPUS_PER_NODE % GPUS_PER_GROUP)) || [[ $NODES_PER_GROUP != 1 ]]; then
    problems+=("groups of GPUS_PER_GROUP=$GPUS_PER_GROUP do not fit nodes with GPUS_PER_NODE=$GPUS_PER_NODE:$(
      ) one must divide the other, and NODES_PER_GROUP (which is $NODES_PER_GROUP) must be 1")
    return 1
  fi
  processes=$GPUS_PER_GROUP groups_per_node=$((GPUS_PER_NODE / GPUS_PER_GROUP))
}

visible_devices() { # as Slurm or the user chose them
  if [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
    tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | sed '/^$/d'
  else
    nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null || true
  fi
}

find_groups_of_array() { # each array task is a launch with as many groups
  local tasks=${ARRAY_SIZE:-$SLURM_ARRAY_TASK_COUNT}
  if ! is_count "$tasks" || ((SLURM_ARRAY_TASK_ID >= tasks)); then
    problems+=("array task $SLURM_ARRAY_TASK_ID is not one of 0 to $((tasks - 1)): number the tasks from 0, or$(
      ) set ARRAY_SIZE to the size of the whole array")
  fi
  all_groups=$((all_groups * tasks)) first_group=$((SLURM_ARRAY_TASK_ID * all_groups / tasks))
}

# --- in an allocation: one job step, then perhaps another life of the job

run_as_step() { # ARGUMENT...
  # Since Slurm 22.05 srun no longer takes a task's CPUs from the job.
  [[ -z ${SLURM_CPUS_PER_TASK:-} ]] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
  srun --export=ALL --nodes="${#nodes[@]}" --ntasks="${#nodes[@]}" --ntasks-per-node=1 --cpu-bind=none \
    --kill-on-bad-exit=0 --wait=0 bash "$launcher" "$@" &
  step=$!
  trap 'interrupted=1; kill -USR2 $step 2>/dev/null || true' $DRAIN_SIGNALS # srun hands it on to its tasks
  wait_for $step
  requeue_after "$status"
  exit "$status"
}

wait_for() { # PID: its exit code in `status`, however many signals arrive meanwhile
  interrupted=1
  while [[ $interrupted ]]; do
    interrupted='' status=0
    wait "$1" || status=$?
  done
}

requeue_after() { # EXIT_CODE
  local failures=$state.failures
  (($1 != 0 && $1 != EXIT_SETTINGS)) && can_requeue || return 0
  if (($1 == EXIT_DRAINED)); then
    echo "drained: job $SLURM_JOB_ID goes back to the queue and then on from here"
  else
    mkdir -p "$LOG_DIR"
    echo "$(date '+%F %T') exit code $1 on ${nodes[*]}" >>"$failures"
    if (($(wc -l <"$failures") > ${RETRIES:-2})); then
      echo "error: failed again, after RETRIES=${RETRIES:-2}; see $failures" >&2
      return 0
    fi
    echo "failed with exit code $1: job $SLURM_JOB_ID goes back to the queue to try again" >&2
  fi
  # An array's last task has the array's own number, which would requeue all of its tasks.
  scontrol requeue "${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_}${SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}"
}

can_requeue() { # a batch job that nobody has cancelled and whose time is not over, in this same life: after a node
  # failure this shell may live on beside the job's next life, which it must leave alone
  local record
  record=$(scontrol show job --oneliner "$SLURM_JOB_ID" | sed -n "/^JobId=$SLURM_JOB_ID /p")
  [[ $record == *" JobState=RUNNING "* && $record == *" Requeue=1 "* && $record == *" BatchFlag=1 "* ]] &&
    [[ $record == *" Restarts=${SLURM_RESTART_COUNT:-0} "* ]]
}

# shellcheck source=run_ranks.sh
source "$ROOT/scripts/run_ranks.sh"
