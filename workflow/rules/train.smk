"""Training: one rule for each stage and pack of seeds, and one for a seed that the configuration does not name.

A run's folder owns its result; what is declared here is a copy. Seeds are no `params`: another packing restores finished
seeds and trains none. Datasets are `ancient`: a checksum file with a new date is no reason to train.
"""

for stage in ("offline", "pretrain"):
    for seeds in PACKS:

        rule:
            name:
                rule_name(stage, seeds)
            input:
                dataset=ancient(dataset_of),
            output:
                run_files(stage, seeds),
            log:
                f"logs/{stage}/{{method}}/{{task}}/seed{pack_name(seeds)}.log",
            benchmark:
                f"logs/{stage}/{{method}}/{{task}}/seed{pack_name(seeds)}.tsv"
            wildcard_constraints:
                seed=OTHER_SEEDS,
            params:
                settings=settings_of(stage),
                data=subpath(input.dataset, parent=True),
            threads: config["threads"]
            resources:
                gpu=1,
                mem_mb=lambda wildcards, attempt: attempt * 12000,
                runtime=training_minutes(stage),
            shell:
                f"mfql train --method {{wildcards.method}} --task {{wildcards.task}} --stage {stage}"
                f" --seeds {seed_arguments(seeds)}"
                " --data {params.data:q} --results results"
                " --threads {threads} --workers {threads} > {log} 2>&1"


for seeds in PACKS:

    rule:
        name:
            rule_name("online", seeds)
        input:
            checkpoints_of(seeds),
            dataset=ancient(dataset_of),
        output:
            run_files("online", seeds),
        log:
            f"logs/online/{{method}}/{{task}}/seed{pack_name(seeds)}.log",
        benchmark:
            f"logs/online/{{method}}/{{task}}/seed{pack_name(seeds)}.tsv"
        wildcard_constraints:
            seed=OTHER_SEEDS,
        params:
            settings=settings_of("online"),
            data=subpath(input.dataset, parent=True),
        threads: config["threads"]
        resources:
            gpu=1,
            mem_mb=lambda wildcards, attempt: attempt * 12000,
            runtime=training_minutes("online"),
        shell:
            "mfql train --method {wildcards.method} --task {wildcards.task} --stage online"
            f" --seeds {seed_arguments(seeds)}"
            " --data {params.data:q} --results results"
            " --threads {threads} --workers {threads} > {log} 2>&1"
