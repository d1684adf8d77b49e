"""What every model behind Tollgate shares: the second line of defence, the batch, and how the repository is built."""
