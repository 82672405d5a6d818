"""Should these tasks share a model? Train each alone, all together, and together with adapters, and compare.

    mtbert study RECIPE.yaml --encoder DIR_OR_HUB_NAME --data_dir DIR --plan
    mtbert study RECIPE.yaml --encoder DIR_OR_HUB_NAME --data_dir DIR [--steps 300] [--seeds 1,2,3] [--KEY VALUE]...

For each task it says what sharing gains or loses, with a 95 % interval over seeds and dev rows; where the interval
holds 0, it says "undecided". In the joint runs it measures the cosines of the tasks' gradients, and how a step for one
task changes the loss of another (look-ahead affinity), and from these it suggests groups of tasks and weights. Every
form's cost is measured in the same runs. docs/study.md explains the page.

Every run has its own process and leaves a small result file; a run that has one is not repeated, so that the same
command goes on where it stopped. Further --KEY VALUE arguments set keys of the recipe, as with `mtbert finetune`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..modeling.display import display
from ..runs.study import StudyPlan, check_data, plan_lines, plan_study, study_name
from ..runs.study_page import PAGE, write_study
from . import arguments
from .main import run as run_command
from .pages import print_page


def planned(args: argparse.Namespace) -> StudyPlan:
    """The study that the command line asks for."""
    output = args.output or Path("runs", "study", study_name(args.recipe))
    return StudyPlan(
        recipe=args.recipe,
        overrides=args.overrides,
        steps=args.steps,
        joint_steps=args.joint_steps,
        seeds=args.seeds,
        every=args.every,
        rows=args.rows,
        groups=args.groups,
        adapter=args.adapter,
        mixed_precision=args.mixed_precision,
        output=output,
        results=args.results or output / "results",
        commit=args.commit,
    )


def main(argv: list[str]) -> int:
    """Run a study, or print its plan; return the exit status: 1 if a run failed."""
    args = arguments.PARSERS["study"](argv)
    plan = planned(args)
    table = plan_study(plan)
    for line in plan_lines(table, {} if args.finished_only else check_data(table)):
        print(display(line))
    if args.plan:
        return 0
    failed = [] if args.finished_only else table.run_all(args.jobs)
    print_page(write_study(plan, table))
    print(display(f"page, numbers and figures: {plan.output / PAGE}"))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(run_command("study"))
