"""The shortest whole run: transfer, judge, use. No network connection, no data of yours, no download.

python examples/quickstart.py
"""

import sys
from pathlib import Path

import headstart
from headstart.demo import write_digits

out = Path(sys.argv[1] if len(sys.argv) > 1 else "quickstart")
data = write_digits(out / "data")  # handwritten 5 to 9, five training pictures of each

result = headstart.fit(data, out / "run", source="toy", strategy="frozen", overwrite=True)
scores = headstart.evaluate(out / "run", data)
answer = headstart.predict(out / "run", next((data / "test" / "7").iterdir()))[0]

low, high = scores["accuracy_interval"]
print(f"{scores['accuracy']:.3f} of {scores['n']} test pictures right, 95 % interval {low:.3f} to {high:.3f}")
print(f"a picture of a 7 was taken for a {answer['label']} with probability {answer['probability']:.2f}")
print(f"report: {result.folder / 'report.html'}")
