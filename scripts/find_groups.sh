# shellcheck shell=bash disable=SC2034,SC2154 # variables are shared with slurm_launch.sh
#
# Sourced by slurm_launch.sh: this launch's nodes, the GPUs that it may use, and how they make groups.

# A batch shell and the shell of salloc have no step, or one of the special ones at the top of the numbers.
in_step() { [[ -n ${SLURM_JOB_ID:-} ]] && ((${SLURM_STEP_ID:-4294967295} < 4294967290)); }
in_allocation() { [[ -n ${SLURM_JOB_ID:-} ]] && ! in_step; }

find_nodes() { # sets nodes and node_index
  nodes=("$THIS_NODE") node_index=0
  if in_step; then
    list_nodes "$SLURM_STEP_NODELIST" "${SLURM_STEP_NUM_NODES:-1}"
    node_index=$SLURM_NODEID
    [[ $SLURM_STEP_TASKS_PER_NODE =~ ^1(\(x[0-9]+\))?$ ]] ||
      problems+=("the step has $SLURM_STEP_TASKS_PER_NODE tasks a node, and one is needed: srun --ntasks-per-node=1")
  elif in_allocation; then
    list_nodes "$SLURM_JOB_NODELIST" "${SLURM_JOB_NUM_NODES:-1}"
    command -v srun >/dev/null || problems+=("there is no srun here (in a container?): start the launcher by srun")
  fi
}

list_nodes() { # NODELIST COUNT
  local index
  for ((index = 0; index < $2; index++)); do nodes[index]=$1; done
  (($2 > 1)) || return 0
  mapfile -t nodes < <(scontrol show hostnames "$1" 2>/dev/null || true)
  ((${#nodes[@]} != $2)) || return 0
  for ((index = 0; index < $2; index++)); do nodes[index]=$1; done
  problems+=("scontrol, which names the job's $2 nodes, does not work here (in a container?): make Slurm's commands$(
    ) and configuration visible here, or give every job one node (--nodes 1 --array)")
}

find_devices() { # DEVICE: sets devices, the GPUs of this node as Slurm or the user chose them, and device
  local answer
  device=$1 devices=() on_gpus=() job_gpus='' job_gres=''
  find_gpus_of_job
  if [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
    [[ $CUDA_VISIBLE_DEVICES == NoDevFiles || $CUDA_VISIBLE_DEVICES == -1 ]] ||
      IFS=, read -r -a devices <<<"$CUDA_VISIBLE_DEVICES"
  elif [[ $device != cpu && ($job_gpus != 0 || ${GPUS_PER_NODE:-}) ]] && command -v nvidia-smi >/dev/null; then
    if answer=$(nvidia-smi --query-gpu=index --format=csv,noheader 2>&1) && [[ $answer =~ ^[0-9[:space:]]+$ ]]; then
      mapfile -t devices <<<"$answer"
    else
      problems_here+=("nvidia-smi says: ${answer//$'\n'/ }. Mend that, or give --device cpu")
    fi
  fi
  [[ $device != cpu ]] || return 0
  ((${#devices[@]} == 0)) || on_gpus=(--device cuda) # never the CPU by accident
  if [[ $job_gpus == 0 && ! ${GPUS_PER_NODE:-} ]]; then
    problems+=("job $SLURM_JOB_ID has no GPUs: ask Slurm for them (--gres=gpu:8), or give --device cpu. Where Slurm$(
      ) does not manage the GPUs, set GPUS_PER_NODE")
  elif in_step && [[ ! ${GPUS_PER_NODE:-} ]] && ((${#devices[@]} < ${job_gpus:-0})); then
    problems_here+=("the step sees ${#devices[@]} of the job's $job_gpus GPUs: give them to srun$(
      ) (--gpus-per-node=$job_gpus), or set GPUS_PER_NODE to what it may use")
  fi
}

find_gpus_of_job() { # sets job_gres and job_gpus, of each node; empty where that is unknown or nodes differ
  local of_nodes item
  [[ ${SLURM_JOB_ID:-} ]] && show_job --details || return 0
  # What was asked for, else what was given: an exclusive job is given all.
  mapfile -t of_nodes < <(grep -o ' TresPerNode=[^ ]*' <<<"$record" | sed 's/^ TresPerNode=//; s,gres[:/],,g')
  [[ ${of_nodes:-} == *gpu:* ]] ||
    mapfile -t of_nodes < <(grep -o ' GRES=[^ ]*' <<<"$record" | sed 's/^ GRES=//; s/(IDX:[^)]*)//g')
  [[ ${#of_nodes[@]} -le 1 ]] || for item in "${of_nodes[@]}"; do [[ $item == "${of_nodes[0]}" ]] || return 0; done
  job_gpus=0
  for item in ${of_nodes:+${of_nodes[0]//,/ }}; do
    [[ $item == gpu:* && $item != *:0 ]] || continue
    job_gres+=${job_gres:+,}$item
    job_gpus=$((job_gpus + ${item##*:}))
  done
}

show_job() { # OPTION...: sets record
  record=$(scontrol show job --oneliner "$@" "$SLURM_JOB_ID" 2>/dev/null | sed -n "/^JobId=$SLURM_JOB_ID /p")
  [[ $record ]]
}

find_groups() { # sets processes (of a group on a node), groups_per_node, all_groups and first_group (of this launch)
  local node_count=${#nodes[@]} launch_groups
  processes=1 groups_per_node=1 all_groups=1 first_group=0
  GPUS_PER_NODE=${GPUS_PER_NODE:-$((${#devices[@]} > 0 ? ${#devices[@]} : 1))}
  [[ ${NODES_PER_GROUP:-} || ${GPUS_PER_GROUP:-} ]] || choose_group_size
  NODES_PER_GROUP=${NODES_PER_GROUP:-1}
  [[ $NODES_PER_GROUP != all ]] || NODES_PER_GROUP=$node_count
  count_processes || return 0
  if ! is_count "$NODES_PER_GROUP" || ((node_count % NODES_PER_GROUP)); then
    problems+=("$node_count nodes do not divide into groups of NODES_PER_GROUP=$NODES_PER_GROUP nodes:$(nearest_nodes)")
    return 0
  fi
  launch_groups=$((node_count / NODES_PER_GROUP * groups_per_node)) all_groups=$launch_groups
  [[ -z ${SLURM_ARRAY_TASK_ID:-} || $script != "$STEP2"/* ]] || find_groups_of_array
}

choose_group_size() { # the fewest GPUs that hold the model, where their memory is known
  local memory size
  ! in_allocation || return 0 # its step sees the GPUs
  NODES_PER_GROUP=$([[ ${SLURM_JOB_ID:-} ]] && echo "$usual_nodes" || echo 1) GPUS_PER_GROUP=$usual_gpus
  ((${#devices[@]})) && [[ $device != cpu && ${MODEL_DIR:-} ]] || return 0
  memory=$(nvidia-smi --query-gpu=memory.total --format=csv,noheader,nounits -i "${devices[0]}" 2>/dev/null) || return 0
  size=$("$PYTHON" "$ROOT/scripts/group_size.py" "$MODEL_DIR" "$memory" "$GPUS_PER_NODE" 2>/dev/null) || return 0
  read -r NODES_PER_GROUP GPUS_PER_GROUP <<<"$size"
  [[ ${SLURM_JOB_ID:-} ]] || NODES_PER_GROUP=1 # the generator's own plan says whether it fits
}

nearest_nodes() {
  ! is_count "$NODES_PER_GROUP" || echo " ask for a multiple of $NODES_PER_GROUP, such as" \
    "$(((${#nodes[@]} / NODES_PER_GROUP + 1) * NODES_PER_GROUP))"
}

count_processes() { # one a GPU; in the allocation's own shell the nodes' GPUs are not visible yet
  local visible=${#devices[@]}
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

find_groups_of_array() { # each array task is a launch with as many groups
  local tasks=${ARRAY_SIZE:-$SLURM_ARRAY_TASK_COUNT}
  if ! is_count "$tasks" || ((SLURM_ARRAY_TASK_ID >= tasks)); then
    problems+=("array task $SLURM_ARRAY_TASK_ID is not one of 0 to $((tasks - 1)): number the tasks from 0, or$(
      ) set ARRAY_SIZE to the size of the whole array")
  fi
  all_groups=$((all_groups * tasks)) first_group=$((SLURM_ARRAY_TASK_ID * all_groups / tasks))
}
