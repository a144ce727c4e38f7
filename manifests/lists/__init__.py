"""Lists of videos that others wrote: their text, the columns of tables, the official lists of the known data sets."""
