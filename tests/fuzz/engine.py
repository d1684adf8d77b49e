"""Runs one target under Atheris, which follows the branches that an input takes: `python -m tests.fuzz.engine NAME`.

Kept apart from `__main__.py`, because nothing of ext_authz may be imported before Atheris can instrument it.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import atheris


def main(name: str, state: Path, options: list[str]) -> None:
    """Never returns: libFuzzer ends the process, with a status other than 0 when it found something."""
    with atheris.instrument_imports(include=["ext_authz", "tests.fuzz"]):
        module = importlib.import_module(f"tests.fuzz.fuzz_{name}")
    corpus = state / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(module.seeds()):
        (corpus / f"seed-{number:03}").write_bytes(seed)
    dictionary = state / f"{name}.dict"
    dictionary.write_text("".join(f'"{_escaped(word)}"\n' for word in module.words()))
    limits = ["-timeout=30", "-rss_limit_mb=3000", "-max_len=8192", "-print_final_stats=1"]
    where = [f"-dict={dictionary}", f"-artifact_prefix={state}/{name}-found-", str(corpus)]
    atheris.Setup([sys.argv[0], *limits, *options, *where], module.target)
    atheris.Fuzz()


def _escaped(word: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word.encode())


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
