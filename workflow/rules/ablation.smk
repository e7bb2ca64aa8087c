"""Ablations: the runs of `config/ablations.yaml` on the configuration's tasks, and a figure of each. Never part of `all`."""

from mfql.experiment.ablation import read_ablations
from mfql.documents import write_json

ABLATIONS = for_people(read_ablations, CONFIG)


# A file, since the paths of hundreds of runs are more than a command may hold.
rule plan_ablation:
    output:
        f"{STUDY}/ablations/{{ablation}}/plan.json",
    log:
        f"logs/{STUDY}/ablations/{{ablation}}/plan.log",
    wildcard_constraints:
        ablation="|".join(ABLATIONS),
    localrule: True
    params:
        plan=lambda wildcards: for_people(plan_of, wildcards.ablation, config, CONFIG),
        command=lambda wildcards: command_of(f"ablation_{wildcards.ablation}"),
    run:
        write_json(output[0], {**params.plan, "command": params.command})


for name, ablation in ABLATIONS.items():

    rule:
        name:
            f"ablation_{name}"
        input:
            ablation_files(name),
            plan=f"{STUDY}/ablations/{name}/plan.json",
            carried=carried_ablation(name),
        output:
            [
                report(
                    path,
                    caption="../report/ablation.rst",
                    category="Ablations",
                    labels={"ablation": name, "file": path.removeprefix(f"{STUDY}/ablations/{name}/")},
                )
                for path in ablation_outputs(name, ("svg", "png", "csv"))
            ],
            ablation_outputs(name, ("md", "tex", "json")),
        log:
            f"logs/{STUDY}/ablations/{name}/draw.log",
        benchmark:
            f"logs/{STUDY}/ablations/{name}/draw.tsv"
        threads: config["threads"]
        resources:
            **(ONE_GPU if ablation.cost else NO_GPU),
            mem_mb=lambda wildcards, attempt: attempt * 4000,
            runtime=growing(60),
        params:
            folder=subpath(output[0], parent=True),
        shell:
            f"{UNPACK_ALL}mfql ablation draw {{input.plan}}{RESULTS_DIR} --out {{params.folder}} --threads {{threads}} > {{log}} 2>&1"


rule ablations:
    input:
        [file for name in ABLATIONS for file in ablation_outputs(name)],
