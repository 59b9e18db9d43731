#!/usr/bin/env bash
#SBATCH --job-name=self_align_8b
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gres=gpu:8
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
#SBATCH --output=%x-%j.out
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
# Settings (README.md in this folder lists them all): MODEL_DIR, DATA_DIR, GPUS_PER_GROUP, GPUS_PER_NODE.
# Arguments go to generate_self_align_response.py.
set -euo pipefail
launcher=${BASH_SOURCE[0]}
if [[ $launcher == */slurm_script ]]; then # sbatch runs a copy; Slurm knows where the original lies
  record=$(scontrol show job "$SLURM_JOB_ID")
  [[ $record =~ Command=([^$'\n']+) ]]
  launcher=${BASH_REMATCH[1]%" $*"}
fi
# shellcheck source-path=SCRIPTDIR source=slurm_launch.sh
source "$(dirname "$launcher")/slurm_launch.sh"

GPUS_PER_GROUP=${GPUS_PER_GROUP:-1}
launch_generation llama3_8b_self_align 1 "$@"
