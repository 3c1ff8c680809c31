"""One module a real data set; each reads the layouts in which it is handed round, and knows no profile."""
