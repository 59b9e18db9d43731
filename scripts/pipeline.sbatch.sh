#!/usr/bin/env bash
# All three steps as a chain of dependent jobs. Run it on the login node; it submits and returns:
#
#   export MODEL_DIR=/models/llama2_70b DATA_DIR=/data/self_align
#   export OPENORCA_DATA=1M-GPT4-Augmented.parquet SHAREGPT_DATA=zetavg/ShareGPT-Processed
#   bash scripts/pipeline.sbatch.sh          # or, with a model of 8 billion parameters: pipeline.sbatch.sh 8b
#
# Every job begins when the one before has succeeded, and drains and requeues itself as its launcher says. Generation
# is an array: each task is a group or more with a share of the prompts, and Slurm runs as many at a time as there are
# nodes for. Run again, the pipeline goes on with what is not done. Settings: README.md in this folder.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
export ROOT
export PYTHON=${PYTHON:-$ROOT/.venv/bin/python}
export TQDM_MININTERVAL=30 TQDM_NCOLS=100 # few lines in the logs
ARRAY_TASKS=${ARRAY_TASKS:-32}
# Lists of words, which may be quoted as in a shell.
declare -a cpu_options="(--nodes=1 --ntasks=1 --cpus-per-task=8 --mem=64G --time=8:00:00 --requeue ${CPU_OPTIONS:-})"
declare -a generation_options="(${GENERATION_OPTIONS:-})" generation_arguments="(${GENERATION_ARGUMENTS:-})"
declare -a finetuning_options="(${FINETUNING_OPTIONS:-})" finetuning_arguments="(${FINETUNING_ARGUMENTS:-})"

main() {
  choose_model "${1:-70b}"
  refuse_problems
  prompts='' # no job to wait for
  if [[ -f $DATA_DIR/merged_prompts.json ]]; then
    echo "step 1  prompts    $DATA_DIR/merged_prompts.json is there already"
  else
    prompts=$(prepare_prompts)
    echo "step 1  prompts    job $prompts -> $DATA_DIR/merged_prompts.json"
  fi
  responses=$(submit "$prompts" --array="0-$((ARRAY_TASKS - 1))" --nodes="$NODES" "${generation_options[@]}" \
    --output="$DATA_DIR/logs/%x-%A_%a.out" "$ROOT/scripts/$GENERATION_LAUNCHER" "${generation_arguments[@]}")
  echo "step 2  responses  job $responses, $ARRAY_TASKS tasks -> $DATA_DIR/${NAME}_*shards_*.jsonl"
  merged=$(merge_responses)
  echo "        merge      job $merged -> $DATA_DIR/${NAME}_merged.json"
  model=$(submit "$merged" "${finetuning_options[@]}" "$ROOT/scripts/$FINETUNING_LAUNCHER" "${finetuning_arguments[@]}")
  echo "step 3  adapter    job $model -> $DATA_DIR/$ADAPTER"
  printf 'how far step 2 is:%s\n' "$(printf ' %q' "$PYTHON" \
    "$ROOT/step2_principle_driven_self_alignment/generation_progress.py" --output_file "$DATA_DIR/$NAME.jsonl")"
}

choose_model() { # SIZE
  case $1 in
    70b)
      GENERATION_LAUNCHER=self_align_generate_70b_base.sh FINETUNING_LAUNCHER=finetune_dromedary2_70b_sft.sh
      NODES=${NODES_PER_GROUP:-2} ADAPTER=dromedary2_70b
      export NAME=llama2_70b_self_align
      ;;
    8b)
      GENERATION_LAUNCHER=self_align_generate_8b_base.sh FINETUNING_LAUNCHER=finetune_8b_sft.sh
      NODES=1 ADAPTER=dromedary_8b
      export NAME=llama3_8b_self_align
      ;;
    *)
      echo "error: the model size is '$1': give 70b or 8b" >&2
      exit 2
      ;;
  esac
}

refuse_problems() { # of all stages, before the first job
  local problem problems=()
  command -v sbatch >/dev/null || problems+=("there is no sbatch here: run this on the cluster's login node")
  need_model
  need_data_dir
  problem=$(problem_of_python "$PYTHON")
  if [[ $problem ]]; then problems+=("$problem"); else check_arguments; fi
  [[ $ARRAY_TASKS =~ ^[1-9][0-9]*$ ]] || problems+=("ARRAY_TASKS is '$ARRAY_TASKS': give 1 or more")
  [[ -f ${DATA_DIR:-}/merged_prompts.json ]] || need_collections
  if ((${#problems[@]})); then
    { echo "error: the pipeline cannot start:"; printf '  - %s\n' "${problems[@]}"; } >&2
    exit 2
  fi
  MODEL_DIR=$(realpath "$MODEL_DIR") DATA_DIR=$(realpath "$DATA_DIR")
  export MODEL_DIR DATA_DIR
}

need_model() {
  if [[ ! -d ${MODEL_DIR:-} ]]; then
    problems+=("MODEL_DIR is '${MODEL_DIR:-}': set it to the folder of the base model")
  elif [[ ! -f $MODEL_DIR/config.json && ! -f $MODEL_DIR/params.json ]]; then
    problems+=("MODEL_DIR is '$MODEL_DIR', which holds neither config.json nor params.json: is it a model's folder?")
  elif ! compgen -G "${MODEL_DIR//\[/[[]}/*.safetensors" >/dev/null &&
    ! compgen -G "${MODEL_DIR//\[/[[]}/consolidated.*.pth" >/dev/null; then
    problems+=("MODEL_DIR is '$MODEL_DIR', which holds no weights (*.safetensors or consolidated.*.pth)")
  fi
}

need_data_dir() {
  if [[ ! -d ${DATA_DIR:-} ]]; then
    problems+=("DATA_DIR is '${DATA_DIR:-}': set it to a folder that all nodes see")
  elif ! mkdir -p "$DATA_DIR/logs" 2>/dev/null || [[ ! -w $DATA_DIR/logs ]]; then
    problems+=("DATA_DIR is '$DATA_DIR', which cannot be written to")
  fi
}

need_collections() { # a name with / that begins at this folder or the root is a file, others may be on the Hub
  local collection
  [[ ${OPENORCA_DATA:-} && ${SHAREGPT_DATA:-} ]] ||
    problems+=("OPENORCA_DATA and SHAREGPT_DATA are not both set, and DATA_DIR holds no merged_prompts.json to begin with")
  IFS=, read -r -a collections <<<"${OPENORCA_DATA:-},${SHAREGPT_DATA:-},${DOLLY_DATA:-},${OASST_DATA:-}"
  for collection in "${collections[@]}"; do
    [[ ! $collection =~ ^[./]|\.(json|jsonl|parquet|gz)$ || -e $collection ]] ||
      problems+=("there is no file or folder $collection")
  done
}

check_arguments() { # that a stage would refuse hours later
  local missing=$ROOT/no_such_data.json step2=step2_principle_driven_self_alignment
  declare -a merge_arguments="(${MERGE_ARGUMENTS:-})"
  try GENERATION_ARGUMENTS "$step2/generate_self_align_response.py" --model_dir "${MODEL_DIR:-}" \
    --output_file "$NAME.jsonl" "${generation_arguments[@]}" --input_file "$missing"
  try MERGE_ARGUMENTS "$step2/merge_and_filter_self_align_with_dummy.py" --output_file "$NAME.json" \
    "${merge_arguments[@]}" --data_file_pattern "$missing"
  try FINETUNING_ARGUMENTS step3_principle_engraving/finetune.py --model_name_or_path "${MODEL_DIR:-}" \
    --output_dir "$NAME" "${finetuning_arguments[@]}" --data_file "$missing"
}

try() { # VARIABLE SCRIPT ARGUMENT...: the script must complain of nothing but its missing data
  local answer
  answer=$("$PYTHON" "$ROOT/$2" "${@:3}" 2>&1 || true)
  [[ $answer == *no_such_data.json* || ! -d ${MODEL_DIR:-} ]] || problems+=("$1: ${answer%%$'\n'*}")
}

submit() { # JOB_BEFORE OPTION_OR_FILE...: the number of the job
  local after=() job
  [[ ! $1 ]] || after=(--dependency="afterok:$1" --kill-on-invalid-dep=yes)
  job=$(sbatch --parsable "${after[@]}" --output="$DATA_DIR/logs/%x-%j.out" "${@:2}")
  echo "${job%%;*}"
}

prepare_prompts() {
  submit '' --job-name=prepare_prompts "${cpu_options[@]}" <<'JOB'
#!/usr/bin/env bash
set -euxo pipefail
run() { "$PYTHON" "$ROOT/step1_prompt_preparation/$@"; }
run subsample_openorca_prompts.py --tokenizer_name "$MODEL_DIR" \
  --train_data_path "$OPENORCA_DATA" --output_path "$DATA_DIR/openorca_prompts.json"
run aggregate_sharegpt_prompts.py --data_files="$SHAREGPT_DATA" --output_path "$DATA_DIR/sharegpt_prompts.json"
run clean_and_merge_prompts.py --tokenizer_name "$MODEL_DIR" \
  --sharegpt_prompt_path "$DATA_DIR/sharegpt_prompts.json" --openorca_prompt_path "$DATA_DIR/openorca_prompts.json" \
  ${DOLLY_DATA:+--dolly_data "$DOLLY_DATA"} ${OASST_DATA:+--oasst_data "$OASST_DATA"} \
  --output_file "$DATA_DIR/merged_prompts.json"
JOB
}

merge_responses() {
  submit "$responses" --job-name=merge_responses "${cpu_options[@]}" <<'JOB'
#!/usr/bin/env bash
set -euxo pipefail
declare -a merge_arguments="(${MERGE_ARGUMENTS:-})"
"$PYTHON" "$ROOT/step2_principle_driven_self_alignment/merge_and_filter_self_align_with_dummy.py" \
  --data_file_pattern "${DATA_DIR//\[/[[]}/${NAME}_*shards_*.jsonl" \
  --dummy_data_file "$ROOT/dummy_data/vicuna_dummy_data.json" \
  --output_file "$DATA_DIR/${NAME}_merged.json" "${merge_arguments[@]}"
JOB
}

main "$@"
