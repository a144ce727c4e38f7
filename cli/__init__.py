"""The commands `tgprep` and `tgtrain`: they parse, call and print."""
