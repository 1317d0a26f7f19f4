"""``make demo``: a small cloud in network namespaces, guarded by the real daemon.

Nothing is simulated but the cables: the instances are namespaces, their packets are real, and the
daemon is the one that guards a host. The network of this machine is not touched.
"""
