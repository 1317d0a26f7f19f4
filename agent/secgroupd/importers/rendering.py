"""A document as YAML that differs only where the cloud does: fixed order, one rule a line."""

import yaml

from secgroupd.importers.draft import Document

_WIDTH = 1 << 16


class _Dumper(yaml.CSafeDumper):
    def ignore_aliases(self, _: object) -> bool:
        """Write everything out: documents have no aliases."""
        return True


def text(document: Document) -> str:
    """Return the YAML of a document."""
    written: str = yaml.dump(
        document,
        Dumper=_Dumper,
        sort_keys=False,
        default_flow_style=None,
        allow_unicode=True,
        width=_WIDTH,
    )
    return written
