"""What runs the commands of pages notices a command that fails, and one that prints something else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.docs.blocks import expected, matches, printed, read, script
from tests.docs.test_guides import run

PAGE = """
# A page

<!-- run beside: stack -->

<!-- file: greeting -->
```text
hello $USER
```

```sh
cat greeting
```

<!-- output -->
```text
hello $...
```

<!-- not run: it would fail -->
```sh
false
```

```sh
echo https://there.example; true
```
"""


def ran(text: str, folder: Path) -> tuple[int, str]:
    page = folder / "page.md"
    page.write_text(text)
    commands = script(read(page), {"https://there.example": "http://127.0.0.1:1"})
    return run(commands, folder, folder, {"PATH": os.environ["PATH"]})[:2]


def test_commands_run_in_order_in_one_folder(tmp_path: Path) -> None:
    status, output = ran(PAGE, tmp_path)
    page = read(tmp_path / "page.md")
    outputs = printed(output)
    assert (status, page.beside) == (0, "stack")
    assert [text.strip() for text in outputs.values()] == ["hello $USER", "http://127.0.0.1:1"]
    assert all(matches(outputs[line], text) for line, text in expected(page, {}).items())
    assert len(expected(page, {})) == 1


def test_a_command_that_fails_ends_the_page(tmp_path: Path) -> None:
    status, output = ran(PAGE.replace("cat greeting", "false\necho after"), tmp_path)
    assert (status, "after" in output) == (1, False)


@pytest.mark.parametrize(
    ("text", "pattern", "same"),
    [
        ("one two\n", "one two", True),
        ("one two", "one ...", True),
        ("a\nb\nc", "a\n...\nc", True),
        ("one two", "one", False),
        ("one.two", "one-two", False),
        ("200\n", "503", False),
    ],
)
def test_three_dots_stand_for_anything(text: str, pattern: str, *, same: bool) -> None:
    assert matches(text, pattern) is same
