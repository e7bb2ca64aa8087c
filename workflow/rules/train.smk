"""Training: rules for each pack of seeds, and for a seed that the configuration does not name.

A run's folder owns its result; what is declared here is a copy. The seeds follow from the outputs and so are no reason to
train: another packing restores finished seeds. Datasets are `ancient`: nor is a checksum file's new date one.
"""

# A file with a step in its name is what `mfql tune search` asks for: the result so far of a run that pauses there.
for name, stages, file, until, pause in [
    ("train_offline", "offline|pretrain", "evaluation.json", "", ""),
    ("train_online", "online", "evaluation.json", "", ""),
    ("train_offline_until", "offline", "paused-{step}.json", "-until{step}", " --pause-at {wildcards.step}"),
]:
    for job, seeds, tasks, other_seeds in TRAINING_JOBS:

        rule:
            name:
                f"{name}_{job}".replace("-", "_")
            input:
                checkpoints_of(seeds),
                dataset=ancient(dataset_of),
            output:
                run_files("{stage}", seeds, file),
            log:
                f"logs/{{stage}}/{{method}}/{{task}}/seed{pack_name(seeds)}{until}.log",
            benchmark:
                f"logs/{{stage}}/{{method}}/{{task}}/seed{pack_name(seeds)}{until}.tsv"
            wildcard_constraints:
                stage=stages,
                task=tasks,
                seed=other_seeds,
                step=r"[1-9]\d*",
            threads: config["threads"]
            resources:
                **ONE_GPU,
                mem_mb=lambda wildcards, attempt: attempt * 12000,
                runtime=training_minutes,
            params:
                settings=settings_of(seeds),
                seeds=lambda wildcards, output: seeds_of(output),
                data=subpath(input.dataset, parent=True),
            shell:
                # A launch was judged as a whole before it began: --allow-cpu.
                # `exec`: a scheduler's SIGTERM must not end a shell that waits for the trainer, which saves and goes.
                f"exec mfql{EXTENSIONS} train --method {{wildcards.method}} --task {{wildcards.task}} --stage {{wildcards.stage}}"
                f" --seeds {{params.seeds}} --data {{params.data:q}} --results results{CONFIG_DIR}"
                f" --threads {{threads}} --workers {{threads}} --wait --allow-cpu{pause} > {{log}} 2>&1"
