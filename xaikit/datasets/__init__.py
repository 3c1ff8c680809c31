"""One module a real data set; each returns tensors and knows no profile."""
