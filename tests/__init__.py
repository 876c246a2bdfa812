"""A package, so that pytest puts the folder above on the path, not this one with its cuda/."""
