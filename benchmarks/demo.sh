#!/usr/bin/env bash
# The whole path on a small data set rendered here: videos -> shards -> split -> training -> test -> report.
# Run by `make demo`; takes the folder to work in. Run again, it goes on with what is there.
set -euo pipefail
folder=${1:-demo}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$folder"
cd "$folder"

step() { printf '\n\033[1m%s\033[0m\n' "\$ $*"; "$@"; }

# Actors that no setting was chosen on: the seed is used here alone.
step tgprep sample videos --num-classes 6 --videos-per-class 64 --width 80 --height 60 --seed 77
step tgprep extract videos dataset --dataset ucf101
[ -e dataset/splits/p20-stratified-s0-f1.parquet ] || step tgprep split dataset --percent 20 --strategy stratified
step tgprep info dataset
step tgtrain run dataset --recipe demo --out runs/demo
step tgtrain test runs/demo
step tgtrain report runs/demo


printf '\nDone: six motions learnt from labels of every fifth training video.\n'
python "$here/demo_result.py" runs/demo
cat <<END

Open    $folder/runs/demo/report.html
Look    $folder/dataset/        shards, videos.parquet, splits/
Next    source .venv/bin/activate; cd $folder
        tgtrain run dataset --recipe demo-supervised --out runs/supervised     the same without unlabelled videos
        tgtrain report runs/demo runs/supervised                                both in one page
        tgtrain recipes                                                         the published settings, for your own data
END
