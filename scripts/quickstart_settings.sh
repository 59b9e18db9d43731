# shellcheck shell=bash disable=SC2034,SC2154 # variables are shared with quickstart.sh
# shellcheck source-path=SCRIPTDIR
#
# Sourced by quickstart.sh: its arguments, the recipes for the tiny and for a real model, and how a stage is run.

source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

read_arguments() {
  MODEL='' GIVEN_PROMPTS='' LIMIT='' OUTPUT_DIR=''
  while (($#)); do
    case $1 in
      --model | --prompts | --limit) [[ ${2:-} ]] || refuse "$1 needs a value" ;;&
      --model) MODEL=$(realpath -m "$2") && shift ;;
      --prompts) GIVEN_PROMPTS=$(realpath -m "$2") && shift ;;
      --limit) LIMIT=$2 && shift ;;
      -*) refuse "there is no option $1" ;;
      *) OUTPUT_DIR=$1 ;;
    esac
    shift
  done
  [[ $MODEL || ! $GIVEN_PROMPTS$LIMIT ]] || refuse "--prompts and --limit go with --model"
  [[ ! $MODEL || -f $MODEL/config.json || -f $MODEL/params.json ]] || refuse "--model $MODEL: no model's folder"
  [[ ! $GIVEN_PROMPTS || -f $GIVEN_PROMPTS ]] || refuse "--prompts $GIVEN_PROMPTS: no such file"
  [[ $LIMIT =~ ^([1-9][0-9]*)?$ ]] || refuse "--limit $LIMIT: give 1 or more"
  [[ ! $MODEL ]] || LIMIT=${LIMIT:-300}
  OUTPUT_DIR=$(realpath -m "${OUTPUT_DIR:-$ROOT/quickstart_output${MODEL:+_$(basename "$MODEL")}}")
  BASE_MODEL=${MODEL:-scripts/tiny_base_model/checkpoint} PROMPTS=${GIVEN_PROMPTS:-$OUTPUT_DIR/merged_prompts.json}
  RUN=$OUTPUT_DIR/responses MERGED=$OUTPUT_DIR/self_align_merged.json COMPARISON=$OUTPUT_DIR/comparison.json
  TRAINING_EXAMPLES=$OUTPUT_DIR/engraving_examples.jsonl HELD_OUT_EXAMPLES=$OUTPUT_DIR/held_out_examples.jsonl
  ENGRAVED=$OUTPUT_DIR/engraved EXPORTED=$OUTPUT_DIR/engraved_model LOGS=$OUTPUT_DIR/logs SETTINGS=$OUTPUT_DIR/settings
}

refuse() { # MESSAGE
  echo "error: $1; see the top of scripts/quickstart.sh" >&2
  exit 2
}

choose_recipe() {
  GENERATION=(--dtype float32) MERGE=(--identity_share 0.14) COMPARE=(--max_new_tokens 256) HELD_OUT=64 EVERY=1
  TRAINING=(--full_finetune --learning_rate 2e-3 --num_train_epochs 4 --per_device_train_batch_size 16
    --gradient_accumulation_steps 1 --max_grad_norm 1 --save_steps 100)
  [[ $MODEL ]] || return 0
  GENERATION=() MERGE=(--identity_share 0.2) COMPARE=(--max_new_tokens 256 --temperature 0)
  HELD_OUT=$((LIMIT / 20 + 1)) EVERY=3
  TRAINING=(--bits 16 --learning_rate 2e-4 --num_train_epochs 1 --per_device_train_batch_size 4
    --gradient_accumulation_steps 2 --save_steps 10)
}

expect_minutes() { # by the size of the weights; 300 prompts for 135 million parameters took half an hour on two cores
  local megabytes
  megabytes=$({ du -cmL "$MODEL"/*.safetensors "$MODEL"/*.pth 2>/dev/null || true; } | tail -n 1 | cut -f 1)
  if nvidia-smi >/dev/null 2>&1; then
    echo "        time       about $((2 + megabytes * LIMIT / 1000000)) minutes on a GPU, for all that follows"
  else
    echo "        time       about $((2 + megabytes * LIMIT / 2000 / $(nproc))) minutes on $(nproc) cores, for all that follows"
  fi
}

is_current() { # STAGE OUTPUT INPUT...: the stage has run, its output is there, and no input is newer
  local input
  [[ -e $2 && -e $LOGS/$1.log ]] || return 1
  for input in "${@:3}"; do [[ ! $input -nt $LOGS/$1.log ]] || return 1; done
}

records() { cat "$@" | grep -c '"instruction": '; } # one a line

run() { # STAGE SCRIPT ARGUMENT...: quietly, with a clock where somebody watches; its log stands once it has succeeded
  local log=$LOGS/$1.log start=$SECONDS process code=0
  "$PYTHON" "${@:2}" >"$log.part" 2>&1 &
  process=$!
  trap 'kill $process 2>/dev/null' EXIT
  while [[ -t 2 ]] && kill -0 $process 2>/dev/null; do
    printf '  %s, %d s: %-60.60s\r' "$1" $((SECONDS - start)) "$(tail -c 200 "$log.part" | tr '\r' '\n' | tail -n 1)" >&2
    sleep 1
  done
  wait $process || code=$?
  trap - EXIT
  ((code == 0)) || { tail -n 20 "$log.part" >&2; fail "$1 ended with exit code $code; its output is in $log.part"; }
  mv "$log.part" "$log"
}
