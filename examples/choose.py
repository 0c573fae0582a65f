"""Leave the choice to headstart: which source, which way of transferring, how sure, and what would help.

python examples/choose.py --data DATA --sources A B C [--budget 5m] [--out choose] [--quick]
"""

import argparse
from pathlib import Path

import headstart

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--data", type=Path, required=True)
parser.add_argument("--sources", nargs="+", required=True)
parser.add_argument("--budget", default="5m")
parser.add_argument("--out", type=Path, default=Path("choose"))
parser.add_argument("--quick", action="store_true", help="frozen features only, just to see that it runs")
options = parser.parse_args()

for row in headstart.rank_sources(options.data, options.sources):
    print(f"{row['source']}: LogME {row['logme']:.3f}, a quick probe {row['probe']:.3f}, {row['seconds']:.1f} s")

advice = headstart.advise(options.data, source=options.sources[0])["advice"]
print(f"the data are {advice['quadrant']}; the rule of thumb says {advice['strategy']}")

more = {"head": "ridge", "scratch": False} if options.quick else {"error_rate": 0.1}
result = headstart.fit(
    options.data, options.out, source=",".join(options.sources), budget=options.budget, overwrite=True, **more
)
run = result.run
print(run["choice"]["sentence"])
for line in run["budget"]["stopped"]:
    print(f"not tried: {line}")

test = run["scores"]["test"]
low, high = test["accuracy_interval"]
print(f"{test['accuracy']:.3f} ({low:.3f} to {high:.3f}) of {test['n']} sealed test pictures right")
if run["forecast"]:
    print(run["forecast"]["sentence"])
for issue in run["label_issues"][:5]:
    print(f"look at {issue['file']}: labelled {issue['label']}, perhaps {issue['suggested']}")
