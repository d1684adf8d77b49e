"""Write the ONNX network that `make models` trained into a directory, with checksums: `export.py DIRECTORY`.

In the environment that it is served in (`model_servers/.venvs/onnx`), which trains it first where it has not yet.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from tollgate_models.artefact import seal
from tollgate_models.build import trained

HERE = Path(__file__).resolve().parent
TRAINS = HERE.parents[1] / "repository/digits/1/train.py"
NETWORK, PARAMETERS, METRICS = "network.onnx", "params.toml", "metrics.json"


def export(into: Path) -> None:
    into.mkdir(parents=True, exist_ok=True)
    made = trained(TRAINS)
    shutil.copy(made / NETWORK, into)
    shutil.copy(made / "training.json", into / METRICS)
    shutil.copy(HERE / PARAMETERS, into)
    seal(into, [NETWORK, PARAMETERS, METRICS])


if __name__ == "__main__":
    export(Path(sys.argv[1]))
