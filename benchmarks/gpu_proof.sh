#!/usr/bin/env bash
# What a GPU shows that a CPU cannot, in about 15 minutes: the gpu tests, the table of training steps with their memory, and
# a learning run of the whole R3D-18 at 112 pixels (full, FixMatch, supervised) on a sample rendered here.
#
#   bash benchmarks/gpu_proof.sh [--device cuda|cpu] [--tiny] [--out FOLDER] [--minutes N]
#
# Installs and fetches nothing: `python` must have this project and torch. Every part writes its result into FOLDER as soon as
# it is known, so a machine that is taken away leaves what was measured; the same command again does the missing parts.
# --tiny with --device cpu is the dry run: the same parts with a small network, one step and a few videos.
set -uo pipefail
cd "$(dirname "$0")/.."
device=cuda tiny="" out=gpu_proof minutes=15
while [ $# -gt 0 ]; do
    case $1 in
        --device) device=${2:?--device needs cuda or cpu}; shift 2 ;;
        --out) out=${2:?--out needs a folder}; shift 2 ;;
        --minutes) minutes=${2:?--minutes needs a number}; shift 2 ;;
        --tiny) tiny=1; shift ;;
        *) echo "gpu_proof.sh: unknown argument $1; expected --device, --tiny, --out, --minutes" >&2; exit 2 ;;
    esac
done
python=${PYTHON:-python}
end=$((SECONDS + minutes * 60))
mkdir -p "$out"
out=$(cd "$out" && pwd)
failed=""

# part NAME SECONDS COMMAND...: run a part that is not done yet, within its limit and the whole time. Its output lies in NAME.log.
part() {
    local name=$1 limit=$2 began=$SECONDS status
    shift 2
    [ -e "$out/$name.done" ] && { echo "$name: done before"; return; }
    local left=$((end - SECONDS))
    [ "$left" -gt 5 ] || { echo "$name: no time left"; failed="$failed $name"; return; }
    timeout --kill-after=20 "$((limit < left ? limit : left))" "$@" > "$out/$name.log" 2>&1
    status=$?
    echo "$name: exit $status after $((SECONDS - began)) s" | tee -a "$out/parts.txt"
    if [ $status -eq 0 ]; then touch "$out/$name.done"; else failed="$failed $name"; tail -5 "$out/$name.log"; fi
}

prep() { "$python" -m tgprep "$@"; }
train() { "$python" -m tgtrain "$@"; }
export -f prep train
export python

if [ "$tiny" ]; then
    rows=2 size=32 steps=1 videos=4 pixels="--width 64 --height 48"
    small="--set data.size=32 --set data.test_size=32 --set batch.labelled=2 --set batch.unlabelled=2 --set model.depth=10 --set model.width=4"
    epochs=1 views=1x1 tests=tests/train/train/test_gpu.py
    ways=("trainer, accumulate 2" "trainer, activation checkpointing")
else
    rows=40 size=224 steps=8 videos=160 pixels="--width 160 --height 120"
    small="--set data.size=112 --set data.test_size=112" epochs=40 views=3x1 tests=tests
    ways=("trainer" "trainer + bfloat16" "trainer, accumulate 2" "trainer, accumulate 4" "trainer, accumulate 8"
          "trainer, activation checkpointing" "trainer + bfloat16, activation checkpointing" "fixmatch")
fi
required=0
if [ "$device" = cuda ]; then
    required=1
    part machine 60 nvidia-smi
    ways+=("trainer + compile" "trainer + bfloat16 + compile" "fixmatch + bfloat16 + compile" "fixmatch + bfloat16 + compile + weak views apart")
fi
part tests 240 env REQUIRE_GPU=$required "$python" -m pytest -q -m gpu -p no:cacheprovider $tests
part steps 300 "$python" benchmarks/step.py --device "$device" --rows $rows --size $size --steps $steps --rounds 1 \
    --output "$out/steps.json" --only "${ways[@]}"

# Another seed than that of any sample by which a setting was chosen. shellcheck disable=SC2086
part sample 120 bash -c "prep sample '$out/videos' --num-classes 8 --videos-per-class $videos $pixels --seed 4711 &&
    prep extract '$out/videos' '$out/dataset' --dataset ucf101 && prep split '$out/dataset' --percent 10 --strategy stratified"
settings="--split p10-stratified-s0-f1 $small --set data.interval=2 --set data.area=[0.7,1.0] --set optimiser.epochs=$epochs"
settings="$settings --set optimiser.warmup_epochs=2 --set method.warmup_epochs=8 --set runtime.device=$device --set evaluate.every_epochs=0"
for method in "" -fixmatch -supervised; do
    run="$out/runs/ucf101-10$method"
    part "learn$method" 240 bash -c "train run '$out/dataset' --recipe ucf101-10$method $settings --out '$run' &&
        train test '$run' --views $views --device $device"
done
"$python" benchmarks/gpu_proof_table.py "$out" || failed="$failed table"
[ -z "$failed" ] || { echo "not done:$failed (logs in $out; the same command again does these)" >&2; exit 1; }
