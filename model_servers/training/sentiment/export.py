"""Write what Triton serves into a directory, with a model card and checksums: `export.py DIRECTORY`.

Runs after `evaluate.py`, which fails where the model is not worth serving.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from string import Template

from evaluate import METRICS, Metrics
from prepare import FEEDBACK, HERE, read
from tollgate_models.artefact import seal
from tollgate_models.sentiment import NUMBERS, REST
from train import CLASSIFIER

CARD, PARAMETERS = "model-card.md", "params.toml"


def export(into: Path) -> None:
    into.mkdir(parents=True, exist_ok=True)
    for name in (NUMBERS, REST):
        shutil.copy(CLASSIFIER / name, into)
    shutil.copy(HERE / PARAMETERS, into)
    shutil.copy(METRICS, into)
    metrics = json.loads(METRICS.read_text())
    card = Template((HERE / "model-card.template.md").read_text())
    values = {"table": _table(metrics), "held_out": metrics["held_out"], "feedback": _feedback()}
    (into / CARD).write_text(card.substitute(values))
    seal(into, [NUMBERS, REST, CARD, PARAMETERS, METRICS.name])


def _feedback() -> str:
    """A sentence about texts that users rated; empty without."""
    said = sum(sentence["source"] == FEEDBACK for sentence in read(held_out=False))
    return (
        f"\nBeside them it learnt from {said} texts with what users said of its predictions; none is held out."
        if said
        else ""
    )


def _table(metrics: Metrics) -> str:
    """A row for each source, in percent."""
    rows = ["| sentences about | version 1 | version 2 |", "|---|---|---|"]
    for source, accuracy in metrics["v2"]["accuracy"].items():
        rows.append(f"| {source} | {metrics['v1']['accuracy'][source]:.1%} | {accuracy:.1%} |")
    of_labels = [f"{metrics[version]['label_accuracy']:.1%}" for version in ("v1", "v2")]
    return "\n".join([*rows, f"| all, three labels | {' | '.join(of_labels)} |"])


if __name__ == "__main__":
    export(Path(sys.argv[1]))
