"""The lab: two hypervisors and a monitoring machine, in Vagrant or in qemu, and what is proven on them."""
