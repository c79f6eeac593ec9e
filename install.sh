#!/bin/sh
# Installs llmc from this folder into its own environment, .venv:   sh install.sh [extra ...]
# What is missing on the machine is said before anything is done. Run again, it does only what has changed.
# PYTHON=/path/to/python3 chooses the interpreter.
set -eu
cd "$(dirname "$0")"

python=${PYTHON:-python3}
stamp=.venv/llmc-installed # holds the extras that are there; as old as the last build

say() { printf '%s\n' "install.sh: $*" >&2; }

extras=$(cat "$stamp" 2>/dev/null || true)
stale=
[ -e "$stamp" ] && [ -z "$(find csrc setup.py pyproject.toml -newer "$stamp" -print -quit)" ] || stale=yes
for extra in "$@"; do
    case ",$extras," in
    *,"$extra",*) ;;
    *) extras="${extras:+$extras,}$extra" stale=yes ;;
    esac
done
[ -n "$stale" ] || exit 0

# What the machine lacks, all at once.
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
    found=$("$python" --version 2>/dev/null) || found="not there"
    say "llmc needs Python 3.10 or newer; $python is $found."
    say "On Debian and Ubuntu: apt-get install python3 python3-venv python3-dev   (or PYTHON=/path/to/python3 sh install.sh)"
    exit 1
fi
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
packages=
"$python" -c 'import venv, ensurepip' 2>/dev/null || packages="$packages python$version-venv"
headers=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
[ -e "$headers/Python.h" ] || packages="$packages python$version-dev"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
echo '#include <stdio.h>
int main(void) { return 0; }' > "$work/probe.c"
compiler=
for cc in ${CC:+"$CC"} cc gcc clang; do
    # CC may be several words. shellcheck disable=SC2086
    if $cc "$work/probe.c" -o "$work/probe" 2>/dev/null; then compiler=$cc; break; fi
done
[ -n "$compiler" ] || packages="$packages gcc libc6-dev"
if [ -n "$packages" ]; then
    say "this machine lacks what llmc is built with. On Debian and Ubuntu:"
    say "    $([ "$(id -u)" = 0 ] || echo 'sudo ')apt-get install$packages"
    exit 1
fi
if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    "$python" -m venv "$work/venv"
    if ! "$work/venv/bin/pip" download -q --retries 1 --timeout 20 --no-deps --dest "$work" tqdm 2> "$work/reason"; then
        tail -n 3 "$work/reason" >&2
        say "pip reaches no package index (see above); llmc needs one, this once."
        say "Set PIP_INDEX_URL or PIP_PROXY, or connect, and run this again."
        exit 1
    fi
    "$python" -m venv .venv
fi

say "building llmc into .venv with $("$python" --version), $compiler (a minute or two, once)"
CC=${CC:-$compiler} .venv/bin/python -m pip install -q --disable-pip-version-check -e ".${extras:+[$extras]}"
printf '%s' "$extras" > "$stamp"
