#!/usr/bin/env bash
#SBATCH --job-name=self_align_70b --output=%x-%j.out --open-mode=append
#SBATCH --nodes=64 --ntasks-per-node=1 --gres=gpu:6 --exclusive --mem=0
#SBATCH --time=6:00:00 --requeue --signal=B:USR1@300
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
# Settings: README.md in this folder. Arguments go to generate_self_align_response.py.
set -euo pipefail
launcher=$0 # under sbatch a copy of this file; Slurm knows where the original lies
[[ $0 != */slurm_script ]] || launcher=$(scontrol show job "$SLURM_JOB_ID" | sed -n '0,/^ *Command=/s/^ *Command=//p')
# shellcheck source-path=SCRIPTDIR source=slurm_launch.sh
source "$(dirname "${launcher%" $*"}")/slurm_launch.sh"
launch_generation llama2_70b_self_align 2 '' "$@" # nodes and GPUs that hold the model, if their memory is not known
