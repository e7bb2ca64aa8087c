#!/usr/bin/env bash
# Snakemake 9.27.1: a job whose parameters changed is left out of a launch that makes its `ancient` input anew.
#
# Guess: with the rerun trigger `params`, a launch runs every job whose parameters changed; marking an input `ancient`
# says only that its date does not matter.
#
# Seen: where parameters of a job and of the job that makes its `ancient` input both changed, a launch plans the latter
# alone. The former is planned by the next launch, or by the first if its input's job did not have to run.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check snakemake==9.27.1
cd "$folder"

workflow() {
    cat > Snakefile <<END
rule data:
    output: "data.txt"
    params: version=$1
    shell: "echo {params.version} > {output}"

rule train:
    input: ancient("data.txt")
    output: "model.txt"
    params: setting=$2
    shell: "echo {params.setting} > {output}"
END
}
planned() {  # The rules of the jobs that a launch would run, one after the other.
    venv/bin/snakemake --dry-run model.txt 2>&1 | sed -n 's/^rule \(.*\):$/\1/p' | sort -u | tr '\n' ' '
}

venv/bin/snakemake --version
workflow 1 1
venv/bin/snakemake --quiet all --cores 1 model.txt
workflow 1 2
alone=$(planned)
workflow 2 2
both=$(planned)
venv/bin/snakemake --quiet all --cores 1 model.txt
after=$(planned)
echo "setting changed: $alone| data's version too: $both| after that launch: $after"
[ "$alone" = "train " ] && [ "$both" = "data " ] && [ "$after" = "train " ]
