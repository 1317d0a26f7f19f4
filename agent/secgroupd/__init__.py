"""secgroupd: cloud security groups, enforced on a hypervisor's interfaces with nftables."""

__version__ = "0.1.0"
