#!/usr/bin/env bash
#SBATCH --job-name=verbose_cloning_70b --output=%x-%j.out --open-mode=append
#SBATCH --nodes=2 --ntasks-per-node=1 --gres=gpu:8 --exclusive --mem=0
#SBATCH --time=24:00:00 --requeue --signal=B:USR1@300
#
# Long replies by the engraved model of 70 billion parameters (exported), on which a base model is then trained. The
# result is DATA_DIR/verbose_merged.json; the command that trains on it is printed at the end.
#
#   export MODEL_DIR=/models/dromedary2_70b_model DATA_DIR=/data/self_align
#   sbatch scripts/verbose_cloning_70b.sh
#   bash scripts/verbose_cloning_70b.sh                 # in an allocation, or on this machine alone
#
# Settings: verbose_cloning.sh. Arguments go to generate_self_align_response.py.
set -euo pipefail
launcher=$0 # under sbatch a copy of this file; Slurm knows where the original lies
[[ $0 != */slurm_script ]] || launcher=$(scontrol show job "$SLURM_JOB_ID" | sed -n '0,/^ *Command=/s/^ *Command=//p')
# shellcheck source-path=SCRIPTDIR source=verbose_cloning.sh
source "$(dirname "${launcher%" $*"}")/verbose_cloning.sh"
clone_verbosely self_align_generate_70b_base.sh finetune_dromedary2_70b_sft.sh "$@"
