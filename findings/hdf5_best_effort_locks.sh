#!/usr/bin/env bash
# h5py 3.16.0: reading a file with `locking='best-effort'` on a file system that gives no locks.
#
# Guess: best effort means to lock where that can be had and to go on without where it cannot, whichever of the system's errors
# says so: "No locks available" (ENOLCK, of network file systems), "not supported" (EOPNOTSUPP), "not implemented" (ENOSYS).
#
# Seen: only "not implemented" is gone on without; the others fail, as they do by default. `locking=False` opens all of them.
#
# The file system is made by a library that is loaded first and whose flock() fails with one of these; it takes a C compiler.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check h5py==3.16.0
cat > "$folder/flock.c" <<'END'
#include <errno.h>
int flock(int file, int operation) { (void)file; (void)operation; errno = REASON; return -1; }
END
cat > "$folder/open.py" <<'END'
import sys

import h5py

for locking in ("best-effort", False):
    try:
        with h5py.File(sys.argv[1], locking=locking) as file:
            print(f"{sys.argv[2]} {locking}: opened, {file['values'][()].sum()}")
    except OSError as error:
        print(f"{sys.argv[2]} {locking}: {type(error).__name__}")
END
"$folder/venv/bin/python" -c "
import h5py, sys
print('h5py', h5py.__version__, 'HDF5', h5py.version.hdf5_version)
with h5py.File(sys.argv[1], 'w') as file:
    file['values'] = [1, 2]" "$folder/file.hdf5"
for reason in ENOLCK EOPNOTSUPP ENOSYS; do
    cc -shared -fPIC -D REASON=$reason -o "$folder/$reason.so" "$folder/flock.c"
    LD_PRELOAD="$folder/$reason.so" "$folder/venv/bin/python" "$folder/open.py" "$folder/file.hdf5" $reason
done | tee "$folder/seen"
grep -qx 'ENOLCK best-effort: OSError' "$folder/seen"
grep -qx 'ENOLCK False: opened, 3' "$folder/seen"
grep -qx 'ENOSYS best-effort: opened, 3' "$folder/seen"
grep -qx "EOPNOTSUPP best-effort: OSError" "$folder/seen"
