"""A signpost: the commands are the study's."""

raise SystemExit("advlib is the method; its commands are `python -m study ...`, with the same words behind them")
