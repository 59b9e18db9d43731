#!/usr/bin/env bash
#SBATCH --job-name=dromedary2_70b --output=%x-%j.out --open-mode=append
#SBATCH --nodes=1 --ntasks-per-node=1 --gres=gpu:8 --exclusive --mem=0
#SBATCH --time=24:00:00 --requeue --signal=B:USR1@600
#
# Step 3 with a base model of 70 billion parameters: an adapter on its 4-bit weights, trained on the merged responses of
# step 2. Started again, it goes on from its last checkpoint.
#
#   export MODEL_DIR=/models/llama2_70b
#   salloc --nodes 1 --time 24:00:00 --gres=gpu:80g:8 srun bash scripts/finetune_dromedary2_70b_sft.sh
#   sbatch scripts/finetune_dromedary2_70b_sft.sh
#   bash scripts/finetune_dromedary2_70b_sft.sh --learning_rate 2e-4          # on this machine alone
#
# Settings: README.md in this folder. Arguments go to finetune.py.
set -euo pipefail
launcher=$0 # under sbatch a copy of this file; Slurm knows where the original lies
[[ $0 != */slurm_script ]] || launcher=$(scontrol show job "$SLURM_JOB_ID" | sed -n '0,/^ *Command=/s/^ *Command=//p')
# shellcheck source-path=SCRIPTDIR source=slurm_launch.sh
source "$(dirname "${launcher%" $*"}")/slurm_launch.sh"
launch_finetuning dromedary2_70b llama2_70b_self_align "$@"
