#!/bin/bash
#SBATCH --job-name=orchestrator
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --gpus-per-node=8
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --no-kill
#SBATCH --requeue
#SBATCH --open-mode=append
#
# sbatch examples/cluster/slurm.sh stage=all task=custom task.name=mine task._target_=mine.Mine runner=cluster
#
# Starts Ray on the allocated nodes and runs the command on the first of them. Two minutes before the time limit the
# command is told to stop: it checkpoints what runs. Submit it again, or several times in advance with
# --job-name=MINE --dependency=singleton (one of that name runs at a time), and the same command goes on. The
# environment with this package must be active, on a file system that all nodes share. What Ray says is in
# slurm-JOB-ray.log.
set -euo pipefail

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
# As the last node knows it: many a node knows itself as 127.0.1.1.
address=$(srun --nodes=1 --ntasks=1 --overlap -w "${nodes[-1]}" getent ahostsv4 "$head" | awk 'NR == 1 {print $1}')
port=$((20000 + SLURM_JOB_ID % 10000))
# Only who knows the token gets in.
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
resources=(--num-cpus="${SLURM_CPUS_PER_TASK:-1}" --num-gpus="${SLURM_GPUS_ON_NODE:-0}")

# One task on each of so many nodes. A node that fails takes no other with it.
on() {
    srun --nodes="$1" --ntasks="$1" --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --overlap --no-kill --wait=0 \
        --kill-on-bad-exit=0 --output=slurm-%j-ray.log --open-mode=append "${@:2}"
}

on 1 -w "$head" \
    ray start --head --block --node-ip-address="$address" --port="$port" --include-dashboard=false "${resources[@]}" &
for _ in {1..60}; do
    if (exec 3<>"/dev/tcp/$address/$port") 2>/dev/null; then break; fi
    sleep 2
done
if ((SLURM_JOB_NUM_NODES > 1)); then
    on $((SLURM_JOB_NUM_NODES - 1)) --exclude="$head" ray start --block --address="$address:$port" "${resources[@]}" &
fi
# In the place of this script, so that it is what SLURM tells to stop.
exec python run.py "$@" runner.address="$address:$port"
