#!/usr/bin/env bash
# The whole pipeline on two CPU cores: sample prompts, a tiny trained base model, the real principle prompt; or the same
# story with a real model, a few hundred prompts and an adapter.
#
#   bash scripts/quickstart.sh [OUTPUT_DIR]                     default: quickstart_output in the repository
#   bash scripts/quickstart.sh --model MODEL_DIR [--prompts FILE] [--limit N] [OUTPUT_DIR]
#
# --prompts: prompt records (.json, .jsonl, .parquet) instead of the samples; --limit: how many of them (300).
#
# Sets up .venv first. Prints a line or two a stage; each stage's own output is in OUTPUT_DIR/logs. What is there already
# and newer than its inputs is used again, and what was interrupted goes on where it was.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/quickstart_settings.sh"
SAMPLES=scripts/quickstart_data IDENTITY=dummy_data/vicuna_dummy_data.json
STEP1=step1_prompt_preparation STEP2=step2_principle_driven_self_alignment STEP3=step3_principle_engraving

main() {
  read_arguments "$@"
  prepare_environment requirements.txt
  cd "$ROOT"
  mkdir -p "$LOGS"
  [[ $(cat "$SETTINGS" 2>/dev/null) == "$MODEL $GIVEN_PROMPTS $LIMIT" ]] ||
    echo "$MODEL $GIVEN_PROMPTS $LIMIT" >"$SETTINGS"
  choose_recipe

  if [[ ! $GIVEN_PROMPTS ]]; then
    is_current step1_merge "$PROMPTS" $SAMPLES/* $STEP1/*.py || prepare_prompts
    echo "step 1  prompts    $(records "$PROMPTS") prompts in $PROMPTS"
  fi
  [[ ! $MODEL ]] || is_current step2_generate "$RUN.manifest.json" "$PROMPTS" "$SETTINGS" || expect_minutes
  is_current step2_generate "$RUN.manifest.json" "$PROMPTS" prompts/*.txt "$BASE_MODEL"/* "$SETTINGS" || generate_responses
  echo "step 2  generate   $(records "$RUN"_*shards_*.jsonl) responses in ${RUN}_*.jsonl," \
    "$(grep -o -m 1 'computing on[^,]*' "$LOGS/step2_generate.log")"
  is_current step2_merge "$MERGED" "$LOGS/step2_generate.log" $IDENTITY prompts/*.txt $STEP2/*.py || merge_responses
  echo "        merge      $(records "$MERGED") training examples in $MERGED"
  echo "                   how they were filtered: ${MERGED%.json}.report.html"
  echo "                   $(grep -o 'base model: .*' "$LOGS/step2_merge.log")"
  is_current step3_engrave "$ENGRAVED/completed" "$MERGED" $STEP3/*.py || engrave
  echo "step 3  engrave    how the training went: $ENGRAVED/training_report.html"
  is_current step3_export "$EXPORTED/config.json" "$ENGRAVED/completed" || export_model
  echo "        export     a model for AutoModelForCausalLM in $EXPORTED"
  is_current step3_compare "$COMPARISON" "$EXPORTED/config.json" prompts/comparison/* || compare_replies
  echo "        compare    on prompts that it was not trained on; side by side in ${COMPARISON%.json}.html"
  sed -n '/ base /,/^$/p' "$LOGS/step3_compare.log" | sed '/^$/q; s/^/  /'
}

prepare_prompts() {
  local openorca=$OUTPUT_DIR/openorca_prompts.json sharegpt=$OUTPUT_DIR/sharegpt_prompts.json
  run step1_openorca $STEP1/subsample_openorca_prompts.py --tokenizer_name "$BASE_MODEL" \
    --train_data_path $SAMPLES/openorca_sample.parquet --output_path "$openorca"
  run step1_sharegpt $STEP1/aggregate_sharegpt_prompts.py \
    --data_files=$SAMPLES/sharegpt_value.json,$SAMPLES/sharegpt_markdown.json --output_path "$sharegpt"
  run step1_merge $STEP1/clean_and_merge_prompts.py --tokenizer_name "$BASE_MODEL" \
    --sharegpt_prompt_path "$sharegpt" --openorca_prompt_path "$openorca" \
    --dolly_data $SAMPLES/dolly_sample.jsonl --oasst_data $SAMPLES/oasst_sample.jsonl --output_file "$PROMPTS"
}

generate_responses() { # the responses to train on, and those of the base with principles, to compare with
  [[ ! -e $RUN.manifest.json || ! $(find "$PROMPTS" prompts/*.txt "$BASE_MODEL" -newer "$RUN.manifest.json") ]] ||
    rm -f "$OUTPUT_DIR"/responses*
  run step2_generate $STEP2/generate_self_align_response.py --model_dir "$BASE_MODEL" \
    --input_file "$PROMPTS" --output_file "$RUN.jsonl" "${GENERATION[@]}" ${LIMIT:+--limit "$LIMIT"}
}

merge_responses() {
  run step2_merge $STEP2/merge_and_filter_self_align_with_dummy.py --dummy_data_file $IDENTITY \
    --data_file_pattern "$OUTPUT_DIR/responses_*shards_*.jsonl" --output_file "$MERGED" "${MERGE[@]}"
}

engrave() { # with the last generated examples held out, to measure on: identity is too alike to be held out
  local all=$OUTPUT_DIR/all_examples.jsonl
  sed '/^[][]$/d; s/,$//' "$MERGED" >"$all"
  grep -v '"source": "dummy' "$all" | tail -n "$HELD_OUT" >"$HELD_OUT_EXAMPLES"
  grep -vxFf "$HELD_OUT_EXAMPLES" "$all" >"$TRAINING_EXAMPLES"
  [[ $ENGRAVED/run_fingerprint.json -nt $MERGED ]] || rm -rf "$ENGRAVED"
  run step3_engrave $STEP3/finetune.py --model_name_or_path "$BASE_MODEL" --data_file "$TRAINING_EXAMPLES" \
    --eval_data_file "$HELD_OUT_EXAMPLES" --output_dir "$ENGRAVED" "${TRAINING[@]}"
}

export_model() {
  run step3_export $STEP3/export_model.py --model_name_or_path "$BASE_MODEL" --adapter_dir "$ENGRAVED" \
    --output_dir "$EXPORTED"
}

compare_replies() { # and the base with principles on the same questions
  local questions
  rm -f "$OUTPUT_DIR"/asked_*
  for questions in unseen_prompts identity_questions; do
    sed -n "1~${EVERY}p" prompts/comparison/$questions.jsonl >"$OUTPUT_DIR/$questions.jsonl"
    run "step2_$questions" $STEP2/generate_self_align_response.py --model_dir "$BASE_MODEL" "${GENERATION[@]}" \
      --input_file "$OUTPUT_DIR/$questions.jsonl" --output_file "$OUTPUT_DIR/asked_$questions.jsonl"
  done
  run step3_compare $STEP3/compare_engraving.py --base_model "$BASE_MODEL" --engraved_model "$EXPORTED" \
    --training_file "$TRAINING_EXAMPLES" --held_out_file "$HELD_OUT_EXAMPLES" \
    --prompts_file "$OUTPUT_DIR/unseen_prompts.jsonl" --identity_file "$OUTPUT_DIR/identity_questions.jsonl" \
    --principle_responses "$OUTPUT_DIR/asked_*shards_*.jsonl" --output_file "$COMPARISON" "${COMPARE[@]}"
}

main "$@"
