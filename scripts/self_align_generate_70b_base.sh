#!/usr/bin/env bash
#SBATCH --job-name=self_align_70b
#SBATCH --nodes=64
#SBATCH --ntasks-per-node=1
#SBATCH --gres=gpu:6
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time=6:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
#SBATCH --output=%x-%j.out
#
# Step 2 with a base model of 70 billion parameters: responses to all prompts. A group of two nodes holds the model
# once; each group answers its share of the prompts. Started again, it goes on where it was.
#
#   export MODEL_DIR=/models/llama2_70b
#   salloc --nodes 64 --time 6:00:00 --gres=gpu:32g:6 srun bash scripts/self_align_generate_70b_base.sh
#   sbatch scripts/self_align_generate_70b_base.sh
#   sbatch --nodes 2 --array 0-31 scripts/self_align_generate_70b_base.sh     # each group a job of its own
#   bash scripts/self_align_generate_70b_base.sh --limit 100                  # on this machine alone
#
# Settings (README.md in this folder lists them all): MODEL_DIR, DATA_DIR, NODES_PER_GROUP, GPUS_PER_NODE.
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

launch_generation llama2_70b_self_align 2 "$@" # 12 GPUs of 32 GB
