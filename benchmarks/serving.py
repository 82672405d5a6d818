"""Time `mtbert serve`: requests/s and latency at rising load, and six heads of one encoder against six servers.

    python benchmarks/serving.py            # on idle cores, half an hour
    python benchmarks/serving.py --smoke    # a rehearsal of a minute; its figures mean nothing

All servers and the clients share this machine's cores. A request has one text of 16 words and asks all heads. Load
rises by the number of clients, each of which asks again as soon as it has its answer; the greatest load is the highest
rate that any number of clients reaches. Against it stand as many servers with one head each, of which each client asks
all at once, with one thread each, which suits many processes on few cores. Then requests come at random times at half
of the greatest rate, whatever the server does, without and with 5 % long texts added; their latency counts from the
time at which they are due. Each figure is the median of the rounds. Writes benchmarks/results/serving.md and .json.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from measure import environment
from serving_load import Load, closed_loop, open_loop, start_servers, stop_servers
from tables import Table, report
from transformers import AutoTokenizer, set_seed
from workload import ROOT, find_encoder, quiet

from mtbert import MtBertForMultiTask, TaskSpec

WORDS = (ROOT / "README.md").read_text(encoding="utf-8").split()
BARS = (
    ("greatest load, × the servers with one head each", "ratio", 4.0, True),
    ("p99 / p50 at half of the greatest load", "tail", 3.0, False),
    ("short texts' p99 with 5 % long ones, × without", "beside_long", 1.5, False),
)
LONG_SHARE = 0.05


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64], help="the rising load")
    parser.add_argument("--seconds", type=float, default=10, help="of each number of clients; half load: 4 times it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--words", type=int, default=16, help="words of a short text")
    parser.add_argument("--long_words", type=int, default=250, help="words of a long text")
    parser.add_argument(
        "--options", nargs=argparse.REMAINDER, default=[], help="last: those of the server of all heads"
    )
    parser.add_argument("--encoder", help="folder of an encoder; default: the quickstart's, else random weights")
    parser.add_argument("--smoke", action="store_true", help="rehearse: two heads, half a second, one round")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="folder to write to")
    args = parser.parse_args(argv)
    if args.smoke:
        args.heads, args.clients, args.seconds, args.rounds = 2, [1, 8], 0.5, 1
    return args


def make_checkpoints(encoder: str, heads: int, folder: str) -> tuple[Path, list[Path]]:
    """Save a model with all heads, and one for each head alone, with the same weights of the encoder."""
    tasks = [TaskSpec(f"task{i}", labels=3, pooling="mean", head={"type": "mlp", "layers": 1}) for i in range(heads)]
    tokenizer, saved = AutoTokenizer.from_pretrained(encoder), []
    for name, own in (("all", tasks), *((task.name, [task]) for task in tasks)):
        set_seed(0)
        saved.append(Path(folder, name))
        MtBertForMultiTask.from_encoder(encoder, own).save_pretrained(saved[-1])
        tokenizer.save_pretrained(saved[-1])
    return saved[0], saved[1:]


def known_words(tokenizer: Any) -> list[str]:
    """Words that are one token each, so that texts of as many words are of one length."""
    return [word for word in sorted(set(WORDS)) if word.isalpha() and len(tokenizer.tokenize(word)) == 1]


def texts(words: list[str], count: int, length: int, seed: int) -> list[str]:
    """Random texts of so many words."""
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(words, size=length)) for _ in range(count)]


def run_round(args: argparse.Namespace, words: list[str], urls: list[str], seed: int) -> dict[str, Any]:
    """Measure everything once; the first url is that of the server of all heads."""
    short, long = texts(words, 256, args.words, seed), texts(words, 64, args.long_words, seed + 1)
    together, *apart = urls
    found: dict[str, Any] = {"all": {}, "apart": {}}
    for clients in args.clients:
        found["all"][clients] = asyncio.run(closed_loop([together], short, clients, args.seconds)).summary()
        found["apart"][clients] = asyncio.run(closed_loop(apart, short, clients, args.seconds)).summary()
        print(f"  {clients} clients: {found['all'][clients]} | apart: {found['apart'][clients]}", flush=True)
    greatest = {side: max(each["rate"] for each in found[side].values()) for side in ("all", "apart")}
    rate, seconds = greatest["all"] / 2, 4 * args.seconds
    alone = asyncio.run(open_loop(together, {"short": Load(short, rate)}, seconds, seed))
    loads = {"short": Load(short, rate), "long": Load(long, rate * LONG_SHARE)}
    beside = asyncio.run(open_loop(together, loads, seconds, seed))
    found["half"] = {
        "short texts alone": alone["short"].summary(),
        "short texts beside long ones": beside["short"].summary(),
        "the long ones": beside["long"].summary(),
    }
    print("  half load:", found["half"], flush=True)
    return found | {
        "ratio": greatest["all"] / greatest["apart"],
        "tail": found["half"]["short texts alone"]["p99"] / found["half"]["short texts alone"]["p50"],
        "beside_long": found["half"]["short texts beside long ones"]["p99"] / found["half"]["short texts alone"]["p99"],
    }


def middle(rounds: list[dict[str, Any]], *keys: Any) -> list[float]:
    """Medians over rounds of rate, p50, p95, p99 and the number of requests that were not answered."""
    for key in keys:
        rounds = [each[key] for each in rounds]
    return [median([each[name] for each in rounds]) for name in ("rate", "p50", "p95", "p99", "refused")]


def make_tables(args: argparse.Namespace, rounds: list[dict[str, Any]]) -> list[Table]:
    """The tables of the bars, of the rising load, and of half load."""
    bars = []
    for name, key, bar, least in BARS:
        values = [each[key] for each in rounds]
        met = median(values) >= bar if least else median(values) <= bar
        rule = f"{'≥' if least else '≤'} {bar:g}"
        bars.append([name, median(values), rule, "yes" if met else "NO", min(values), max(values)])
    latency = ["p50 ms", "p95 ms", "p99 ms", "refused"]
    sides = ((f"one server, {args.heads} heads", "all"), (f"{args.heads} servers, one head each", "apart"))
    rising = [[name, n, *middle(rounds, side, n)] for name, side in sides for n in args.clients]
    half = [[name, *middle(rounds, "half", name)] for name in rounds[0]["half"]]
    long = f"texts of {args.words} words; long ones have {args.long_words}, and come at {LONG_SHARE:.0%} of the rate."
    return [
        Table("Bars", ["what", "median", "bar", "met", "least", "most"], bars, "Median, least and most over rounds."),
        Table("Rising load", ["servers", "clients", "requests/s", *latency], rising, "All heads answer a request."),
        Table("Half of the greatest load", ["requests", "requests/s", *latency], half, f"One text a request: {long}"),
    ]


def main(argv: list[str] | None = None) -> int:
    """Run the rounds, write the results, and return 1 if a bar is missed (never in a rehearsal)."""
    args = parse(argv)
    quiet()
    with tempfile.TemporaryDirectory() as folder:
        encoder = find_encoder(args.encoder, f"{folder}/encoder")
        words = known_words(AutoTokenizer.from_pretrained(encoder))
        together, apart = make_checkpoints(encoder, args.heads, folder)
        options = {together: args.options} | dict.fromkeys(apart, ["--threads", "1"])
        where = environment(heads=args.heads, rounds=args.rounds, seconds=args.seconds)
        servers = start_servers(options)
        try:
            urls = [server.url for server in servers]
            rounds = []
            for number in range(args.rounds):
                print(f"round {number + 1} of {args.rounds}", flush=True)
                rounds.append(run_round(args, words, urls, seed=10 * number))
        finally:
            stop_servers(servers)
    where["load_average_after"] = environment()["load_average_before"]
    shown = make_tables(args, rounds)
    report("serving", "Serving all heads of one encoder", {"environment": where, "rounds": rounds}, shown, args.results)
    return int(not args.smoke and any(row[3] == "NO" for row in shown[0].rows))


if __name__ == "__main__":
    sys.exit(main())
