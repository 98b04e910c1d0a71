#!/bin/bash
# A cohort as an array of 8 jobs, each with one GPU: sbatch examples/slurm_array.sh slides.csv results
# Each task computes its share. A task that is stopped goes on where it was when the whole array is
# submitted again; slides that are finished are skipped.
#SBATCH --job-name=wsisr
#SBATCH --array=1-8
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=24:00:00
#SBATCH --output=wsisr-%A_%a.log
# the signal of Ctrl-C, five minutes before the time is over
#SBATCH --signal=INT@300

set -euo pipefail
manifest=${1:?give the manifest, or the folder, of the slides}
results=${2:?give the folder of the results}

# `wsisr batch` reads its share from SLURM_ARRAY_TASK_ID and SLURM_ARRAY_TASK_COUNT
exec wsisr batch "$manifest" --out "$results" "${@:3}"
