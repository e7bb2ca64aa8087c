"""From the runs to one tidy table, and from that to what they amount to over seeds and tasks."""


# A file, since the paths of hundreds of runs are more than a command may hold; written first, for reports on the way.
rule list_runs:
    output:
        f"{STUDY}/runs.txt",
    log:
        f"logs/{STUDY}/list_runs.log",
    priority: 100
    localrule: True
    params:
        runs=[*wanted("offline"), *wanted("online")],
    run:
        with open(output[0], "w", encoding="utf-8") as file:
            file.writelines(f"{path}\n" for path in params.runs)


rule scores:
    input:
        wanted("offline"),
        wanted("online"),
        final_scores(),
        runs=rules.list_runs.output,
        carried=carried_results(),
    output:
        report(f"{STUDY}/scores.csv", caption="../report/scores.rst", category="Tables"),
    log:
        f"logs/{STUDY}/scores.log",
    benchmark:
        f"logs/{STUDY}/scores.tsv"
    resources:
        **NO_GPU,
        mem_mb=2000,
        runtime=growing(30, group="report", following=3),
    shell:
        f"{UNPACK_ALL}mfql scores --from-file {{input.runs}}{LISTED_BELOW} --out {{output}} > {{log}} 2>&1"


rule aggregate:
    input:
        f"{STUDY}/scores.csv",
    output:
        [
            report(f"{STUDY}/aggregate/{name}.csv", caption=f"../report/{name}.rst", category="Tables")
            for name in ("tasks", "comparisons", "aggregate", "improvement", "profiles", "curves", "cost")
        ],
        [
            report(f"{STUDY}/aggregate/{name}.{kind}", caption=f"../report/{name}.rst", category="Figures")
            for name in ("curves", "tasks", "aggregate", "profiles", "improvement", "cost")
            for kind in ("svg", "png")
        ],
        [
            f"{STUDY}/aggregate/{name}.{kind}"
            for name in ("tasks", "comparisons", "aggregate", "improvement")
            for kind in ("md", "tex")
        ],
        f"{STUDY}/aggregate/{DRAWN}",
        lost=lost_panels(),
        carried=stored(f"{STUDY}/aggregate/{PANELS}"),
    log:
        f"logs/{STUDY}/aggregate.log",
    benchmark:
        f"logs/{STUDY}/aggregate.tsv"
    threads: 2
    resources:
        **NO_GPU,
        mem_mb=4000,
        runtime=growing(60, group="report", following=3),
    params:
        folder=subpath(output[0], parent=True),
    shell:
        f"mfql aggregate {{input}} --out {{params.folder}} --workers {{threads}} > {{log}} 2>&1{PACK_PANELS}"
