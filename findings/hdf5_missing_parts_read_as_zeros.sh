#!/usr/bin/env bash
# h5py 3.16.0: an HDF5 dataset whose rows lie in other files, of which one was not copied along.
#
# Guess: reading it raises an error, as a link to an array in a file that is not there does.
#
# Seen: a virtual dataset whose source is absent, and one in external storage whose file was cut, are read without a word: the
# rows that are missing are zeros. Only an absent file of external storage is an error. The file itself says of neither that
# rows are missing, and its own checksum is as before.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check h5py==3.16.0
cat > "$folder/read.py" <<'END'
import hashlib
from pathlib import Path

import h5py
import numpy as np

print("h5py", h5py.__version__, "HDF5", h5py.version.hdf5_version)
with h5py.File("part.hdf5", "w") as part:
    part["rewards"] = np.arange(1.0, 5.0)
layout = h5py.VirtualLayout((4,), "f8")
layout[:] = h5py.VirtualSource("part.hdf5", "rewards", (4,))
with h5py.File("whole.hdf5", "w") as whole:
    whole.create_virtual_dataset("virtual", layout)
    whole.create_dataset("external", (4,), "f8", external=[("rows.bin", 0, 32)])[:] = np.arange(1.0, 5.0)
    whole["linked"] = h5py.ExternalLink("part.hdf5", "rewards")


def show(when: str) -> None:
    checksum = hashlib.sha256(Path("whole.hdf5").read_bytes()).hexdigest()[:8]
    with h5py.File("whole.hdf5") as whole:
        for name in ("virtual", "external", "linked"):
            try:
                seen = whole[name][()].tolist()
            except (OSError, KeyError) as error:
                seen = type(error).__name__
            print(f"{when}: {name} {seen}")
    print(f"{when}: {checksum}")


show("all there")
Path("part.hdf5").unlink()
with Path("rows.bin").open("r+b") as rows:
    rows.truncate(16)
show("part gone, rows cut")
Path("rows.bin").unlink()
show("rows gone")
END
(cd "$folder" && venv/bin/python read.py) | tee "$folder/seen"
grep -qx 'all there: virtual \[1.0, 2.0, 3.0, 4.0\]' "$folder/seen"
grep -qx 'part gone, rows cut: virtual \[0.0, 0.0, 0.0, 0.0\]' "$folder/seen"
grep -qx 'part gone, rows cut: external \[1.0, 2.0, 0.0, 0.0\]' "$folder/seen"
grep -qx 'part gone, rows cut: linked KeyError' "$folder/seen"
grep -qx 'rows gone: external OSError' "$folder/seen"
[ "$(grep -Ec ': [0-9a-f]{8}$' "$folder/seen")" = 3 ]
[ "$(grep -E ': [0-9a-f]{8}$' "$folder/seen" | sed 's/.*: //' | sort -u | wc -l)" = 1 ]
