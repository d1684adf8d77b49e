"""An editor's part of the Language Server Protocol, towards a real yaml-language-server on its standard input."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

Message = dict[str, Any]

_HERE = Path(__file__).parent
_TOOLS = Path(__file__).parents[3] / ".tools"
# What the extension "YAML" of VS Code sets by default, but that no schema comes from the network.
_SETTINGS = {"yaml": {"validate": True, "hover": True, "completion": True, "schemaStore": {"enable": False}}}
_CAPABILITIES = {"textDocument": {"completion": {"completionItem": {"snippetSupport": True}}}}


def installed() -> Path:
    """The program, in the versions of the lock file; without the network if they are there."""
    lock = _HERE / "package-lock.json"
    folder = _TOOLS / f"yaml-language-server-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
    if not (folder / "node_modules" / ".package-lock.json").exists():  # which npm writes last
        folder.mkdir(parents=True, exist_ok=True)
        for file in (lock, lock.with_name("package.json")):
            shutil.copy(file, folder)
        npm = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
        subprocess.run(npm, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return folder / "node_modules" / "yaml-language-server" / "bin" / "yaml-language-server"


class Editor:
    """Opens files, as they are on disk or with other text in them."""

    def __init__(self, server: subprocess.Popen[bytes]) -> None:
        self._server = server
        self._numbers = count(1)
        self._diagnostics: dict[str, list[Message]] = {}
        self._ask("initialize", {"processId": None, "rootUri": None, "capabilities": _CAPABILITIES})
        self._send({"method": "initialized", "params": {}})
        self._send({"method": "workspace/didChangeConfiguration", "params": {"settings": _SETTINGS}})

    def diagnostics(self, file: Path, text: str | None = None) -> list[tuple[int, str]]:
        """Of a file that is opened: the line, from 1, and the message."""
        self._open(file, text)
        found = self._published(file)
        self._close(file)
        return [(one["range"]["start"]["line"] + 1, one["message"]) for one in found]

    def completions(self, file: Path, text: str) -> dict[str, str]:
        """What is offered at the end of the text, by label: the text that is inserted."""
        last = text.rpartition("\n")[2]
        items = self._at(text.count("\n"), len(last), "completion", file, text)["items"]
        return {item["label"]: item.get("insertText", "") for item in reversed(items)}

    def hover(self, file: Path, text: str) -> str:
        """What is shown about the word at the start of the last line."""
        return str(self._at(text.count("\n"), 0, "hover", file, text)["contents"]["value"])

    def _at(self, line: int, character: int, what: str, file: Path, text: str) -> Message:
        self._open(file, text)
        position = {"line": line, "character": character}
        found = self._ask(f"textDocument/{what}", {"textDocument": {"uri": file.as_uri()}, "position": position})
        self._close(file)
        return found

    def _open(self, file: Path, text: str | None) -> None:
        text = file.read_text() if text is None else text
        document = {"uri": file.as_uri(), "languageId": "yaml", "version": next(self._numbers), "text": text}
        self._send({"method": "textDocument/didOpen", "params": {"textDocument": document}})

    def _close(self, file: Path) -> None:
        self._send({"method": "textDocument/didClose", "params": {"textDocument": {"uri": file.as_uri()}}})
        while self._published(file):  # at last, that there are none any more
            pass

    def _published(self, file: Path) -> list[Message]:
        while file.as_uri() not in self._diagnostics:
            self._read()
        return self._diagnostics.pop(file.as_uri())

    def _ask(self, method: str, params: Mapping[str, object]) -> Message:
        number = next(self._numbers)
        self._send({"id": number, "method": method, "params": params})
        while (answer := self._read()).get("id") != number or "method" in answer:
            pass
        assert "error" not in answer, answer
        result: Message = answer["result"]
        return result

    def _send(self, message: Mapping[str, object]) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        assert self._server.stdin
        self._server.stdin.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        self._server.stdin.flush()

    def _read(self) -> Message:
        """One message; what the server asks is answered."""
        assert self._server.stdout
        length = 0
        while (line := self._server.stdout.readline()) != b"\r\n":
            assert line, "the server has ended"
            if line.lower().startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        message: Message = json.loads(self._server.stdout.read(length))
        if message.get("method") == "textDocument/publishDiagnostics":
            self._diagnostics[message["params"]["uri"]] = message["params"]["diagnostics"]
        elif "method" in message and "id" in message:
            wanted = message["params"].get("items", ()) if message["method"] == "workspace/configuration" else ()
            self._send({"id": message["id"], "result": [_SETTINGS.get(one.get("section")) for one in wanted]})
        return message


@contextmanager
def editor() -> Iterator[Editor]:
    pipe = subprocess.PIPE
    with subprocess.Popen(
        ["node", installed(), "--stdio"], stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL
    ) as server:
        try:
            yield Editor(server)
        finally:
            server.kill()
