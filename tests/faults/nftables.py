"""Stands before the distribution's module of this name in the nft writer's process, and breaks.

What goes wrong is in the file ``$SECGROUPD_FAULT``, read at each transaction: ``KIND [ARGUMENT]``.
With ``KIND COUNT`` the fault passes after so many transactions; the file then says what is left.

- ``refuse TEXT``: a transaction with a line that has TEXT in it is refused, because of that line;
- ``fail COUNT``: nothing is done, and an error without a line is given;
- ``die COUNT``: the process ends by SIGSEGV before it has done anything;
- ``late COUNT``: the transaction is committed, then the process dies;
- ``error COUNT``: the transaction is committed, then an error is given;
- ``lie COUNT``: nothing is done, and success is given;
- ``garbage COUNT``: the transaction is committed, and something that is no answer is written;
- ``hang COUNT``: silence;
- ``stop COUNT``: the process stops; the transaction is committed when it is continued.
"""

import importlib.util
import os
import signal
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FAULT = Path(os.environ["SECGROUPD_FAULT"])


def _real() -> Any:
    places = [entry for entry in sys.path if Path(entry or ".").resolve() != HERE]
    for place in places:
        found = Path(place) / "nftables"
        if (found / "__init__.py").exists():
            spec = importlib.util.spec_from_file_location(
                "_real_nftables", found / "__init__.py", submodule_search_locations=[str(found)]
            )
            assert spec and spec.loader
            module = importlib.util.module_from_spec(spec)
            sys.modules["_real_nftables"] = module
            spec.loader.exec_module(module)
            return module
    raise ImportError("the distribution's nftables module is not there")


Answer = tuple[int, str, str]


class Nftables:
    """What the writer uses of the module."""

    def __init__(self) -> None:
        self._nft = _real().Nftables()

    def cmd_from_file(self, path: str) -> Answer:
        """Run a transaction, unless something goes wrong."""
        kind, _, argument = (FAULT.read_text().strip() if FAULT.exists() else "").partition(" ")
        if kind == "refuse":
            for number, line in enumerate(Path(path).read_text().splitlines(), 1):
                if argument in line:
                    return 1, "", f"{path}:{number}:1-5: Error: Could not process rule: No way\n"
        elif kind and _left(kind, argument):
            return self._broken(kind, path)
        return self._done(path)

    def _done(self, path: str) -> Answer:
        answer: Answer = self._nft.cmd_from_file(path)
        return answer

    def _broken(self, kind: str, path: str) -> Answer:
        if kind in {"late", "error", "garbage"}:
            self._nft.cmd_from_file(path)
        if kind == "hang":
            signal.pause()
        if kind == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
            return self._done(path)
        if kind in {"die", "late"}:
            os.kill(os.getpid(), signal.SIGSEGV)
        if kind == "garbage":
            os.write(1, b"\0\0\0\x04]{[}")
            signal.pause()
        return (0, "", "") if kind == "lie" else (1, "", "Error: Something is broken\n")


def _left(kind: str, count: str) -> bool:
    """Tell whether the fault is still to happen, and take it off what is left."""
    left = int(count)
    if left > 0:
        FAULT.write_text(f"{kind} {left - 1}")
    return left > 0
