"""Print pytest's closing line, summed over the runs that a log holds: python closing_line.py LOG."""

import re
import sys
from collections import Counter
from pathlib import Path

counts: Counter[str] = Counter()
seconds, runs = 0.0, 0
for line in Path(sys.argv[1]).read_text(encoding="utf-8", errors="replace").splitlines():
    if closing := re.fullmatch(r"=+ (.*) in ([0-9.]+)s.*=+", line):
        runs += 1
        seconds += float(closing[2])
        for number, what in re.findall(r"(\d+) ([a-z]+)", closing[1]):
            counts[what] += int(number)
order = ("failed", "passed", "skipped", "deselected", "xfailed", "warnings", "error", "errors")
told = ", ".join(f"{counts[what]} {what}" for what in order if counts[what])
print(f"tests: ===== {told} in {seconds:.2f}s =====" if runs else "tests: pytest printed no closing line")
