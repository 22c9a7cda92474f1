"""What is measured: each section puts cgrove beside the least that the kernel asks for, and beside its peers."""
