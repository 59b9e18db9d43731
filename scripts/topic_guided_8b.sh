#!/usr/bin/env bash
#SBATCH --job-name=topic_guided_8b --output=%x-%j.out --open-mode=append
#SBATCH --nodes=1 --ntasks-per-node=1 --gres=gpu:8 --exclusive --mem=0
#SBATCH --time=24:00:00 --requeue --signal=B:USR1@300
#
# Prompts from nothing, with a base model of 8 billion parameters: no prompt collection is needed. The result is
# DATA_DIR/synthetic_prompts.json, for clean_and_merge_prompts.py --synthetic_prompt_path.
#
#   export MODEL_DIR=/models/llama3_8b DATA_DIR=/data/topic_guided
#   sbatch scripts/topic_guided_8b.sh
#   bash scripts/topic_guided_8b.sh                 # in an allocation, or on this machine alone
#
# Settings: topic_guided.sh. Arguments go to generate_self_align_response.py.
set -euo pipefail
launcher=$0 # under sbatch a copy of this file; Slurm knows where the original lies
[[ $0 != */slurm_script ]] || launcher=$(scontrol show job "$SLURM_JOB_ID" | sed -n '0,/^ *Command=/s/^ *Command=//p')
# shellcheck source-path=SCRIPTDIR source=topic_guided.sh
source "$(dirname "${launcher%" $*"}")/topic_guided.sh"
make_prompts self_align_generate_8b_base.sh "$@"
