"""The engine under other frameworks, one file each; importing one imports its framework."""
