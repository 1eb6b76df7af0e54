"""The tensors of chosen attention calls on disk: written during a generation, read to score methods without one."""
