#!/usr/bin/env bash
#SBATCH --job-name=dromedary_8b
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gres=gpu:8
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
#SBATCH --output=%x-%j.out
#
# Step 3 with a base model of 8 billion parameters: an adapter on its weights, trained on the merged responses of step 2.
# Started again, it goes on from its last checkpoint.
#
#   export MODEL_DIR=/models/llama3_8b
#   salloc --nodes 1 --time 12:00:00 --gres=gpu:8 srun bash scripts/finetune_8b_sft.sh
#   sbatch scripts/finetune_8b_sft.sh
#   bash scripts/finetune_8b_sft.sh --learning_rate 2e-4                      # on this machine alone
#
# Settings (README.md in this folder lists them all): MODEL_DIR, DATA_DIR, GPUS_PER_NODE. Arguments go to finetune.py.
set -euo pipefail
launcher=${BASH_SOURCE[0]}
if [[ $launcher == */slurm_script ]]; then # sbatch runs a copy; Slurm knows where the original lies
  record=$(scontrol show job "$SLURM_JOB_ID")
  [[ $record =~ Command=([^$'\n']+) ]]
  launcher=${BASH_REMATCH[1]%" $*"}
fi
# shellcheck source-path=SCRIPTDIR source=slurm_launch.sh
source "$(dirname "$launcher")/slurm_launch.sh"

launch_finetuning dromedary_8b llama3_8b_self_align --bits 16 "$@"
