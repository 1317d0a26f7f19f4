"""``python -m secgroupd.reference``: write the pages into the repository that is the working directory."""

from pathlib import Path

from secgroupd.reference import pages

for place, text in pages(Path()).items():
    Path(place).write_text(text, encoding="utf-8")
