#!/usr/bin/env bash
#SBATCH --job-name=answer_questions --output=%x-%j.out --open-mode=append
#SBATCH --nodes=1 --ntasks-per-node=1 --gres=gpu:8 --exclusive --mem=0
#SBATCH --time=4:00:00 --requeue --signal=B:USR1@300
#
# Answers a benchmark's questions with a finished (exported) model, in the files that FastChat's and AlpacaEval's judges
# read. Every GPU holds the model and answers its share. Started again, it goes on where it was.
#
#   bash scripts/answer_questions.sh MODEL QUESTIONS [OUTPUT [ARGUMENT...]]   on this machine, or in an allocation
#   sbatch scripts/answer_questions.sh MODEL QUESTIONS [OUTPUT [ARGUMENT...]]
#
# QUESTIONS: FastChat's question.jsonl (one turn or more), AlpacaEval's list, prompt records, or a text with one a line.
# OUTPUT: a folder; default QUESTIONS_MODEL in this one. Arguments go to generate_self_align_response.py. Settings:
# PROMPT_FILE (the system prompt), GPUS_PER_GROUP for a model larger than a GPU, and those in README.md.
set -euo pipefail
launcher=$0 # under sbatch a copy of this file; Slurm knows where the original lies
[[ $0 != */slurm_script ]] || launcher=$(scontrol show job "$SLURM_JOB_ID" | sed -n '0,/^ *Command=/s/^ *Command=//p')
ROOT=$(cd -P "$(dirname "${launcher%" $*"}")/.." && pwd)
STEP2=$ROOT/step2_principle_driven_self_alignment
EXIT_NO_SUCH_TURN=3

if (($# < 2)); then
  echo "error: usage: bash scripts/answer_questions.sh MODEL QUESTIONS [OUTPUT [ARGUMENT...]]" >&2
  exit 2
fi
MODEL_DIR=$(realpath -m "$1") questions=$2
export MODEL_DIR
model=$(basename "$MODEL_DIR") stem=$(basename "${questions%.*}")
output=${3:-${stem}_$model}
shift $(($# < 3 ? $# : 3))
PROMPT_FILE=${PROMPT_FILE:-$ROOT/prompts/inference_prompts/dromedary_standard_distill.txt}
PYTHON=${PYTHON:-$ROOT/.venv/bin/python}
command -v "$PYTHON" >/dev/null || PYTHON=python3

mkdir -p "$output"
for ((turn = 1; ; turn++)); do
  code=0
  "$PYTHON" "$STEP2/compose_questions.py" --questions "$questions" --turn $turn --prompt_file "$PROMPT_FILE" \
    --responses "$output/turn_{turn}.jsonl" --output_file "$output/turn_$turn.json" || code=$?
  ((code != EXIT_NO_SUCH_TURN)) || break
  ((code == 0)) || exit $code
  bash "$ROOT/scripts/self_align_generate_8b_base.sh" --input_file "$output/turn_$turn.json" \
    --output_file "$output/turn_$turn.jsonl" --prompt_file "$PROMPT_FILE" --temperature 0 --max_new_tokens 1024 \
    --max_own_tokens 3072 "$@"
done
"$PYTHON" "$STEP2/collect_answers.py" --questions "$questions" --responses "$output/turn_{turn}.jsonl" \
  --model_name "$model" --output_dir "$output"
