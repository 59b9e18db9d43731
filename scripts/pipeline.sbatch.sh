#!/usr/bin/env bash
# shellcheck disable=SC2086 # the *_OPTIONS and *_ARGUMENTS are lists of words
#
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
export ROOT
ROOT=$(cd -P "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHON=${PYTHON:-$ROOT/.venv/bin/python}
export TQDM_MININTERVAL=30 TQDM_NCOLS=100 # bars that a log can bear
ARRAY_TASKS=${ARRAY_TASKS:-32}
CPU_OPTIONS="--nodes=1 --ntasks=1 --cpus-per-task=8 --mem=64G --time=8:00:00 --requeue ${CPU_OPTIONS:-}"

main() {
  choose_model "${1:-70b}"
  refuse_problems
  mkdir -p "$DATA_DIR/logs"
  prompts='' # no job to wait for
  if [[ -f $DATA_DIR/merged_prompts.json ]]; then
    echo "step 1  prompts    $DATA_DIR/merged_prompts.json is there already"
  else
    prompts=$(prepare_prompts)
    echo "step 1  prompts    job $prompts -> $DATA_DIR/merged_prompts.json"
  fi
  responses=$(submit "$prompts" --array="0-$((ARRAY_TASKS - 1))" --nodes="$NODES" ${GENERATION_OPTIONS:-} \
    "$ROOT/scripts/$GENERATION_LAUNCHER" ${GENERATION_ARGUMENTS:-})
  echo "step 2  responses  job $responses, $ARRAY_TASKS tasks -> $DATA_DIR/${NAME}_*shards_*.jsonl"
  merged=$(merge_responses)
  echo "        merge      job $merged -> $DATA_DIR/${NAME}_merged.json"
  model=$(submit "$merged" ${FINETUNING_OPTIONS:-} "$ROOT/scripts/$FINETUNING_LAUNCHER" ${FINETUNING_ARGUMENTS:-})
  echo "step 3  adapter    job $model -> $DATA_DIR/$ADAPTER"
  echo "how far step 2 is: $PYTHON $ROOT/step2_principle_driven_self_alignment/generation_progress.py" \
    "--output_file $DATA_DIR/$NAME.jsonl"
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

refuse_problems() {
  local problems=()
  command -v sbatch >/dev/null || problems+=("there is no sbatch here: run this on the cluster's login node")
  [[ -d ${MODEL_DIR:-} ]] || problems+=("MODEL_DIR is '${MODEL_DIR:-}': set it to the folder of the base model")
  [[ -d ${DATA_DIR:-} ]] || problems+=("DATA_DIR is '${DATA_DIR:-}': set it to a folder that all nodes see")
  [[ $ARRAY_TASKS =~ ^[1-9][0-9]*$ ]] || problems+=("ARRAY_TASKS is '$ARRAY_TASKS': give 1 or more")
  command -v "$PYTHON" >/dev/null || problems+=("there is no $PYTHON: run scripts/test.sh once, or set PYTHON")
  [[ -f ${DATA_DIR:-}/merged_prompts.json ]] || [[ ${OPENORCA_DATA:-} && ${SHAREGPT_DATA:-} ]] ||
    problems+=("OPENORCA_DATA and SHAREGPT_DATA are not both set, and DATA_DIR holds no merged_prompts.json to begin with")
  if ((${#problems[@]})); then
    { echo "error: the pipeline cannot start:"; printf '  - %s\n' "${problems[@]}"; } >&2
    exit 2
  fi
  MODEL_DIR=$(realpath "$MODEL_DIR") DATA_DIR=$(realpath "$DATA_DIR")
  export MODEL_DIR DATA_DIR
}

submit() { # JOB_BEFORE OPTION_OR_FILE...: the number of the job
  local after=() job
  [[ ! $1 ]] || after=(--dependency="afterok:$1" --kill-on-invalid-dep=yes)
  job=$(sbatch --parsable "${after[@]}" --output="$DATA_DIR/logs/%x-%j.out" "${@:2}")
  echo "${job%%;*}"
}

prepare_prompts() {
  submit '' --job-name=prepare_prompts $CPU_OPTIONS <<'JOB'
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
  submit "$responses" --job-name=merge_responses $CPU_OPTIONS <<'JOB'
#!/usr/bin/env bash
set -euxo pipefail
"$PYTHON" "$ROOT/step2_principle_driven_self_alignment/merge_and_filter_self_align_with_dummy.py" \
  --data_file_pattern "$DATA_DIR/${NAME}_*shards_*.jsonl" --dummy_data_file "$ROOT/dummy_data/vicuna_dummy_data.json" \
  --output_file "$DATA_DIR/${NAME}_merged.json" ${MERGE_ARGUMENTS:-}
JOB
}

main "$@"
