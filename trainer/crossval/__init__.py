"""Training once for each fold, and what all folds say together."""
