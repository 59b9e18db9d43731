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
# shellcheck source=environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" # sets ROOT
STEP2=$ROOT/step2_principle_driven_self_alignment
STEP3=$ROOT/step3_principle_engraving
THIS_NODE=${SLURMD_NODENAME:-$(hostname)}
EXIT_SETTINGS=2 EXIT_DRAINED=75 KILLED_BY_USR1=138 KILLED_BY_USR2=140 ABORTED=134
DRAIN_SIGNALS="USR1 USR2 TERM INT HUP"
SECONDS_TO_EXPLAIN=5 # after the first failure, for the others to print what they know
asked_to_drain=''
trap 'asked_to_drain=1' $DRAIN_SIGNALS

# --- the two kinds of launches

launch_generation() { # NAME NODES_PER_GROUP GPUS_PER_GROUP ARGUMENT...: what a group takes if GPUs don't tell
  name=$1 script=$STEP2/generate_self_align_response.py arguments_of_group=generation_arguments
  usual_nodes=$2 usual_gpus=$3
  shift 3
  prompts=$(flag_value --input_file "${DATA_DIR:-$ROOT/step1_prompt_preparation}/merged_prompts.json" "$@")
  output=$(flag_value --output_file "${DATA_DIR:-$STEP2}/$name.jsonl" "$@")
  need_file "$prompts" "the prompts that step 1 writes. Set DATA_DIR to their folder, or give --input_file"
  launch "$@"
}

generation_arguments() {
  arguments=(--model_dir "$MODEL_DIR" --input_file "$prompts" --output_file "$output"
    --tensor_parallel "$world_size" --group_size "$all_groups" --group_rank "$group" "${on_gpus[@]}")
}

launch_finetuning() { # NAME RESPONSES ARGUMENT...: all nodes are one group
  name=$1 script=$STEP3/finetune.py arguments_of_group=finetuning_arguments
  data=$(flag_value --data_file "${DATA_DIR:-$STEP2}/${2}_merged.json" "${@:3}")
  output=$(flag_value --output_dir "${DATA_DIR:-$STEP3}/$name" "${@:3}")
  shift 2
  NODES_PER_GROUP=all GPUS_PER_GROUP=
  need_file "$data" "the training data that the merge of step 2 writes. Set DATA_DIR to its folder, or give --data_file"
  launch "$@"
}

finetuning_arguments() { # the published 128 examples a step, 4 at a time, or as near as the processes allow
  local at_once=$((4 * world_size))
  local accumulation=$(((128 + at_once / 2) / at_once))
  arguments=(--model_name_or_path "$MODEL_DIR" --data_file "$data" --output_dir "$output"
    --per_device_train_batch_size 4 --gradient_accumulation_steps $((accumulation > 0 ? accumulation : 1))
    "${on_gpus[@]}")
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
  LOG_DIR=${LOG_DIR:-$(dirname "$output")/logs}
  local array=${SLURM_ARRAY_JOB_ID:-${SLURM_JOB_ID:-}}
  log_name=$LOG_DIR/$name${array:+_job$array}
  state=$LOG_DIR/${name}_job${SLURM_JOB_ID:-}
  need_model
  need_data_dir
  need_python
  find_nodes
  find_devices "$(flag_value --device auto "$@")"
  find_groups
  refuse_problems
  if in_allocation; then run_as_step "$@"; else run_node "$@"; fi
}

# --- settings: everything that is wrong is said at once, before anything starts

problems=()      # with the settings, the same on all nodes
problems_here=() # with this node

need_model() {
  if [[ -z ${MODEL_DIR:-} ]]; then
    problems+=("MODEL_DIR is not set: the folder of the base model")
  elif [[ ! -d $MODEL_DIR ]]; then
    problems_here+=("MODEL_DIR is $MODEL_DIR, which is not a folder")
  fi
}

need_file() { # PATH WHAT
  [[ -f $1 || ! -d ${DATA_DIR:-/} ]] || problems_here+=("there is no file $1: $2")
}

need_data_dir() { # for the output and the logs, which make no folder in place of a missing one
  local folder probe
  folder=$(dirname "$output")
  probe=$folder/.can_be_written.$THIS_NODE.$$
  if [[ ! -d ${DATA_DIR:-/} ]]; then
    problems_here+=("DATA_DIR is $DATA_DIR, which is not a folder")
  elif [[ -d $folder ]] && ! touch "$probe" 2>/dev/null; then
    problems_here+=("$folder cannot be written to. Set DATA_DIR to a folder that can")
  fi
  rm -f "$probe" 2>/dev/null || true
}

need_python() {
  local problem
  PYTHON=${PYTHON:-$ROOT/.venv/bin/python}
  [[ $PYTHON != "$ROOT/.venv/bin/python" || -x $PYTHON ]] || PYTHON=python3
  problem=$(problem_of_python "$PYTHON")
  [[ ! $problem ]] || problems_here+=("$problem")
}

refuse_problems() {
  local shown=("${problems_here[@]}") where='' problem
  ((${#problems[@]} + ${#shown[@]})) || return 0
  if ((node_index == 0)); then # says what is wrong with the settings for all
    shown=("${problems[@]}" "${shown[@]}")
    note_problems "${shown[@]}"
  else
    shown=() where=" on $THIS_NODE"
    for problem in "${problems_here[@]}"; do said_by_first_node "$problem" || shown+=("$problem"); done
  fi
  if ((${#shown[@]} && ${SLURM_LOCALID:-0} == 0)); then
    { echo "error: $(basename "$launcher") cannot start$where:"; printf '  - %s\n' "${shown[@]}"; } >&2
  fi
  [[ ${#problems[@]} != 0 ]] || tell_other_nodes "$THIS_NODE could not start: ${problems_here[*]}"
  exit $EXIT_SETTINGS
}

# What is wrong with one node may be wrong with all, and DATA_DIR is no place to tell: a note in the user's cache is.
notes=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/self_align_launches
note=$notes/${SLURM_JOB_ID:-}.${SLURM_STEP_ID:-}.${SLURM_RESTART_COUNT:-0}

note_problems() { # PROBLEM...
  ((${#nodes[@]} > 1)) && in_step || return 0
  { rm -rf "$notes" && mkdir -p "$notes" && printf '%s\n' "$@" >"$note"; } 2>/dev/null || true
}

said_by_first_node() { # PROBLEM
  local tenths=100
  while [[ ! -s $note ]] && ((tenths-- > 0)); do sleep 0.1; done
  grep -Fxq -- "$1" "$note" 2>/dev/null
}

is_count() { [[ $1 =~ ^[1-9][0-9]*$ ]]; }

# --- in an allocation: one job step, then perhaps another life of the job

run_as_step() { # ARGUMENT...
  [[ ! $asked_to_drain ]] || finish_job $EXIT_DRAINED
  # Variables of this job, or of one that it was submitted from, would be options of srun: the step takes all it can.
  unset "${!SLURM_MEM_@}" "${!SLURM_GPU@}" "${!SLURM_CPU@}" "${!SRUN_@}" "${!SLURM_NTASKS_PER_@}" "${!SLURM_TRES_@}" \
    SLURM_GRES SLURM_DISTRIBUTION SLURM_HINT SLURM_THREADS_PER_CORE SLURM_CORE_SPEC SLURM_EXACT SLURM_EXCLUSIVE
  srun --export=ALL --nodes="${#nodes[@]}" --ntasks="${#nodes[@]}" --ntasks-per-node=1 --cpu-bind=none --mem=0 \
    ${job_gres:+"--gres=$job_gres"} --kill-on-bad-exit=0 --wait=0 bash "$launcher" "$@" &
  step=$!
  trap 'interrupted=1; [[ $asked_to_drain ]] || hand_on_drain; asked_to_drain=1' $DRAIN_SIGNALS
  [[ ! $asked_to_drain ]] || hand_on_drain
  wait_for $step
  ((status != KILLED_BY_USR2)) || [[ ! $asked_to_drain ]] || status=$EXIT_DRAINED # it came before the step had begun
  finish_job "$status"
}

hand_on_drain() { # to srun and so to its tasks; more than once, because none may listen yet
  (trap '' $DRAIN_SIGNALS && while kill -USR2 "$step" 2>/dev/null; do sleep 2; done) &
}

wait_for() { # PID: its exit code in `status`, however many signals arrive meanwhile
  interrupted=1
  while [[ $interrupted ]]; do
    interrupted='' status=0
    wait "$1" || status=$?
  done
}

finish_job() { # EXIT_CODE
  requeue_after "$1"
  exit "$1"
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
  show_job && [[ $record == *" JobState=RUNNING "* && $record == *" Requeue=1 "* && $record == *" BatchFlag=1 "* ]] &&
    [[ $record == *" Restarts=${SLURM_RESTART_COUNT:-0} "* ]]
}

# shellcheck source=find_groups.sh
source "$ROOT/scripts/find_groups.sh"
# shellcheck source=run_ranks.sh
source "$ROOT/scripts/run_ranks.sh"
