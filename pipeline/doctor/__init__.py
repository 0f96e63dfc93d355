"""What breaks in the first hour, checked before it does: git, Python, DVC, the device, the machine, the data."""
