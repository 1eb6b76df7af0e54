"""How the embedded model is made: the clips it learns from, its training, its check and its export."""
