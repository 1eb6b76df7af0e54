"""Found by Hydra: the sweeper of this project."""
