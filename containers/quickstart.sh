#!/bin/sh
# The quickstart: in the working directory if that is a checkout, else in a copy of the image's repository, ./mfql.
set -eu
if [ ! -f workflow/Snakefile ]; then
    if [ ! -f mfql/workflow/Snakefile ]; then
        [ -w . ] || {
            echo "$PWD cannot be written by user $(id -u). Mount a folder of that user's there." >&2
            exit 2
        }
        cp -r /mfql/repository mfql.part
        mv mfql.part mfql
    fi
    cd mfql
    . /mfql/environment.sh
fi
snakemake --configfile config/quickstart.yaml --cores "${CORES:-all}"
exec mfql summary --aggregates results/quickstart/aggregate --expected config/quickstart-expected.yaml \
    --report results/quickstart/report.html
