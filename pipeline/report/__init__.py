"""The report: one page of everything that a run left behind."""
