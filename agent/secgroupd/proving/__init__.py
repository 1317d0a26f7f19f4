"""The proving ground: a ruleset meets real packets here, in network namespaces of its own.

``namespaces`` builds a hypervisor with its instances, ``packets`` sends probes through it and
``reachability`` answers the questions of a test file about a whole state. Nothing in this package
knows what a security group is; it only says whether a packet arrived.
"""
