#!/bin/sh
# Stands in for laq in the tests of xtask. It answers from the names of the files that it is given, and "trains" by
# writing what a run folder holds. The environment says what goes wrong:
#   FAKE_LOG      file that gets a line a call
#   FAKE_VERSION  part of every key
#   FAKE_FAIL     row whose training fails
#   FAKE_BREAK    row whose training fails before it writes anything
#   FAKE_STOP     row whose training says that it was interrupted, in its second epoch
#   FAKE_HANG     row whose training waits for a signal, then saves as laq does
#   FAKE_MISSING  data set that is not there and cannot be fetched
#   FAKE_ABSENT   data set that is not there and can be fetched
set -eu

command=$1
shift
config='' preset='' own='' seed=1 run='' names='' json=''
while [ $# -gt 0 ]; do
    case $1 in
        --overlay)
            # The preset, and on it what it changes in one column.
            if [ -z "$preset" ]; then preset=$(basename "$2" .toml); else own=${2##*/presets/}; fi
            [ -f "$2" ] || { echo "error: no overlay $2" >&2; exit 1; }
            shift ;;
        --set)
            case $2 in
                train.seed=*) seed=${2#*=} ;;
                comparison.every=*) every=${2#*=} ;;
                *) echo "unexpected setting $2" >&2; exit 2 ;;
            esac
            shift ;;
        --run-dir) run=$2; shift ;;
        --mirror) mirror=$2; shift ;;
        --threads) threads=$2; shift ;;
        --device | --precision | --progress) machine="${machine:-} $1=$2"; shift ;;
        --resume) resume=yes ;;
        --json) json=yes ;;
        -*) echo "unexpected $1" >&2; exit 2 ;;
        *) config=$1; names="$names$1 " ;;
    esac
    shift
done
row=$(basename "$config" .toml)
column=$(basename "$(dirname "$config")")
table=$(basename "$(dirname "$(dirname "$config")")")
key=$(printf '%s %s %s %s %s %s' "$row" "$table" "$column" "$preset" "$seed" "${FAKE_VERSION:-1}" | cksum | cut -d ' ' -f 1)
key=$(printf '%012x' "$key")
# The same settings as JSON and as TOML.
data=$column
case $table in
    table1)
        [ "$column" != demo ] || data=demo-digits
        case $column in mnist | demo) filters='[]' epochs=50 ;; *) filters='[128, 256]' epochs=200 ;; esac
        case $preset in demo) filters='[8, 16]' epochs=3 ;; short) epochs=1 ;; esac
        [ -z "$own" ] || epochs=10
        model="{\"kind\": \"feedforward\", \"filters\": $filters}"
        shape='"batch": 50'
        toml=$(printf 'kind = "feedforward"\nfilters = %s\n[data]\nbatch = 50' "$filters")
        ;;
    *)
        case $preset in
            demo) hidden=96 length=50 epochs=3 ;;
            short) hidden=512 length=100 epochs=2 ;;
            *) hidden=512 length=100 epochs=200 ;;
        esac
        model="{\"kind\": \"char-lstm\", \"hidden\": $hidden}"
        shape="\"length\": $length, \"batch\": 100"
        toml=$(printf 'kind = "char-lstm"\nhidden = %s\n[data]\nlength = %s\nbatch = 100' "$hidden" "$length")
        ;;
esac
echo "$command $row $column $preset${own:+ + $own} $seed${mirror:+ mirror=$mirror}${threads:+ threads=$threads}${machine:-}${every:+ every=$every}${resume:+ resume}" >> "${FAKE_LOG:-/dev/null}"

loss() {
    case $row in
        full) base=1.300 ;; binary-connect) base=2.900 ;; bwn) base=1.310 ;; lab) base=1.305 ;;
        twn) base=1.350 ;; lat-e) base=1.290 ;; lat-a) base=1.295 ;; ttq) base=1.280 ;;
        lat2-e) base=1.285 ;; lat2-a) base=1.270 ;; dorefa-3) base=1.400 ;; dorefa-4) base=1.300 ;;
        laq-linear-3) base=1.200 ;; laq-linear-3-e) base=1.220 ;; laq-log-3) base=1.250 ;; laq-log-3-e) base=1.245 ;; *) base=1.295 ;;
    esac
    awk "BEGIN { printf \"%.4f\", $base + 0.02 * ($seed - 1) + $1 }"
}

# Per cent: four times the loss less four, so that no figure of one is taken for the other's.
error() {
    if [ "$table" = table1 ]; then awk "BEGIN { print 4 * ($(loss "$1") - 1) }"; else echo null; fi
}

# save STATUS REASON EPOCHS
save() {
    mkdir -p "$run"
    : > "$run/last.safetensors"
    : > "$run/metrics.jsonl"
    epoch=1
    while [ $epoch -le "$3" ] && [ $epoch -le 20 ]; do
        extra=$(awk "BEGIN { print 1 / $epoch }")
        echo "{\"epoch\": $epoch, \"train_loss\": 1, \"validation_loss\": $(loss "$extra"), \"test_loss\": null, \"validation_error\": $(error "$extra")}" >> "$run/metrics.jsonl"
        epoch=$((epoch + 1))
    done
    # The sum is 0.1 %, 10 % and 1 % above the exact one, and nothing at all in a step without errors; the last line is
    # cut off.
    if [ -n "${every:-}" ]; then
        step=0
        for ratio in 1.001 1.1 null 1.01; do
            step=$((step + every))
            echo "{\"step\": $step, \"ratio\": $ratio, \"layers\": [{\"name\": \"<w>\", \"ratio\": $ratio}, {\"name\": \"v\", \"ratio\": 1.02}]}"
        done > "$run/comparison.jsonl"
        printf '{"step": 99, "rat' >> "$run/comparison.jsonl"
    fi
    printf '[model]\n%s\nname = "%s"\n' "$toml" "$data" > "$run/config.toml"
    case $data in
        linux-6.1-kernel) stand_in='"stands in for linux-kernel"' ;;
        cifar10-jpeg) stand_in='"stands in for cifar10"' ;;
        *) stand_in=null ;;
    esac
    cat > "$run/summary.json" <<SUMMARY
{"status": "$1", "reason": $2, "key": "$key", "training_version": 1, "title": "<b>$row & co</b>", "method": "$row",
 "data": "$data", "stand_in": $stand_in, "epochs": $epochs, "epochs_done": $3, "best_epoch": $3, "train_loss": $(loss -0.1),
 "validation_loss": $(loss 0.01), "test_loss": $(loss 0), "validation_error": $(error 0.01), "test_error": $(error 0), "seconds": $((3 * 10)).5, "seconds_per_step": 0.25,
 "quantize_share": 0.02, "steps": 100, "max_batches": null, "paper": null, "commit": "abc123", "cpu": "Fake CPU",
 "threads": ${threads:-2}, "kernel": "portable", "peak_memory_bytes": 104857600}
SUMMARY
}

# state DATASET: how doctor finds it
state() {
    case $1 in
        "${FAKE_MISSING:-}" | "${FAKE_ABSENT:-}") echo missing ;;
        *) echo good ;;
    esac
}

case $command in
    config)
        [ -n "$json" ] || exit 2
        [ -f "$config" ] || { echo "error: no file $config" >&2; exit 1; }
        cat <<CONFIG
{"key": "$key", "training_version": 1, "config": {
 "model": $model, "data": {"name": "$data", "dir": "data", $shape},
 "quantize": {"method": "$row"}, "train": {"epochs": $epochs, "seed": $seed}}}
CONFIG
        ;;
    estimate)
        # 100 steps of half a second, and ten seconds of evaluation.
        echo "{\"steps\": 100, \"seconds_per_step\": 0.5, \"seconds\": 60, \"batches\": {\"train\": 50, \"validation\": 7, \"test\": 6}}"
        ;;
    doctor)
        echo '{"cpu": "Fake CPU", "threads": 2, "data": ['
        for data in war-and-peace linux-kernel linux-6.1-kernel mnist cifar10 cifar100 svhn cifar10-jpeg; do
            echo "{\"dataset\": \"$data\", \"state\": \"$(state "$data")\"},"
        done
        echo "{\"dataset\": \"penn-treebank\", \"state\": \"good\"}, {\"dataset\": \"penn-treebank\", \"state\": \"$(state penn-treebank)\"},"
        echo '{"dataset": "demo", "state": "good (part of the program)"}]}'
        # As laq does when a file is not what it should be; the answer counts all the same.
        exit 1
        ;;
    download)
        echo "downloaded $names"
        case " $names" in *" ${FAKE_MISSING:-none} "*) echo "error: no address answers" >&2; exit 1 ;; esac
        ;;
    train)
        case $row in
            "${FAKE_FAIL:-}") save failed "\"the loss is NaN in <lstm>, which is | not a number; see $run/metrics.jsonl\"" 1; exit 1 ;;
            "${FAKE_BREAK:-}") echo "error: no memory" >&2; exit 1 ;;
            "${FAKE_STOP:-}") save interrupted '"interrupted"' 1; exit 130 ;;
            "${FAKE_HANG:-}")
                trap 'save interrupted null 1; exit 130' TERM
                mkdir -p "$run"
                : > "$run/waiting"
                # A signal ends the wait at once, and the sleep in the background soon.
                while :; do sleep 1 & wait $!; done
                ;;
        esac
        save finished null "$epochs"
        ;;
    *) echo "unexpected command $command" >&2; exit 2 ;;
esac
