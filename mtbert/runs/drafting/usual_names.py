"""Names and forms by which columns of labels, and labels, are recognised."""

from __future__ import annotations

import re

NOMINAL_NAME = re.compile(
    r"(?:.*[\W_])?(?:topic|categor(?:y|ies)|intent|class|type|queue|department|product|genre|domain|group|cluster|"
    r"coarse|fine)(?:[\W_].*)?",
    re.I,
)
SCORE_NAME = re.compile(
    r"(?:.*[\W_])?(?:scores?|ratings?|stars?|values?|similarity|relatedness|percent|price|amount|degree|age)"
    r"(?:[\W_].*)?",
    re.I,
)
NO_NAMES = ("false", "no", "f", "n", "off", "negative", "neg", "0", "-1", "0.0", "bad")
DENIALS = ("not", "un", "non", "no", "in", "dis", "ir")
LIKE_MISSING = ("na", "n/a", "nan", "none", "null", "nil", "-", "--", "?", "unknown", "missing", "#n/a")
SCALES = (
    *(("low", "medium", "high", "critical"), ("low", "normal", "high", "urgent"), ("small", "medium", "large")),
    *(("negative", "neutral", "positive"), ("bad", "ok", "good"), ("none", "mild", "moderate", "severe")),
    *(("never", "rarely", "sometimes", "often", "always"), ("minor", "major", "critical"), ("easy", "medium", "hard")),
)
# How numbers are written that are not read as such: form, what is odd about it, remedy.
ODD_NUMBERS = (
    (re.compile(r"[+-]?\d+(?:,\d+)?"), "a decimal comma", "write a point instead"),
    (
        re.compile(r"[+-]?(?:[$€£¥]\s?\d[\d.,]*|\d[\d.,]*\s?(?:[$€£¥%]|EUR|USD|GBP))"),
        "a unit",
        "write the numbers alone",
    ),
)
