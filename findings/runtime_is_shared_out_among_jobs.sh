#!/usr/bin/env bash
# Snakemake 9.27.1: `resources: runtime` limits the sum over all jobs in a cluster's queue, not the time of one.
#
# Guess: a limit on `runtime`, in a profile or by `--resources`, is the longest that one job may ask for, as one on
# `mem_mb` is the most memory.
#
# Seen: with `runtime=100` and six ready jobs of 60 minutes one is submitted at a time, all six with 10000; `mem_mb=100`
# submits all six jobs of 60 MB, and cuts one of 200 MB to 100. With `--set-resource-scopes runtime=local` all are submitted and
# a longer one is cut too, but a group of jobs that follow one another asks for their sum, beyond the limit.
set -euo pipefail

folder=$(mktemp -d)
launch=
trap '[ -z "$launch" ] || kill -9 -- "-$launch" 2> /dev/null || true; rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check snakemake==9.27.1 snakemake-executor-plugin-slurm==2.8.0
cd "$folder"
mkdir bin
# A cluster whose jobs never end: a submission is written down and answered with a number.
cat > bin/sbatch <<'END'
#!/bin/sh
echo "$*" | sed 's/ -D .*//' > "$SUBMITTED/part-$$" && mv "$SUBMITTED/part-$$" "$SUBMITTED/job-$$"
echo $$
END
for name in squeue sacct scontrol scancel sshare; do printf '#!/bin/sh\n' > "bin/$name"; done
printf '#!/bin/sh\necho lab\n' > bin/sacctmgr
printf '#!/bin/sh\necho "main*"\n' > bin/sinfo
chmod +x bin/*
cat > Snakefile <<'END'
rule all:
    input: expand("short{i}", i=range(6))

rule job:
    output: "short{i}"
    resources: runtime=60, mem_mb=60
    threads: 4
    shell: "touch {output}"

rule long:
    output: "long"
    resources: runtime=200, mem_mb=200
    shell: "touch {output}"
END
# Times and megabytes that a launch with these arguments asks for, until 20 seconds after its first submission.
asked() {
    rm -rf .snakemake submitted
    mkdir submitted
    SUBMITTED=$folder/submitted PATH=$folder/bin:$folder/venv/bin:$PATH setsid snakemake --executor slurm --jobs 50 \
        --cores 4 --default-resources slurm_account=lab slurm_partition=main "$@" > printed 2>&1 < /dev/null &
    launch=$!
    for _ in $(seq 180); do
        ! compgen -G "submitted/job-*" > /dev/null || break
        sleep 1
    done
    sleep 20
    kill -9 -- "-$launch" 2> /dev/null || true
    wait "$launch" 2> /dev/null || true
    launch=
    compgen -G "submitted/job-*" > /dev/null || { cat printed >&2; exit 1; }
    cat submitted/job-* | grep -o -- '-t [0-9]*\|--mem [0-9]*' | paste -sd ' ' -
}
count() { grep -o -- '-t ' <<< "$1" | wc -l; }

venv/bin/snakemake --version
unlimited=$(asked --resources runtime=10000 mem_mb=10000)
runtime=$(asked --resources runtime=100 mem_mb=10000)
memory=$(asked --resources mem_mb=100 runtime=10000)
long=$(asked --resources mem_mb=100 runtime=100 --set-resource-scopes runtime=local -- long)
local=$(asked --resources runtime=100 mem_mb=10000 --set-resource-scopes runtime=local)
group=$(asked --resources runtime=100 mem_mb=10000 --set-resource-scopes runtime=local --groups job=together --group-components together=6)
echo "submitted of six: $(count "$unlimited") with runtime=10000, $(count "$runtime") with runtime=100," \
    "$(count "$memory") with mem_mb=100, $(count "$local") with a local runtime=100"
echo "a long one, both limited, runtime locally: $long | six in a group: $group"
[ "$(count "$unlimited")" = 6 ] && [ "$(count "$runtime")" = 1 ] && [ "$(count "$memory")" = 6 ]
[ "$(count "$local")" = 6 ] && grep -q -- '-t 100' <<< "$long" && grep -q -- '--mem 100' <<< "$long"
grep -q -- '-t 360' <<< "$group"
