#!/usr/bin/env bash
# Proves profiles/slurm on a Slurm of one node with two fake GPUs, on this machine: one training job is cancelled half-way, one
# requeued, and both go on from their checkpoints to a table. As root on Debian or Ubuntu, in some ten minutes:
#     apt-get install --no-install-recommends slurm-wlm munge
#     .venv/bin/python -m pip install --constraint constraints.txt --editable ".[slurm]"
# Nothing of Slurm runs on when it ends, and /etc/slurm is as it was.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { echo "slurm_check: $*" >&2; exit 1; }
for program in munged slurmctld slurmd sbatch; do
    command -v "$program" >/dev/null || fail "found no $program, expected the packages slurm-wlm and munge"
done
PATH=$PWD/.venv/bin:$PATH
python -c "import snakemake_executor_plugin_slurm" 2>/dev/null || fail "found no plugin, expected pip install '.[slurm]'"
[ "$(id -u)" = 0 ] || fail "found user $(id -un), expected root"
[ ! -e /etc/slurm/slurm.conf ] || fail "found /etc/slurm/slurm.conf, expected a machine without Slurm"

STATE=$(mktemp -d) HOST=$(hostname) MUNGED='' WORKFLOW=''
cleanup() {
    [ -z "$WORKFLOW" ] || { kill -INT "$WORKFLOW" && wait "$WORKFLOW"; } 2>/dev/null || true
    scontrol shutdown 2>/dev/null && sleep 2 || true
    [ -z "$MUNGED" ] || kill "$MUNGED"
    rm -rf /etc/slurm/slurm.conf /etc/slurm/gres.conf "$STATE"
}
trap cleanup EXIT

# The plugin removes SLURM_* from the environment of its jobs: their configuration must lie where Slurm looks by itself.
mkdir -p /etc/slurm
touch "$STATE/gpu0" "$STATE/gpu1"
echo "NodeName=$HOST Name=gpu File=$STATE/gpu[0-1]" >/etc/slurm/gres.conf
cat >/etc/slurm/slurm.conf <<END
ClusterName=check
SlurmctldHost=$HOST(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=cred_expire=30
StateSaveLocation=$STATE/controller
SlurmdSpoolDir=$STATE/node
SlurmctldPidFile=$STATE/slurmctld.pid
SlurmdPidFile=$STATE/slurmd.pid
SlurmctldLogFile=$STATE/slurmctld.log
SlurmdLogFile=$STATE/slurmd.log
ProctrackType=proctrack/linuxproc
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
MpiDefault=none
SlurmdParameters=config_overrides
NodeName=$HOST NodeAddr=127.0.0.1 CPUs=$(nproc --all) RealMemory=400000 Gres=gpu:2
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE
END
mkdir -p "$STATE/controller" "$STATE/node" /run/munge
chown munge: /run/munge
[ -s /etc/munge/munge.key ] || (umask 077 && head -c 1024 /dev/urandom >/etc/munge/munge.key && chown munge: /etc/munge/munge.key)
runuser -u munge -- munged --foreground >"$STATE/munged.log" 2>&1 &
MUNGED=$!
sleep 1
slurmctld
slurmd
until sinfo --noheader --format %T | grep -q idle; do sleep 1; done
sinfo --format "%P %N %T %G"

NAME=slurm-check
rm -rf "results/$NAME" "results/.progress/$NAME" .snakemake/slurm_logs/rule_train/math_llama-demo_*
snakemake --workflow-profile slurm --slurm-init-seconds-before-status-checks 5 --slurm-keep-successful-logs --latency-wait 5 \
    --config experiment=demo name=$NAME gpu=true seeds=1 'training={max_steps: 150, save_steps: 10}' -- reproduce_table1 &
WORKFLOW=$!

# METHOD: wait until it has made steps, and say in which Slurm job.
job_of() {
    until [ -s "results/.progress/$NAME/train math llama-demo $1 seed0.json" ]; do
        kill -0 "$WORKFLOW" 2>/dev/null || fail "the workflow ended before $1 trained"
        sleep 1
    done
    squeue --noheader --states running --format "%i %k" | awk -v comment="_$1_" 'index($0, comment) {print $1}'
}
# Cancelled, a job has failed, and Snakemake starts another. Requeued, as after preemption, it is the same job again.
for command in "scancel lora" "scontrol requeue beamlora"; do
    method=${command##* } job=$(job_of "${command##* }")
    [ -n "$job" ] || fail "found no running Slurm job of $method"
    echo "slurm_check: ${command% *} $job, which trains $method"
    scontrol show job "$job" | grep -i "JobState\|tres\|TimeLimit"
    ${command% *} "$job"
done
wait "$WORKFLOW" || fail "the workflow failed"
WORKFLOW=''

for method in lora beamlora; do
    grep -h "going on from" .snakemake/slurm_logs/rule_train/math_llama-demo_"$method"_0/*.log || fail "$method began again from its first step"
done
cat "results/$NAME/tables/table1.md"
echo "slurm_check: passed"
