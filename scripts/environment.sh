# shellcheck shell=bash
# A virtual environment in .venv with the pinned requirements.
# `prepare_environment FILE` sets PYTHON to its interpreter; a second call with the same FILE is free. An interpreter
# that the caller named in PYTHON and that has all packages already is used as it is.
#
#   bash scripts/environment.sh     makes .venv with what the stages need; the other scripts source this file

# Threads that wait must not spin: where others use the cores too, small models ran eight times slower.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}

ROOT=$(cd -P "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) # -P: the stages see this folder through a link

fail() {
  echo "error: $*" >&2
  exit 1
}

is_supported() { # a Python that the pinned packages exist for
  "$1" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null
}

has_packages() { # PYTHON FILE
  local missing
  [[ $1 ]] && is_supported "$1" && missing=$("$1" "$ROOT/scripts/missing_packages.py" "$ROOT/$2") && [[ ! $missing ]]
}

problem_of_python() { # PYTHON: what keeps it from running the stages, and the remedy; nothing if it can
  local missing remedy="'bash $ROOT/scripts/environment.sh' makes .venv with all packages; or set PYTHON"
  if ! command -v "$1" >/dev/null; then
    echo "there is no $1: $remedy"
  elif ! missing=$("$1" "$ROOT/scripts/missing_packages.py" "$ROOT/requirements.txt" 2>&1); then
    echo "$1 does not run (${missing##*$'\n'}): $remedy"
  elif [[ $missing ]]; then
    echo "$1 lacks packages ($missing): $remedy"
  fi
}

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3.11 python3.12 python3 python}; do
    if command -v "$candidate" >/dev/null && is_supported "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  fail "no Python 3.11 or 3.12 among '${PYTHON:-python3.11 python3.12 python3 python}'." \
    "Install one (Debian: apt-get install python3 python3-venv), or set PYTHON to its path."
}

make_venv() {
  local python
  python=$(find_python)
  echo "Creating $ROOT/.venv with $("$python" --version)" >&2
  "$python" -m venv --clear "$ROOT/.venv" ||
    fail "'$python -m venv' failed. On Debian or Ubuntu: apt-get install python3-venv"
}

prepare_environment() { # FILE: requirements.txt or requirements-dev.txt
  local wanted stamp=$ROOT/.venv/installed-$1
  if has_packages "${PYTHON:-}" "$1"; then
    [[ $PYTHON != */* ]] || PYTHON=$(realpath --no-symlinks "$PYTHON")
    return
  fi
  is_supported "$ROOT/.venv/bin/python" || make_venv
  PYTHON=$ROOT/.venv/bin/python
  wanted=$(cat "$ROOT"/requirements*.txt)
  if [[ $(cat "$stamp" 2>/dev/null) != "$wanted" ]]; then
    echo "Installing the packages of $1 into .venv (once; some minutes)" >&2
    "$PYTHON" -m pip install --quiet --disable-pip-version-check -r "$ROOT/$1" ||
      fail "pip could not install $ROOT/$1; its message stands above. The packages come from PyPI," \
        "so a network connection or a mirror (PIP_INDEX_URL) is needed."
    echo "$wanted" >"$stamp"
    # requirements-dev.txt includes the other one.
    [[ $1 != requirements-dev.txt ]] || echo "$wanted" >"$ROOT/.venv/installed-requirements.txt"
  fi
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
  set -euo pipefail
  prepare_environment requirements.txt
  echo "$PYTHON has all packages"
fi
