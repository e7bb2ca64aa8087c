"""The 2-D toy of `config/toy.yaml`: a training of each method, all seeds together, and the panels of each study.

Never part of `all`. Trainings lie in `results/toy-runs/SIZE/METHOD/`, shared by all configurations.
"""

from mfql.experiment.toy import read_configuration, read_study, training_identity

TOY_FILE = f"{CONFIG}/toy.yaml"
TOY_CONFIG = in_command("--config", TOY_FILE)
TOY = for_people(read_configuration, TOY_FILE)
TOY_RUN = "results/toy-runs/{size}/{method}/"
TOY_TRAINED = ("metrics.csv", "samples.csv", "manifest.json")
# The folders of the panels of a study at a size.
TOY_PANELS = {
    (study, size): [f"{STUDY}/toy/{size}/{study}/{panel}" for panel in ["comparison", *made.get("panels", [])]]
    for study, made in TOY["studies"].items()
    for size in TOY["sizes"]
}


for size in TOY["sizes"]:

    rule:
        name:
            f"train_toy_{size}"
        output:
            [f"{TOY_RUN}{name}" for name in TOY_TRAINED],
        log:
            "logs/toy-runs/{size}/{method}.log",
        benchmark:
            "logs/toy-runs/{size}/{method}.tsv"
        wildcard_constraints:
            size=size,
        threads: 1
        resources:
            **(ONE_GPU if size == "paper" else NO_GPU),
            mem_mb=lambda wildcards, attempt: attempt * 4000,
            runtime=growing(240),
        params:
            folder=subpath(output[0], parent=True),
            identity=lambda wildcards: for_people(training_identity, TOY, wildcards.method, wildcards.size, TOY_FILE),
        shell:
            f"mfql toy train {{wildcards.method}} --size {{wildcards.size}}{TOY_CONFIG} --out {{params.folder}}"
            " --threads {threads} > {log} 2>&1"


for (study, size), folders in TOY_PANELS.items():

    rule:
        name:
            f"toy_{size}_{study}"
        input:
            expand(f"{TOY_RUN}manifest.json", size=size, method=for_people(read_study, TOY_FILE, study).methods),
            stored(
                *expand(
                    f"{TOY_RUN}{{name}}",
                    size=size,
                    method=for_people(read_study, TOY_FILE, study).methods,
                    name=TOY_TRAINED,
                )
            ),
        output:
            expand("{folder}/{file}", file=("panel.json", "figure.png", "data.csv"), folder=folders),
            [
                report(
                    f"{folder}/figure.svg",
                    caption="../report/toy.rst",
                    category="Toy",
                    subcategory=study,
                    labels={"size": size, "panel": os.path.basename(folder)},
                )
                for folder in folders
            ],
        log:
            f"logs/{STUDY}/toy/{size}/{study}.log",
        benchmark:
            f"logs/{STUDY}/toy/{size}/{study}.tsv"
        resources:
            **NO_GPU,
            mem_mb=lambda wildcards, attempt: attempt * 4000,
            runtime=growing(60),
        params:
            study=study,
            size=size,
            runs=subpath(input[0], ancestor=2),
            out=subpath(output[0], ancestor=2),
            command=command_of(f"toy_{size}_{study}"),
        shell:
            f"mfql toy panels {{params.study}} --size {{params.size}}{TOY_CONFIG} --runs {{params.runs}}"
            " --out {params.out} --command {params.command:q} > {log} 2>&1"


rule toy:
    input:
        toy_files(("formulations", "sampled_b"), "reduced"),


rule toy_studies:
    input:
        toy_files(TOY["studies"], "reduced"),


rule toy_paper:
    input:
        toy_files(TOY["studies"], "paper"),
