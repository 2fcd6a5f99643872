#!/usr/bin/env bash
# A sweep on Slurm: one Ray over all nodes of the job, asked on with itself until the sweep is done.
#
#   sbatch slurm.sh SWEEP.yaml [options of `asdray sweep`]
#
# Edit the #SBATCH lines and the block "this site" below; the rest needs no change.
#
#SBATCH --job-name=asdray            # what squeue shows
#SBATCH --nodes=2                    # machines; each becomes one Ray node
#SBATCH --ntasks-per-node=1          # one Ray per machine, whatever its size
#SBATCH --cpus-per-task=16           # cores of each machine for this job; Ray is told the same number
#SBATCH --gpus-per-node=1            # leave out for CPU only
#SBATCH --mem=64G                    # of each machine; audio, embeddings and Ray's object store live in it
#SBATCH --time=12:00:00              # of one part: the sweep goes on in the next
#SBATCH --requeue                    # a job that loses a machine, or is preempted, starts again by itself
#SBATCH --signal=B:USR1@180          # seconds before the end: asdray stops cleanly, then the job is put back
#SBATCH --output=asdray-%j.log       # one log for all parts,
#SBATCH --open-mode=append           # each behind the one before
# Where the site asks for these, without the "# " in front:
# #SBATCH --partition=gpu            # a group of machines; sinfo lists the groups
# #SBATCH --account=project          # who is charged
# #SBATCH --qos=normal               # the class of service
set -euo pipefail

# ---- this site --------------------------------------------------------------------------------------
SHARED=${SHARED:-$PWD}                                    # on storage that every machine sees, at the same path
VENV=${VENV:-$SHARED/.venv}                               # where asdray is installed; also on shared storage
export ASDRAY_DATA=${ASDRAY_DATA:-$SHARED/data}           # formatted data
export ASDRAY_RESULTS=${ASDRAY_RESULTS:-$SHARED/results}  # results
export ASDRAY_CACHE_DIR=${ASDRAY_CACHE_DIR:-/tmp/asdray-cache-$USER}  # a machine's own disk: decoded audio
TEMP=${TEMP_DIR:-/tmp/ray-$SLURM_JOB_ID}                  # Ray's logs and sockets: local, and short (107 characters)
PORTS=${PORTS:-$((10000 + SLURM_JOB_ID % 110 * 200))}     # 200 ports for this job alone, below those that Linux deals out
IN=()                                                     # in front of each command that runs asdray, Ray or Python
# module load python/3.11 cuda                            # software of the site, if .venv was made with it
# An image in place of VENV: the image has asdray, and what the machines share and their own disk are bound into it.
# IN=(apptainer exec --nv --bind "$SHARED,/tmp" "$SHARED/asdray.sif")
# ------------------------------------------------------------------------------------------------------

[[ $# -ge 1 ]] || { echo "usage: sbatch slurm.sh SWEEP.yaml [options of asdray sweep]" >&2; exit 2; }
PATH=$VENV/bin:$PATH

# Whoever knows the token may run code as you on these machines: made once, readable by you alone. Of jobs that begin at
# the same time one makes it: `ln` puts a whole file there, and fails where there is one.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=${RAY_AUTH_TOKEN_PATH:-$SHARED/.ray-token}
if [[ ! -e $RAY_AUTH_TOKEN_PATH ]]; then
    NEW=$(mktemp "$RAY_AUTH_TOKEN_PATH.XXXXXX")  # with mode 600
    od -An -N32 -tx1 /dev/urandom | tr -d ' \n' > "$NEW"
    ln "$NEW" "$RAY_AUTH_TOKEN_PATH" 2>/dev/null || [[ -e $RAY_AUTH_TOKEN_PATH ]]
    rm -f "$NEW"
fi
[[ -s $RAY_AUTH_TOKEN_PATH ]] || { echo "$RAY_AUTH_TOKEN_PATH is empty: delete it, and begin again" >&2; exit 2; }
if [[ -n $(find -L "$RAY_AUTH_TOKEN_PATH" -perm /077) ]]; then
    echo "warning: others than you may read or change $RAY_AUTH_TOKEN_PATH: chmod 600, or delete it for a new one" >&2
fi
export RAY_USAGE_STATS_ENABLED=0  # machines without a way to the internet would wait for it
export RAY_task_oom_retries=3     # a task that never fits into memory fails, instead of being tried for ever

# From Slurm 22.05 on srun does not take this from sbatch: each step, Ray among them, would have one core.
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
mapfile -t HOSTS < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
# Only behind `&` or in $(...): exec, so that what is started there is srun itself, and can be ended.
on() { local host=$1; shift; exec srun --overlap --nodes=1 --ntasks=1 --nodelist="$host" "$@"; }
# A machine's address as another one ($2) sees it: its own /etc/hosts often has 127.0.1.1.
address_of() { on "$2" getent ahostsv4 "$1" | awk 'NR == 1 {print $1}'; }
HEAD_IP=$(address_of "${HOSTS[0]}" "${HOSTS[-1]}")
ADDRESS=$HEAD_IP:$PORTS

DRIVER="" STOPPED="" CANCELLED=""
stop() { STOPPED=1; [[ -z $DRIVER ]] || kill -TERM "$DRIVER" 2>/dev/null || true; }
trap stop USR1                 # the time is nearly over, perhaps before all of this has begun
trap 'CANCELLED=1; stop' TERM  # scancel, or preemption: Slurm decides what follows

STEPS=()
COMMON=(
    --block                                          # stay: srun ends it with the job, and nothing else is touched
    --num-cpus="$SLURM_CPUS_PER_TASK"                # what Slurm gave, not what the machine has
    --num-gpus="${SLURM_GPUS_ON_NODE:-0}"
    --temp-dir="$TEMP"
    --node-manager-port=$((PORTS + 3)) --object-manager-port=$((PORTS + 4))
    --metrics-export-port=$((PORTS + 5)) --runtime-env-agent-port=$((PORTS + 6))
    --dashboard-agent-listen-port=$((PORTS + 7)) --dashboard-agent-grpc-port=$((PORTS + 8))
    --min-worker-port=$((PORTS + 20)) --max-worker-port=$((PORTS + 199))
)
# The Ray of a machine, whose folder goes with it: of a cancelled job Slurm starts no step that could tidy up.
# shellcheck disable=SC2016
RAY='temp=$1; shift; "$@" & ray=$!
trap "exec 2>/dev/null; kill $ray; for i in {1..10}; do kill -0 $ray || break; sleep 1; done; kill -KILL $ray" TERM
wait $ray; wait $ray
rm -rf "$temp" || rm -rf "$temp"'
end() {
    # Only our own steps: `ray stop` would end every Ray of this user on the machine, other jobs' too.
    kill "${STEPS[@]}" 2>/dev/null || true
    wait "${STEPS[@]}" 2>/dev/null || true
    [[ -n $CANCELLED ]] || srun --overlap --ntasks-per-node=1 rm -rf "$TEMP" || true
}
trap end EXIT

on "${HOSTS[0]}" bash -c "$RAY" bash "$TEMP" "${IN[@]}" ray start --head --port="$PORTS" --node-ip-address="$HEAD_IP" \
    --include-dashboard=true --dashboard-host=127.0.0.1 --dashboard-port=$((PORTS + 1)) \
    --ray-client-server-port=$((PORTS + 2)) "${COMMON[@]}" &
STEPS+=($!)
head_lives() { kill -0 "${STEPS[0]}" 2>/dev/null || { echo "the first machine's Ray did not start: see above" >&2; exit 1; }; }
for _ in {1..120}; do
    [[ -z $STOPPED ]] || break
    head_lives
    timeout 2 bash -c "exec 3<> /dev/tcp/$HEAD_IP/$PORTS" 2>/dev/null && break
    sleep 1
done
for host in "${HOSTS[@]:1}"; do
    ip=$(address_of "$host" "${HOSTS[0]}") || continue  # counted as a machine that has not joined
    on "$host" bash -c "$RAY" bash "$TEMP" "${IN[@]}" ray start --address="$ADDRESS" --node-ip-address="$ip" "${COMMON[@]}" &
    STEPS+=($!)
done
# All machines, or after five minutes those that came: the driver counts the CPUs once, when it begins.
COUNT='import ray, sys; ray.init(sys.argv[1], log_to_driver=False, logging_level=40)
print(sum(node["Alive"] for node in ray.nodes()))'
nodes=0
for _ in {1..60}; do
    [[ -z $STOPPED ]] || break
    head_lives
    nodes=$(timeout 60 "${IN[@]}" python -c "$COUNT" "$ADDRESS" 2>/dev/null || echo 0)
    [[ $nodes -ge ${#HOSTS[@]} ]] && break
    sleep 5
done
echo "$nodes of ${#HOSTS[@]} machines have joined the Ray at $ADDRESS"

if [[ -n $STOPPED ]]; then
    CODE=75
else
    "${IN[@]}" asdray sweep "$@" --address "$ADDRESS" &
    DRIVER=$!
    [[ -z $STOPPED ]] || stop  # by a signal of this very moment
    CODE=0
    wait $DRIVER || CODE=$?
    while kill -0 $DRIVER 2>/dev/null; do  # a signal ended the wait, not the driver
        CODE=0
        wait $DRIVER || CODE=$?
    done
fi

if [[ $CODE -eq 75 && -z $CANCELLED ]]; then  # stopped before it was done: the same job, later, goes on from there
    echo "stopped with work left: back into the queue"
    trap - EXIT
    end
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $CODE
