"""MFQL from dataset to report. README.md says how to run it, config/README.md what each key means."""

from snakemake.utils import min_version

min_version("9.5")


configfile: "config/config.yaml"


# The image that `--software-deployment-method apptainer` runs every rule in.
container: "containers/mfql.sif"


include: "workflow/rules/common.smk"
include: "workflow/rules/dataset.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/aggregate.smk"
include: "workflow/rules/verdict.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/tune.smk"
include: "workflow/rules/ablation.smk"
include: "workflow/rules/toy.smk"
include: "workflow/rules/claims.smk"


localrules:
    all,
    offline,
    online,
    replay,
    tune,


rule all:
    default_target: True
    input:
        wanted("offline"),
        wanted("online"),
        rules.report.output,
        final_scores(),
        videos(),


rule offline:
    input:
        wanted("offline"),


rule online:
    input:
        wanted("online"),


rule replay:
    input:
        rules.replay_table.output.panel,


rule tune:
    input:
        rules.choose_settings.output,


onstart:
    announce()
