#!/bin/sh
# Run bootstrap.py, with the arguments given, under $PYTHON or else the newest supported Python of the PATH. Each candidate
# is started, not only looked up: pyenv leaves commands on the PATH that fail for every version it has not activated.
bootstrap=$(dirname "$0")/bootstrap.py

for minor in 13 12 11; do
    for python in "${PYTHON:-python3.$minor}" "${PYTHON:-python3}"; do
        if "$python" -c "import sys; sys.exit(sys.version_info[:2] != (3, $minor))" >/dev/null 2>&1; then
            exec "$python" "$bootstrap" "$@"
        fi
    done
done

# uv brings a Python of its own: nothing to download if it did so before.
if [ -z "${PYTHON:-}" ] && command -v uv >/dev/null && uv python install 3.13; then
    exec "$(uv python find --managed-python 3.13)" "$bootstrap" "$@"
fi

version=$("${PYTHON:-python3}" -c 'import sys; print("python%d.%d" % sys.version_info[:2])' 2>/dev/null)
echo "found ${version:-no ${PYTHON:-python3}}, expected one of python3.11, python3.12, python3.13." \
    "Debian 12, Ubuntu 24.04 and newer: apt-get install python3 python3-venv; elsewhere: pip install uv, which brings a Python" >&2
exit 1
