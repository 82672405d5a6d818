"""Predict the rows of files with Spark; each Python worker loads the checkpoint once.

    pip install 'mtbert[engines]'     # Spark needs a Java runtime, too
    spark-submit recipes/engines/spark_predict.py CHECKPOINT INPUT.parquet OUTPUT_FOLDER

INPUT is a csv or parquet file, or a folder of them, with the text column `text` (and `text_pair` for pairs). The rows
of OUTPUT_FOLDER's parquet files are those of INPUT with the answers of every task.
"""

import argparse
from collections.abc import Iterable, Iterator

import pandas as pd
from pyspark.sql import SparkSession
from pyspark.sql.types import DoubleType, StringType, StructType

from mtbert import Predictor

TYPES = {str: StringType(), float: DoubleType()}


def main() -> None:
    """Read, predict and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="a folder that every worker can read, or a hub name")
    parser.add_argument("input", help="csv or parquet")
    parser.add_argument("output", help="folder of parquet files")
    parser.add_argument("--tasks", default="all", help="names, separated by commas (default: all)")
    args = parser.parse_args()
    tasks = args.tasks if args.tasks == "all" else args.tasks.split(",")
    predictor = Predictor(args.checkpoint, tasks)

    def predict(frames: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        for frame in frames:
            yield pd.DataFrame(predictor(frame))

    spark = SparkSession.builder.appName("mtbert").getOrCreate()
    if ".csv" in args.input:
        rows = spark.read.csv(args.input, header=True, escape='"', multiLine=True)
    else:
        rows = spark.read.parquet(args.input)
    schema = StructType(list(rows.schema))
    for name, kind in predictor.columns.items():
        schema = schema.add(name, TYPES[kind])
    rows.mapInPandas(predict, schema).write.parquet(args.output)
    spark.stop()


if __name__ == "__main__":
    main()
