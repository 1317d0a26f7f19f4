"""Where things are on a host, by the settings' defaults."""

from secgroupd import control, memory
from secgroupd.config import DEFAULT_PATH, Settings
from secgroupd.reference.model import Definition, Definitions


def files() -> Definitions:
    """Return the files and directories of both programs."""
    settings = Settings()
    found = {
        DEFAULT_PATH: "Settings: secgroupd.yaml(5).",
        settings.source_directory: (
            "The state document, secgroupd-state(5): files named `*.yaml`, `*.yml` or `*.json`, which "
            "are merged. The group `secgroupd` must be able to read them."
        ),
        settings.state_dir / memory.FILE: (
            "What was accepted last. One that is damaged is set aside and never used."
        ),
        settings.run_dir: (
            f"The lock, the last status, and `{control.NAME}`, the socket over which the daemon is "
            "asked. Root and the members of the directory's group may use it."
        ),
    }
    return Definitions(tuple(Definition(f"*{path}*", text) for path, text in found.items()))
