"""What the training scripts share: the same handwritten digits for every framework, and the gate of quality."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def split_digits() -> list[Any]:
    """Rows of 64 pixels from 0 to 16 as float32, and digits: seen and unseen pixels, seen and unseen digits."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, digits = load_digits(return_X_y=True)
    return train_test_split(pixels.astype("float32"), digits, random_state=0, stratify=digits)


def accept(directory: Path, accuracy: float, least: float) -> None:
    """Write down how good the model is, or exit with a sentence: it is not built then."""
    if accuracy < least:
        sys.exit(f"its accuracy on rows that it did not see is {accuracy:.3f}; it must be {least} at least")
    (directory / "training.json").write_text(json.dumps({"accuracy": round(float(accuracy), 4)}))
