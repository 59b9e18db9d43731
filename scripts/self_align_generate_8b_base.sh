#!/usr/bin/env bash
#SBATCH --job-name=self_align_8b --output=%x-%j.out --open-mode=append
#SBATCH --nodes=1 --ntasks-per-node=1 --gres=gpu:8 --exclusive --mem=0
#SBATCH --time=24:00:00 --requeue --signal=B:USR1@300
#
# Step 2 with a base model of 8 billion parameters: responses to all prompts. Every GPU holds the model and answers its
# share of the prompts. Started again, it goes on where it was.
#
#   export MODEL_DIR=/models/llama3_8b
#   salloc --nodes 4 --time 6:00:00 --gres=gpu:8 srun bash scripts/self_align_generate_8b_base.sh
#   sbatch scripts/self_align_generate_8b_base.sh
#   sbatch --array 0-3 scripts/self_align_generate_8b_base.sh                 # each node a job of its own
#   bash scripts/self_align_generate_8b_base.sh --limit 100                   # on this machine alone
#
# Settings: README.md in this folder. Arguments go to generate_self_align_response.py.
set -euo pipefail
launcher=$0 # under sbatch a copy of this file; Slurm knows where the original lies
[[ $0 != */slurm_script ]] || launcher=$(scontrol show job "$SLURM_JOB_ID" | sed -n '0,/^ *Command=/s/^ *Command=//p')
# shellcheck source-path=SCRIPTDIR source=slurm_launch.sh
source "$(dirname "${launcher%" $*"}")/slurm_launch.sh"
launch_generation llama3_8b_self_align 1 1 "$@" # nodes and GPUs that hold the model, if their memory is not known
