#!/usr/bin/env bash
# Set up everything in .venv and run the tests. Arguments go to pytest:
#
#   bash scripts/test.sh                    all that this machine can run
#   bash scripts/test.sh -m "not slow"      the quick ones
#   bash scripts/test.sh tests/step1 -x     one folder, stop at the first failure
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
prepare_environment requirements-dev.txt
cd "$ROOT"
exec "$PYTHON" -m pytest "$@"
