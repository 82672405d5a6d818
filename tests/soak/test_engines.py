"""Ray and Spark, run locally by `recipes/engines/`, predict the rows that `mtbert predict` predicts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from predicted_tasks import SPECS

from mtbert.cli import predict

ENGINES = Path(__file__).parents[2] / "recipes" / "engines"
WORDS = "a an the cat dog bird fish house tree runs sleeps eats flies is was not very good bad".split()  # noqa: SIM905


@pytest.mark.parametrize("engine", ["ray", "spark"])
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_rows_are_those_of_predict(make_model, tokenizer, tmp_path, engine, suffix):
    pytest.importorskip({"ray": "ray.data", "spark": "pyspark"}[engine])
    checkpoint, source = tmp_path / "checkpoint", tmp_path / f"in.{suffix}"
    make_model(SPECS).save_pretrained(checkpoint)
    tokenizer.save_pretrained(checkpoint)
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(WORDS, size=random.integers(1, 30))) for _ in range(2000)]
    rows = pd.DataFrame({"key": [f"R{i:04}" for i in range(1000)], "text": texts[:1000], "text_pair": texts[1000:]})
    rows.loc[3, "text"] = 'a "quoted", text'
    rows.to_csv(source, index=False) if suffix == "csv" else rows.to_parquet(source)
    predict.main([str(checkpoint), str(source), "--id", "key", "--output", str(tmp_path / "one.parquet")])
    command = [sys.executable, str(ENGINES / f"{engine}_predict.py"), str(checkpoint), str(source)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYSPARK_PYTHON": sys.executable}
    ended = subprocess.run([*command, str(tmp_path / "out")], capture_output=True, text=True, env=env, timeout=900)
    assert ended.returncode == 0, ended.stderr[-3000:]
    expected = pd.read_parquet(tmp_path / "one.parquet").set_index("key").sort_index()
    answers = pd.read_parquet(tmp_path / "out").set_index("key").sort_index()
    assert answers["text"].tolist() == rows["text"].tolist()
    for name in expected.columns:
        if expected[name].dtype == float:
            np.testing.assert_allclose(answers[name], expected[name], atol=2e-6, err_msg=name)
        else:
            assert answers[name].tolist() == expected[name].tolist(), name
