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

SAMPLES=scripts/quickstart_data
BASE_MODEL=scripts/tiny_base_model/checkpoint
STEP1=step1_prompt_preparation STEP2=step2_principle_driven_self_alignment STEP3=step3_principle_engraving
PRINCIPLES=prompts/watson_self_align_prompt.txt
IDENTITY=dummy_data/vicuna_dummy_data.json
QUESTION="Who are you?"
LOGS=$OUTPUT_DIR/logs

main() {
  mkdir -p "$LOGS"
  prepare_prompts
  generate_responses
  merge_responses
  engrave
  export_model
  compare_replies
}

is_current() { # OUTPUT INPUT...: the output exists and no input is newer
  local output=$1 input
  shift
  [[ -e $output ]] || return 1
  for input; do [[ ! $input -nt $output ]] || return 1; done
}

stage() { # LOG COMMAND...: run quietly, with a clock where somebody watches; show the log's end on failure
  local log=$LOGS/$1.log pid start=$SECONDS rc=0
  shift
  "$PYTHON" "$@" >"$log" 2>&1 &
  pid=$!
  trap 'kill $pid 2>/dev/null' EXIT
  while [[ -t 1 ]] && kill -0 "$pid" 2>/dev/null; do
    printf '\r  %s … %d s ' "$(basename "$1" .py)" $((SECONDS - start))
    sleep 1
  done
  wait "$pid" || rc=$?
  trap - EXIT
  [[ ! -t 1 ]] || printf '\r%60s\r' ''
  ((rc == 0)) || { tail -n 20 "$log" >&2; fail "$1 ended with exit code $rc; its whole output is in $log"; }
}

records() { # FILE: how many records a JSON array or JSONL file holds
  "$PYTHON" -c 'import json, sys
path = sys.argv[1]
with open(path, encoding="utf-8") as file:
    print(sum(1 for _ in file) if path.endswith("l") else len(json.load(file)))' "$1"
}

prepare_prompts() {
  local openorca=$OUTPUT_DIR/openorca_prompts.json sharegpt=$OUTPUT_DIR/sharegpt_prompts.json
  PROMPTS=$OUTPUT_DIR/merged_prompts.json
  if ! is_current "$PROMPTS" $SAMPLES/* $STEP1/*.py; then
    stage step1_openorca $STEP1/subsample_openorca_prompts.py --tokenizer_name $BASE_MODEL \
      --train_data_path $SAMPLES/openorca_sample.parquet --output_path "$openorca"
    stage step1_sharegpt $STEP1/aggregate_sharegpt_prompts.py \
      --data_files=$SAMPLES/sharegpt_value.json,$SAMPLES/sharegpt_markdown.json --output_path "$sharegpt"
    stage step1_merge $STEP1/clean_and_merge_prompts.py --tokenizer_name $BASE_MODEL \
      --sharegpt_prompt_path "$sharegpt" --openorca_prompt_path "$openorca" \
      --dolly_data $SAMPLES/dolly_sample.jsonl --oasst_data $SAMPLES/oasst_sample.jsonl \
      --output_file "$PROMPTS"
  fi
  echo "step 1  prompts    $(records "$PROMPTS") prompts in $PROMPTS"
}

generate_responses() {
  if ! is_current "$OUTPUT_DIR/responses.manifest.json" "$PROMPTS" $PRINCIPLES $BASE_MODEL/*; then
    rm -f "$OUTPUT_DIR"/responses*
  fi
  if ! grep -sq '"finished": true' "$OUTPUT_DIR"/responses_1shards_*.status.json; then
    stage step2_generate $STEP2/generate_self_align_response.py --model_dir $BASE_MODEL \
      --input_file "$PROMPTS" --output_file "$OUTPUT_DIR/responses.jsonl"
  fi
  RESPONSES=("$OUTPUT_DIR"/responses_1shards_*.jsonl) # one a launch: more than one after an interruption
  echo "step 2  generate   $(cat "${RESPONSES[@]}" | wc -l) responses in ${RESPONSES[0]}"
}

merge_responses() {
  TRAINING_DATA=$OUTPUT_DIR/self_align_merged.json
  if ! is_current "$TRAINING_DATA" "${RESPONSES[@]}" $IDENTITY prompts/*.txt $STEP2/*.py; then
    stage step2_merge $STEP2/merge_and_filter_self_align_with_dummy.py \
      --data_file_pattern "$OUTPUT_DIR/responses_1shards_*.jsonl" --dummy_data_file $IDENTITY \
      --output_file "$TRAINING_DATA"
  fi
  echo "        merge      $(records "$TRAINING_DATA") training examples in $TRAINING_DATA"
  echo "                   how they were filtered: ${TRAINING_DATA%.json}.report.html"
}

split_off_examples() { # the last 64 of the shuffled examples are held out, to measure on
  "$PYTHON" -c 'import json, sys
merged, training, held_out = sys.argv[1:]
with open(merged, encoding="utf-8") as file:
    records = json.load(file)
for path, part in (training, records[:-64]), (held_out, records[-64:]):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(part, file, ensure_ascii=False)' "$@"
}

engrave() {
  ENGRAVED=$OUTPUT_DIR/engraved
  local training=$OUTPUT_DIR/engraving_examples.json held_out=$OUTPUT_DIR/held_out_examples.json
  if ! is_current "$ENGRAVED/completed" "$TRAINING_DATA" $STEP3/*.py; then
    rm -rf "$ENGRAVED"
    split_off_examples "$TRAINING_DATA" "$training" "$held_out"
    stage step3_engrave $STEP3/finetune.py --model_name_or_path $BASE_MODEL --data_file "$training" \
      --eval_data_file "$held_out" --output_dir "$ENGRAVED" --full_finetune --learning_rate 2e-3 \
      --num_train_epochs 3 --per_device_train_batch_size 16 --gradient_accumulation_steps 1 \
      --max_grad_norm 1 --save_steps 100
  fi
  echo "step 3  engrave    $(engraving_result)"
  echo "                   in $ENGRAVED"
  echo "                   how the training went: $ENGRAVED/training_report.html"
}

engraving_result() { # how the reply to held-out prompts changed
  "$PYTHON" -c 'import json, sys
with open(sys.argv[1], encoding="utf-8") as file:
    summary = json.load(file)
before, after = summary["held_out_before"], summary["held_out_after"]
print("{} steps; held-out loss {:.2f} before, {:.2f} after; replies that end by themselves {:.0%}, {:.0%}".format(
    summary["steps"], before["loss"], after["loss"], before["replies_that_end"], after["replies_that_end"]))
' "$ENGRAVED/training_summary.json"
}

export_model() {
  EXPORTED=$OUTPUT_DIR/engraved_model
  if ! is_current "$EXPORTED/config.json" "$ENGRAVED/completed"; then
    stage step3_export $STEP3/export_model.py --model_name_or_path $BASE_MODEL \
      --adapter_dir "$ENGRAVED" --output_dir "$EXPORTED"
  fi
  echo "        export     a model for AutoModelForCausalLM in $EXPORTED"
}

reply_of() { # MODEL: its reply to the question, without the principles; kept in a file beside the logs
  local reply
  reply=$OUTPUT_DIR/reply_of_$(basename "$1").txt
  is_current "$reply" "$1/config.json" ||
    "$PYTHON" $STEP3/chat.py --model_name_or_path "$1" --prompt "$QUESTION" --max_new_tokens 80 \
      >"$reply" 2>"$LOGS/chat_$(basename "$1").log" ||
    { rm -f "$reply"; fail "chat.py failed; see $LOGS/chat_$(basename "$1").log"; }
  tr '\n' ' ' <"$reply" | cut -c 1-240
}

compare_replies() {
  printf '\n"%s", asked without any principles:\n' "$QUESTION"
  printf '  base model      %s\n' "$(reply_of $BASE_MODEL)"
  printf '  engraved model  %s\n' "$(reply_of "$EXPORTED")"
}

main "$@"
