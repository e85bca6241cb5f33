"""A signpost: the commands are the study's."""

raise SystemExit("advlib is the method alone; the commands are the study's: `python -m study --help` lists them")
