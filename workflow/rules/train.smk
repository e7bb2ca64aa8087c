"""Training: rules for each pack of seeds, and for a seed that the configuration does not name.

A run's folder owns its result; what is declared here is a copy. The seeds follow from the outputs and so are no reason to
train: another packing restores finished seeds. Datasets are `ancient`: nor is a checksum file's new date one.
"""

# A launch was judged as a whole before it began: --allow-cpu.
# `exec`: a scheduler's SIGTERM must not end a shell that waits for the trainer, which saves and goes.
TRAIN = (
    f"{UNPACK}exec mfql{EXTENSIONS} train --method {{wildcards.method}} --task {{wildcards.task}} --stage {{wildcards.stage}}"
    f" --seeds {{params.seeds}} --data {{params.data:q}} {RESULTS_DIR[1:]}{CONFIG_DIR}"
    f" --threads {{threads}} --workers {{threads}} --wait --allow-cpu{TRACKERS}"
)

for name, stages, archives in [
    ("train_offline", "offline|pretrain", (RUN, CHECKPOINT)),
    ("train_online", "online", (RUN,)),
]:
    for job, seeds, tasks, other_seeds in TRAINING_JOBS:

        rule:
            name:
                f"{name}_{job}".replace("-", "_")
            input:
                checkpoints_of(seeds),
                dataset=ancient(dataset_of),
                carried=ancient(carried_to_training(seeds)),
            output:
                run_files("{stage}", seeds),
                carried=carried_runs(seeds, archives),
            log:
                f"logs/{{stage}}/{{method}}/{{task}}/seed{pack_name(seeds)}.log",
            benchmark:
                f"logs/{{stage}}/{{method}}/{{task}}/seed{pack_name(seeds)}.tsv"
            wildcard_constraints:
                stage=stages,
                task=tasks,
                seed=other_seeds,
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
                f"{TRAIN}{CARRY} > {{log}} 2>&1"


# The results so far of runs that pause at a step, which `mfql tune search` asks for. Like training to the end, with one option more.
for job, seeds, tasks, other_seeds in TRAINING_JOBS:

    rule:
        name:
            f"train_offline_until_{job}".replace("-", "_")
        input:
            dataset=ancient(dataset_of),
            carried=ancient(carried_dataset),
        output:
            run_files("{stage}", seeds, "paused-{step}.json"),
        log:
            f"logs/{{stage}}/{{method}}/{{task}}/seed{pack_name(seeds)}-until{{step}}.log",
        benchmark:
            f"logs/{{stage}}/{{method}}/{{task}}/seed{pack_name(seeds)}-until{{step}}.tsv"
        wildcard_constraints:
            stage="offline",
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
            f"{TRAIN} --pause-at {{wildcards.step}} > {{log}} 2>&1"
