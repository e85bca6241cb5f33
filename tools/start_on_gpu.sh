#!/bin/bash
# Starts on a borrowed machine what the folder beside this file was packed for (make gpu-pack); needs no network, no git:
#   bash start.sh campaign --budget brief --minutes 9 --out DIR
# Everything is made in a folder of its own, or in PLACE, if that is set; PYTHON is the interpreter that has torch.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
place=${PLACE:-$(mktemp -d)}
mkdir -p "$place/advlib" "$place/site"
tar xzf "$here/code.tar.gz" -C "$place/advlib"
if compgen -G "$here/wheels/*.whl" >/dev/null; then
    "${PYTHON:-python3}" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade \
        --target "$place/site" "$here"/wheels/*.whl
fi
export PYTHONPATH="$place/advlib:$place/site${PYTHONPATH:+:$PYTHONPATH}"
export ADVLIB_DATA="$here" ADVLIB_CACHE="$place/cache" ADVLIB_WORK="$place/checkpoints" PYTHONUNBUFFERED=1
export ADVLIB_RESULTS="$place/advlib/results"
back=$PWD
cd "$place/advlib"
arguments=() before=
for argument; do # a path is meant from where the command was given; after --json there is one in `gate` alone
    case $1$before in *--out | *--start-from | *--results | gate--json | *--log) [[ $argument == /* ]] || argument=$back/$argument ;; esac
    case $argument in
    --out=* | --start-from=* | --results=* | --json=* | --log=*)
        [[ ${argument#*=} == /* ]] || argument=${argument%%=*}=$back/${argument#*=} ;;
    esac
    arguments+=("$argument") before=$argument
done
exec "${PYTHON:-python3}" -m study "${arguments[@]}"
