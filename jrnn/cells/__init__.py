"""Recurrent cells, one architecture family per file; `jrnn` itself exports them."""
