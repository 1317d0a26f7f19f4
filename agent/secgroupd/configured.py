"""What the settings mean for whoever enforces."""

from secgroupd.config import Settings
from secgroupd.reconcile import Reconciler


def configure(reconciler: Reconciler, settings: Settings) -> None:
    """Hand a reconciler what the settings say of how ports are enforced."""
    reconciler.managed = settings.managed_interfaces
    reconciler.mode = settings.clearing
    reconciler.grace = int(settings.adoption_grace)
    reconciler.timeouts = settings.timeouts
    reconciler.logging = settings.logging
    reconciler.protect = settings.protect_tables
