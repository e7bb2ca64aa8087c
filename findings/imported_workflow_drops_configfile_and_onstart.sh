#!/usr/bin/env bash
# Snakemake 9.27.1: what a workflow says beside its rules is not all there when another one imports it as a `module:`.
#
# Guess: a module that is given a `config:` lays it over its own `configfile:`, as `--configfile` does, and its `onstart:`
# runs as where it is started by itself.
#
# Seen: with a `config:` the module's `configfile:` is not read at all, so that a key which that file alone has is absent, and
# its `onstart:` is not run.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check snakemake==9.27.1
mkdir "$folder/inner" "$folder/outer"
cat > "$folder/inner/Snakefile" <<'END'
configfile: workflow.source_path("default.yaml")

rule listed:
    output: f"listed-{config['name']}"
    shell: "touch {output}"

rule said:
    output: f"said-{config.get('size', 'unknown')}"
    shell: "touch {output}"

onstart:
    print("onstart of the inner workflow")
END
printf 'name: default\nsize: 3\n' > "$folder/inner/default.yaml"
cat > "$folder/outer/Snakefile" <<'END'
module inner:
    snakefile: "../inner/Snakefile"
    config: {"name": "study"}

use rule * from inner as inner_*

rule all:
    default_target: True
    input: rules.inner_listed.output, rules.inner_said.output
END
run() { (cd "$folder/$1" && "$folder/venv/bin/snakemake" --cores 1 "${@:2}" 2>&1); }

"$folder/venv/bin/snakemake" --version
alone=$(run inner listed said)
imported=$(run outer)
echo "alone:    $(grep -o 'onstart of the inner workflow' <<< "$alone"); made $(cd "$folder/inner" && ls -d listed-* said-* | paste -sd ' ' -)"
echo "imported: $(grep -c 'onstart of the inner workflow' <<< "$imported" || true) times its onstart; made" \
    "$(cd "$folder/outer" && ls -d listed-* said-* | paste -sd ' ' -)"
grep -q 'onstart of the inner workflow' <<< "$alone"
[ -e "$folder/inner/listed-default" ] && [ -e "$folder/inner/said-3" ]
! grep -q 'onstart of the inner workflow' <<< "$imported"
[ -e "$folder/outer/listed-study" ] && [ -e "$folder/outer/said-unknown" ]
