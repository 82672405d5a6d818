"""Check and time mtbert on one GPU: numerics, speed of training, speed of prediction, and the quality of a recipe.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --parts numerics speed --results FOLDER
    python benchmarks/gpu.py --cpu_smoke        # rehearses all parts on the CPU with tiny encoders
    python benchmarks/gpu.py --join ONE/gpu.json OTHER/gpu.json    # puts the parts of several runs into one file

Uses no network, and ends within `--minutes`. Each part runs in its own process, so that one that fails or is cut short
costs no other. Writes benchmarks/results/gpu.md and gpu.json after each step of a part. The encoders have random
weights, but for that of `quality` (`--encoder`, with the course's files in `--data_dir`).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path

from gpu_parts.results import OF_ONE_RUN, Results

ROOT = Path(__file__).resolve().parents[1]
LIMITS = {"numerics": 120, "speed": 240, "inference": 60, "quality": 600}  # seconds of a part, at most
GRACE = 15  # seconds between the time at which a part should end and that at which it is stopped
NO_GPU = 3  # exit status of a part


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=[*LIMITS], default=[*LIMITS])
    parser.add_argument("--minutes", type=float, default=8.5, help="time for all parts")
    parser.add_argument("--rounds", type=int, default=3, help="speed: times that every contender is timed")
    parser.add_argument("--steps", type=int, default=40, help="speed: timed optimizer steps of a round")
    parser.add_argument("--batch", type=int, nargs="+", default=[256, 32], help="speed: rows of a step")
    parser.add_argument("--workers", type=int, default=4, help="speed: processes that load data, for all contenders")
    parser.add_argument("--texts", type=int, default=4096, help="inference: pairs of texts")
    parser.add_argument("--encoder", help="quality: folder of the encoder; without it, the part is left out")
    parser.add_argument("--recipe", help="quality: the recipe; default: recipes/configs/cs224n/best_base.yaml")
    parser.add_argument("--data_dir", help="folder with the course's files; default: ../shared/data/cs224n")
    parser.add_argument("--results", type=Path, help="folder to write to; default: benchmarks/results")
    parser.add_argument("--commit", help="the commit, where there is no checkout that tells it")
    parser.add_argument("--join", type=Path, nargs="+", help="only join these gpu.json of one commit and one GPU")
    parser.add_argument("--cpu_smoke", action="store_true", help="rehearse all parts on the CPU, with tiny encoders")
    parser.add_argument("--part", choices=[*LIMITS], help=argparse.SUPPRESS)  # run this part, in this process
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)  # time.time() at which the part should end
    args = parser.parse_args(argv)
    if args.cpu_smoke:
        args.batch, args.steps, args.rounds, args.workers, args.texts = [8, 4], 2, 1, 0, 64
        args.recipe = args.recipe or str(ROOT / "recipes" / "configs" / "quickstart.yaml")
    return args


def run_parts(args: argparse.Namespace, argv: list[str]) -> bool:
    """Run each part in its own process; return whether all have ended, and the numerics' bars pass."""
    longer = 10 if args.cpu_smoke else 1  # a CPU may be busy with other work
    end, good = time.time() + 60 * args.minutes * longer, True
    for part in args.parts:
        limit = min(LIMITS[part] * longer, end - time.time())
        why = "no time was left"
        if limit > 2 * GRACE:
            print(f"{part}: at most {limit:.0f} s", flush=True)
            why = run_process(argv, part, limit)
        if why:
            Results(args.results, None if (args.results / "gpu.json").is_file() else {}).stop(part, why)
            good = False
    results = Results(args.results)
    results.show()
    return good and all(bar.passed or bar.aim for bar in results.bars("numerics"))


def run_process(argv: list[str], part: str, limit: float) -> str:
    """Run a part in a process of its own for at most `limit` seconds; return why it has not ended, or "" if it has."""
    until = time.time() + limit - GRACE
    command = [sys.executable, __file__, *argv, "--part", part, "--until", str(until)]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]  # mtbert need not be installed
    more = {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    more["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0")  # of several GPUs the first
    more["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # without it matrix products are not deterministic
    start = time.time()
    try:
        status = subprocess.run(command, env={**os.environ, **more}, timeout=limit).returncode
    except subprocess.TimeoutExpired:
        return f"it was stopped after {limit:.0f} s"
    if status == NO_GPU:
        sys.exit(NO_GPU)
    print(f"{part}: {time.time() - start:.0f} s", flush=True)
    return f"its process ended with status {status}" if status else ""


def run_part(args: argparse.Namespace) -> None:
    """Run one part in this process."""
    import torch
    from gpu_parts.setting import Setting
    from measure import environment, has_bf16
    from workload import quiet

    if not args.cpu_smoke and not torch.cuda.is_available():
        print("gpu.py: torch sees no GPU here; bench.py is for the CPU, --cpu_smoke rehearses this script")
        sys.exit(NO_GPU)
    quiet()
    if args.cpu_smoke:
        torch.set_num_threads(1)  # more of them would wait for each other in models as small as these
    device = "cpu" if args.cpu_smoke else "cuda"
    precision = "bf16" if device == "cuda" or has_bf16() else "fp32"
    where = environment(
        device=torch.cuda.get_device_name() if device == "cuda" else "cpu, a rehearsal with tiny encoders",
        cuda=str(torch.version.cuda),
        precision=precision,
    )
    where["commit"] = args.commit or where["commit"]
    results = Results(args.results, where)
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(args.part, args, device, precision, args.until or time.time() + 600, results, folder)
        import_module(f"gpu_parts.{args.part}").run(setting)


def join(files: list[Path], folder: Path) -> None:
    """Write the parts of several runs of one commit on one GPU as one result; a later file's part replaces others."""
    stored = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    if len({tuple(each["environment"].get(key) for key in OF_ONE_RUN) for each in stored}) > 1:
        sys.exit(f"gpu.py: these runs differ in their {' or '.join(OF_ONE_RUN)}, and are not joined")
    results = Results(folder, stored[0]["environment"])
    for each in stored:
        results.parts |= each["parts"]
    results.write()
    results.show()


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    args = parse(argv)
    with tempfile.TemporaryDirectory() as folder:
        if args.results is None:  # the results of a rehearsal are of no use
            args.results = Path(folder) if args.cpu_smoke else ROOT / "benchmarks" / "results"
            argv = [*argv, "--results", str(args.results)]
        if args.join:
            join(args.join, args.results)
        elif args.part:
            run_part(args)
        else:
            sys.exit(0 if run_parts(args, argv) else 1)


if __name__ == "__main__":
    main()
