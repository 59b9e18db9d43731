#!/usr/bin/env bash
#SBATCH --job-name=dromedary2_70b
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gres=gpu:8
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@600
#SBATCH --output=%x-%j.out
#
# Step 3 with a base model of 70 billion parameters: an adapter on its 4-bit weights, trained on the merged responses of
# step 2. Started again, it goes on from its last checkpoint.
#
#   export MODEL_DIR=/models/llama2_70b
#   salloc --nodes 1 --time 24:00:00 --gres=gpu:80g:8 srun bash scripts/finetune_dromedary2_70b_sft.sh
#   sbatch scripts/finetune_dromedary2_70b_sft.sh
#   bash scripts/finetune_dromedary2_70b_sft.sh --learning_rate 2e-4          # on this machine alone
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

launch_finetuning dromedary2_70b llama2_70b_self_align "$@"
