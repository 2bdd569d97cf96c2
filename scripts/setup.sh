#!/usr/bin/env bash
# Finds a Python 3.11 (the locks are resolved for it) and hands over to setup.py. PYTHON=... names one.
set -euo pipefail
cd "$(dirname "$0")/.."

usable() { "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, 11))' >/dev/null 2>&1; }

for candidate in ${PYTHON:-.venv/bin/python python3.11 python3 python}; do
    if usable "$candidate"; then
        exec "$candidate" scripts/setup.py "$@"
    fi
done

if [ -z "${PYTHON:-}" ] && command -v uv >/dev/null; then
    echo "setup: no usable python3.11 here; asking uv for one"
    uv python install 3.11
    exec "$(uv python find --no-project 3.11)" scripts/setup.py "$@"
fi

cat >&2 <<EOF
setup: expected a Python 3.11 with its venv module, tried: ${PYTHON:-python3.11, python3, python}.
  The locked packages are for Python 3.11. Install it and run again:
    Debian 12:      apt-get install python3.11 python3.11-venv
    anything else:  uv python install 3.11   (or pyenv install 3.11)
  or name one:      make setup PYTHON=/path/to/python3.11
EOF
exit 1
