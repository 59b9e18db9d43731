# shellcheck shell=bash disable=SC2154 # `launcher` is the sourcing script's
#
# Sourced by topic_guided_8b.sh and _70b.sh: prompts from nothing. Rounds of topics, then questions on the topics and
# Self-Instruct tasks; each round composes requests, lets the base model answer them, and harvests the answers. Every
# file is complete or absent, so the same command goes on where it was.
#
# Settings, by environment: DATA_DIR, ROUNDS, TOPICS_PER_TYPE, SELF_INSTRUCT_REQUESTS, TYPES_FILE, and those of step 2's
# launchers (README.md in this folder).

ROOT=$(cd -P "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
STEP1=$ROOT/step1_prompt_preparation PROMPTS=$ROOT/prompts
TYPES_FILE=${TYPES_FILE:-$PROMPTS/topic_guided/types.jsonl} DATA_DIR=${DATA_DIR:-$STEP1/topic_guided}
ROUNDS=${ROUNDS:-9} TOPICS_PER_TYPE=${TOPICS_PER_TYPE:-6000} SELF_INSTRUCT_REQUESTS=${SELF_INSTRUCT_REQUESTS:-30000}
PYTHON=${PYTHON:-$ROOT/.venv/bin/python}
EXIT_ENOUGH=3 # compose_topic_requests.py: no further round

make_prompts() { # GENERATION_LAUNCHER ARGUMENT...: arguments go to the generator
  generate=$ROOT/scripts/$1
  shift
  mkdir -p "$DATA_DIR"
  gather_topics "$@"
  ask_questions "$@"
  continue_seed_tasks "$@"
  step1 harvest_prompts.py --requests "$DATA_DIR/question_requests.json,$DATA_DIR/task_requests.json" \
    --responses "$DATA_DIR/question_responses_*shards_*.jsonl,$DATA_DIR/task_responses_*shards_*.jsonl" \
    --types_file "$TYPES_FILE" --output_file "$DATA_DIR/synthetic_prompts.json"
}

gather_topics() { # ARGUMENT...: sets `pool` to the last round's file
  local round code requests responses before=()
  for ((round = 1; round <= ROUNDS; round++)); do
    requests=$DATA_DIR/topic_requests_$round.json responses=$DATA_DIR/topic_responses_$round
    if [[ ! -f $DATA_DIR/topics_$round.jsonl ]]; then
      code=0
      [[ -f $requests ]] || step1 compose_topic_requests.py --round "$round" "${before[@]}" --types_file "$TYPES_FILE" \
        --topics_per_type "$TOPICS_PER_TYPE" --output_file "$requests" || code=$?
      ((code != EXIT_ENOUGH)) || break
      ((code == 0)) || exit "$code"
      answer "$requests" "$responses" "$PROMPTS/topic_guided/topic_prompt.txt" 128 256 "$@"
      step1 harvest_topics.py --requests "$requests" --responses "${responses}_*shards_*.jsonl" "${before[@]}" \
        --types_file "$TYPES_FILE" --output_file "$DATA_DIR/topics_$round.jsonl"
    fi
    before=(--pool "$DATA_DIR/topics_$round.jsonl")
  done
  pool=("${before[@]}")
}

ask_questions() { # ARGUMENT...
  local requests=$DATA_DIR/question_requests.json
  [[ -f $requests ]] || step1 compose_topic_guided_requests.py "${pool[@]}" --types_file "$TYPES_FILE" \
    --output_file "$requests"
  answer "$requests" "$DATA_DIR/question_responses" "${requests%.json}_prompt.txt" 320 512 "$@"
}

continue_seed_tasks() { # ARGUMENT...
  local requests=$DATA_DIR/task_requests.json
  [[ -f $requests ]] || step1 compose_self_instruct_requests.py --requests "$SELF_INSTRUCT_REQUESTS" \
    --output_file "$requests"
  answer "$requests" "$DATA_DIR/task_responses" "$PROMPTS/self_instruct/self_instruct_prompt.txt" 512 768 "$@"
}

answer() { # REQUESTS RESPONSES PROMPT_FILE NEW_TOKENS OWN_TOKENS ARGUMENT...: published sampling of these lists
  bash "$generate" --input_file "$1" --output_file "$2.jsonl" --prompt_file "$3" --max_new_tokens "$4" \
    --max_own_tokens "$5" --temperature 1.0 --top_p 0.98 "${@:6}"
}

step1() { "$PYTHON" "$STEP1/$1" "${@:2}"; }
