#!/bin/bash
#SBATCH --job-name=orchestrator
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --gpus-per-node=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#
# sbatch examples/cluster/slurm.sh stage=all task=custom task.name=mine task._target_=mine.Mine runner=cluster
#
# Starts Ray on the allocated nodes and runs the command on the first. Submit it again (or let SLURM requeue it) and
# the same command goes on. The environment with this package must be active, on a file system that all nodes share.
set -euo pipefail

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(srun --nodes=1 --ntasks=1 -w "$head" hostname --ip-address | awk '{print $1}')
port=$((20000 + SLURM_JOB_ID % 20000))
# Only who knows the token gets in.
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
resources=(--num-cpus="${SLURM_CPUS_PER_TASK:-1}" --num-gpus="${SLURM_GPUS_ON_NODE:-0}")

srun --nodes=1 --ntasks=1 --overlap -w "$head" \
    ray start --head --block --node-ip-address="$address" --port="$port" --include-dashboard=false "${resources[@]}" &
sleep 15
if ((SLURM_JOB_NUM_NODES > 1)); then
    srun --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks=$((SLURM_JOB_NUM_NODES - 1)) --overlap --exclude="$head" \
        ray start --block --address="$address:$port" "${resources[@]}" &
fi
srun --nodes=1 --ntasks=1 --overlap -w "$head" python run.py "$@" runner.address="$address:$port"
