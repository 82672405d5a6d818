"""Predict the rows of files with Ray Data; each worker loads the checkpoint once.

    pip install 'mtbert[engines]'
    python recipes/engines/ray_predict.py CHECKPOINT INPUT.parquet OUTPUT_FOLDER --workers 3

INPUT is a csv or parquet file, or a folder of them, with the text column `text` (and `text_pair` for pairs). The rows
of OUTPUT_FOLDER's parquet files are those of INPUT with the answers of every task.
"""

import argparse

import ray

from mtbert import Predictor


def main() -> None:
    """Read, predict and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="a folder that every worker can read, or a hub name")
    parser.add_argument("input", help="csv or parquet")
    parser.add_argument("output", help="folder of parquet files")
    parser.add_argument("--tasks", default="all", help="names, separated by commas (default: all)")
    parser.add_argument("--workers", type=int, default=1, help="processes that hold the model (default: 1)")
    parser.add_argument("--batch_rows", type=int, default=1024, help="rows in a call (default: 1024)")
    args = parser.parse_args()
    read = ray.data.read_csv if ".csv" in args.input else ray.data.read_parquet
    ray.init()
    if args.workers >= (cpus := ray.cluster_resources().get("CPU", 0)):
        parser.error(
            f"--workers is {args.workers}, but must be below {cpus:.0f}, the cluster's CPUs: reading takes one"
        )
    tasks = args.tasks if args.tasks == "all" else args.tasks.split(",")
    Predictor(args.checkpoint, tasks)  # reports errors here instead of in the workers
    answers = read(args.input).map_batches(
        Predictor,
        fn_constructor_args=(args.checkpoint, tasks),
        batch_size=args.batch_rows,
        batch_format="pandas",
        compute=ray.data.ActorPoolStrategy(size=args.workers),
    )
    answers.write_parquet(args.output)


if __name__ == "__main__":
    main()
