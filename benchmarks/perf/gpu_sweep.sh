#!/usr/bin/env bash
# A real sweep on Ray on a machine with a GPU whose Python has torch and torchaudio, but neither Ray nor a network.
#
#   bash benchmarks/perf/gpu_sweep.sh gather FOLDER    where a network is: the wheels into FOLDER
#   bash benchmarks/perf/gpu_sweep.sh FOLDER [OUT.json] [options of gpu_sweep.py]    on the machine with the GPU
#
# gather downloads with pip, from the index that pip is configured for, the versions of requirements.lock for
# PYTHON_VERSION (3.12) on Linux x86-64, and takes out of Ray's wheel what a sweep does not use: rllib, the Java
# and C++ interfaces, the dashboard's page. In all 52 MB. WHEELS names other packages:
#
#   WHEELS="ray optuna umap-learn" bash benchmarks/perf/gpu_sweep.sh gather wheels
#
# By default the machine has what an installation of torch, lightning, scikit-learn, pandas, numba and tensorboard
# brings; the rest of what asdray imports is in the list below. A package that is missing on the machine is named
# before anything is measured. The machine needs a C compiler only for train.compile.
#
# PYTHON (python3): the Python with torch. A venv on top of it, in a temporary folder, gets the wheels, so that
# nothing is changed on the machine. GPUS=0 tries everything on the CPU. The sweeps have MINUTES (6) in all.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
python=${PYTHON:-python3}

wheels=${WHEELS:-"ray optuna alembic sqlalchemy mako greenlet colorlog cmaes umap-learn pynndescent pydantic
pydantic-core annotated-types typing-inspection soundfile cffi pycparser jsonschema
jsonschema-specifications referencing rpds-py tensorboardx"}

gather() {
    mkdir -p "$1"
    local platforms=() names=()
    for n in 39 35 34 31 28 27 24 17; do platforms+=(--platform "manylinux_2_${n}_x86_64"); done
    for name in manylinux2014_x86_64 manylinux1_x86_64 any; do platforms+=(--platform "$name"); done
    for name in $wheels; do
        pinned=$(grep -iE "^$name==" "$root/requirements.lock") || { echo "requirements.lock has no $name" >&2; exit 1; }
        names+=("$pinned")
    done
    "$python" -m pip download --quiet --no-deps --only-binary=:all: --implementation cp \
        --python-version "${PYTHON_VERSION:-3.12}" "${platforms[@]}" -d "$1" "${names[@]}"
    "$python" - "$1" <<'PYTHON'
import re, sys, zipfile
from pathlib import Path

unused = re.compile(r"ray/(rllib|jars|cpp|llm|dashboard/client/build)/|ray/dashboard/.*\.(js|map|css|png|svg)$")
for path in Path(sys.argv[1]).glob("ray-*.whl"):
    smaller = path.with_suffix(".new")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(smaller, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as new:
        for info in old.infolist():
            if not unused.match(info.filename):
                new.writestr(info, old.read(info), zipfile.ZIP_DEFLATED, 9)
    smaller.replace(path)
PYTHON
    du -sh "$1"
}

if [ "${1:-}" = gather ]; then
    gather "${2:?gather needs a folder}"
    exit
fi
folder=${1:?the folder with the wheels, see the head of this script}
out=${2:-gpu_sweep.json}
shift $(($# > 1 ? 2 : 1))
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" -m venv --system-site-packages --without-pip "$work/venv"
# A venv on top of another venv sees only the Python below both: these lines add the packages of the other.
"$python" -c 'import site, sysconfig; print("\n".join(dict.fromkeys([*site.getsitepackages(), sysconfig.get_path("purelib")])))' \
    > "$work/below.pth"
"$python" -m pip --python "$work/venv/bin/python" install --quiet --no-index --no-deps --no-compile "$folder"/*.whl
site=$("$work/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
mv "$work/below.pth" "$site/zz_below.pth"
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
"$work/venv/bin/python" - <<'PYTHON'
import importlib.util, sys

needed = (
    "cmaes filelock jinja2 lightning matplotlib numpy optuna packaging pandas pyarrow pydantic yaml ray requests rich "
    "sklearn scipy soundfile tensorboard threadpoolctl torch torchaudio typer umap numba jsonschema msgpack click"
).split()
missing = [name for name in needed if importlib.util.find_spec(name) is None]
if missing:
    sys.exit(f"missing: {', '.join(missing)}: add their wheels to the folder (WHEELS=... gather)")
PYTHON
"$work/venv/bin/python" "$here/gpu_sweep.py" --gpus "${GPUS:-1}" --minutes "${MINUTES:-6}" --out "$out" "$@"
