# shellcheck shell=bash disable=SC2154 # `launcher` is the sourcing script's
#
# Sourced by verbose_cloning_8b.sh and _70b.sh: the engraved model answers every prompt once more, at length, and the
# base model is then trained on that. Every step goes on where it was.
#
# Settings, by environment: MODEL_DIR (the exported engraved model), DATA_DIR, MERGED_FILE (the training records of
# step 2), ONLY_BELOW (characters: ask again only where the reply is shorter), and those of step 2's launchers
# (README.md in this folder).

ROOT=$(cd -P "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
STEP2=$ROOT/step2_principle_driven_self_alignment
DATA_DIR=${DATA_DIR:-$STEP2} MERGED_FILE=${MERGED_FILE:-${DATA_DIR}/self_align_merged.json}
PYTHON=${PYTHON:-$ROOT/.venv/bin/python}
PROMPT_FILE=${PROMPT_FILE:-$ROOT/prompts/verbose_cloning_prompt.txt}

clone_verbosely() { # GENERATION_LAUNCHER FINE_TUNING_LAUNCHER ARGUMENT...: arguments go to the generator
  local generate=$ROOT/scripts/$1 finetune=$2 requests=$DATA_DIR/verbose_requests.json
  shift 2
  [[ -f $requests ]] || "$PYTHON" "$STEP2/compose_verbose_requests.py" --input_file "$MERGED_FILE" \
    --output_file "$requests" ${ONLY_BELOW:+--only_below "$ONLY_BELOW"}
  bash "$generate" --input_file "$requests" --output_file "$DATA_DIR/verbose.jsonl" --prompt_file "$PROMPT_FILE" \
    --temperature 0.3 --top_p 0.7 "$@"
  "$PYTHON" "$STEP2/merge_and_filter_verbose_clone_output.py" --data_file_pattern "$DATA_DIR/verbose_*shards_*.jsonl" \
    --merged_file "$MERGED_FILE" --prompt_file "$PROMPT_FILE" --output_file "$DATA_DIR/verbose_merged.json"
  # The published recipe of this stage; the accumulation makes 768 examples a step of 8 processes with 4 each
  echo "Now train the base model, not the engraved one:
  MODEL_DIR=BASE_MODEL bash scripts/$finetune --data_file $DATA_DIR/verbose_merged.json --output_dir OUTPUT \\
    --target_max_len 768 --lora_r 16 --lora_target_modules q_proj,k_proj,v_proj,o_proj --learning_rate 4e-4 \\
    --lr_scheduler_type linear --warmup_steps 100 --gradient_accumulation_steps 24"
}
