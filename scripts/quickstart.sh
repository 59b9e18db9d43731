#!/usr/bin/env bash
# The whole pipeline on two CPU cores: sample prompts, a tiny trained base model, the real principle prompt.
#
#   bash scripts/quickstart.sh [OUTPUT_DIR]      default: quickstart_output in the repository
#
# Sets up .venv first. Prints one line a stage; each stage's own output is in OUTPUT_DIR/logs. What is
# already there and newer than its inputs is used again.
set -euo pipefail
OUTPUT_DIR=$(realpath -m "${1:-$(dirname "${BASH_SOURCE[0]}")/../quickstart_output}")
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
prepare_environment requirements.txt
cd "$ROOT"

SAMPLES=scripts/quickstart_data BASE_MODEL=scripts/tiny_base_model/checkpoint
STEP1=step1_prompt_preparation STEP2=step2_principle_driven_self_alignment STEP3=step3_principle_engraving
IDENTITY=dummy_data/vicuna_dummy_data.json QUESTION="Who are you?"
PROMPTS=$OUTPUT_DIR/merged_prompts.json MANIFEST=$OUTPUT_DIR/responses.manifest.json
TRAINING_DATA=$OUTPUT_DIR/self_align_merged.json LOGS=$OUTPUT_DIR/logs
ENGRAVED=$OUTPUT_DIR/engraved EXPORTED=$OUTPUT_DIR/engraved_model

main() {
  mkdir -p "$LOGS"
  is_current step1_merge "$PROMPTS" $SAMPLES/* $STEP1/*.py || prepare_prompts
  echo "step 1  prompts    $(records "$PROMPTS") prompts in $PROMPTS"
  is_current step2_generate "$MANIFEST" "$PROMPTS" prompts/*.txt $BASE_MODEL/* || generate_responses
  echo "step 2  generate   $(records "$OUTPUT_DIR"/responses_*shards_*.jsonl) responses in $OUTPUT_DIR/responses_*.jsonl"
  is_current step2_merge "$TRAINING_DATA" "$LOGS/step2_generate.log" $IDENTITY prompts/*.txt $STEP2/*.py || merge_responses
  echo "        merge      $(records "$TRAINING_DATA") training examples in $TRAINING_DATA"
  echo "                   how they were filtered: ${TRAINING_DATA%.json}.report.html"
  is_current step3_engrave "$ENGRAVED/completed" "$TRAINING_DATA" $STEP3/*.py || engrave
  sed -n 's/^INFO held out, /step 3  engrave    held-out examples /p' "$LOGS/step3_engrave.log"
  echo "                   how the training went: $ENGRAVED/training_report.html"
  is_current step3_export "$EXPORTED/config.json" "$ENGRAVED/completed" || export_model
  echo "        export     a model for AutoModelForCausalLM in $EXPORTED"
  printf '\n"%s", asked without any principles:\n' "$QUESTION"
  printf '  base model      %s\n' "$(reply_of $BASE_MODEL)"
  printf '  engraved model  %s\n' "$(reply_of "$EXPORTED")"
}

prepare_prompts() {
  local openorca=$OUTPUT_DIR/openorca_prompts.json sharegpt=$OUTPUT_DIR/sharegpt_prompts.json
  run step1_openorca $STEP1/subsample_openorca_prompts.py --tokenizer_name $BASE_MODEL \
    --train_data_path $SAMPLES/openorca_sample.parquet --output_path "$openorca"
  run step1_sharegpt $STEP1/aggregate_sharegpt_prompts.py \
    --data_files=$SAMPLES/sharegpt_value.json,$SAMPLES/sharegpt_markdown.json --output_path "$sharegpt"
  run step1_merge $STEP1/clean_and_merge_prompts.py --tokenizer_name $BASE_MODEL \
    --sharegpt_prompt_path "$sharegpt" --openorca_prompt_path "$openorca" \
    --dolly_data $SAMPLES/dolly_sample.jsonl --oasst_data $SAMPLES/oasst_sample.jsonl --output_file "$PROMPTS"
}

generate_responses() {
  rm -f "$OUTPUT_DIR"/responses*
  run step2_generate $STEP2/generate_self_align_response.py --model_dir $BASE_MODEL \
    --input_file "$PROMPTS" --output_file "$OUTPUT_DIR/responses.jsonl" --dtype float32
}

merge_responses() {
  run step2_merge $STEP2/merge_and_filter_self_align_with_dummy.py --dummy_data_file $IDENTITY \
    --data_file_pattern "$OUTPUT_DIR/responses_*shards_*.jsonl" --output_file "$TRAINING_DATA"
}

engrave() { # with the last 64 of the shuffled examples held out, to measure on
  local training=$OUTPUT_DIR/engraving_examples.jsonl held_out=$OUTPUT_DIR/held_out_examples.jsonl
  rm -rf "$ENGRAVED"
  sed '/^[][]$/d; s/,$//' "$TRAINING_DATA" | head -n -64 >"$training"
  sed '/^[][]$/d; s/,$//' "$TRAINING_DATA" | tail -n 64 >"$held_out"
  run step3_engrave $STEP3/finetune.py --model_name_or_path $BASE_MODEL --data_file "$training" \
    --eval_data_file "$held_out" --output_dir "$ENGRAVED" --full_finetune --learning_rate 2e-3 --num_train_epochs 3 \
    --per_device_train_batch_size 16 --gradient_accumulation_steps 1 --max_grad_norm 1 --save_steps 100
}

export_model() {
  run step3_export $STEP3/export_model.py --model_name_or_path $BASE_MODEL --adapter_dir "$ENGRAVED" \
    --output_dir "$EXPORTED"
}

reply_of() { # MODEL: its reply to the question, without the principles
  local stage reply
  stage=chat_$(basename "$1") reply=$OUTPUT_DIR/reply_of_$(basename "$1").txt
  is_current "$stage" "$reply" "$1/config.json" || {
    run "$stage" $STEP3/chat.py --model_name_or_path "$1" --prompt "$QUESTION" --max_new_tokens 80
    cp "$LOGS/$stage.log" "$reply"
  }
  tr '\n' ' ' <"$reply" | cut -c 1-240
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
    printf '  %s, %d s \r' "$1" $((SECONDS - start)) >&2
    sleep 1
  done
  wait $process || code=$?
  trap - EXIT
  ((code == 0)) || { tail -n 20 "$log.part" >&2; fail "$1 ended with exit code $code; its output is in $log.part"; }
  mv "$log.part" "$log"
}

main "$@"
