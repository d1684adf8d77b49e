"""What every version of `sentiment` reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import triton_python_backend_utils as triton

from tollgate_models.batch import Refused

# VADER takes time in the square of the words' number; a tweet has 280 characters, a long review some thousands.
LONGEST_TEXT = 10_000


def texts(request: Any) -> np.ndarray:
    """Raises Refused."""
    raw = triton.get_input_tensor_by_name(request, "text").as_numpy().reshape(-1)
    try:
        found = [value.decode() for value in raw]
    except UnicodeDecodeError:
        raise Refused("text is not UTF-8") from None
    if any(len(text) > LONGEST_TEXT for text in found):
        raise Refused(f"text is longer than {LONGEST_TEXT} characters")
    return np.array(found, dtype=object)
