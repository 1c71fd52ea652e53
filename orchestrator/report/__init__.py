"""What happened and why, for people: one page, and the table of all trials."""
