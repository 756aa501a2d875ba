#!/bin/sh
# Checks and times a GPU, and trains cells of the paper's tables on it, within a given time:
#
#   ./run.sh SECONDS [--out DIR] [--device cuda:0|cpu] [--jobs N] [--python PROGRAM] [--preset NAME]
#
# It needs Linux with GNU coreutils, find and tar, NVIDIA's driver, and for a comparison Python with PyTorch. Everything it
# finds is in DIR (default: out) at once, so that a run that is cut short leaves what it has done:
#
#   times.txt         what ran, how long, and how it ended
#   doctor.txt        the machine
#   gpu-check/        conformance, losses beside the CPU's, steps beside PyTorch's, the forms of the LSTM's recurrence,
#                     several networks at once
#   runs/             cells of Table 1 (MNIST), then of Table 2 (War and Peace), which go on where runs/ here ended
#   figures.tar.gz    all of that without weights
#   networks.tar      the packed networks of finished cells
#
# --device cpu rehearses it without a GPU, --preset demo with small networks on embedded data.
set -u

seconds= out=out device=cuda:0 jobs=4 python=python3 preset=paper
while [ $# -gt 0 ]; do
    case $1 in
    --out | --device | --jobs | --python | --preset)
        [ $# -gt 1 ] || { echo "run.sh: $1 needs a value" >&2; exit 2; }
        case $1 in
        --out) out=$2 ;;
        --device) device=$2 ;;
        --jobs) jobs=$2 ;;
        --python) python=$2 ;;
        --preset) preset=$2 ;;
        esac
        shift
        ;;
    -h | --help) sed -n '2,/^set -u/s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *[!0-9]* | '') echo "run.sh: found $1, expected a number of seconds; --help shows the options" >&2; exit 2 ;;
    *)
        # Leading zeros would make it octal.
        seconds=$1
        while [ "${seconds#0?}" != "$seconds" ]; do seconds=${seconds#0}; done
        ;;
    esac
    shift
done
[ -n "$seconds" ] || { echo "run.sh: expected the number of seconds that it may take, such as ./run.sh 540" >&2; exit 2; }

start=$(date +%s)
# Programs start in DIR, where data/ and runs/ are; the kit may be on a read-only disk.
case $python in */*) python=$(CDPATH='' cd -- "$(dirname -- "$python")" && pwd)/$(basename -- "$python") || exit 1 ;; esac
kit=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd) || exit 1
mkdir -p -- "$out" && CDPATH='' cd -- "$out" || exit 1
if [ -d "$kit/runs" ] && [ ! -d runs ]; then
    rm -rf runs.tmp && cp -R "$kit/runs" runs.tmp && mv runs.tmp runs || exit 1
fi
small=
[ "$preset" = demo ] && small=--small

# The seconds until a share of the time, in percent, is over.
until_share() {
    left=$((start + seconds * $1 / 100 - $(date +%s)))
    [ "$left" -gt 0 ] && echo "$left" || echo 0
}

minutes() {
    printf '%d.%03d' $(($1 / 60)) $(($1 % 60 * 1000 / 60))
}

# section NAME SECONDS COMMAND…: runs a command, whose output goes to a log, not much longer than this.
section() {
    name=$1 limit=$2
    shift 2
    begin=$(date +%s)
    if [ "$limit" -lt 1 ]; then
        echo "$name: left out, the time is over" >>times.txt
        return
    fi
    echo "$name: at most $limit s"
    timeout --signal=TERM --kill-after=10 $((limit + 10)) "$@" >"$name.txt" 2>&1
    code=$?
    echo "$name: $(($(date +%s) - begin)) s, exit code $code" >>times.txt
    [ "$code" -eq 0 ] || tail -n 3 "$name.txt"
    find . -path ./data -prune -o -type f ! -name '*.safetensors' ! -name 'figures.*' ! -name 'networks.*' -print |
        tar -czf figures.tmp -T - && mv figures.tmp figures.tar.gz
    find . -name packed.safetensors | tar -cf networks.tmp -T - 2>/dev/null && mv networks.tmp networks.tar
}

# table NAME SECONDS COLUMN
table() {
    columns=$3
    [ "$preset" = demo ] && columns=demo
    section "$1" "$2" "$kit/laq" reproduce "$1" --preset "$preset" --columns "$columns" --configs "$kit/configs" \
        --device "$device" --jobs "$jobs" --minutes "$(minutes "$2")" --keep packed --out "runs/$1/$preset"
}

section doctor "$(until_share 10)" "$kit/laq" doctor
section data "$(until_share 10)" "$kit/laq" download mnist war-and-peace --mirror "$kit/mirror"
check=$(until_share 50)
# shellcheck disable=SC2086 # Nothing, or one word.
section gpu-check "$check" "$kit/laq" gpu-check --device "$device" --minutes "$(minutes "$check")" --python "$python" \
    --out gpu-check $small
table table1 "$(until_share 80)" mnist
table table2 "$(until_share 95)" war-and-peace
cat times.txt
