"""Of this folder pytest runs the pages alone."""

collect_ignore = ["_build", "_extensions", "conf.py", "digit", "gallery", "npm"]
