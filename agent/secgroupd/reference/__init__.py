"""The pages that have one source: commands, settings and the state document, for man(1) and for docs/.

``make reference`` writes what is made here into the repository; a test compares the two. A page is
put together of blocks (``model``), which ``roff`` and ``markdown`` write down. Nothing of it is
installed.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from secgroupd.cli import VERBS
from secgroupd.reference import secgroupctl, secgroupd, settings, state
from secgroupd.reference.markdown import markdown, table
from secgroupd.reference.roff import manual

_COMMANDS = re.compile(r"(?<=<!-- commands: make reference -->\n).*?(?=<!-- end -->)", re.DOTALL)


def pages(root: Path) -> Mapping[str, str]:
    """Return the texts of the pages by their places in the repository.

    Args:
        root: the repository, in whose README a table of the commands is renewed.
    """
    readme = (root / "README.md").read_text(encoding="utf-8")
    return {
        "README.md": _COMMANDS.sub(lambda _: _commands(), readme),
        "docs/commands.md": markdown(secgroupctl.page()),
        "docs/settings.md": markdown(settings.page()),
        "docs/state-document.md": markdown(state.page()),
        "man/secgroupctl.1": manual(secgroupctl.manual()),
        "man/secgroupd.8": manual(secgroupd.manual()),
        "man/secgroupd.yaml.5": manual(settings.manual()),
        "man/secgroupd-state.5": manual(state.manual()),
        "systemd/secgroupd.yaml": settings.defaults(),
    }


def _commands() -> str:
    rows = [(f"[{verb.name}](docs/commands.md#{verb.name})", verb.summary) for verb in VERBS]
    return "\n".join(table(("`secgroupctl ...`", "does"), rows)) + "\n"
