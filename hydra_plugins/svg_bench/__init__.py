"""Found by Hydra: the sweeper of this project, and its launcher on Ray."""
